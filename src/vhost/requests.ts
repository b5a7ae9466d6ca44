/**
 * The dispatch table: for each request of the front-end its payload size, descriptors, the protocol feature it
 * belongs to, whether it has a reply of its own, and what it does. A handler returns the reply, or null where the
 * specification knows none (an acknowledgement may then be owed; session.ts sends it).
 *
 * Not in the table, and so refused: what belongs to features that are not offered: STATUS, INFLIGHT_SHMFD, PAGEFAULT,
 * INBAND_NOTIFICATIONS, CROSS_ENDIAN, IOTLB, DEVICE_STATE, CRYPTO_SESSION, SHARED_OBJECT, SHMEM. Of MQ, which is not
 * offered either (one queue pair for now), the question is answered.
 */
import type { Backend } from './backend';
import type { Message } from './connection';
import { ProtocolError } from './protocol-errors';
import {
  CONFIG_HEAD_SIZE,
  LOG_SIZE,
  SINGLE_REGION_SIZE,
  U64_SIZE,
  VRING_ADDR_SIZE,
  VRING_STATE_SIZE,
  decodeConfigRange,
  decodeLogBase,
  decodeU64,
  decodeVringAddr,
  decodeVringFd,
  decodeVringState,
  encodeConfigReply,
  encodeU64Reply,
  encodeVringStateReply,
} from './messages';
import * as p from './protocol';

/** The reply's bytes; null: none of its own. */
export type Reply = Uint8Array | null;

export interface Request {
  readonly name: string;
  /** Exact payload size in bytes; -1: checked by `run`. */
  readonly size: number;
  /** Exact number of descriptors; -1: checked by `run`. */
  readonly fds: number;
  /** Number of the protocol feature that must have been negotiated; -1: none. */
  readonly feature: number;
  /** The request is always answered, and never acknowledged. */
  readonly replies: boolean;
  readonly run: (backend: Backend, message: Message) => Reply | Promise<Reply>;
}

/** A request with an answer of its own. */
function answered(name: string, size: number, fds: number, feature: number, run: Request['run']): Request {
  return { name, size, fds, feature, replies: true, run };
}

/** A request that is only acknowledged, if at all. */
function acked(
  name: string,
  size: number,
  fds: number,
  feature: number,
  run: (backend: Backend, message: Message) => unknown,
): Request {
  return {
    name,
    size,
    fds,
    feature,
    replies: false,
    run: (backend, message) => {
      const result = run(backend, message);
      return result instanceof Promise ? result.then(() => null) : null;
    },
  };
}

const NOTHING = (): void => undefined;

function getConfig(backend: Backend, { request, payload }: Message): Reply {
  const range = decodeConfigRange(payload);
  if (range === null)
    throw new ProtocolError('VU_ERR_CONFIG', 'GET_CONFIG with a payload of another size than its size field');
  return encodeConfigReply(request, range, backend.configSpace);
}

/** No field of a network device's configuration space can be written: checked, then ignored. */
function setConfig(_backend: Backend, { payload }: Message): void {
  const range = decodeConfigRange(payload);
  if (range === null || range.offset + range.size > p.VHOST_USER_MAX_CONFIG_SIZE) {
    throw new ProtocolError('VU_ERR_CONFIG', `SET_CONFIG out of range, ${payload.byteLength - CONFIG_HEAD_SIZE} bytes`);
  }
}

async function setLogBase(backend: Backend, { request, payload, fds }: Message): Promise<Reply> {
  await backend.setLogBase(decodeLogBase(payload), fds);
  return encodeU64Reply(request, 0n);
}

async function getVringBase(backend: Backend, { request, payload }: Message): Promise<Reply> {
  const { index } = decodeVringState(payload);
  return encodeVringStateReply(request, { index, num: await backend.rings.getBase(index) });
}

const ANY = -1;

/** As long as there is no multi-queue. */
const QUEUE_PAIRS = 1n;

