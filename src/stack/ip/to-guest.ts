/**
 * Frames toward the guest: Ethernet and IP headers, frames built whole, and their counting.
 *
 * Two ways to send. Handlers that move payload by rows `reserve` and `front` themselves, call `outputHeaders` for
 * everything in front of the transport header, write that, `commit`, and call `countToGuest` once. Small frames (ARP,
 * ICMP, DHCP …) are built in private memory with `outputHeadersTo` and sent by `sendSmall`, which counts them itself.
 * Nothing here counts a frame that was not committed, and no other code changes the to-guest counters.
 */
import type { StackContext } from '../context';
import { C_BYTES_TO_GUEST_TCP, C_DROPS_TO_GUEST, C_FRAMES_TO_GUEST, dropCode } from '../counters';
import { GSO_NONE } from '../ports';
import {
  ETHERNET_HEADER_LEN,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  MAC_BROADCAST_HI,
  MAC_BROADCAST_LO,
  ethernetWrite,
} from '../wire/ethernet';
import type { IpFields } from '../wire/ip-fields';
import { IPV4_BROADCAST, IPV4_DF, IPV4_HEADER_LEN, ipv4IsMulticast, ipv4Write } from '../wire/ipv4';
import { copyBytes } from '../kit/bytes';
import { IPV6_HEADER_LEN, ipv6IsMulticast, ipv6Write } from '../wire/ipv6';

/** Bytes in front of the transport header. */
export const OUTPUT_HEADER_LEN4 = ETHERNET_HEADER_LEN + IPV4_HEADER_LEN;
export const OUTPUT_HEADER_LEN6 = ETHERNET_HEADER_LEN + IPV6_HEADER_LEN;

/** TTL and hop limit of what we send, unless a handler knows better. */
export const OUTPUT_TTL = 255;

/** Classes of the byte counters: offsets from C_BYTES_TO_GUEST_TCP (and from C_BYTES_FROM_GUEST_TCP). */
export const CLASS_TCP = 0;
export const CLASS_UDP = 1;
export const CLASS_ICMP = 2;
export const CLASS_OTHER = 3;

const DROP_NO_RECEIVE_BUFFERS = dropCode('no_receive_buffers');
const DROP_GUEST_DOWN = dropCode('guest_down');

/**
 * Counts one committed frame: `bytes` is the Ethernet frame without padding. Called once per frame, by the function
 * that commits it.
 */
export function countToGuest(ctx: StackContext, protocolClass: number, bytes: number): void {
  ctx.counters[C_BYTES_TO_GUEST_TCP + protocolClass] += bytes;
  ctx.counters[C_FRAMES_TO_GUEST]++;
}

/**
 * Writes the Ethernet and IP headers of a frame to the guest at `port.outOff` of `port.out` (`front` came before).
 *
 * `l4Len` counts the transport header and all its payload (for a GSO frame too). IPv4: identification 0 and DF (RFC 6864
 * §4.1), no options, header checksum complete.
 *
 * Returns the offset of the transport header in `port.out`.
 */
export function outputHeaders(ctx: StackContext, ip: IpFields, l4Len: number): number {
  const port = ctx.port;
  return outputHeadersTo(ctx, port.out, port.outOff, ip, l4Len);
}

/** As `outputHeaders`, at `off` of any memory. */
export function outputHeadersTo(ctx: StackContext, dv: DataView, off: number, ip: IpFields, l4Len: number): number {
  const l3 = off + ETHERNET_HEADER_LEN;
  outputEthernet(ctx, dv, off, ip);
  if (ip.v4) {
    ipv4Write(dv, l3, ip, IPV4_HEADER_LEN + l4Len, 0, IPV4_DF);
    return l3 + IPV4_HEADER_LEN;
  }
  ipv6Write(dv, l3, ip, ip.protocol, l4Len);
  return l3 + IPV6_HEADER_LEN;
}

/**
 * The Ethernet header of every IP packet to the guest: the source is where the host finds the
 * sender (neighbours.ts), the destination where the guest has the receiver (stations.ts). With one Ethernet address on
 * the guest's side groups go to it alone, too (RFC 6085); with several, to the group's (RFC 1112 §6.4, RFC 2464 §7).
 */
export function outputEthernet(ctx: StackContext, dv: DataView, off: number, ip: IpFields): void {
  const { neighbours, stations, guestMacHi, guestMacLo } = ctx.link;
  const { v4, words, dst } = ip;
  const type = v4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
  let hi = guestMacHi;
  let lo = guestMacLo;
  neighbours.lookup(words, ip.src);
  if (!stations.several) {
    // Nothing to choose from.
  } else if (v4 && words[dst + 3] === IPV4_BROADCAST) {
    hi = MAC_BROADCAST_HI;
    lo = MAC_BROADCAST_LO;
  } else if (v4 && ipv4IsMulticast(words[dst + 3])) {
    hi = 0x0100;
    lo = 0x5e000000 | (words[dst + 3] & 0x7fffff);
  } else if (!v4 && ipv6IsMulticast(words, dst)) {
    hi = 0x3333;
    lo = words[dst + 3];
  } else {
    stations.lookup(words, dst, guestMacHi, guestMacLo, ctx.clock.nowMs);
    hi = stations.macHi;
    lo = stations.macLo;
  }
  ethernetWrite(dv, off, hi, lo, neighbours.macHi, neighbours.macLo, type);
}

/**
 * Sends the first `length` (14 … MAX_HEADER) bytes of `frame`, checksums complete, as one frame and counts it. Returns
 * false, with a drop counted, if the guest has no receive buffer for it. No reservation may be outstanding.
 */
export function sendSmall(ctx: StackContext, frame: DataView, length: number, protocolClass: number): boolean {
  if (trySendSmall(ctx, frame, length, protocolClass)) return true;
  ctx.counters[C_DROPS_TO_GUEST + (ctx.port.up ? DROP_NO_RECEIVE_BUFFERS : DROP_GUEST_DOWN)]++;
  return false;
}

/** As `sendSmall`, for a caller that tries again when the guest has posted buffers: nothing is dropped, nor counted. */
export function trySendSmall(ctx: StackContext, frame: DataView, length: number, protocolClass: number): boolean {
  const port = ctx.port;
  if (port.reserve(length, 0, 0) < 0) return false;
  port.front();
  copyBytes(frame, 0, port.out, port.outOff, length);
  port.commit(0, 0, 0, 0, GSO_NONE, 0);
  countToGuest(ctx, protocolClass, length);
  return true;
}
