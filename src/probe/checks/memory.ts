/** The memory table, memory slots and the dirty log. */
import { type Check, Failure, type Probe } from '../check';
import * as vu from '../constants';
import { type RegionFields, logBase, memTable, singleRegion, u64 } from '../payloads';
import { GuestRam } from '../ram';
import type { Session } from '../session';
import { arrive, check, type MessageRow, messages, need, settle } from './rows';

const TABLE = 'vhost-user "VHOST_USER_SET_MEM_TABLE"';
const ADD = 'vhost-user "VHOST_USER_ADD_MEM_REG"';
const REMOVE = 'vhost-user "VHOST_USER_REM_MEM_REG"';
const LOG = 'vhost-user "VHOST_USER_SET_LOG_BASE"';
const MIGRATION = 'vhost-user "Migration"';
const { VHOST_USER_SET_MEM_TABLE: SET, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS: SLOTS } = vu;

const MIB = 1n << 20n;
const PAGE = 4096n;
const TOP = 1n << 64n;
const region = { gpa: 0n, size: MIB, uva: 1n << 40n, offset: 0n };
const nth = (i: number): RegionFields => ({
  ...region,
  gpa: BigInt(i) * 2n * MIB,
  uva: region.uva + BigInt(i) * 2n * MIB,
});
const file = (s: Session): number => s.memfd(Number(MIB));
const files = (count: number) => (s: Session) => new Array<number>(count).fill(file(s));

const table = (
  id: string,
  title: string,
  regions: readonly RegionFields[],
  more: Partial<MessageRow> = {},
): MessageRow => ({
  id: `memory.${id}`,
  title,
  request: SET,
  payload: memTable(regions),
  fds: files(regions.length),
  expect: 'survives',
  ...more,
});

const eight = Array.from({ length: 8 }, (_, i) => nth(i));
const nine = Array.from({ length: 9 }, (_, i) => nth(i));

const tables = messages(TABLE, [
  table('one', 'one region', [region], { expect: 'done' }),
  table('eight', 'eight regions', eight, { expect: 'done' }),
  table('padded', 'one region in a table with room for two (user-mode Linux)', [region], {
    payload: memTable([region, region], { count: 1 }),
    expect: 'done',
    severity: 'SHOULD',
  }),
  table('none', 'no region', []),
  table('nine', 'nine regions', nine),
  table('count-lies', '2^32-1 regions, one of them there', [region], {
    payload: memTable([region], { count: 0xffff_ffff }),
    expect: 'refused',
  }),
  table('count-above', 'two regions, one of them there', [region], {
    payload: memTable([region], { count: 2 }),
    expect: 'refused',
  }),
  table('empty-payload', 'no payload', [], { payload: new Uint8Array(0) }),
  table('half-payload', 'half a region', [region], { payload: memTable([region], { size: 40 }).slice(0, 24) }),
  table('fewer-files', 'two regions and one descriptor', [nth(0), nth(1)], { fds: files(1), expect: 'refused' }),
  table('no-file', 'a region without descriptor', [region], { fds: () => [], expect: 'refused' }),
  table('more-files', 'one region and two descriptors', [region], { fds: files(2) }),
  table('empty', 'a region of 0 bytes', [{ ...region, size: 0n }]),
  table('gpa-wraps', 'guest addresses pass 2^64', [{ ...region, gpa: TOP - PAGE }]),
  table('uva-wraps', 'user addresses pass 2^64', [{ ...region, uva: TOP - PAGE }]),
  table('offset-wraps', 'the file offset passes 2^64', [{ ...region, offset: TOP - PAGE }], { expect: 'refused' }),
  table('offset-far', 'a file offset far behind the end of the file', [{ ...region, offset: 1n << 60n }]),
  table('size-2-52', 'a region of 2^52 bytes', [{ ...region, size: 1n << 52n }], { expect: 'refused' }),
  table('size-all', 'a region of 2^64-4096 bytes', [{ ...region, size: TOP - PAGE }], { expect: 'refused' }),
  table('offset-odd', 'a file offset that is no multiple of a page', [{ ...region, size: MIB / 2n, offset: 0x123n }]),
  table('size-odd', 'a size that is no multiple of a page', [{ ...region, size: MIB - 1n }]),
  table('gpa-odd', 'a guest address that is no multiple of a page', [{ ...region, gpa: 0x123n }]),
  table('overlap-gpa', 'regions that overlap for the guest', [nth(0), { ...nth(1), gpa: MIB - PAGE }]),
  table('overlap-uva', 'regions that overlap for the front-end', [nth(0), { ...nth(1), uva: region.uva + MIB - PAGE }]),
  table('twice', 'the same region twice', [region, region]),
]);

