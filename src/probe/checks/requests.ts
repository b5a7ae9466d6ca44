/** Each request as it should be, and requests that nobody knows or negotiated. */
import { type Check, Failure, Skip } from '../check';
import * as vu from '../constants';
import { EMPTY, config, logBase, singleRegion, u64, vringState } from '../payloads';
import type { Session } from '../session';
import { arrive, check, type MessageRow, messages, need } from './rows';

const ACK = 'vhost-user "VHOST_USER_PROTOCOL_F_REPLY_ACK"';
const of = (name: string): string => `vhost-user "VHOST_USER_${name}"`;

const event = (s: Session): number[] => [s.eventFd()];
const log = (s: Session): number[] => [s.memfd(1 << 20)];

/** A request that is only acknowledged: legal in this state, with need_reply and without. */
interface Plain {
  readonly name: string;
  readonly request: number;
  readonly state?: 'open' | 'negotiated' | 'running';
  readonly needs?: bigint;
  readonly payload?: MessageRow['payload'];
  readonly fds?: MessageRow['fds'];
}

const PLAIN: readonly Plain[] = [
  { name: 'SET_OWNER', request: vu.VHOST_USER_SET_OWNER },
  { name: 'SET_FEATURES', request: vu.VHOST_USER_SET_FEATURES, payload: (s) => u64(s.wantedFeatures) },
  { name: 'SET_PROTOCOL_FEATURES', request: vu.VHOST_USER_SET_PROTOCOL_FEATURES, payload: (s) => u64(s.protocol) },
  { name: 'SET_VRING_NUM', request: vu.VHOST_USER_SET_VRING_NUM, payload: vringState(0, 256) },
  { name: 'SET_VRING_BASE', request: vu.VHOST_USER_SET_VRING_BASE, payload: vringState(1, 0) },
  { name: 'SET_VRING_CALL', request: vu.VHOST_USER_SET_VRING_CALL, payload: u64(0), fds: event },
  { name: 'SET_VRING_ERR', request: vu.VHOST_USER_SET_VRING_ERR, payload: u64(1), fds: event },
  { name: 'SET_VRING_ENABLE', request: vu.VHOST_USER_SET_VRING_ENABLE, payload: vringState(0, 1) },
  {
    name: 'SEND_RARP',
    request: vu.VHOST_USER_SEND_RARP,
    needs: vu.VHOST_USER_PROTOCOL_F_RARP,
    payload: u64(0x01_6562_7574_02n),
  },
  {
    name: 'NET_SET_MTU',
    request: vu.VHOST_USER_NET_SET_MTU,
    needs: vu.VHOST_USER_PROTOCOL_F_NET_MTU,
    payload: u64(1500),
  },
  {
    name: 'SET_BACKEND_REQ_FD',
    request: vu.VHOST_USER_SET_BACKEND_REQ_FD,
    needs: vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
    fds: (s) => [s.front.socket()],
  },
  { name: 'SET_LOG_FD', request: vu.VHOST_USER_SET_LOG_FD, needs: vu.VHOST_USER_PROTOCOL_F_LOG_SHMFD, fds: event },
  { name: 'RESET_DEVICE', request: vu.VHOST_USER_RESET_DEVICE, needs: vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE },
  { name: 'SET_STATUS', request: vu.VHOST_USER_SET_STATUS, needs: vu.VHOST_USER_PROTOCOL_F_STATUS, payload: u64(0xb) },
];

const legal = PLAIN.flatMap(({ name, request, state, needs, payload, fds }): Check[] => {
  const go = (title: string, id: string, needReply: boolean): Check =>
    check(id, of(name), 'MUST', title, async (probe) => {
      const session = await arrive(probe, state ?? 'negotiated');
      if (needs !== undefined) need(session, needs, 'its protocol feature');
      if (needReply && !session.hasAcks) throw new Skip('REPLY_ACK is not offered');
      const bytes = typeof payload === 'function' ? payload(session) : (payload ?? EMPTY);
      const outcome = await session.ask(request, bytes, { needReply, fds: fds?.(session) ?? [] });
      if (outcome !== (needReply ? 'done' : 'silent')) throw new Failure(`it was ${outcome}`);
    });
  return [
    go(`${name} is taken without a reply`, `request.${name}`, false),
    go(`${name} with need_reply is acknowledged with 0`, `request.${name}-ack`, true),
  ];
});

