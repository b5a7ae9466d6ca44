/**
 * What the error queues of UDP and ping sockets have in common: which errors are passed to the guest, with which
 * source.
 */
import { addrSlotIs, addrSlotRead, copyWords } from './address';
import type { StackContext } from '../context';
import { natSourceToGuest } from './nat';
import type { NatResult, NatTables } from './nat';
import type { HostIo } from '../ports';
import { SOCKERR_ERRNO, SOCKERR_INFO, SOCKERR_ORIGIN, SOCKERR_TYPE } from '../ports';
import { EMSGSIZE } from '../kit/linux';
import { setRow } from '../kit/rows';
import { MAX_QUOTE6, icmpErrorKnown } from './icmp-error';
import { ROWS_MISC, SCRATCH_MISC } from '../scratch';

// struct sock_extended_err, ee_origin (<linux/errqueue.h>).
const ORIGIN_LOCAL = 1;
const ORIGIN_ICMP = 2;
const ORIGIN_ICMP6 = 3;

/** Errors taken from a socket at one go: a flood of errors must not hold up the loop. */
export const ERRORS_PER_CALL = 32;

/** Calls that fail in a row, the error queue emptied after each, before a socket counts as broken. */
export const ERRORS_IN_A_ROW = 8;

/** Hop limit shown in a quoted packet whose real one is not known. */
export const QUOTED_TTL = 64;

/**
 * Takes an error off the queue of `fd`: who reported it goes to address slot `slot`, where the packet had been sent to, to
 * the slot behind; the part of the packet that came back, to scratch memory from SCRATCH_MISC + `front` on, as far as an
 * ICMP error can quote it behind `front` bytes of header. Returns 1, 0: there is none, or -errno.
 */
export function takeError(io: HostIo, fd: number, slot: number, front: number): number {
  setRow(io.rows, ROWS_MISC, io.scratchRegion, SCRATCH_MISC + front, MAX_QUOTE6 - front);
  return io.recvError(fd, slot, slot + 1, ROWS_MISC, 1);
}

/** True if the error that `takeError` took came from the network, in the flow's family, and is one a guest knows. */
export function errorIsForGuest(io: HostIo, v4: boolean): boolean {
  const error = io.sockErrOut;
  return error[SOCKERR_ORIGIN] === (v4 ? ORIGIN_ICMP : ORIGIN_ICMP6) && icmpErrorKnown(v4, error[SOCKERR_TYPE]);
}

/** True if the host itself refused what was sent as too long for its interface: SOCKERR_INFO is the MTU. */
export function errorIsTooLong(io: HostIo): boolean {
  const error = io.sockErrOut;
  return error[SOCKERR_ORIGIN] === ORIGIN_LOCAL && error[SOCKERR_ERRNO] === EMSGSIZE && error[SOCKERR_INFO] > 0;
}

/**
 * Whom the guest sees the error come from, into `found.src`: the flow's far end as the guest knows it (words `key[k +
 * 4…]`) if the offender in address slot `slot` is the host-side destination (words `peer[p…]`), else the offender
 * translated. False if the guest has no name for it.
 */
export function errorSource(
  ctx: StackContext,
  nat: NatTables,
  slot: number,
  peer: Int32Array,
  p: number,
  key: Int32Array,
  k: number,
  found: NatResult,
): boolean {
  const { addrs } = ctx.io;
  if (!addrSlotIs(addrs, slot, peer, p)) {
    addrSlotRead(addrs, slot, found.dst, 0);
    return natSourceToGuest(nat, ctx.link, found.dst, 0, found) === 0;
  }
  copyWords(key, k + 4, found.src, 0);
  return true;
}
