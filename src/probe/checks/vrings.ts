/** Ring messages: indices, sizes, addresses, order, and the states of rings. */
import { type Check, Failure } from '../check';
import * as vu from '../constants';
import { dhcpDiscover } from '../frames';
import { u64, vringAddr, vringState } from '../payloads';
import type { ProbeRing } from '../ring';
import type { Session } from '../session';
import { arrive, check, type MessageRow, messages, needFeature, settle } from './rows';

const STATES = 'vhost-user "Ring states"';
const of = (name: string): string => `vhost-user "VHOST_USER_${name}"`;
const { VHOST_USER_SET_VRING_NUM: NUM, VHOST_USER_SET_VRING_BASE: BASE, VHOST_USER_SET_VRING_ADDR: ADDR } = vu;
const { VHOST_USER_SET_VRING_ENABLE: ENABLE, VHOST_USER_GET_VRING_BASE: GET_BASE } = vu;

/** No back-end has so many rings; the first two show whether only some of the bits are looked at. */
const FAR: readonly number[] = [0x100, 0x1_0000, 0x8000_0000, 0xffff_ffff];

const farIndices = FAR.flatMap((index): MessageRow[] =>
  (
    [
      ['NUM', NUM, vringState(index, 256)],
      ['BASE', BASE, vringState(index, 0)],
      ['ADDR', ADDR, vringAddr({ index, desc: 0x1000n, avail: 0x2000n, used: 0x3000n })],
      ['ENABLE', ENABLE, vringState(index, 1)],
    ] as const
  ).map(([name, request, payload]) => ({
    id: `vring.${name}-index-${index}`,
    title: `ring ${index}`,
    spec: of(`SET_VRING_${name}`),
    request,
    payload,
    expect: 'refused',
  })),
);

const nearIndices = [2, 3, 128, 255].flatMap((index): MessageRow[] =>
  (
    [
      ['NUM', NUM, vringState(index, 256)],
      ['ENABLE', ENABLE, vringState(index, 1)],
      ['GET_BASE', GET_BASE, vringState(index, 0)],
      ['KICK', vu.VHOST_USER_SET_VRING_KICK, u64(index)],
    ] as const
  ).map(([name, request, payload]) => ({
    id: `vring.${name}-index-${index}`,
    title: `ring ${index}`,
    spec: of(name === 'GET_BASE' ? 'GET_VRING_BASE' : `SET_VRING_${name}`),
    request,
    payload,
    ...(name === 'KICK' ? { fds: (s: Session) => [s.eventFd()] } : {}),
    expect: 'survives',
  })),
);

const farBase = FAR.map((index): MessageRow => ({
  id: `vring.GET_BASE-index-${index}`,
  title: `ring ${index}`,
  spec: of('GET_VRING_BASE'),
  request: GET_BASE,
  payload: vringState(index, 0),
  expect: 'survives',
}));

const highBits = [0x200, 0x1_0000, 1n << 32n, 1n << 63n].map((value): MessageRow => ({
  id: `vring.CALL-bits-${value.toString()}`,
  title: `SET_VRING_CALL with 0x${value.toString(16)}, bits that mean nothing`,
  spec: of('SET_VRING_CALL'),
  request: vu.VHOST_USER_SET_VRING_CALL,
  payload: u64(value),
  fds: (s) => [s.eventFd()],
  expect: 'survives',
}));

/** A ring of a size that rings cannot have is set up and kicked. */
const sizes = [0, 3, 100, 32_769, 65_536, 0xffff_ffff].map((size) =>
  check(
    `vring.NUM-${size}`,
    'virtio 1.2 §2.7',
    'robustness',
    `a ring of ${size} descriptors, kicked`,
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      await session.setMemory();
      await setUpRaw(session, session.tx, { size });
      probe.note(await settle(session));
    },
  ),
);

const goodSizes = [1, 2, 1024, 32_768].map((size) =>
  check(`vring.NUM-${size}`, 'virtio 1.2 §2.7', 'SHOULD', `a ring of ${size} descriptors works`, async (probe) => {
    const session = await probe.open({ ringSize: size });
    await session.run();
    await session.transmit(3);
  }),
);

