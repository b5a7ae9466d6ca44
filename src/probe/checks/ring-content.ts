/** What a driver puts into rings: layouts that are legal, and what it must not do. */
import { type Check, Failure, type Probe } from '../check';
import * as vu from '../constants';
import { arpRequest, blankFrame, dhcpDiscover, routerSolicitation } from '../frames';
import { type Descriptor, INDIRECT, NEXT, type ProbeRing, WRITE } from '../ring';
import { RX, type Session } from '../session';
import { arrive, check, needFeature } from './rows';

const FRAMING = 'virtio 1.2 §2.7.4.1';
const TABLE = 'virtio 1.2 §2.7.5';
const INDIRECT_SPEC = 'virtio 1.2 §2.7.5.3';
const AVAIL = 'virtio 1.2 §2.7.6';
const NOTIFY = 'virtio 1.2 §2.7.7';
const USED = 'virtio 1.2 §2.7.8';
const PACKETS = 'virtio 1.2 §5.1.6.2';
const RECEIVE = 'virtio 1.2 §5.1.6.3';

/** How long a ring that may have been given up is looked at, in ms. */
const LOOK_MS = 30;

/** A frame cut at these lengths (from the header on), one descriptor each; the rest is the last one. */
function cut(session: Session, lengths: readonly number[]): Descriptor[] {
  const { gpa, length } = session.arpFrame();
  const parts: Descriptor[] = [];
  let at = 0;
  for (const size of lengths) {
    parts.push({ gpa: gpa + at, length: size });
    at += size;
  }
  return [...parts, { gpa: gpa + at, length: length - at }];
}

/** Writes descriptors, linked, into a table of their own. Returns the one that names it. */
function indirect(session: Session, parts: readonly Descriptor[], flags = 0): Descriptor {
  const at = session.ram.alloc(16 * parts.length, 16);
  parts.forEach((part, i) => {
    const last = i + 1 === parts.length;
    session.tx.putAt(at + 16 * i, { ...part, flags: (part.flags ?? 0) | (last ? 0 : NEXT), next: last ? 0 : i + 1 });
  });
  return { gpa: session.ram.gpa(at), length: 16 * parts.length, flags: INDIRECT | flags };
}

/** Offers the chain at descriptor 0 of the transmit ring; it must be given back as it was offered. */
async function expectTaken(session: Session): Promise<void> {
  const { tx } = session;
  const before = tx.usedIdx;
  tx.offer([0]);
  tx.kick();
  if (!(await session.usedReaches(tx, before + 1))) throw new Failure('the chain was not given back');
  const { id } = tx.used(before);
  if (id !== 0) throw new Failure(`chain ${id} was given back, not chain 0`);
}

const legal = (id: string, spec: string, title: string, build: (s: Session) => readonly Descriptor[]): Check =>
  check(`ring.${id}`, spec, 'MUST', title, async (probe) => {
    const session = await arrive(probe, 'running');
    if (spec === INDIRECT_SPEC) needFeature(session, vu.VIRTIO_RING_F_INDIRECT_DESC, 'INDIRECT_DESC');
    session.tx.chain(0, build(session));
    await expectTaken(session);
    await session.transmit();
  });

const layouts: Check[] = [
  legal('one', FRAMING, 'header and frame in one descriptor', (s) => cut(s, [])),
  legal('two', FRAMING, 'header, frame', (s) => cut(s, [s.headerLength])),
  legal('split-header', FRAMING, 'the header over three descriptors', (s) => cut(s, [1, 4])),
  legal('split-byte', FRAMING, 'the header byte by byte', (s) => cut(s, new Array<number>(12).fill(1))),
  legal('split-frame', FRAMING, 'the Ethernet header over three descriptors', (s) => cut(s, [s.headerLength, 3, 9])),
  legal('crossed', FRAMING, 'header and part of the frame, the rest', (s) => cut(s, [s.headerLength + 7])),
  legal('forty', FRAMING, 'forty descriptors', (s) => cut(s, new Array<number>(39).fill(1))),
  legal('indirect', INDIRECT_SPEC, 'an indirect table', (s) => [indirect(s, cut(s, [s.headerLength]))]),
  legal('indirect-one', INDIRECT_SPEC, 'an indirect table of one', (s) => [indirect(s, cut(s, []))]),
  legal('indirect-write', INDIRECT_SPEC, 'the write flag of the descriptor that names a table is ignored', (s) => [
    indirect(s, cut(s, [12]), WRITE),
  ]),
  legal('indirect-last', INDIRECT_SPEC, 'descriptors of the ring, then an indirect table', (s) => {
    const [header, ...frame] = cut(s, [s.headerLength, 20]);
    return [header, indirect(s, frame)];
  }),
];