/** Sends one frame from memory that is not what was said. */
async function frameFrom(session: Session, gpa: bigint, length = 72): Promise<void> {
  const { tx } = session;
  tx.put(0, { gpa, length });
  tx.offer([0]);
  tx.kick();
  await session.usedReaches(tx, tx.availIdx, 20);
}

async function outcomeNote(probe: Probe, session: Session): Promise<void> {
  const errors = session.tx.takeErrors() > 0 ? ', error signalled' : '';
  probe.note(`${await settle(session)}${errors}`);
}

const running: Check[] = [
  check('memory.same-running', TABLE, 'MUST', 'the same table again while the rings run', async (probe) => {
    const session = await arrive(probe, 'running');
    await session.transmit();
    await session.setMemory();
    await session.transmit(3);
  }),
  check(
    'memory.more-running',
    TABLE,
    'MUST',
    'a table with a region more while the rings run (memory is plugged in)',
    async (probe) => {
      const session = await arrive(probe, 'running');
      await session.transmit();
      const more = { gpa: 1n << 32n, size: MIB, uva: 1n << 40n, offset: 0n };
      const all = [...session.regions, more];
      await session.must(SET, memTable(all), { fds: [...session.regions.map(() => session.ram.fd), file(session)] });
      await session.transmit();
      await frameFrom(session, more.gpa);
      if (session.tx.usedIdx !== session.tx.availIdx) throw new Failure('a frame in the new region was not given back');
    },
  ),
  check(
    'memory.moved-running',
    TABLE,
    'robustness',
    'another file in the place of the memory in which rings run',
    async (probe) => {
      const session = await arrive(probe, 'running');
      await session.transmit();
      const { regions } = session;
      session.front.send(SET, memTable(regions), { fds: regions.map((r) => session.memfd(Number(r.size))) });
      session.tx.kick();
      await outcomeNote(probe, session);
    },
  ),
  check('memory.gone-running', TABLE, 'robustness', 'a table without the memory in which rings run', async (probe) => {
    const session = await arrive(probe, 'running');
    await session.transmit();
    session.front.send(SET, memTable([{ ...region, gpa: 1n << 33n }]), { fds: [file(session)] });
    await frameFrom(session, 0x2000n);
    await outcomeNote(probe, session);
  }),
  check('memory.replaced-1000', TABLE, 'MUST', '1000 tables in one session', async (probe) => {
    const session = await arrive(probe, 'negotiated');
    const fd = file(session);
    for (let i = 0; i < 1000; i++) {
      session.front.send(SET, memTable([{ ...region, gpa: BigInt(i % 2) * MIB }]), { fds: [fd] });
      if (i % 25 === 24 && !(await session.alive())) throw new Failure(`closed after ${i + 1} tables`);
    }
  }),
  check(
    'memory.beyond-file',
    TABLE,
    'robustness',
    'a file shorter than its region, and a frame from behind its end',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      await session.setMemory();
      const all = [...session.regions, { ...region, gpa: 1n << 32n }];
      session.front.send(SET, memTable(all), {
        fds: [...session.regions.map(() => session.ram.fd), session.memfd(4096)],
      });
      if ((await settle(session)) === 'closed') return;
      for (const ring of session.rings) await session.startRing(ring);
      for (const ring of session.rings) await session.enable(ring);
      await frameFrom(session, (1n << 32n) + 0x8000n);
      await outcomeNote(probe, session);
    },
  ),
  check('memory.truncated', TABLE, 'robustness', 'the file is cut short while rings run in it', async (probe) => {
    const session = await probe.open({ ram: { size: 16 << 20, seals: 0 } });
    await session.run();
    await session.transmit();
    const more = session.memfd(Number(MIB));
    const all = [...session.regions, { ...region, gpa: 1n << 32n }];
    await session.must(SET, memTable(all), { fds: [...session.regions.map(() => session.ram.fd), more] });
    session.native.ftruncate(more, 0);
    await frameFrom(session, (1n << 32n) + 0x8000n);
    session.front.send(vu.VHOST_USER_GET_FEATURES);
  }),
  check(
    'memory.punched-rings',
    TABLE,
    'robustness',
    'the file with the rings themselves is cut to nothing',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      const ram = new GuestRam(session.native, { size: 1 << 20, seals: 0 });
      try {
        const [r] = ram.regions;
        const fields = {
          gpa: BigInt(r.gpa),
          size: BigInt(r.size),
          uva: BigInt(r.userAddr),
          offset: BigInt(r.mmapOffset),
        };
        await session.must(SET, memTable([fields]), { fds: [ram.fd] });
        for (const ring of session.rings) await session.startRing(ring);
        session.native.ftruncate(ram.fd, 0);
        session.tx.kick();
        session.rx.kick();
        session.front.send(vu.VHOST_USER_GET_FEATURES);
        await session.front.closedWithin(50);
      } finally {
        ram.close();
      }
    },
  ),
];

