/**
 * IP fragments from the guest, put together (RFC 791 §3.2, RFC 815, RFC 8200 §4.5).
 *
 * Theory of operation. A datagram that is being put together has a slot of scratch memory, laid out as the Ethernet
 * frame that it would have been; each fragment is copied to its place there. What has come is kept as one bit for each
 * 8 bytes, and one for each place where a fragment began: constant memory, whatever the guest sends. When all is there,
 * the IP header is written in front and the whole is handled as a frame of its own (`GuestPort.substitute`); its slot
 * is free again after the batch.
 *
 * Limits, for one guest: SCRATCH_FRAGMENT_SLOTS datagrams of 64 KiB at a time, the oldest making room; 30 s in IPv4
 * (Linux's ipfrag_time; RFC 1122 §3.3.2 asks for a fixed time), 60 s in IPv6. When time is up and the first fragment
 * had come, the guest gets an ICMP error. A fragment that overlaps another, and is not the same again, spoils its
 * datagram for good (RFC 5722 §3, RFC 8200 §4.5; in IPv4 too, as there is no honest reason for it). What is no fragment
 * at all is refused, and the guest told so (errors.ts).
 */
import { IpFields } from '../wire/ip-fields';
import { isGroup } from './address';
import type { FrameInfo, StackContext } from '../context';
import { ROWS_MISC, SCRATCH_FRAGMENT, SCRATCH_FRAGMENT_SLOT, SCRATCH_FRAGMENT_SLOTS } from '../scratch';
import { C_DROPS, dropCode, type DropCode } from '../counters';
import { SlotQueue } from '../kit/flow-table';
import { IcmpErrorSender } from './icmp-error';
import { NatResult, natOurAddress, type NatTables } from './nat';
import { MAX_HEAD } from '../ports';
import { copyBytes } from '../kit/bytes';
import { RowSpan, setRow } from '../kit/rows';
import { TimerWheel } from '../kit/timer-wheel';
import { ETHERNET_HEADER_LEN } from '../wire/ethernet';
import {
  ICMP_CODE_REASSEMBLY,
  ICMP_ECHO_REQUEST,
  ICMP_TIME_EXCEEDED,
  ICMPV6_ECHO_REQUEST,
  ICMPV6_TIME_EXCEEDED,
} from '../wire/icmp';
import { IP_PROTO_ICMP, IP_PROTO_ICMPV6, IPV4_HEADER_LEN, ipv4Write } from '../wire/ipv4';
import { IPV6_FRAGMENT_LEN, IPV6_HEADER_LEN, ipv6ChainComplete, ipv6Write } from '../wire/ipv6';
import { FragmentErrors } from './fragment-errors';

const DROP_IPV4_FRAGMENT = dropCode('ipv4_fragment');
const DROP_IPV6_FRAGMENT = dropCode('ipv6_fragment');
const DROP_FRAGMENT_OVERLAP = dropCode('fragment_overlap');
const DROP_FRAGMENT_LIMIT = dropCode('fragment_limit');
const DROP_FRAGMENT_TIMEOUT = dropCode('fragment_timeout');

export const REASSEMBLY_MS4 = 30_000;
export const REASSEMBLY_MS6 = 60_000;

const MAX_LENGTH = 0xffff;
/** Words of 32 bits for one bit each 8 bytes. */
const MAP_WORDS = 256;
const KEY = 8;

const CE = 3;

export class Reassembly {
  /** After `add` returned a length: the slot's offset in scratch memory, where that many bytes of a frame lie. */
  at: number;
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly errors: IcmpErrorSender;
  private readonly refusals: FragmentErrors;
  private readonly ours: NatResult;
  private readonly span: RowSpan;
  /** Header of the datagram that is complete, or that an error is about. */
  private readonly ip: IpFields;
  /** Slots not in use; in use, oldest first; put together in this batch. */
  private readonly free: SlotQueue;
  private readonly order: SlotQueue;
  private readonly done: SlotQueue;
  private readonly timers: TimerWheel;
  // Columns. The key is source and destination, the identification, and in IPv4 the protocol.
  private readonly addr: Int32Array;
  private readonly id: Int32Array;
  private readonly version: Uint8Array;
  private readonly protocol: Uint8Array;
  private readonly spoiled: Uint8Array;
  /** Bytes of IP payload in all, -1: the last fragment has not come; and bytes there. */
  private readonly total: Int32Array;
  private readonly have: Int32Array;
  /** Of the first fragment: bytes (0: has not come), traffic class, hop limit. `ce`: congestion was experienced. */
  private readonly firstLen: Int32Array;
  private readonly tos: Uint8Array;
  private readonly ttl: Uint8Array;
  private readonly ce: Uint8Array;
  private readonly got: Int32Array;
  private readonly began: Int32Array;

