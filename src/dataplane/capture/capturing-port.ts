/**
 * A guest port whose frames are written to a capture (classic pcap, version 2.4, microseconds, Ethernet).
 *
 * Theory of operation. Each frame is copied, as it passes, behind a record header into one private block; `flush`,
 * which ends a turn of the loop, gives the block to the file with one write. A file that takes no more for now (a pipe
 * that has no reader) keeps its bytes in the block; while that is full, frames are dropped from the capture and
 * counted. An error (a full disk) ends the capture, with one message, and never the guest's network; what did not reach
 * the file, then and from then on, counts as lost. Whole records only are left out, and the part of one that a file
 * took is cut off it again, so the file stays readable.
 *
 * Frames to the guest are copied when they are committed: the header from where the stack wrote it, the payload from
 * the rows that `reserve` gave for it, which nobody changes in between. Checksums that guest and stack leave to each
 * other are completed in the copy, so a reader finds valid ones. Segmentation-offloaded frames are one record each.
 */
import type { Native } from '../../native';
import { C_CAPTURE_LOST, C_CAPTURED } from '../../stack/counters';
import type { Counters } from '../../stack/counters';
import { copyBytes } from '../../stack/kit/bytes';
import { EAGAIN } from '../../stack/kit/linux';
import { setRow } from '../../stack/kit/rows';
import { COMMIT_NEEDS_CSUM, MAX_FRAME, MAX_RESERVED } from '../../stack/ports';
import type { GuestPort } from '../../stack/ports';
import { ROW_CAPTURE } from '../../stack/scratch';
import { ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethernetHeaderLen, ethernetInnerType } from '../../stack/wire/ethernet';
import { IP_PROTO_TCP, IP_PROTO_UDP, ipv4HeaderLen, ipv4Protocol } from '../../stack/wire/ipv4';
import { IPV6_HEADER_LEN, ipv6PayloadLen, ipv6Walk } from '../../stack/wire/ipv6';
import { TCP_CHECKSUM_OFFSET } from '../../stack/wire/tcp';
import { UDP_CHECKSUM_OFFSET } from '../../stack/wire/udp';
import { completeChecksum } from '../complete-checksum';
import type { PrivateBlock } from '../private-block';
import { PortDecorator } from './port-decorator';

/** Bytes of a record's header: seconds, microseconds, bytes in the file, bytes of the frame; 4 each, native order. */
const RECORD_HEADER = 16;
/** Holds at least a turn's frames of the usual kind; when it is full it is written in between. */
export const CAPTURE_BLOCK = 1 << 20;

/** Linux runs us on little-endian machines only (virtio 1.2 §1.4 makes the same assumption of its rings). */
const LE = true;

export type CaptureIo = Pick<
  Native,
  'rows' | 'checksum' | 'copyRows' | 'write' | 'realTimeUs' | 'fileSize' | 'ftruncate'
>;

export class CapturingPort extends PortDecorator {
  private readonly io: CaptureIo;
  private readonly counters: Counters;
  private readonly region: number;
  private readonly view: DataView;
  private readonly bytes: Uint8Array;
  private readonly fail: (errno: number) => void;
  /** Descriptor of the file; -1 after an error. */
  private fd: number;
  /** Bytes of the block that are not written yet. */
  private begin: number;
  private end: number;
  /** Where the first record begins that the file does not have as a whole; not behind `begin`. */
  private record: number;
  // Reserved frames, oldest first: rows of the payload and bytes of the header.
  private readonly frameRow: Int32Array;
  private readonly frameRows: Int32Array;
  private readonly frameHeader: Int32Array;
  private frameBegin: number;
  private frameEnd: number;

  /**
   * `block`: CAPTURE_BLOCK bytes. `fd`: a file that has the capture's header already. `fail` is called once, with a positive
   * errno.
   */
  constructor(
    inner: GuestPort,
    io: CaptureIo,
    block: PrivateBlock,
    fd: number,
    counters: Counters,
    fail: (errno: number) => void,
  ) {
    super(inner);
    this.io = io;
    this.counters = counters;
    this.region = block.region;
    this.view = block.view;
    this.bytes = new Uint8Array(block.view.buffer, block.view.byteOffset, block.view.byteLength);
    this.fail = fail;
    this.fd = fd;
    this.begin = 0;
    this.end = 0;
    this.record = 0;
    this.frameRow = new Int32Array(MAX_RESERVED);
    this.frameRows = new Int32Array(MAX_RESERVED);
    this.frameHeader = new Int32Array(MAX_RESERVED);
    this.frameBegin = 0;
    this.frameEnd = 0;
  }