const extra = { gpa: 1n << 32n, size: MIB, uva: 1n << 40n, offset: 0n };

/** A session whose memory came in slots, rings running. */
async function slotted(probe: Probe): Promise<Session> {
  const session = await arrive(probe, 'negotiated');
  need(session, SLOTS, 'CONFIGURE_MEM_SLOTS');
  for (const r of session.regions) {
    await session.must(vu.VHOST_USER_ADD_MEM_REG, singleRegion(r), { fds: [session.ram.fd] });
  }
  for (const ring of session.rings) await session.startRing(ring);
  for (const ring of session.rings) await session.enable(ring);
  return session;
}

const slots: Check[] = [
  check('slots.run', ADD, 'MUST', 'rings run in memory that came by ADD_MEM_REG', async (probe) => {
    await (await slotted(probe)).transmit(3);
  }),
  check('slots.plug', ADD, 'MUST', 'a region is added while rings run, used, and removed', async (probe) => {
    const session = await slotted(probe);
    await session.must(vu.VHOST_USER_ADD_MEM_REG, singleRegion(extra), { fds: [file(session)] });
    await frameFrom(session, extra.gpa);
    if (session.tx.usedIdx !== 1) throw new Failure('a frame in the new region was not given back');
    await session.must(vu.VHOST_USER_REM_MEM_REG, singleRegion(extra));
    await session.transmit(3);
  }),
  check(
    'slots.remove-offset',
    REMOVE,
    'MUST',
    'the file offset is not looked at when a region is removed',
    async (probe) => {
      const session = await slotted(probe);
      await session.must(vu.VHOST_USER_ADD_MEM_REG, singleRegion(extra), { fds: [file(session)] });
      await session.must(vu.VHOST_USER_REM_MEM_REG, singleRegion({ ...extra, offset: 0x1000n }));
    },
  ),
  check('slots.again', ADD, 'SHOULD', 'the very same region twice (QEMU 7.2, a queue pair each)', async (probe) => {
    const session = await slotted(probe);
    const fd = file(session);
    for (let i = 0; i < 2; i++) {
      await session.must(vu.VHOST_USER_ADD_MEM_REG, singleRegion(extra), { fds: [fd] });
    }
  }),
  check('slots.removed-running', REMOVE, 'robustness', 'the memory in which rings run is removed', async (probe) => {
    const session = await slotted(probe);
    session.front.send(vu.VHOST_USER_REM_MEM_REG, singleRegion(session.regions[0]));
    await frameFrom(session, 0x2000n);
    await outcomeNote(probe, session);
  }),
  check('slots.all', ADD, 'MUST', 'as many regions as GET_MAX_MEM_SLOTS says', async (probe) => {
    const session = await arrive(probe, 'negotiated');
    need(session, SLOTS, 'CONFIGURE_MEM_SLOTS');
    const max = Number(await session.callU64(vu.VHOST_USER_GET_MAX_MEM_SLOTS));
    const fd = file(session);
    for (let i = 0; i < Math.min(max, 600); i++) {
      await session.must(vu.VHOST_USER_ADD_MEM_REG, singleRegion(nth(i)), { fds: [fd] });
    }
  }),
  ...messages(ADD, [
    ...(
      [
        ['overlap', 'a region that overlaps another', { ...extra, gpa: PAGE }],
        ['empty', 'a region of 0 bytes', { ...extra, size: 0n }],
        ['wraps', 'guest addresses pass 2^64', { ...extra, gpa: TOP - PAGE }],
        ['huge', 'a region of 2^52 bytes', { ...extra, size: 1n << 52n }],
      ] as const
    ).map(([id, title, fields]): MessageRow => ({
      id: `slots.add-${id}`,
      title,
      state: 'running',
      needs: SLOTS,
      request: vu.VHOST_USER_ADD_MEM_REG,
      payload: singleRegion(fields),
      fds: (s) => [file(s)],
      expect: id === 'huge' ? 'refused' : 'survives',
    })),
    {
      id: 'slots.add-no-file',
      title: 'no descriptor',
      needs: SLOTS,
      request: vu.VHOST_USER_ADD_MEM_REG,
      payload: singleRegion(extra),
      expect: 'refused',
    },
  ]),
  ...messages(REMOVE, [
    {
      id: 'slots.remove-unknown',
      title: 'a region that was never added',
      severity: 'SHOULD',
      state: 'running',
      needs: SLOTS,
      request: vu.VHOST_USER_REM_MEM_REG,
      payload: singleRegion(extra),
      expect: 'refused',
    },
    {
      id: 'slots.remove-two-files',
      title: 'two descriptors',
      state: 'running',
      needs: SLOTS,
      request: vu.VHOST_USER_REM_MEM_REG,
      payload: singleRegion(extra),
      fds: files(2),
      expect: 'survives',
    },
  ]),
];

