/**
 * Datagrams to the guest that are longer than its link takes: cut into IP fragments (RFC 791 §3.2, RFC 8200 §4.5).
 *
 * Theory of operation. All frames of a datagram are reserved at once, and their payload rows lie one behind the other, so
 * that one system call fills them in place, as it does a single frame. The first fragment carries the transport header,
 * whose checksum the caller computes over those rows; every fragment but the last carries a multiple of 8 bytes.
 */
import { IpFields } from '../wire/ip-fields';
import { isV4 } from './address';
import type { StackContext } from '../context';
import { ROWS_PER_FRAME } from '../scratch';
import { countToGuest, outputEthernet } from './to-guest';
import { NO_PATH_MTU } from './path-mtus';
import { GSO_NONE } from '../ports';
import { ETHERNET_HEADER_LEN } from '../wire/ethernet';
import { IPV4_HEADER_LEN, IPV4_MF, ipv4Write } from '../wire/ipv4';
import { IPV6_FRAGMENT, IPV6_FRAGMENT_LEN, IPV6_HEADER_LEN, ipv6FragmentWrite, ipv6Write } from '../wire/ipv6';

/** More than any link with a sensible MTU needs for 65 535 bytes, and less than any ring has buffers. */
const MAX_FRAGMENTS = 200;

/** IPv4 and UDP header. */
const HEADERS = IPV4_HEADER_LEN + 8;

/** Every IPv4 host takes so much (RFC 791 §3.1), and next to no link takes less. */
const ATOMIC_LEN = 576;

/** `reserve`: the guest's MTU, or the pieces its buffers are in, are too small for a datagram of that length. */
export const FRAGMENT_IMPOSSIBLE = -2;

export class FragmentSender {
  private readonly ctx: StackContext;
  /** IPv4 and IPv6 identification: counted from a random start (RFC 7739 §5.1, RFC 6864 §5.2.1). */
  private id: number;
  // The datagram being sent.
  private v4: boolean;
  private headLen: number;
  private total: number;
  private step: number;
  private ip: IpFields;

  constructor(ctx: StackContext) {
    this.ctx = ctx;
    this.id = ctx.random.u32();
    this.v4 = true;
    this.headLen = 0;
    this.total = 0;
    this.step = 0;
    this.ip = new IpFields(0, 0);
  }

  /**
   * Reserves the frames of a datagram of `headLen` bytes of transport header and `payloadLen` of payload on a link of
   * `mtu` bytes, and names the payload room by rows from `row` on. Returns how many rows, -1 if the guest has too few
   * buffers, or FRAGMENT_IMPOSSIBLE. No other reservation may be outstanding.
   */
  reserve(v4: boolean, headLen: number, payloadLen: number, mtu: number, row: number): number {
    const { port } = this.ctx;
    const ipLen = v4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN + IPV6_FRAGMENT_LEN;
    this.v4 = v4;
    this.headLen = headLen;
    this.total = headLen + payloadLen;
    this.step = (mtu - ipLen) & ~7;
    if (this.step <= headLen || this.total > this.step * MAX_FRAGMENTS || this.total > 0xffff) {
      return FRAGMENT_IMPOSSIBLE;
    }
    let rows = 0;
    for (let at = 0; at < this.total; at += this.step) {
      const head = at === 0 ? headLen : 0;
      const n = port.reserve(
        ETHERNET_HEADER_LEN + ipLen + head,
        Math.min(this.step, this.total - at) - head,
        row + rows,
      );
      if (n < 0) {
        port.cancel();
        return -1;
      }
      rows += n;
      if (rows > ROWS_PER_FRAME) {
        port.cancel();
        return FRAGMENT_IMPOSSIBLE;
      }
    }
    return rows;
  }

  /**
   * Begins the first frame. Returns where in `port.out` the transport header is to be written; `finish` must follow, with
   * `ip` as it is now.
   */
  begin(ip: IpFields): number {
    this.ip = ip;
    this.id = (this.id + 1) | 0;
    return this.headers(0);
  }