  constructor(ctx: StackContext) {
    const n = SCRATCH_FRAGMENT_SLOTS;
    this.at = 0;
    this.ctx = ctx;
    this.nat = ctx.link.nat;
    this.errors = new IcmpErrorSender(ctx);
    this.refusals = new FragmentErrors(ctx, this.errors);
    this.ours = new NatResult();
    this.span = new RowSpan();
    this.ip = new IpFields(0, 0);
    this.free = new SlotQueue(n);
    this.order = new SlotQueue(n);
    this.done = new SlotQueue(n);
    this.timers = new TimerWheel(n, ctx.clock.nowMs);
    this.addr = new Int32Array(KEY * n);
    this.id = new Int32Array(n);
    this.version = new Uint8Array(n);
    this.protocol = new Uint8Array(n);
    this.spoiled = new Uint8Array(n);
    this.total = new Int32Array(n);
    this.have = new Int32Array(n);
    this.firstLen = new Int32Array(n);
    this.tos = new Uint8Array(n);
    this.ttl = new Uint8Array(n);
    this.ce = new Uint8Array(n);
    this.got = new Int32Array(MAP_WORDS * n);
    this.began = new Int32Array(MAP_WORDS * n);
    for (let i = 0; i < n; i++) this.free.push(i);
  }

  /** True if the batch must end before another frame is looked at: all slots hold datagrams put together in it. */
  get full(): boolean {
    return this.free.length === 0 && this.order.length === 0;
  }

  /**
   * Takes the fragment in `frame` (addresses, version, ttl and tos are set): `length` bytes at `dataOff` of the frame,
   * which belong at byte `offset` of datagram `id`; `protocol` is that of the first fragment's payload. Returns the
   * length of the frame that is now whole, 0 if there is none yet, or minus a drop code.
   */
  add(
    frame: FrameInfo,
    id: number,
    protocol: number,
    offset: number,
    more: boolean,
    dataOff: number,
    length: number,
  ): number {
    const { ctx } = this;
    const v4 = frame.version === 4;
    const malformed = v4 ? DROP_IPV4_FRAGMENT : DROP_IPV6_FRAGMENT;
    const end = offset + length;
    if (v4) {
      if (length === 0 || (more && (length & 7) !== 0) || IPV4_HEADER_LEN + end > MAX_LENGTH) return -malformed;
    } else if (this.refused(frame, protocol, offset, more, dataOff, length)) return -malformed;
    let slot = this.find(frame, id, protocol);
    if (slot < 0) slot = this.open(frame, id, protocol);
    if (this.spoiled[slot] === 1) return -DROP_FRAGMENT_OVERLAP;
    const known = this.total[slot];
    // A second end, or something behind the end.
    if (known >= 0 ? end > known || (!more && end !== known) : !more && this.lastByte(slot) > end) {
      return -this.spoil(slot);
    }
    const first = offset >> 3;
    const last = (end + 7) >> 3;
    if (this.anyIn(slot, first, last)) {
      return this.isRepeated(slot, first, last) ? 0 : -this.spoil(slot);
    }
    const { rows } = ctx.io;
    if (!this.span.narrow(rows, frame.row, frame.rowCount, dataOff, length)) return -malformed;
    const base = SCRATCH_FRAGMENT + slot * SCRATCH_FRAGMENT_SLOT;
    const payload = base + ETHERNET_HEADER_LEN + (v4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN);
    setRow(rows, ROWS_MISC, ctx.io.scratchRegion, payload + offset, length);
    if (ctx.io.copyRows(this.span.first, this.span.count, ROWS_MISC, 1) !== length) return -malformed;
    this.mark(slot, first, last);
    this.have[slot] += length;
    if (!more) this.total[slot] = end;
    if ((frame.tos & 3) === CE) this.ce[slot] = 1;
    if (offset === 0) {
      this.firstLen[slot] = length;
      this.protocol[slot] = protocol;
      this.tos[slot] = frame.tos;
      this.ttl[slot] = frame.ttl;
    }
    return this.have[slot] === this.total[slot] ? this.finish(slot, base) : 0;
  }