const used: Check[] = [
  check('ring.full', AVAIL, 'MUST', 'a ring full of frames, offered at once', async (probe) => {
    const session = await arrive(probe, 'running');
    const { tx } = session;
    const { gpa, length } = session.arpFrame();
    for (let n = 0; n < tx.size; n++) tx.put(n, { gpa, length });
    tx.offer(Array.from({ length: tx.size }, (_, n) => (n * 5) % tx.size));
    tx.kick();
    if (!(await session.usedReaches(tx, tx.size))) throw new Failure(`only ${tx.usedIdx} of ${tx.size} came back`);
    const heads = new Set(Array.from({ length: tx.size }, (_, i) => tx.used(i).id));
    if (heads.size !== tx.size) throw new Failure('a chain came back twice');
  }),
  check('ring.offered-before-kick', AVAIL, 'MUST', 'frames offered before the ring was started', async (probe) => {
    const session = await arrive(probe, 'negotiated');
    await session.setMemory();
    const { tx } = session;
    tx.reset();
    const { gpa, length } = session.arpFrame();
    tx.put(0, { gpa, length });
    tx.offer([0]);
    await session.startRing(tx, 0);
    await session.enable(tx);
    if (!(await session.usedReaches(tx, 1))) throw new Failure('it was not given back');
  }),
  check('ring.used-length', USED, 'MUST', 'nothing is written to a transmitted frame: used length 0', async (probe) => {
    const session = await arrive(probe, 'running');
    await session.transmit();
    const { length } = session.tx.used(0);
    if (length !== 0) throw new Failure(`used length ${length}`);
  }),
  check('ring.notified', NOTIFY, 'MUST', 'flags 0: a notification that a frame was used', async (probe) => {
    const session = await arrive(probe, 'running');
    session.tx.takeCalls();
    await session.transmit();
    if (!(await session.until(() => session.tx.takeCalls() > 0))) throw new Failure('no notification');
  }),
  check('ring.not-notified', NOTIFY, 'SHOULD', 'NO_INTERRUPT: no notification', async (probe) => {
    const session = await arrive(probe, 'running');
    const { tx } = session;
    await session.transmit();
    await session.until(() => tx.takeCalls() > 0);
    tx.availFlags = 1;
    await session.transmit(3);
    if (await session.until(() => tx.takeCalls() > 0, LOOK_MS)) throw new Failure('a notification came');
  }),
  check('ring.used-event', NOTIFY, 'MUST', 'EVENT_IDX: a notification when the used event is passed', async (probe) => {
    const session = await probe.open({ features: vu.VIRTIO_F_VERSION_1 | vu.VIRTIO_RING_F_EVENT_IDX });
    needFeature(session, vu.VIRTIO_RING_F_EVENT_IDX, 'EVENT_IDX');
    await session.run();
    const { tx } = session;
    for (let i = 0; i < 3; i++) {
      tx.usedEvent = tx.usedIdx;
      tx.takeCalls();
      await session.transmit();
      if (!(await session.until(() => tx.takeCalls() > 0))) throw new Failure(`no notification of frame ${i + 1}`);
    }
  }),
];