/** Says all that starts a ring, right but for what differs, without a look at what comes back. */
async function setUpRaw(
  session: Session,
  ring: ProbeRing,
  change: { readonly size?: number; readonly base?: number; readonly addr?: Parameters<ProbeRing['addr']>[0] },
): Promise<void> {
  ring.reset(0);
  session.openFds(ring);
  const { gpa, length } = session.arpFrame();
  ring.put(0, { gpa, length });
  ring.offer([0]);
  ring.kick();
  const { index } = ring;
  const send = (request: number, payload: Uint8Array, fds: readonly number[] = []): void => {
    session.front.send(request, payload, { fds });
  };
  send(ENABLE, vringState(index, 1));
  send(NUM, vringState(index, change.size ?? ring.size));
  send(BASE, vringState(index, change.base ?? 0));
  send(ADDR, ring.addr(change.addr));
  send(vu.VHOST_USER_SET_VRING_ERR, u64(index), [ring.errFd]);
  send(vu.VHOST_USER_SET_VRING_CALL, u64(index), [ring.callFd]);
  send(vu.VHOST_USER_SET_VRING_KICK, u64(index), [ring.kickFd]);
  await session.usedReaches(ring, 1, 10);
}

const bad = (id: string, title: string, change: (s: Session) => Parameters<ProbeRing['addr']>[0]): Check =>
  check(`vring.ADDR-${id}`, of('SET_VRING_ADDR'), 'robustness', title, async (probe) => {
    const session = await arrive(probe, 'negotiated');
    await session.setMemory();
    const { tx } = session;
    await setUpRaw(session, tx, { addr: change(session) ?? {} });
    probe.note(`${await settle(session)}${tx.takeErrors() > 0 ? ', error signalled' : ''}`);
  });

const end = (s: Session): bigint => BigInt(s.ram.userAddr(s.ram.regions[0].size - 4096)) + 4096n;
const PARTS = ['desc', 'avail', 'used'] as const;

const addresses: Check[] = [
  ...PARTS.map((part) => bad(`${part}-odd`, `${part} at an odd address`, (s) => ({ [part]: end(s) - 8191n }))),
  ...PARTS.map((part) => bad(`${part}-outside`, `${part} outside of memory`, () => ({ [part]: 0x1000n }))),
  ...PARTS.map((part) =>
    bad(`${part}-end`, `${part} begins in memory and ends outside`, (s) => ({ [part]: end(s) - 16n })),
  ),
  ...PARTS.map((part) => bad(`${part}-wraps`, `${part} passes 2^64`, () => ({ [part]: (1n << 64n) - 16n }))),
  bad('log-wraps', 'logged at the end of all addresses', () => ({ flags: 1, log: (1n << 64n) - 4n })),
  bad('flags', 'all flags', () => ({ flags: 0xffff_ffff })),
  bad('same', 'all three parts in one place', (s) => ({
    avail: end(s) - 8192n,
    used: end(s) - 8192n,
    desc: end(s) - 8192n,
  })),
];

/** Orders of set-up messages that front-ends use: E(nable) N(um) B(ase) A(ddr) C(all) K(ick) M(emory). */
const ORDERS: readonly (readonly [string, string, 'MUST' | 'SHOULD'])[] = [
  ['EMNBAKC', 'QEMU: enabled first, the call descriptor after the kick', 'MUST'],
  ['MCNBAKE', 'user-mode Linux: enabled last', 'MUST'],
  ['MNABCKE', 'cloud-hypervisor: addresses before the base', 'MUST'],
  ['NBACMKE', 'memory behind the addresses', 'SHOULD'],
  ['MNBACEK', 'enabled, then kicked', 'MUST'],
];

const orders = ORDERS.map(([order, title, severity]) =>
  check(`order.${order}`, STATES, severity, `rings run after this order, ${title}`, async (probe) => {
    const session = await arrive(probe, 'negotiated');
    for (const ring of session.rings) {
      ring.reset();
      session.openFds(ring);
      ring.kick();
    }
    for (const step of order) {
      if (step === 'M') await session.setMemory();
      else for (const ring of session.rings) await orderStep(session, ring, step);
    }
    await session.transmit();
  }),
);

function orderStep(session: Session, ring: ProbeRing, step: string): Promise<void> {
  const { index } = ring;
  switch (step) {
    case 'E':
      return session.enable(ring);
    case 'N':
      return session.must(NUM, vringState(index, ring.size));
    case 'B':
      return session.must(BASE, vringState(index, 0));
    case 'A':
      return session.must(ADDR, ring.addr());
    case 'C':
      return session.must(vu.VHOST_USER_SET_VRING_CALL, u64(index), { fds: [ring.callFd] });
    default:
      return session.must(vu.VHOST_USER_SET_VRING_KICK, u64(index), { fds: [ring.kickFd] });
  }
}

