/**
 * Datagrams to the guest. One makes a frame, or fragments where the guest's link is too small for it. Several of one
 * length, as UDP_GRO gives them, stay one frame that the guest cuts (or hands on as it is) if it negotiated that, and are
 * cut here if not.
 */
import { isV4 } from '../ip/address';
import { ROWS_MISC, ROWS_OUT, SCRATCH_UDP } from '../scratch';
import type { StackContext } from '../context';
import { C_DROPS_TO_GUEST, dropCode } from '../counters';
import { KEY_WORDS } from '../kit/flow-table';
import { FragmentSender, guestMtu, mtuToward } from '../ip/fragment-sender';
import {
  CLASS_UDP,
  countToGuest,
  OUTPUT_HEADER_LEN4,
  OUTPUT_HEADER_LEN6,
  OUTPUT_TTL,
  outputHeaders,
} from '../ip/to-guest';
import { COMMIT_NEEDS_CSUM, GSO_NONE, GSO_UDP_L4, MSG_TRUNC } from '../ports';
import { EAGAIN } from '../kit/linux';
import { isShortage } from '../kit/resting';
import { setRow } from '../kit/rows';
import { checksumFinishUdp, checksumFold, pseudoHeaderSum } from '../wire/checksum';
import { ETHERNET_HEADER_LEN } from '../wire/ethernet';
import { IpFields } from '../wire/ip-fields';
import { IP_PROTO_UDP, IPV4_HEADER_LEN } from '../wire/ipv4';
import { UDP_CHECKSUM_OFFSET, UDP_HEADER_LEN, udpWrite } from '../wire/udp';
import type { UdpRoute } from './route';

const DROP_FRAME_TOO_LONG = dropCode('frame_too_long');
const DROP_NO_RECEIVE_BUFFERS = dropCode('no_receive_buffers');
const DROP_HOST_SOCKET_ERROR = dropCode('host_socket_error');
const DROP_UDP_TRUNCATED = dropCode('udp_truncated');

// What became of a datagram.
export const DONE = 0;
/** No receive buffers: the datagram is still where it was. */
export const STALLED = 1;

/** Bytes in front of the payload. */
export const UDP_FRONT4 = OUTPUT_HEADER_LEN4 + UDP_HEADER_LEN;
export const UDP_FRONT6 = OUTPUT_HEADER_LEN6 + UDP_HEADER_LEN;

export class UdpDeliver {
  /** -errno of a call that found no memory to take a datagram out of its socket, where it is still; else 0. */
  error: number;
  private readonly ctx: StackContext;
  private readonly route: UdpRoute;
  private readonly fragments: FragmentSender;
  private readonly ip: IpFields;

  constructor(ctx: StackContext, route: UdpRoute) {
    this.error = 0;
    this.ctx = ctx;
    this.route = route;
    this.fragments = new FragmentSender(ctx);
    this.ip = new IpFields(IP_PROTO_UDP, OUTPUT_TTL);
  }

  /** Most bytes that a frame of the family may have, Ethernet header included. */
  frameLimit(v4: boolean): number {
    return ETHERNET_HEADER_LEN + guestMtu(this.ctx, v4);
  }

  /** The same to the guest's address `key[k…]`. */
  frameLimitTo(key: Int32Array, k: number): number {
    return ETHERNET_HEADER_LEN + mtuToward(this.ctx, key, k);
  }

  /**
   * Can `length` bytes be one frame to whom `route` found? As datagrams of `segment` bytes they can if the guest cuts them;
   * `segment` 0, or not below `length`: they are one datagram.
   */
  isFrame(v4: boolean, length: number, segment: number): boolean {
    const front = v4 ? UDP_FRONT4 : UDP_FRONT6;
    const limit = ETHERNET_HEADER_LEN + mtuToward(this.ctx, this.route.key, this.route.k);
    if (segment === 0 || length <= segment) return front + length <= limit;
    const { port } = this.ctx;
    if (!(v4 ? port.gsoUdp4 : port.gsoUdp6)) return false;
    return front + segment <= limit && front + length <= port.maxFrame;
  }

  /**
   * Completes the oldest reserved frame, whose payload of `length` bytes is in place, for what `route` found. With a
   * `segment` above 0 and below `length` the guest takes it as datagrams of that length.
   */
  commit(length: number, segment: number, ttl: number, tos: number): void {
    const { ctx } = this;
    const { port } = ctx;
    const { key, k } = this.route;
    const v4 = isV4(key, k);
    port.front();
    const l4Len = UDP_HEADER_LEN + length;
    const ip = this.header(v4, ttl, tos);
    const at = outputHeaders(ctx, ip, l4Len);
    const many = segment > 0 && segment < length;
    if (v4) {
      const totalLen = IPV4_HEADER_LEN + l4Len;
      const packetLen = many ? totalLen - length + segment : totalLen;
      this.fragments.identify(at, totalLen, packetLen, ip);
    }
    const ports = key[k + KEY_WORDS - 1];
    udpWrite(port.out, at, ports & 0xffff, ports >>> 16, l4Len, checksumFold(this.pseudoSum(v4, l4Len)));
    const front = v4 ? UDP_FRONT4 : UDP_FRONT6;
    const l4 = front - UDP_HEADER_LEN;
    port.commit(length, COMMIT_NEEDS_CSUM, l4, UDP_CHECKSUM_OFFSET, many ? GSO_UDP_L4 : GSO_NONE, many ? segment : 0);
    countToGuest(ctx, CLASS_UDP, front + length);
  }

