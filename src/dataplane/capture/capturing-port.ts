/**
 * A guest port whose frames are copied, as they pass, to captures (capture-sink.ts): those of `--pcap` and of
 * `tubetti ctl capture`.
 *
 * Frames to the guest are copied when they are committed: the header from where the stack wrote it, the payload from
 * the rows that `reserve` gave for it, which nobody changes in between. Checksums that guest and stack leave to each
 * other are completed in the copy, so a reader finds valid ones, where all of the frame is kept. Segmentation-offloaded frames
 * are one record each.
 */
import type { Native } from '../../native';
import { copyBytes } from '../../stack/kit/bytes';
import { setRow } from '../../stack/kit/rows';
import { COMMIT_NEEDS_CSUM, MAX_RESERVED } from '../../stack/ports';
import type { GuestPort } from '../../stack/ports';
import { ROW_CAPTURE } from '../../stack/scratch';
import { ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethernetHeaderLen, ethernetInnerType } from '../../stack/wire/ethernet';
import { IP_PROTO_TCP, IP_PROTO_UDP, ipv4HeaderLen, ipv4Protocol } from '../../stack/wire/ipv4';
import { IPV6_HEADER_LEN, ipv6PayloadLen, ipv6Walk } from '../../stack/wire/ipv6';
import { TCP_CHECKSUM_OFFSET } from '../../stack/wire/tcp';
import { UDP_CHECKSUM_OFFSET } from '../../stack/wire/udp';
import { completeChecksum } from '../complete-checksum';
import type { CaptureSink } from './capture-sink';
import { PortDecorator } from './port-decorator';

export type CaptureIo = Pick<Native, 'rows' | 'checksum' | 'copyRows'>;

export class CapturingPort extends PortDecorator {
  /** Who gets the frames; changes between turns of the loop only. */
  sinks: readonly CaptureSink[];
  private readonly io: CaptureIo;
  // Reserved frames, oldest first: rows of the payload and bytes of the header.
  private readonly frameRow: Int32Array;
  private readonly frameRows: Int32Array;
  private readonly frameHeader: Int32Array;
  private frameBegin: number;
  private frameEnd: number;

  constructor(inner: GuestPort, io: CaptureIo, sinks: readonly CaptureSink[]) {
    super(inner);
    this.io = io;
    this.sinks = sinks;
    this.frameRow = new Int32Array(MAX_RESERVED);
    this.frameRows = new Int32Array(MAX_RESERVED);
    this.frameHeader = new Int32Array(MAX_RESERVED);
    this.frameBegin = 0;
    this.frameEnd = 0;
  }

  override receive(row: number): number {
    const length = this.inner.receive(row);
    const count = length > 0 ? this.sinks.length : 0;
    for (let i = 0; i < count; i++) this.received(this.sinks[i], row, length);
    return length;
  }

  override reserve(headerLen: number, payloadLen: number, row: number): number {
    const rows = this.inner.reserve(headerLen, payloadLen, row);
    if (rows >= 0 && this.frameEnd < MAX_RESERVED) {
      this.frameRow[this.frameEnd] = row;
      this.frameRows[this.frameEnd] = rows;
      this.frameHeader[this.frameEnd] = headerLen;
      this.frameEnd++;
    }
    return rows;
  }

  override commit(
    payloadLen: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
    gsoType: number,
    gsoSize: number,
  ): void {
    if (this.frameBegin < this.frameEnd) {
      const f = this.frameBegin++;
      const { inner, sinks } = this;
      const headerLen = this.frameHeader[f];
      const length = headerLen + payloadLen;
      const count = sinks.length;
      for (let i = 0; i < count; i++) {
        const sink = sinks[i];
        const kept = Math.min(length, sink.snap);
        const at = sink.place(kept);
        if (at < 0) continue;
        copyBytes(inner.out, inner.outOff, sink.block.view, at, Math.min(headerLen, kept));
        if (!this.copyPayload(sink, f, at + headerLen, kept - headerLen)) {
          sink.leaveOut();
          continue;
        }
        if ((flags & COMMIT_NEEDS_CSUM) !== 0 && kept === length)
          this.complete(sink, at, length, csumStart, csumOffset);
        sink.add(kept, length);
      }
      if (this.frameBegin === this.frameEnd) this.forget();
    }
    this.inner.commit(payloadLen, flags, csumStart, csumOffset, gsoType, gsoSize);
  }

  override cancel(): void {
    this.forget();
    this.inner.cancel();
  }

  override flush(): void {
    this.inner.flush();
    const count = this.sinks.length;
    for (let i = 0; i < count; i++) this.sinks[i].write();
  }

  /** What was reserved is not known any more. */
  forget(): void {
    this.frameBegin = 0;
    this.frameEnd = 0;
  }

  private received(sink: CaptureSink, row: number, length: number): void {
    const kept = Math.min(length, sink.snap);
    const at = sink.place(kept);
    if (at < 0) return;
    this.nameCopy(sink, at, kept);
    if (this.io.copyRows(row, this.inner.rowCount, ROW_CAPTURE, 1) !== kept) {
      sink.leaveOut();
      return;
    }
    if (this.inner.csumPartial && kept === length) this.completeGuests(sink, at, length);
    sink.add(kept, length);
  }

  /** `length` bytes of reserved frame f's payload; of none that is 0 or less. */
  private copyPayload(sink: CaptureSink, f: number, at: number, length: number): boolean {
    if (length <= 0) return true;
    this.nameCopy(sink, at, length);
    return this.io.copyRows(this.frameRow[f], this.frameRows[f], ROW_CAPTURE, 1) === length;
  }

  private nameCopy(sink: CaptureSink, at: number, length: number): void {
    setRow(this.io.rows, ROW_CAPTURE, sink.block.region, at, length);
  }

  /** A frame of the guest's whose transport checksum is the pseudo-header's sum so far. */
  private completeGuests(sink: CaptureSink, at: number, length: number): void {
    const { view } = sink.block;
    const headerLen = ethernetHeaderLen(view, at, length);
    const l3 = at + headerLen;
    let l4: number;
    let protocol: number;
    switch (ethernetInnerType(view, at, headerLen)) {
      case ETHERTYPE_IPV4:
        if (length < headerLen + 20) return;
        l4 = headerLen + ipv4HeaderLen(view, l3);
        protocol = ipv4Protocol(view, l3);
        break;
      case ETHERTYPE_IPV6: {
        if (length < headerLen + IPV6_HEADER_LEN) return;
        const end = Math.min(at + length, l3 + IPV6_HEADER_LEN + ipv6PayloadLen(view, l3));
        const found = ipv6Walk(view, l3, end, end);
        if (found < 0) return;
        protocol = found >>> 16;
        l4 = headerLen + (found & 0xffff);
        break;
      }
      default:
        return;
    }
    const field =
      protocol === IP_PROTO_TCP ? TCP_CHECKSUM_OFFSET : protocol === IP_PROTO_UDP ? UDP_CHECKSUM_OFFSET : -1;
    if (field >= 0 && l4 + field + 2 <= length) this.complete(sink, at, length, l4, field);
  }

  private complete(sink: CaptureSink, at: number, length: number, csumStart: number, csumOffset: number): void {
    this.nameCopy(sink, at + csumStart, length - csumStart);
    completeChecksum(this.io, ROW_CAPTURE, 1, sink.block.view, at + csumStart + csumOffset);
  }
}