/** Request id → what to do. */
export const REQUESTS: ReadonlyMap<number, Request> = new Map<number, Request>([
  // ---- negotiation
  [
    p.VHOST_USER_GET_FEATURES,
    answered('GET_FEATURES', 0, 0, ANY, (b, m) => encodeU64Reply(m.request, b.offeredFeatures)),
  ],
  [p.VHOST_USER_SET_FEATURES, acked('SET_FEATURES', U64_SIZE, 0, ANY, (b, m) => b.setFeatures(decodeU64(m.payload)))],
  [
    p.VHOST_USER_GET_PROTOCOL_FEATURES,
    answered('GET_PROTOCOL_FEATURES', 0, 0, ANY, (b, m) => encodeU64Reply(m.request, b.offeredProtocolFeatures)),
  ],
  [
    p.VHOST_USER_SET_PROTOCOL_FEATURES,
    acked('SET_PROTOCOL_FEATURES', U64_SIZE, 0, ANY, (b, m) => {
      b.setProtocolFeatures(decodeU64(m.payload));
    }),
  ],
  // Belongs to VHOST_USER_PROTOCOL_F_MQ, which is not offered. Some front-ends ask all the same, and the answer is known:
  // queue pairs.
  [p.VHOST_USER_GET_QUEUE_NUM, answered('GET_QUEUE_NUM', 0, 0, ANY, (_, m) => encodeU64Reply(m.request, QUEUE_PAIRS))],
  [p.VHOST_USER_SET_OWNER, acked('SET_OWNER', 0, 0, ANY, NOTHING)],
  [p.VHOST_USER_RESET_OWNER, acked('RESET_OWNER', 0, 0, ANY, (b) => b.resetOwner())],
  [
    p.VHOST_USER_RESET_DEVICE,
    acked('RESET_DEVICE', 0, 0, p.VHOST_USER_PROTOCOL_F_RESET_DEVICE, (b) => b.resetDevice()),
  ],
  [
    p.VHOST_USER_SET_BACKEND_REQ_FD,
    acked('SET_BACKEND_REQ_FD', 0, 1, p.VHOST_USER_PROTOCOL_F_BACKEND_REQ, (b, m) => {
      b.setRequestFd(m.fds);
    }),
  ],

  // ---- memory and log
  [p.VHOST_USER_SET_MEM_TABLE, acked('SET_MEM_TABLE', ANY, ANY, ANY, (b, m) => b.setMemTable(m.payload, m.fds))],
  [
    p.VHOST_USER_GET_MAX_MEM_SLOTS,
    answered('GET_MAX_MEM_SLOTS', 0, 0, p.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS, (_, m) =>
      encodeU64Reply(m.request, BigInt(p.MAX_MEM_SLOTS)),
    ),
  ],
  [
    p.VHOST_USER_ADD_MEM_REG,
    acked('ADD_MEM_REG', SINGLE_REGION_SIZE, 1, p.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS, (b, m) =>
      b.addMemReg(m.payload, m.fds),
    ),
  ],
  [
    p.VHOST_USER_REM_MEM_REG,
    acked('REM_MEM_REG', SINGLE_REGION_SIZE, ANY, p.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS, (b, m) =>
      b.remMemReg(m.payload, m.fds),
    ),
  ],
  [p.VHOST_USER_SET_LOG_BASE, answered('SET_LOG_BASE', LOG_SIZE, 1, p.VHOST_USER_PROTOCOL_F_LOG_SHMFD, setLogBase)],
  // The descriptor would tell the front-end of new dirty pages, which it finds anyway.
  [p.VHOST_USER_SET_LOG_FD, acked('SET_LOG_FD', 0, 1, ANY, NOTHING)],

  // ---- rings
  [
    p.VHOST_USER_SET_VRING_NUM,
    acked('SET_VRING_NUM', VRING_STATE_SIZE, 0, ANY, (b, m) => b.rings.setNum(decodeVringState(m.payload))),
  ],
  [
    p.VHOST_USER_SET_VRING_ADDR,
    acked('SET_VRING_ADDR', VRING_ADDR_SIZE, 0, ANY, (b, m) => b.rings.setAddr(decodeVringAddr(m.payload))),
  ],
  [
    p.VHOST_USER_SET_VRING_BASE,
    acked('SET_VRING_BASE', VRING_STATE_SIZE, 0, ANY, (b, m) => b.rings.setBase(decodeVringState(m.payload))),
  ],
  [p.VHOST_USER_GET_VRING_BASE, answered('GET_VRING_BASE', VRING_STATE_SIZE, 0, ANY, getVringBase)],
  [
    p.VHOST_USER_SET_VRING_KICK,
    acked('SET_VRING_KICK', U64_SIZE, ANY, ANY, (b, m) => b.rings.setKick(decodeVringFd(m.payload), m.fds)),
  ],
  [
    p.VHOST_USER_SET_VRING_CALL,
    acked('SET_VRING_CALL', U64_SIZE, ANY, ANY, (b, m) => b.rings.setCall(decodeVringFd(m.payload), m.fds)),
  ],
  [
    p.VHOST_USER_SET_VRING_ERR,
    acked('SET_VRING_ERR', U64_SIZE, ANY, ANY, (b, m) => b.rings.setErr(decodeVringFd(m.payload), m.fds)),
  ],
  [
    p.VHOST_USER_SET_VRING_ENABLE,
    acked('SET_VRING_ENABLE', VRING_STATE_SIZE, 0, ANY, (b, m) => b.rings.setEnabled(decodeVringState(m.payload))),
  ],

  // ---- network device
  // Tells a switch where the guest is after a migration; there is no switch behind us.
  [p.VHOST_USER_SEND_RARP, acked('SEND_RARP', U64_SIZE, 0, p.VHOST_USER_PROTOCOL_F_RARP, NOTHING)],
  [
    p.VHOST_USER_NET_SET_MTU,
    acked('NET_SET_MTU', U64_SIZE, 0, p.VHOST_USER_PROTOCOL_F_NET_MTU, (b, m) => b.setMtu(decodeU64(m.payload))),
  ],
  [p.VHOST_USER_GET_CONFIG, answered('GET_CONFIG', ANY, 0, p.VHOST_USER_PROTOCOL_F_CONFIG, getConfig)],
  [p.VHOST_USER_SET_CONFIG, acked('SET_CONFIG', ANY, 0, p.VHOST_USER_PROTOCOL_F_CONFIG, setConfig)],
]);
