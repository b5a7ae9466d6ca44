/** Errors of the vhost-user side. Match on `code`, which is stable; the message is one line for people. */
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';

const { EMFILE, ENFILE, ENOBUFS, ENOMEM } = constants.errno;

export type ProtocolErrorCode =
  /** Header: version, flags or size. */
  | 'VU_ERR_HEADER'
  /** Payload of another size than the request has. */
  | 'VU_ERR_SIZE'
  /** Too many or too few descriptors. */
  | 'VU_ERR_FDS'
  /** A descriptor of the wrong kind. */
  | 'VU_ERR_FD_KIND'
  /** The connection ended inside a message. */
  | 'VU_ERR_TRUNCATED'
  /** Request unknown here. */
  | 'VU_ERR_REQUEST'
  /** Request that belongs to a protocol feature which was not negotiated. */
  | 'VU_ERR_NOT_NEGOTIATED'
  /** Virtio feature bits that were not offered, or changed while rings run. */
  | 'VU_ERR_FEATURES'
  /** Protocol feature bits that were not offered, or changed while rings run. */
  | 'VU_ERR_PROTOCOL_FEATURES'
  /** No such ring. */
  | 'VU_ERR_RING_INDEX'
  /** Ring size, base or other number out of range. */
  | 'VU_ERR_RING_VALUE'
  /** Ring address: alignment, or not inside one memory region. */
  | 'VU_ERR_RING_ADDRESS'
  /** Not allowed while the ring runs. */
  | 'VU_ERR_RING_RUNNING'
  /** Memory regions: count, size, alignment, overflow, overlap, unknown region. */
  | 'VU_ERR_MEMORY'
  /** The host would not map a region, or there are too many. */
  | 'VU_ERR_MEMORY_MAP'
  /** The front-end took away memory that it had shared. */
  | 'VU_ERR_MEMORY_LOST'
  /** Dirty log: size or mapping. */
  | 'VU_ERR_LOG'
  /** This process or host has no descriptor or memory left for the request: no violation of the protocol. */
  | 'VU_ERR_SHORTAGE'
  /** MTU out of range. */
  | 'VU_ERR_MTU'
  /** Configuration space: range. */
  | 'VU_ERR_CONFIG';

/** The front-end broke the protocol, or requested something impossible. */
export class ProtocolError extends Error {
  readonly code: ProtocolErrorCode;

  constructor(code: ProtocolErrorCode, message: string) {
    super(message);
    this.name = 'ProtocolError';
    this.code = code;
  }
}

/**
 * What an error means for the session. `refuse`: the request could not be done and nothing changed, so that a
 * front-end that requested an acknowledgement gets a failure and may continue. `close`: the two ends no longer agree on
 * what was said; a closed connection is the only honest answer and, with a front-end that reconnects, the one that
 * recovers.
 */
export function disposition(code: ProtocolErrorCode): 'refuse' | 'close' {
  switch (code) {
    case 'VU_ERR_REQUEST':
    case 'VU_ERR_NOT_NEGOTIATED':
    case 'VU_ERR_MEMORY_MAP':
    case 'VU_ERR_SHORTAGE':
    case 'VU_ERR_MTU':
      return 'refuse';
    case 'VU_ERR_HEADER':
    case 'VU_ERR_SIZE':
    case 'VU_ERR_FDS':
    case 'VU_ERR_FD_KIND':
    case 'VU_ERR_TRUNCATED':
    case 'VU_ERR_FEATURES':
    case 'VU_ERR_PROTOCOL_FEATURES':
    case 'VU_ERR_RING_INDEX':
    case 'VU_ERR_RING_VALUE':
    case 'VU_ERR_RING_ADDRESS':
    case 'VU_ERR_RING_RUNNING':
    case 'VU_ERR_MEMORY':
    case 'VU_ERR_MEMORY_LOST':
    case 'VU_ERR_LOG':
    case 'VU_ERR_CONFIG':
      return 'close';
  }
}

/** -errno of a call says that this process or host is short of something now, and nothing of what it was given. */
export function isShortage(error: number): boolean {
  return error === -ENOMEM || error === -ENOBUFS || error === -EMFILE || error === -ENFILE;
}

/** The error to throw for a call that failed with `error`, a shortage; `what` could not be done. */
export function shortage(what: string, error: number): ProtocolError {
  const why = `this host is short of memory or descriptors (${getSystemErrorName(error)})`;
  return new ProtocolError('VU_ERR_SHORTAGE', `${what}: ${why}`);
}