  /**
   * A whole IPv4 packet of `totalLen` bytes whose transport header begins at `l4` of `port.out`, and whose IP header was
   * written as that of a packet which is never fragmented: written again, unless it is one. `packetLen`: the length of
   * those that the guest cuts the frame into, or `totalLen`. Identifications come from the same numbers as those of
   * fragments (RFC 6864 §4.2): none may be theirs.
   */
  identify(l4: number, totalLen: number, packetLen: number, ip: IpFields): void {
    const { ctx } = this;
    if (isAtomic(ctx, packetLen, ip.words, ip.dst)) return;
    const id = (this.id + 1) & 0xffff;
    this.id = (this.id + Math.ceil((totalLen - HEADERS) / Math.max(1, packetLen - HEADERS))) | 0;
    ipv4Write(ctx.port.out, l4 - IPV4_HEADER_LEN, ip, totalLen, id, 0);
  }

  /** Commits the first frame and all others, counted as `protocolClass`. */
  finish(protocolClass: number): void {
    const { ctx } = this;
    const ipLen = this.v4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN + IPV6_FRAGMENT_LEN;
    for (let at = 0; at < this.total; at += this.step) {
      if (at > 0) this.headers(at);
      const length = Math.min(this.step, this.total - at);
      ctx.port.commit(at === 0 ? length - this.headLen : length, 0, 0, 0, GSO_NONE, 0);
      countToGuest(ctx, protocolClass, ETHERNET_HEADER_LEN + ipLen + length);
    }
  }

  /** Ethernet and IP headers of the oldest frame, whose fragment begins at byte `at`. Returns the offset behind them. */
  private headers(at: number): number {
    const { ctx, ip } = this;
    const { port } = ctx;
    port.front();
    const out = port.out;
    const l3 = port.outOff + ETHERNET_HEADER_LEN;
    const length = Math.min(this.step, this.total - at);
    const more = at + length < this.total;
    outputEthernet(ctx, out, port.outOff, ip);
    if (this.v4) {
      const flags = (more ? IPV4_MF : 0) | (at >> 3);
      ipv4Write(out, l3, ip, IPV4_HEADER_LEN + length, this.id & 0xffff, flags);
      return l3 + IPV4_HEADER_LEN;
    }
    ipv6Write(out, l3, ip, IPV6_FRAGMENT, IPV6_FRAGMENT_LEN + length);
    ipv6FragmentWrite(out, l3 + IPV6_HEADER_LEN, ip.protocol, at, more, this.id);
    return l3 + IPV6_HEADER_LEN + IPV6_FRAGMENT_LEN;
  }
}

/** Largest IP packet of the family to the guest: what its link takes (guest-mtu.ts), or its buffers hold if that is less. */
export function guestMtu(ctx: StackContext, v4: boolean): number {
  return Math.min(ctx.link.mtu.bound(v4), ctx.port.maxFrame - ETHERNET_HEADER_LEN);
}

/** Largest IP packet to the guest's address `key[k…]`: what its link, its buffers and the path behind it take. */
export function mtuToward(ctx: StackContext, key: Int32Array, k: number): number {
  return Math.min(guestMtu(ctx, isV4(key, k)), pathMtu(ctx, key, k));
}

/**
 * May an IPv4 packet of `length` bytes to the guest's address `key[k…]` be sent as one that is never fragmented (DF, and no
 * identification, RFC 6864 §4.1)? A socket does not tell whether its sender wanted that, so only what passes anywhere may:
 * a router behind the guest cuts what is longer, as it would cut the sender's without DF.
 */
function isAtomic(ctx: StackContext, length: number, key: Int32Array, k: number): boolean {
  return length <= ATOMIC_LEN && pathMtu(ctx, key, k) === NO_PATH_MTU;
}

function pathMtu(ctx: StackContext, key: Int32Array, k: number): number {
  return ctx.link.paths.get(ctx.clock.nowMs, key, k);
}