/** Set-up messages left out. */
const missing = ['NBAK', 'K', 'MK', 'MNK', 'MNBK', 'MAK', 'NAK'].map((steps) =>
  check(`order.only-${steps}`, STATES, 'robustness', `only these messages are said: ${steps}`, async (probe) => {
    const session = await arrive(probe, 'negotiated');
    const { tx } = session;
    tx.reset();
    session.openFds(tx);
    tx.kick();
    for (const step of `E${steps}`) {
      if (step === 'M') await session.setMemory();
      else {
        const payload =
          { E: vringState(1, 1), N: vringState(1, tx.size), B: vringState(1, 0), A: tx.addr() }[step] ?? u64(1);
        const request = { E: ENABLE, N: NUM, B: BASE, A: ADDR }[step] ?? vu.VHOST_USER_SET_VRING_KICK;
        session.front.send(request, payload, { fds: step === 'K' ? [tx.kickFd] : [] });
      }
    }
    tx.kick();
    probe.note(await settle(session));
  }),
);

/** Wait for what must not happen, in ms. */
const NEVER_MS = 100;

const states: Check[] = [
  check(
    'state.base-kept',
    of('GET_VRING_BASE'),
    'SHOULD',
    'a ring that never ran answers with the base it was given',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      await session.must(BASE, vringState(1, 7));
      const base = await session.stopRing(session.tx);
      if (base !== 7) throw new Failure(`${base} instead of 7`);
    },
  ),
  check('state.base-counts', of('GET_VRING_BASE'), 'MUST', 'after three frames the base is 3', async (probe) => {
    const session = await arrive(probe, 'running');
    await session.transmit(3);
    const base = await session.stopRing(session.tx);
    if (base !== 3) throw new Failure(`${base} instead of 3`);
  }),
  check('state.stopped', STATES, 'MUST', 'a ring is not touched after the reply to GET_VRING_BASE', async (probe) => {
    const session = await arrive(probe, 'running');
    const { tx } = session;
    await session.transmit();
    await session.stopRing(tx);
    const { gpa, length } = session.arpFrame();
    tx.put(1, { gpa, length });
    tx.offer([1]);
    tx.kick();
    if (await session.until(() => tx.usedIdx !== 1, NEVER_MS)) throw new Failure('a frame was taken');
  }),
  check('state.restart', STATES, 'MUST', 'stopped and started again: goes on at its base', async (probe) => {
    const session = await arrive(probe, 'running');
    await session.transmit(3);
    for (let round = 1; round <= 3; round++) {
      const base = await session.stopRing(session.tx);
      if (base !== 3 * round) throw new Failure(`base ${base} instead of ${3 * round}`);
      await session.startRing(session.tx, base);
      await session.enable(session.tx);
      await session.transmit(3);
    }
  }),
  check(
    'state.restart-fresh',
    STATES,
    'MUST',
    'stopped and taken into use afresh, as by a reboot: base 0',
    async (probe) => {
      const session = await arrive(probe, 'running');
      await session.transmit(5);
      await session.stopRing(session.tx);
      await session.startRing(session.tx);
      await session.enable(session.tx);
      await session.transmit(3);
    },
  ),
  check('state.wrap', of('SET_VRING_BASE'), 'MUST', 'indices pass 65535', async (probe) => {
    const session = await arrive(probe, 'negotiated');
    await session.setMemory();
    session.tx.reset(65_530);
    await session.startRing(session.tx, 65_530);
    await session.enable(session.tx);
    await session.transmit(20);
    const base = await session.stopRing(session.tx);
    if (base !== (65_530 + 20) % 65_536) throw new Failure(`base ${base} instead of 14`);
  }),
  check(
    'state.disabled-tx',
    STATES,
    'MUST',
    'frames of a ring that is started and disabled are taken and thrown away',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      needFeature(session, vu.VHOST_USER_F_PROTOCOL_FEATURES, 'VHOST_USER_F_PROTOCOL_FEATURES');
      await session.setMemory();
      await session.startRing(session.tx);
      await session.enable(session.tx, false);
      await session.transmit(3);
    },
  ),
  check('state.disabled-rx', STATES, 'MUST', 'a receive ring that is disabled gets nothing', async (probe) => {
    const session = await arrive(probe, 'negotiated');
    needFeature(session, vu.VHOST_USER_F_PROTOCOL_FEATURES, 'VHOST_USER_F_PROTOCOL_FEATURES');
    await session.setMemory();
    for (const ring of session.rings) await session.startRing(ring);
    await session.enable(session.tx);
    await session.enable(session.rx, false);
    session.postBuffers();
    const { gpa, length } = session.frame(dhcpDiscover());
    session.tx.put(0, { gpa, length });
    session.tx.offer([0]);
    session.tx.kick();
    await session.usedReaches(session.tx, 1);
    if (await session.until(() => session.rx.usedIdx !== 0, NEVER_MS)) throw new Failure('a frame came');
  }),
  check('state.enabled-again', STATES, 'MUST', 'disabled and enabled, ten times, while it runs', async (probe) => {
    const session = await arrive(probe, 'running');
    needFeature(session, vu.VHOST_USER_F_PROTOCOL_FEATURES, 'VHOST_USER_F_PROTOCOL_FEATURES');
    for (let i = 0; i < 10; i++) {
      await session.enable(session.tx, false);
      await session.enable(session.tx);
      await session.transmit();
    }
  }),
  check('state.kick-replaced', STATES, 'MUST', 'another kick descriptor while the ring runs', async (probe) => {
    const session = await arrive(probe, 'running');
    await session.transmit();
    session.tx.kickFd = session.eventFd();
    await session.must(vu.VHOST_USER_SET_VRING_KICK, u64(1), { fds: [session.tx.kickFd] });
    await session.transmit(3);
  }),
  check(
    'state.call-replaced',
    STATES,
    'MUST',
    'another call descriptor while the ring runs: it is the one signalled',
    async (probe) => {
      const session = await arrive(probe, 'running');
      await session.transmit();
      session.tx.callFd = session.eventFd();
      await session.must(vu.VHOST_USER_SET_VRING_CALL, u64(1), { fds: [session.tx.callFd] });
      session.tx.takeCalls();
      await session.transmit();
      if (!(await session.until(() => session.tx.takeCalls() > 0))) throw new Failure('no notification');
    },
  ),
  check('state.kicked-for-nothing', STATES, 'robustness', '10 000 kicks without a frame', async (probe) => {
    const session = await arrive(probe, 'running');
    for (let i = 0; i < 10_000; i++) session.tx.kick();
    await session.transmit(3);
  }),
  check('state.owner-twice', of('SET_OWNER'), 'robustness', 'SET_OWNER twice', async (probe) => {
    const session = await arrive(probe, 'negotiated');
    session.front.send(vu.VHOST_USER_SET_OWNER);
    probe.note(await settle(session));
  }),
  ...messages(STATES, [
    {
      id: 'state.num-running',
      title: 'SET_VRING_NUM while the ring runs',
      state: 'running',
      request: NUM,
      payload: vringState(1, 128),
      expect: 'survives',
    },
    {
      id: 'state.base-running',
      title: 'SET_VRING_BASE while the ring runs',
      state: 'running',
      request: BASE,
      payload: vringState(1, 9),
      expect: 'survives',
    },
    {
      id: 'state.addr-running',
      title: 'SET_VRING_ADDR elsewhere while the ring runs',
      state: 'running',
      request: ADDR,
      payload: (s) => s.tx.addr({ desc: BigInt(s.ram.userAddr(0x1000)) }),
      expect: 'survives',
    },
    {
      id: 'state.addr-same-running',
      title: 'SET_VRING_ADDR as before while the ring runs',
      severity: 'MUST',
      state: 'running',
      request: ADDR,
      payload: (s) => s.tx.addr(),
      expect: 'done',
    },
    {
      id: 'state.enable-2',
      title: 'SET_VRING_ENABLE with 2',
      request: ENABLE,
      payload: vringState(0, 2),
      expect: 'survives',
    },
    {
      id: 'state.base-65536',
      title: 'SET_VRING_BASE with 65536',
      spec: of('SET_VRING_BASE'),
      request: BASE,
      payload: vringState(0, 65_536),
      expect: 'survives',
    },
  ]),
  check(
    'state.base-far',
    of('SET_VRING_BASE'),
    'robustness',
    'a base farther from the available index than the ring is long',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      await session.setMemory();
      await setUpRaw(session, session.tx, { base: 1000 });
      probe.note(`${await settle(session)}${session.tx.takeErrors() > 0 ? ', error signalled' : ''}`);
    },
  ),
];

export const VRING_CHECKS: readonly Check[] = [
  ...messages('', [...farIndices, ...nearIndices, ...farBase, ...highBits]),
  ...sizes,
  ...goodSizes,
  ...addresses,
  ...orders,
  ...missing,
  ...states,
];