/** A request that is answered: the answer, its size and flags. */
function answered(name: string, needs: bigint, title: string, run: (s: Session) => Promise<void>): Check {
  return check(`request.${name}`, of(name), 'MUST', title, async (probe) => {
    const session = await arrive(probe, 'negotiated');
    need(session, needs, 'its protocol feature');
    await run(session);
  });
}

const F = vu;
const replies: Check[] = [
  answered('GET_PROTOCOL_FEATURES', 0n, 'a u64, the same each time', async (s) => {
    if (!s.offers(F.VHOST_USER_F_PROTOCOL_FEATURES)) throw new Skip('VHOST_USER_F_PROTOCOL_FEATURES is not offered');
    const again = await s.callU64(F.VHOST_USER_GET_PROTOCOL_FEATURES);
    if (again !== s.protocolOffered) throw new Failure('it says something else than before');
  }),
  answered('GET_QUEUE_NUM', F.VHOST_USER_PROTOCOL_F_MQ, 'a u64, at least 1', async (s) => {
    if ((await s.callU64(F.VHOST_USER_GET_QUEUE_NUM)) < 1n) throw new Failure('it says 0');
  }),
  answered('GET_MAX_MEM_SLOTS', F.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS, 'a u64, at least 1', async (s) => {
    if ((await s.callU64(F.VHOST_USER_GET_MAX_MEM_SLOTS)) < 1n) throw new Failure('it says 0');
  }),
  answered('GET_STATUS', F.VHOST_USER_PROTOCOL_F_STATUS, 'a u64', async (s) => {
    await s.callU64(F.VHOST_USER_GET_STATUS);
  }),
  answered('GET_CONFIG', F.VHOST_USER_PROTOCOL_F_CONFIG, 'the range asked for, of the same size', async (s) => {
    const { payload } = await s.call(F.VHOST_USER_GET_CONFIG, config(0, 8));
    if (payload.byteLength !== 20) throw new Failure(`${payload.byteLength} bytes, not 20`);
  }),
  answered('SET_LOG_BASE', F.VHOST_USER_PROTOCOL_F_LOG_SHMFD, 'is answered, also without need_reply', async (s) => {
    await s.call(F.VHOST_USER_SET_LOG_BASE, logBase(1n << 20n, 0n), { fds: log(s) });
  }),
  answered('GET_VRING_BASE', 0n, 'of a ring that never ran: index and number', async (s) => {
    await s.stopRing(s.rx);
  }),
  answered('GET_INFLIGHT_FD', F.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD, 'is answered', async (s) => {
    const payload = new Uint8Array(24);
    new DataView(payload.buffer).setUint16(16, 2, true);
    new DataView(payload.buffer).setUint16(18, 256, true);
    await s.call(F.VHOST_USER_GET_INFLIGHT_FD, payload);
  }),
  answered('CHECK_DEVICE_STATE', F.VHOST_USER_PROTOCOL_F_DEVICE_STATE, 'is answered with a u64', async (s) => {
    await s.callU64(F.VHOST_USER_CHECK_DEVICE_STATE);
  }),
];

const UNKNOWN: readonly number[] = [0, 45, 99, 0x7fff_ffff, 0xffff_ffff];

const unknown = messages(
  ACK,
  UNKNOWN.map((request) => ({
    id: `unknown.${request}`,
    title: `request ${request}, which no specification has, is not acknowledged with 0`,
    request,
    expect: 'refused' as const,
  })),
);

const unknownMore = messages('vhost-user "Message types"', [
  {
    id: 'unknown.payload',
    title: 'an unknown request with payload',
    request: 200,
    payload: new Uint8Array(500),
    expect: 'survives',
  },
  {
    id: 'unknown.descriptors',
    title: 'an unknown request with descriptors',
    request: 200,
    fds: (s) => [s.eventFd(), s.memfd(4096), s.front.socket()],
    expect: 'survives',
  },
  { id: 'unknown.first', title: 'an unknown request before all else', state: 'open', request: 200, expect: 'survives' },
]);