/** Offers what `build` made on a ring, and waits until it was used or given up. What became of it is noted. */
function illegal(
  id: string,
  spec: string,
  title: string,
  index: number,
  build: (s: Session, ring: ProbeRing) => void,
): Check {
  return check(`bad.${id}`, spec, 'robustness', title, async (probe) => {
    const session = await arrive(probe, 'running');
    const ring = session.rings[index];
    build(session, ring);
    ring.kick();
    if (index === RX) offerAnswered(session);
    await become(probe, session, ring);
  });
}

/** Frames that many back-ends answer. */
function offerAnswered(session: Session): void {
  const frames = [dhcpDiscover(), routerSolicitation(), arpRequest()];
  frames.forEach((bytes, n) => {
    const { gpa, length } = session.frame(bytes);
    session.tx.put(n, { gpa, length });
  });
  session.tx.offer(frames.map((_, n) => n));
  session.tx.kick();
}

/** Waits for what comes of a ring, notes it, and asks whether the back-end still answers. */
async function become(probe: Probe, session: Session, ring: ProbeRing): Promise<void> {
  let errors = 0;
  const { availIdx } = ring;
  await session.until(() => {
    errors += ring.takeErrors();
    return errors > 0 || ring.usedIdx === availIdx || session.front.isClosed;
  }, LOOK_MS);
  if (errors > 0) probe.note('error signalled');
  if (ring.usedIdx === availIdx) probe.note('given back');
  if (!(await session.alive())) {
    probe.note('closed');
    return;
  }
  await session.stopRing(ring);
}

const at = (s: Session): number => s.arpFrame().gpa;
const TX = 1;