  /** The rows of whole frames are void: their slots are free. */
  endOfBatch(): void {
    for (let slot = this.done.shift(); slot >= 0; slot = this.done.shift()) this.free.push(slot);
  }

  onTimer(): void {
    const { clock, counters } = this.ctx;
    for (let slot = this.timers.expire(clock.nowMs); slot >= 0; slot = this.timers.expire(clock.nowMs)) {
      if (this.spoiled[slot] === 0) {
        counters[C_DROPS + DROP_FRAGMENT_TIMEOUT]++;
        this.reportTimeout(slot);
      }
      this.order.remove(slot);
      this.free.push(slot);
    }
  }

  nextDeadline(): number {
    return this.timers.nextDeadline();
  }

  /** The guest was reset. */
  reset(): void {
    this.endOfBatch();
    for (let slot = this.order.shift(); slot >= 0; slot = this.order.shift()) {
      this.timers.cancel(slot);
      this.free.push(slot);
    }
  }

  /** Is this a fragment that IPv6 forbids? Sends the guest an ICMPv6 error then. */
  private refused(
    frame: FrameInfo,
    protocol: number,
    offset: number,
    more: boolean,
    dataOff: number,
    length: number,
  ): boolean {
    const { port } = this.ctx;
    if (more && (length & 7) !== 0) {
      this.refusals.oddLength(frame, protocol, offset, dataOff);
      return true;
    }
    // Headers in front of the fragment's are part of the whole too.
    const before = dataOff - frame.l3Off - IPV6_HEADER_LEN - IPV6_FRAGMENT_LEN;
    if (before + offset + length > MAX_LENGTH) {
      this.refusals.tooLong(frame, protocol, offset, dataOff);
      return true;
    }
    if (offset === 0 && more) {
      const limit = port.pull(Math.min(frame.frameLen, MAX_HEAD));
      if (!ipv6ChainComplete(port.head, protocol, dataOff, dataOff + length, limit)) {
        this.refusals.incompleteChain(frame, protocol, dataOff);
        return true;
      }
    }
    return length === 0;
  }

  // ---- datagrams ------------------------------------------------------------------------------------------------

  private find(frame: FrameInfo, id: number, protocol: number): number {
    for (let slot = 0; slot < SCRATCH_FRAGMENT_SLOTS; slot++) {
      if (this.id[slot] !== id || this.version[slot] !== frame.version || !this.order.has(slot)) continue;
      if (frame.version === 4 && this.protocol[slot] !== protocol) continue;
      let i = 0;
      while (i < KEY && this.addr[KEY * slot + i] === frame.addr[i]) i++;
      if (i === KEY) return slot;
    }
    return -1;
  }

  /** A slot for a new datagram; `full` was false. */
  private open(frame: FrameInfo, id: number, protocol: number): number {
    const { clock, counters } = this.ctx;
    let slot = this.free.shift();
    if (slot < 0) {
      slot = this.order.shift();
      this.timers.cancel(slot);
      counters[C_DROPS + DROP_FRAGMENT_LIMIT]++;
    }
    for (let i = 0; i < KEY; i++) this.addr[KEY * slot + i] = frame.addr[i];
    this.id[slot] = id;
    this.version[slot] = frame.version;
    this.protocol[slot] = protocol;
    this.spoiled[slot] = 0;
    this.total[slot] = -1;
    this.have[slot] = 0;
    this.firstLen[slot] = 0;
    this.ce[slot] = 0;
    this.got.fill(0, MAP_WORDS * slot, MAP_WORDS * (slot + 1));
    this.began.fill(0, MAP_WORDS * slot, MAP_WORDS * (slot + 1));
    this.order.push(slot);
    this.timers.set(slot, clock.nowMs + (frame.version === 4 ? REASSEMBLY_MS4 : REASSEMBLY_MS6));
    return slot;
  }

  /** What comes of this datagram until its time is up is dropped. */
  private spoil(slot: number): DropCode {
    this.spoiled[slot] = 1;
    return DROP_FRAGMENT_OVERLAP;
  }