  override receive(row: number): number {
    const length = this.inner.receive(row);
    if (length > 0 && this.makeRoom(length)) {
      const at = this.end + RECORD_HEADER;
      this.nameCopy(at, length);
      if (this.io.copyRows(row, this.inner.rowCount, ROW_CAPTURE, 1) === length) {
        if (this.inner.csumPartial) this.completeGuests(at, length);
        this.addRecord(length);
      } else {
        this.counters[C_CAPTURE_LOST]++;
      }
    }
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
      const length = this.frameHeader[f] + payloadLen;
      if (this.makeRoom(length)) {
        const at = this.end + RECORD_HEADER;
        copyBytes(this.inner.out, this.inner.outOff, this.view, at, this.frameHeader[f]);
        this.nameCopy(at + this.frameHeader[f], payloadLen);
        if (payloadLen === 0 || this.io.copyRows(this.frameRow[f], this.frameRows[f], ROW_CAPTURE, 1) === payloadLen) {
          if ((flags & COMMIT_NEEDS_CSUM) !== 0) this.complete(at, length, csumStart, csumOffset);
          this.addRecord(length);
        } else {
          this.counters[C_CAPTURE_LOST]++;
        }
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
    if (this.begin < this.end) this.write();
  }

  private forget(): void {
    this.frameBegin = 0;
    this.frameEnd = 0;
  }

  /** True if a record of `length` bytes has room at `end`. */
  private makeRoom(length: number): boolean {
    if (this.fd < 0) {
      this.counters[C_CAPTURE_LOST]++;
      return false;
    }
    if (length <= MAX_FRAME && this.end + RECORD_HEADER + length <= CAPTURE_BLOCK) return true;
    this.write();
    if (this.record > 0) {
      // A pipe took a part: what is left moves to the front, whole records.
      this.bytes.copyWithin(0, this.record, this.end);
      this.end -= this.record;
      this.begin -= this.record;
      this.record = 0;
    }
    if (this.fd >= 0 && length <= MAX_FRAME && this.end + RECORD_HEADER + length <= CAPTURE_BLOCK) return true;
    this.counters[C_CAPTURE_LOST]++;
    return false;
  }

  private addRecord(length: number): void {
    const now = this.io.realTimeUs();
    const seconds = Math.floor(now / 1e6);
    this.view.setUint32(this.end, seconds, LE);
    this.view.setUint32(this.end + 4, now - seconds * 1e6, LE);
    this.view.setUint32(this.end + 8, length, LE);
    this.view.setUint32(this.end + 12, length, LE);
    this.end += RECORD_HEADER + length;
  }

  private write(): void {
    if (this.fd < 0) return;
    const n = this.io.write(this.fd, this.bytes, this.begin, this.end - this.begin);
    if (n >= 0) {
      this.begin += n;
      this.passRecords();
      return;
    }
    if (n === -EAGAIN) return;
    this.cutTornRecord();
    // Nothing of what is left will be in the file.
    this.begin = this.end;
    for (; this.record < this.end; this.record += this.recordSize()) this.counters[C_CAPTURE_LOST]++;
    this.begin = 0;
    this.end = 0;
    this.record = 0;
    this.fd = -1;
    this.fail(-n);
  }

  private recordSize(): number {
    return RECORD_HEADER + this.view.getUint32(this.record + 8, LE);
  }

  /** Counts the records that the file has now. */
  private passRecords(): void {
    while (this.record < this.begin && this.record + this.recordSize() <= this.begin) {
      this.record += this.recordSize();
      this.counters[C_CAPTURED]++;
    }
    if (this.record < this.end) return;
    this.begin = 0;
    this.end = 0;
    this.record = 0;
  }

  /** The file has a part of a record at its end, where it is one (and no pipe). */
  private cutTornRecord(): void {
    const torn = this.begin - this.record;
    if (torn === 0) return;
    const size = this.io.fileSize(this.fd);
    if (size >= torn) this.io.ftruncate(this.fd, size - torn);
  }

  private nameCopy(at: number, length: number): void {
    setRow(this.io.rows, ROW_CAPTURE, this.region, at, length);
  }

  /** A frame of the guest's whose transport checksum is the pseudo-header's sum so far. */
  private completeGuests(at: number, length: number): void {
    const { view } = this;
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
    if (field >= 0 && l4 + field + 2 <= length) this.complete(at, length, l4, field);
  }

  private complete(at: number, length: number, csumStart: number, csumOffset: number): void {
    this.nameCopy(at + csumStart, length - csumStart);
    completeChecksum(this.io, ROW_CAPTURE, 1, this.view, at + csumStart + csumOffset);
  }
}