const chains: Check[] = [
  illegal('head', AVAIL, 'a head beyond the ring', TX, (_, r) => r.offer([0xffff])),
  illegal('head-size', AVAIL, 'a head that is the size of the ring', TX, (_, r) => r.offer([r.size])),
  illegal('jump-one', AVAIL, 'the available index is one farther than the ring is long', TX, (_, r) =>
    r.offer([0], r.size),
  ),
  illegal('jump', AVAIL, 'the available index jumps by 20 000', TX, (_, r) => r.offer([0], 20_000)),
  illegal('back', AVAIL, 'the available index goes back by one', TX, (_, r) => r.offer([], 65_535)),
  illegal('same-head', AVAIL, 'one head offered three times', TX, (s, r) => {
    r.put(0, { gpa: at(s), length: 72 });
    r.offer([0, 0, 0]);
  }),
  illegal('next', TABLE, 'a next beyond the ring', TX, (s, r) => {
    r.put(0, { gpa: at(s), length: 20, flags: NEXT, next: 0x8000 });
    r.offer([0]);
  }),
  illegal('loop', TABLE, 'a chain that bites its tail', TX, (s, r) => {
    r.put(0, { gpa: at(s), length: 20, flags: NEXT, next: 1 });
    r.put(1, { gpa: at(s), length: 20, flags: NEXT, next: 0 });
    r.offer([0]);
  }),
  illegal('self', TABLE, 'a descriptor whose next is itself', TX, (s, r) => {
    r.put(3, { gpa: at(s), length: 20, flags: NEXT, next: 3 });
    r.offer([3]);
  }),
  illegal('empty-loop', TABLE, 'a loop of empty descriptors', TX, (s, r) => {
    r.put(0, { gpa: at(s), length: 0, flags: NEXT, next: 1 });
    r.put(1, { gpa: at(s), length: 0, flags: NEXT, next: 0 });
    r.offer([0]);
  }),
  illegal('zero', TABLE, 'a descriptor of 0 bytes', TX, (s, r) => {
    r.put(0, { gpa: at(s), length: 0 });
    r.offer([0]);
  }),
  illegal('zero-inside', TABLE, 'a descriptor of 0 bytes between others', TX, (s, r) => {
    const [header, frame] = cut(s, [s.headerLength]);
    r.chain(0, [header, { gpa: 0, length: 0 }, frame]);
    r.offer([0]);
  }),
  illegal('outside', TABLE, 'an address outside of memory', TX, (_, r) => {
    r.put(0, { gpa: 1n << 40n, length: 100 });
    r.offer([0]);
  }),
  illegal('past-end', TABLE, 'a buffer that ends outside of memory', TX, (s, r) => {
    r.put(0, { gpa: s.ram.regions[0].size - 30, length: 72 });
    r.offer([0]);
  }),
  illegal('wraps', TABLE, 'a buffer that passes 2^64', TX, (_, r) => {
    r.put(0, { gpa: (1n << 64n) - 16n, length: 0xffff_ffff });
    r.offer([0]);
  }),
  illegal('long', TABLE, 'descriptors of 2^32-1 bytes each, 64 of them', TX, (_, r) => {
    r.chain(
      0,
      Array.from({ length: r.size }, () => ({ gpa: 0x2000, length: 0xffff_ffff })),
    );
    r.offer([0]);
  }),
  illegal('writable', TABLE, 'a transmit chain that is writable', TX, (s, r) => {
    r.put(0, { gpa: at(s), length: 72, flags: WRITE });
    r.offer([0]);
  }),
  illegal('order', TABLE, 'a readable descriptor behind a writable one', TX, (s, r) => {
    r.chain(0, [
      { gpa: at(s), length: 40, flags: WRITE },
      { gpa: at(s), length: 72 },
    ]);
    r.offer([0]);
  }),
  illegal('flags', TABLE, 'all flags', TX, (s, r) => {
    r.put(0, { gpa: at(s), length: 64, flags: 0xffff, next: 0xffff });
    r.offer([0]);
  }),
  illegal('ring-itself', TABLE, 'a frame that lies in the ring', TX, (s, r) => {
    r.put(0, { gpa: s.ram.gpa(r.descAt), length: 400 });
    r.offer([0]);
  }),

  ...(
    [
      ['length-17', 'a table of 17 bytes', (d: Descriptor): Descriptor => ({ ...d, length: 17 })],
      ['length-0', 'a table of 0 bytes', (d: Descriptor): Descriptor => ({ ...d, length: 0 })],
      ['length-most', 'a table of 2^32-16 bytes', (d: Descriptor): Descriptor => ({ ...d, length: 0xffff_fff0 })],
      ['outside', 'a table outside of memory', (d: Descriptor): Descriptor => ({ ...d, gpa: 1n << 41n })],
      ['odd', 'a table at an odd address', (d: Descriptor): Descriptor => ({ ...d, gpa: Number(d.gpa) + 3 })],
      ['next', 'a table, and a next', (d: Descriptor): Descriptor => ({ ...d, flags: INDIRECT | NEXT, next: 1 })],
    ] as const
  ).map(([id, title, change]) =>
    illegal(`indirect-${id}`, INDIRECT_SPEC, title, TX, (s, r) => {
      r.put(0, change(indirect(s, cut(s, [s.headerLength, 10]))));
      r.put(1, { gpa: at(s), length: 72 });
      r.offer([0]);
    }),
  ),
  illegal('indirect-nested', INDIRECT_SPEC, 'a table in a table', TX, (s, r) => {
    r.put(0, indirect(s, [indirect(s, cut(s, []))]));
    r.offer([0]);
  }),
  illegal('indirect-itself', INDIRECT_SPEC, 'a table that names itself', TX, (s, r) => {
    const table = s.ram.alloc(16, 16);
    const self = { gpa: s.ram.gpa(table), length: 16, flags: INDIRECT };
    r.putAt(table, self);
    r.put(0, self);
    r.offer([0]);
  }),
  illegal('indirect-loop', INDIRECT_SPEC, 'a loop in a table', TX, (s, r) => {
    const table = s.ram.alloc(32, 16);
    r.putAt(table, { gpa: at(s), length: 8, flags: NEXT, next: 1 });
    r.putAt(table + 16, { gpa: at(s), length: 8, flags: NEXT, next: 0 });
    r.put(0, { gpa: s.ram.gpa(table), length: 32, flags: INDIRECT });
    r.offer([0]);
  }),
  illegal('indirect-far', INDIRECT_SPEC, 'a next beyond the table', TX, (s, r) => {
    const table = s.ram.alloc(32, 16);
    r.putAt(table, { gpa: at(s), length: 8, flags: NEXT, next: 2 });
    r.put(0, { gpa: s.ram.gpa(table), length: 32, flags: INDIRECT });
    r.offer([0]);
  }),
  illegal('indirect-65536', INDIRECT_SPEC, 'a table of 65 536 empty descriptors', TX, (s, r) => {
    const table = s.ram.alloc(65_536 * 16, 16);
    for (let n = 0; n < 65_536; n++) r.putAt(table + 16 * n, { gpa: 0x2000, length: 0, flags: NEXT, next: n + 1 });
    r.put(0, { gpa: s.ram.gpa(table), length: 65_536 * 16, flags: INDIRECT });
    r.offer([0]);
  }),
  check(
    'bad.indirect-unasked',
    INDIRECT_SPEC,
    'robustness',
    'a table, though INDIRECT_DESC was not negotiated',
    async (probe) => {
      const session = await probe.open({ features: vu.VIRTIO_F_VERSION_1 });
      await session.run();
      session.tx.put(0, indirect(session, cut(session, [])));
      session.tx.offer([0]);
      session.tx.kick();
      await become(probe, session, session.tx);
    },
  ),
];

/** virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers. */
function header(
  flags: number,
  gso: number,
  hdrLen: number,
  gsoSize: number,
  start: number,
  offset: number,
): Uint8Array {
  const bytes = new Uint8Array(12);
  const dv = new DataView(bytes.buffer);
  bytes[0] = flags;
  bytes[1] = gso;
  [hdrLen, gsoSize, start, offset].forEach((value, i) => dv.setUint16(2 + 2 * i, value, true));
  return bytes;
}

const HEADERS: readonly (readonly [string, string, Uint8Array])[] = [
  ['csum-start', 'a checksum that begins behind the frame', header(1, 0, 0, 0, 60, 0)],
  ['csum-far', 'a checksum that begins at 65535', header(1, 0, 0, 0, 65_535, 65_535)],
  ['csum-end', 'a checksum field on the end of the frame', header(1, 0, 0, 0, 14, 45)],
  ['gso-size-0', 'segments of 0 bytes', header(1, 1, 54, 0, 34, 16)],
  ['gso-no-csum', 'segments without a checksum to complete', header(0, 1, 54, 1448, 0, 0)],
  ['gso-short', 'segments of a frame that has no TCP header', header(1, 4, 54, 1448, 34, 16)],
  ['gso-unknown', 'segments of an unknown type', header(1, 0x7f, 54, 1448, 34, 16)],
  ['hdr-len', 'headers of 65535 bytes', header(1, 1, 65_535, 1448, 34, 16)],
  ['all-ones', 'all bits', new Uint8Array(12).fill(0xff)],
];

const OFFLOADS = vu.DRIVER_FEATURES | vu.USO_FEATURES;

const headers = HEADERS.flatMap(([id, title, bytes]) =>
  [
    ['offered', 'all offloads negotiated', OFFLOADS & ~vu.VIRTIO_RING_F_EVENT_IDX] as const,
    ['plain', 'no offload negotiated', vu.VIRTIO_F_VERSION_1] as const,
  ].map(([how, words, features]) =>
    check(`frame.${id}-${how}`, PACKETS, 'robustness', `${title}, ${words}`, async (probe) => {
      const session = await probe.open({ features });
      await session.run();
      for (const [n, frame] of [arpRequest(), dhcpDiscover(), routerSolicitation()].entries()) {
        const { gpa, length } = session.frame(frame, bytes);
        session.tx.put(n, { gpa, length });
      }
      session.tx.offer([0, 1, 2]);
      session.tx.kick();
      await become(probe, session, session.tx);
    }),
  ),
);

