/** Requests of the device: reset, status, configuration space, MTU, RARP, and what belongs to features not taken. */
import { type Check, Failure } from '../check';
import * as vu from '../constants';
import { config, u64, vringState } from '../payloads';
import type { Session } from '../session';
import { arrive, check, type MessageRow, messages, need, settle } from './rows';

const of = (name: string): string => `vhost-user "VHOST_USER_${name}"`;
const {
  VHOST_USER_PROTOCOL_F_STATUS: STATUS,
  VHOST_USER_PROTOCOL_F_CONFIG: CONFIG,
  VHOST_USER_PROTOCOL_F_NET_MTU: MTU,
  VHOST_USER_PROTOCOL_F_RESET_DEVICE: RESET,
} = vu;

/** After a reset: everything is said afresh, and the rings run. */
async function startAgain(session: Session): Promise<void> {
  await session.setFeatures();
  await session.setMemory();
  for (const ring of session.rings) await session.startRing(ring);
  for (const ring of session.rings) await session.enable(ring);
  await session.transmit(3);
}

/** A frame offered to a ring that a reset has stopped. */
async function expectStopped(session: Session): Promise<void> {
  const { tx } = session;
  const before = tx.usedIdx;
  const { gpa, length } = session.arpFrame();
  tx.put(2, { gpa, length });
  tx.offer([2]);
  tx.kick();
  if (await session.until(() => tx.usedIdx !== before, 50)) throw new Failure('a frame was sent after the reset');
}

const mtus = [0, 1, 67, 65_536, 0xffff_ffff, 1n << 32n, (1n << 64n) - 1n].map((mtu): MessageRow => ({
  id: `mtu.${mtu.toString()}`,
  title: `an MTU of ${mtu.toString()}`,
  needs: MTU,
  request: vu.VHOST_USER_NET_SET_MTU,
  payload: u64(mtu),
  severity: 'SHOULD',
  expect: 'refused',
}));

const ranges = [
  [0, 256],
  [0, 0],
  [0, 257],
  [250, 10],
  [0xffff_ffff, 2],
  [0, 0xffff_ffff],
].flatMap(([offset, size]): MessageRow[] =>
  (
    [
      ['GET', vu.VHOST_USER_GET_CONFIG],
      ['SET', vu.VHOST_USER_SET_CONFIG],
    ] as const
  ).map(([name, request]) => ({
    id: `config.${name}-${offset}-${size}`,
    title: `${size} bytes at ${offset}`,
    spec: of(`${name}_CONFIG`),
    needs: CONFIG,
    request,
    payload: config(offset, size, Math.min(size, 300)),
    expect: 'survives',
  })),
);