  /** Writes the headers in front of a datagram that is complete. Returns the frame's length. */
  private finish(slot: number, base: number): number {
    const { ctx } = this;
    const { scratch } = ctx.io;
    const { head } = ctx.port;
    const a = this.addr;
    const k = KEY * slot;
    const total = this.total[slot];
    let tos = this.tos[slot];
    // RFC 3168 §5.3: congestion that one fragment met is the datagram's, if its sender knows of ECN.
    if (this.ce[slot] === 1 && (tos & 3) !== 0) tos |= CE;
    copyBytes(head, 0, scratch, base, ETHERNET_HEADER_LEN);
    const l3 = base + ETHERNET_HEADER_LEN;
    let length = ETHERNET_HEADER_LEN;
    const { ip } = this;
    ip.between(this.version[slot] === 4, a, k, k + 4);
    ip.protocol = this.protocol[slot];
    ip.ttl = this.ttl[slot];
    ip.tos = tos;
    if (ip.v4) {
      ipv4Write(scratch, l3, ip, IPV4_HEADER_LEN + total, 0, 0);
      length += IPV4_HEADER_LEN + total;
    } else {
      ipv6Write(scratch, l3, ip, ip.protocol, total);
      length += IPV6_HEADER_LEN + total;
    }
    this.timers.cancel(slot);
    this.order.remove(slot);
    this.done.push(slot);
    this.at = base;
    return length;
  }

  /**
   * RFC 1122 §3.3.2, RFC 8200 §4.5: only if the first fragment came; never about errors or groups (RFC 1122 §3.2.2).
   */
  private reportTimeout(slot: number): void {
    const { ctx, ours } = this;
    const { scratch } = ctx.io;
    const v4 = this.version[slot] === 4;
    const a = this.addr;
    const k = KEY * slot;
    const base = SCRATCH_FRAGMENT + slot * SCRATCH_FRAGMENT_SLOT;
    const payload = base + ETHERNET_HEADER_LEN + (v4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN);
    const protocol = this.protocol[slot];
    if (this.firstLen[slot] < 8) return;
    if (isGroup(v4, a, k + 4)) return;
    const type = scratch.getUint8(payload);
    if (protocol === IP_PROTO_ICMP && type !== ICMP_ECHO_REQUEST) return;
    if (protocol === IP_PROTO_ICMPV6 && type !== ICMPV6_ECHO_REQUEST) return;
    if (!natOurAddress(this.nat, v4, ours)) return;
    const { ip } = this;
    ip.between(v4, a, k, k + 4);
    ip.protocol = protocol;
    ip.ttl = this.ttl[slot];
    ip.tos = 0;
    this.errors.send(
      v4 ? ICMP_TIME_EXCEEDED : ICMPV6_TIME_EXCEEDED,
      ICMP_CODE_REASSEMBLY,
      0,
      ours.src,
      ip,
      scratch,
      payload,
      this.firstLen[slot],
    );
  }

  // ---- maps of 8-byte units -------------------------------------------------------------------------------------

  private bit(map: Int32Array, slot: number, unit: number): boolean {
    return (map[MAP_WORDS * slot + (unit >> 5)] & (1 << (unit & 31))) !== 0;
  }

  private anyIn(slot: number, first: number, last: number): boolean {
    for (let u = first; u < last; u++) if (this.bit(this.got, slot, u)) return true;
    return false;
  }

  /** Are units first … last - 1 exactly those of one fragment that has come? */
  private isRepeated(slot: number, first: number, last: number): boolean {
    if (!this.bit(this.began, slot, first)) return false;
    for (let u = first; u < last; u++) {
      if (!this.bit(this.got, slot, u) || (u > first && this.bit(this.began, slot, u))) return false;
    }
    return last >= MAP_WORDS * 32 || !this.bit(this.got, slot, last) || this.bit(this.began, slot, last);
  }

  private mark(slot: number, first: number, last: number): void {
    const w = MAP_WORDS * slot;
    this.began[w + (first >> 5)] |= 1 << (first & 31);
    for (let u = first; u < last; u++) this.got[w + (u >> 5)] |= 1 << (u & 31);
  }

  /** Bytes up to the end of the last unit that has come. */
  private lastByte(slot: number): number {
    for (let w = MAP_WORDS - 1; w >= 0; w--) {
      const word = this.got[MAP_WORDS * slot + w];
      if (word !== 0) return 8 * (32 * w + 32 - Math.clz32(word));
    }
    return 0;
  }
}