const lengths = [0, 1, 13, 14, 15, 1514, 9014, 65_549, 65_550, 100_000].map((length) =>
  illegal(`frame-${length}`, PACKETS, `a frame of ${length} bytes`, TX, (s, r) => {
    const frame = s.frame(blankFrame(length));
    r.put(0, frame);
    r.offer([0]);
  }),
);

const shortHeaders = [1, 10, 11].map((length) =>
  illegal(`header-${length}`, PACKETS, `${length} bytes in all, less than a header`, TX, (s, r) => {
    r.put(0, { gpa: at(s), length });
    r.offer([0]);
  }),
);

/** Receive buffers of which all are bad in the same way. */
const buffers = (id: string, title: string, make: (s: Session) => Descriptor): Check =>
  illegal(`rx-${id}`, RECEIVE, title, RX, (s, r) => {
    const buffer = make(s);
    const heads = Array.from({ length: 16 }, (_, n) => n);
    for (const n of heads) r.put(n, buffer);
    r.offer(heads);
  });

const receive: Check[] = [
  check('rx.frames', RECEIVE, 'SHOULD', 'frames that come: header, length, number of buffers', async (probe) => {
    const session = await arrive(probe, 'running');
    session.postBuffers();
    offerAnswered(session);
    if (!(await session.until(() => session.rx.usedIdx !== 0, session.timeoutMs / 2))) {
      probe.note('nothing came: the back-end answers neither ARP, DHCP nor router solicitations');
      return;
    }
    const { id, length } = session.rx.used(0);
    if (id >= 16) throw new Failure(`buffer ${id} was never posted`);
    if (length < session.headerLength + 14 || length > 2048) throw new Failure(`used length ${length}`);
    const view = session.ram.view;
    const place = Number(view.getBigUint64(session.rx.descAt + 16 * id, true));
    const count = view.getUint16(session.ram.offsetOf(place) + 10, true);
    if (count < 1 || count > 16) throw new Failure(`num_buffers is ${count}`);
  }),
  check('rx.no-buffers', RECEIVE, 'robustness', 'frames to the guest, but no buffer posted', async (probe) => {
    const session = await arrive(probe, 'running');
    for (let i = 0; i < 5; i++) {
      offerAnswered(session);
      await session.usedReaches(session.tx, session.tx.availIdx);
    }
    await session.transmit();
  }),
  buffers('readable', 'buffers that may not be written', (s) => ({ gpa: at(s), length: 2048 })),
  buffers('zero', 'buffers of 0 bytes', (s) => ({ gpa: at(s), length: 0, flags: WRITE })),
  buffers('one', 'buffers of 1 byte', (s) => ({ gpa: s.ram.gpa(s.ram.alloc(64)), length: 1, flags: WRITE })),
  buffers('eleven', 'buffers of 11 bytes', (s) => ({ gpa: s.ram.gpa(s.ram.alloc(64)), length: 11, flags: WRITE })),
  buffers('header', 'buffers as long as the header', (s) => ({
    gpa: s.ram.gpa(s.ram.alloc(64)),
    length: s.headerLength,
    flags: WRITE,
  })),
  buffers('outside', 'buffers outside of memory', () => ({ gpa: 1n << 40n, length: 2048, flags: WRITE })),
  buffers('wraps', 'buffers that pass 2^64', () => ({ gpa: (1n << 64n) - 16n, length: 2048, flags: WRITE })),
  buffers('ring', 'buffers that are the rings themselves', (s) => ({
    gpa: s.ram.gpa(s.rx.descAt),
    length: 3 * 4096,
    flags: WRITE,
  })),
  buffers('loop', 'a loop of buffers', (s) => ({
    gpa: s.ram.gpa(s.ram.alloc(64)),
    length: 16,
    flags: WRITE | NEXT,
    next: 0,
  })),
  buffers('huge', 'buffers of 2^32-1 bytes', () => ({ gpa: 0x1000, length: 0xffff_ffff, flags: WRITE })),
];

export const RING_CHECKS: readonly Check[] = [
  ...layouts,
  ...used,
  ...chains,
  ...headers,
  ...lengths,
  ...shortHeaders,
  ...receive,
];