const { VHOST_USER_PROTOCOL_F_LOG_SHMFD: SHMFD } = vu;

const badLogs = messages(
  LOG,
  (
    [
      ['empty', 'of 0 bytes', logBase(0n, 0n)],
      ['wraps', 'whose offset and size pass 2^64', logBase(TOP - 1n, 2n)],
      ['short-file', 'longer than its file', logBase(1n << 30n, 0n)],
      ['8-GiB', 'of 8 GiB', logBase(1n << 33n, 0n)],
      ['offset', 'at an offset behind its file', logBase(PAGE, 1n << 40n)],
      ['offset-odd', 'at an offset that is no multiple of a page', logBase(PAGE, 0x123n)],
    ] as const
  ).map(([id, title, payload]): MessageRow => ({
    id: `log.${id}`,
    title: `a log ${title}`,
    state: 'running',
    needs: SHMFD,
    request: vu.VHOST_USER_SET_LOG_BASE,
    payload,
    // Sparse: 8 GiB of file cost nothing.
    fds: (s) => [s.memfd(id === '8-GiB' ? 2 ** 33 : Number(MIB))],
    expect: 'survives',
  })),
);

/** Logging of both rings is on, into a log of `bytes` bytes. Returns it, mapped here. */
async function logged(session: Session, bytes: number): Promise<Uint8Array> {
  need(session, SHMFD, 'LOG_SHMFD');
  const fd = session.memfd(bytes);
  const mapped = session.native.mapRegion(fd, 0, bytes);
  const view = new Uint8Array(session.native.regionBuffer(mapped));
  session.atEnd(() => session.native.retireRegion(mapped));
  await session.call(vu.VHOST_USER_SET_LOG_BASE, logBase(BigInt(bytes), 0n), { fds: [fd] });
  await session.must(vu.VHOST_USER_SET_FEATURES, u64(session.features | vu.VHOST_F_LOG_ALL));
  for (const ring of session.rings) await session.must(vu.VHOST_USER_SET_VRING_ADDR, ring.addr({ flags: 1 }));
  return view;
}

const migration: Check[] = [
  check('log.used-ring', MIGRATION, 'MUST', 'writes to the used ring are logged', async (probe) => {
    const session = await arrive(probe, 'running');
    const log = await logged(session, 4096);
    const page = Math.floor(session.ram.gpa(session.tx.usedAt) / 4096);
    await session.transmit();
    const dirty = (): boolean => ((log[page >> 3] >> (page & 7)) & 1) === 1;
    if (!(await session.until(dirty))) throw new Failure(`page ${page} of the used ring is not in the log`);
  }),
  check('log.off', MIGRATION, 'MUST', 'logging is switched off again and frames pass', async (probe) => {
    const session = await arrive(probe, 'running');
    await logged(session, 4096);
    await session.transmit();
    await session.must(vu.VHOST_USER_SET_FEATURES, u64(session.features));
    for (const ring of session.rings) await session.must(vu.VHOST_USER_SET_VRING_ADDR, ring.addr());
    await session.transmit(3);
  }),
  check('log.small', LOG, 'robustness', 'a log of one byte, though memory has 4096 pages', async (probe) => {
    const session = await arrive(probe, 'running');
    await logged(session, 1).catch(() => undefined);
    if (session.front.isClosed) return;
    await frameFrom(session, BigInt(session.arpFrame().gpa));
    await outcomeNote(probe, session);
  }),
];

export const MEMORY_CHECKS: readonly Check[] = [...tables, ...running, ...slots, ...badLogs, ...migration];