export const DEVICE_CHECKS: readonly Check[] = [
  check(
    'reset.device',
    of('RESET_DEVICE'),
    'MUST',
    'all rings are disabled, and start again when all is said again',
    async (probe) => {
      const session = await arrive(probe, 'running');
      need(session, RESET, 'RESET_DEVICE');
      await session.transmit();
      await session.must(vu.VHOST_USER_RESET_DEVICE);
      await startAgain(session);
    },
  ),
  check('reset.device-stops', of('RESET_DEVICE'), 'SHOULD', 'a ring is not touched after a reset', async (probe) => {
    const session = await arrive(probe, 'running');
    need(session, RESET, 'RESET_DEVICE');
    await session.transmit();
    await session.must(vu.VHOST_USER_RESET_DEVICE);
    await expectStopped(session);
  }),
  check(
    'reset.device-early',
    of('RESET_DEVICE'),
    'robustness',
    'four times before rings were set up',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      need(session, RESET, 'RESET_DEVICE');
      for (let i = 0; i < 4; i++) session.front.send(vu.VHOST_USER_RESET_DEVICE);
      probe.note(await settle(session));
    },
  ),
  check(
    'reset.owner',
    of('RESET_OWNER'),
    'robustness',
    'RESET_OWNER while rings run, then all again',
    async (probe) => {
      const session = await arrive(probe, 'running');
      await session.transmit();
      session.front.send(vu.VHOST_USER_RESET_OWNER);
      const word = await settle(session);
      probe.note(word);
      if (word === 'closed') return;
      for (const ring of session.rings) await session.stopRing(ring);
      await startAgain(session);
    },
  ),

  check('status.kept', of('GET_STATUS'), 'MUST', 'the status that was set', async (probe) => {
    const session = await arrive(probe, 'negotiated');
    need(session, STATUS, 'STATUS');
    await session.must(vu.VHOST_USER_SET_STATUS, u64(0xb));
    const status = await session.callU64(vu.VHOST_USER_GET_STATUS);
    if ((status & 0xbn) !== 0xbn) throw new Failure(`0x${status.toString(16)} after 0xb`);
  }),
  check(
    'status.zero-running',
    of('SET_STATUS'),
    'robustness',
    'SET_STATUS 0 before GET_VRING_BASE (QEMU 7.2)',
    async (probe) => {
      const session = await arrive(probe, 'running');
      need(session, STATUS, 'STATUS');
      await session.transmit(3);
      await session.must(vu.VHOST_USER_SET_STATUS, u64(0));
      await session.stopRing(session.tx);
    },
  ),
  ...messages(of('SET_STATUS'), [
    {
      id: 'status.all-bits',
      title: 'all 64 bits',
      needs: STATUS,
      request: vu.VHOST_USER_SET_STATUS,
      payload: u64((1n << 64n) - 1n),
      expect: 'survives',
    },
  ]),
  ...messages(of('NET_SET_MTU'), [
    ...mtus,
    {
      id: 'mtu.1280',
      title: 'an MTU of 1280',
      needs: MTU,
      request: vu.VHOST_USER_NET_SET_MTU,
      payload: u64(1280),
      expect: 'done',
    },
    {
      id: 'mtu.running',
      title: 'while rings run',
      state: 'running',
      needs: MTU,
      request: vu.VHOST_USER_NET_SET_MTU,
      payload: u64(1500),
      expect: 'survives',
    },
  ]),
  ...messages('', ranges),
  ...messages(of('GET_CONFIG'), [
    {
      id: 'config.short',
      title: '4 bytes of payload',
      needs: CONFIG,
      request: vu.VHOST_USER_GET_CONFIG,
      payload: new Uint8Array(4),
      expect: 'survives',
    },
    {
      id: 'config.size-lies',
      title: 'a size that its payload does not have',
      needs: CONFIG,
      request: vu.VHOST_USER_GET_CONFIG,
      payload: config(0, 200, 4),
      expect: 'survives',
    },
  ]),
  ...messages(of('GET_INFLIGHT_FD'), [
    {
      id: 'inflight.zero',
      title: 'no queues',
      needs: vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
      request: vu.VHOST_USER_GET_INFLIGHT_FD,
      payload: new Uint8Array(24),
      expect: 'survives',
    },
    {
      id: 'inflight.most',
      title: '65535 queues of 65535',
      needs: vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
      request: vu.VHOST_USER_GET_INFLIGHT_FD,
      payload: new Uint8Array(24).fill(0xff, 16),
      expect: 'survives',
    },
  ]),
  ...messages(of('SET_DEVICE_STATE_FD'), [
    {
      id: 'device-state.directory',
      title: 'a directory to save into',
      needs: vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE,
      request: vu.VHOST_USER_SET_DEVICE_STATE_FD,
      payload: vringState(0, 0),
      fds: (s) => [s.file('/')],
      expect: 'survives',
    },
    {
      id: 'device-state.direction',
      title: 'a direction that there is not',
      needs: vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE,
      request: vu.VHOST_USER_SET_DEVICE_STATE_FD,
      payload: vringState(9, 9),
      fds: (s) => [s.front.socket()],
      expect: 'survives',
    },
    {
      id: 'device-state.dead',
      title: 'a state to load that ends at once',
      needs: vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE,
      request: vu.VHOST_USER_SET_DEVICE_STATE_FD,
      payload: vringState(1, 0),
      fds: (s) => [s.deadSocket()],
      expect: 'survives',
    },
  ]),
];