/** Requests of protocol features, where no protocol feature was negotiated. */
const GATED: readonly (readonly [string, number, (Uint8Array | undefined)?, MessageRow['fds']?])[] = [
  ['SET_LOG_BASE', 6, logBase(4096n, 0n), log],
  ['GET_QUEUE_NUM', 17],
  ['SEND_RARP', 19, u64(0)],
  ['NET_SET_MTU', 20, u64(1500)],
  ['SET_BACKEND_REQ_FD', 21, undefined, (s): number[] => [s.front.socket()]],
  ['IOTLB_MSG', 22, new Uint8Array(32)],
  ['SET_VRING_ENDIAN', 23, vringState(0, 0)],
  ['GET_CONFIG', 24, config(0, 8)],
  ['SET_CONFIG', 25, config(0, 6)],
  ['CREATE_CRYPTO_SESSION', 26, new Uint8Array(100)],
  ['CLOSE_CRYPTO_SESSION', 27, u64(0)],
  ['POSTCOPY_ADVISE', 28],
  ['POSTCOPY_LISTEN', 29],
  ['POSTCOPY_END', 30],
  ['GET_INFLIGHT_FD', 31, new Uint8Array(24)],
  ['SET_INFLIGHT_FD', 32, new Uint8Array(24), (s): number[] => [s.memfd(4096)]],
  ['GPU_SET_SOCKET', 33, undefined, (s): number[] => [s.front.socket()]],
  ['RESET_DEVICE', 34],
  ['VRING_KICK', 35, vringState(0, 0)],
  ['GET_MAX_MEM_SLOTS', 36],
  ['ADD_MEM_REG', 37, singleRegion({ gpa: 0n, size: 1n << 20n, uva: 1n << 40n, offset: 0n }), log],
  ['REM_MEM_REG', 38, singleRegion({ gpa: 0n, size: 1n << 20n, uva: 1n << 40n, offset: 0n })],
  ['SET_STATUS', 39, u64(0xf)],
  ['GET_STATUS', 40],
  ['GET_SHARED_OBJECT', 41, new Uint8Array(16)],
  ['SET_DEVICE_STATE_FD', 42, new Uint8Array(8), (s): number[] => [s.front.socket()]],
  ['CHECK_DEVICE_STATE', 43],
  ['GET_SHMEM_CONFIG', 44],
];

const gated = messages(
  'vhost-user "Protocol features"',
  GATED.flatMap(([name, request, payload, fds]) =>
    (['none', 'ack'] as const).map((how): MessageRow => ({
      id: `gated.${name}-${how}`,
      title: `${name} where ${how === 'none' ? 'nothing' : 'only REPLY_ACK'} was negotiated`,
      request,
      options: { protocol: how === 'none' ? 0n : vu.VHOST_USER_PROTOCOL_F_REPLY_ACK },
      ...(payload === undefined ? {} : { payload }),
      ...(fds === undefined ? {} : { fds }),
      expect: 'survives',
    })),
  ),
);

const empty = messages(
  'vhost-user "Message types"',
  Array.from({ length: 44 }, (_, i) => ({
    id: `request.empty-${i + 1}`,
    title: `request ${i + 1} without payload and descriptors`,
    request: i + 1,
    expect: 'survives' as const,
  })),
);

export const REQUEST_CHECKS: readonly Check[] = [
  ...legal,
  ...replies,
  ...unknown,
  ...unknownMore,
  check(
    'gated.GET_QUEUE_NUM-answered',
    of('GET_QUEUE_NUM'),
    'SHOULD',
    'without MQ: an answer, at least 1',
    async (probe) => {
      const session = await probe.open();
      await session.negotiateProtocol(0n);
      const queues = await session.callU64(vu.VHOST_USER_GET_QUEUE_NUM);
      if (queues < 1n) throw new Failure('it says 0');
    },
  ),
  ...gated,
  ...empty,
];