  /**
   * Moves `length` bytes, one datagram or several of `segment` bytes, to the guest, for what `route` found: from the head
   * of `fd`'s queue, or, if `fd` is negative, from offset `at` of scratch memory.
   */
  move(fd: number, at: number, length: number, segment: number, ttl: number, tos: number): number {
    const { ctx } = this;
    const { port } = ctx;
    const { key, k } = this.route;
    const v4 = isV4(key, k);
    const front = v4 ? UDP_FRONT4 : UDP_FRONT6;
    if (!this.isFrame(v4, length, segment)) {
      if (segment > 0 && segment < length) return this.split(fd, at, length, segment, ttl, tos);
      return this.cut(v4, fd, at, length, ttl, tos);
    }
    const rowCount = port.reserve(front, length, ROWS_OUT);
    if (rowCount < 0) return STALLED;
    if (!this.fill(fd, at, rowCount, length)) return DONE;
    this.commit(length, segment, ttl, tos);
    return DONE;
  }

  /** Moves datagrams of `segment` bytes one by one. Out of the socket, those that find no buffers are lost. */
  private split(fd: number, at: number, length: number, segment: number, ttl: number, tos: number): number {
    const { ctx } = this;
    let from = at;
    if (fd >= 0) {
      if (UDP_FRONT6 + segment <= this.frameLimit(true)) {
        if (ctx.port.reserve(UDP_FRONT6, segment, ROWS_OUT) < 0) return STALLED;
        ctx.port.cancel();
      }
      this.scratchRow(SCRATCH_UDP, length);
      if (!this.isWhole(ctx.io.recv(fd, ROWS_MISC, 1, MSG_TRUNC), length)) return DONE;
      from = SCRATCH_UDP;
    }
    for (let done = 0; done < length; done += segment) {
      const n = Math.min(segment, length - done);
      if (this.move(-1, from + done, n, 0, ttl, tos) !== DONE)
        ctx.counters[C_DROPS_TO_GUEST + DROP_NO_RECEIVE_BUFFERS]++;
    }
    return DONE;
  }

  /** Takes the datagram at the head of `fd`'s queue off and forgets it. Counting it is the caller's. */
  discard(fd: number): void {
    this.scratchRow(0, 1);
    const r = this.ctx.io.recv(fd, ROWS_MISC, 1, 0);
    if (isShortage(r)) this.error = r;
  }

  private cut(v4: boolean, fd: number, at: number, length: number, ttl: number, tos: number): number {
    const { ctx, fragments } = this;
    const { key, k } = this.route;
    const rowCount = fragments.reserve(v4, UDP_HEADER_LEN, length, mtuToward(ctx, key, k), ROWS_OUT);
    if (rowCount === -1) return STALLED;
    if (rowCount < 0) {
      if (fd >= 0) this.discard(fd);
      ctx.counters[C_DROPS_TO_GUEST + DROP_FRAME_TOO_LONG]++;
      return DONE;
    }
    if (!this.fill(fd, at, rowCount, length)) return DONE;
    const l4Len = UDP_HEADER_LEN + length;
    const ports = key[k + KEY_WORDS - 1];
    const sum = this.pseudoSum(v4, l4Len) + (ports >>> 16) + (ports & 0xffff) + l4Len;
    const checksum = checksumFinishUdp(ctx.io.checksum(ROWS_OUT, rowCount, sum));
    const l4 = fragments.begin(this.header(v4, ttl, tos));
    udpWrite(ctx.port.out, l4, ports & 0xffff, ports >>> 16, l4Len, checksum);
    fragments.finish(CLASS_UDP);
    return DONE;
  }

  /** Puts the payload where the reserved frames want it. False, with all of them given back, if it is not to be had. */
  private fill(fd: number, at: number, rowCount: number, length: number): boolean {
    const { ctx } = this;
    const { io } = ctx;
    if (fd < 0) {
      this.scratchRow(at, length);
      if (length > 0) io.copyRows(ROWS_MISC, 1, ROWS_OUT, rowCount);
      return true;
    }
    if (rowCount === 0) this.scratchRow(0, 1);
    const received = rowCount === 0 ? io.recv(fd, ROWS_MISC, 1, MSG_TRUNC) : io.recv(fd, ROWS_OUT, rowCount, MSG_TRUNC);
    if (this.isWhole(received, length)) return true;
    ctx.port.cancel();
    return false;
  }

  private isWhole(received: number, length: number): boolean {
    if (received === length) return true;
    if (isShortage(received)) {
      this.error = received;
      return false;
    }
    const code = received < 0 ? DROP_HOST_SOCKET_ERROR : DROP_UDP_TRUNCATED;
    if (received !== -EAGAIN) this.ctx.counters[C_DROPS_TO_GUEST + code]++;
    return false;
  }

  private scratchRow(at: number, length: number): void {
    const { rows, scratchRegion } = this.ctx.io;
    setRow(rows, ROWS_MISC, scratchRegion, at, length);
  }

  private pseudoSum(v4: boolean, l4Len: number): number {
    const { key, k } = this.route;
    return pseudoHeaderSum(v4, key, k, IP_PROTO_UDP, l4Len);
  }

  /** IP header of what `route` found; `ttl` and `tos` below 1 where the host did not say. */
  private header(v4: boolean, ttl: number, tos: number): IpFields {
    const { ip } = this;
    const { key, k } = this.route;
    ip.between(v4, key, k + 4, k);
    ip.ttl = ttl > 0 ? ttl : OUTPUT_TTL;
    ip.tos = tos > 0 ? tos : 0;
    return ip;
  }
}
