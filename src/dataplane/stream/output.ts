/**
 * Frames to a guest over QEMU's stream protocol.
 *
 * Theory of operation. Frames are put one behind the other into a private block, each behind room for its length.
 * `reserve` hands out the block's next bytes, `commit` writes the length, and `flush` gives everything committed to the
 * socket with one sendmsg: frames that lie one behind the other are one piece of it, a gap (a frame that got less than
 * it reserved, with others behind it) begins a new piece. What the socket did not take stays where it is; until it
 * went, `blocked` is true and nothing can be reserved. That is the back-pressure: flows wait as they do for a guest
 * without receive buffers, and their bytes wait in the host's sockets. When all is sent the block is empty again, so it
 * needs no ring; it only bounds what one turn may send.
 *
 * The other end has no means to finish a checksum: the port does.
 */
import { EAGAIN } from '../../stack/kit/linux';
import { setRow } from '../../stack/kit/rows';
import { COMMIT_NEEDS_CSUM, MAX_HEADER, MAX_RESERVED } from '../../stack/ports';
import { ROWS_PORT, ROWS_PORT_COUNT } from '../../stack/scratch';
import { ETHERNET_MIN_FRAME } from '../../stack/wire/ethernet';
import { completeChecksum } from '../complete-checksum';
import type { PrivateBlock } from '../private-block';
import { LENGTH_SIZE, MAX_STREAM_FRAME, STREAM_EOF, STREAM_OPEN } from './input';
import type { StreamIo } from './input';

/** Bytes of the block for frames to the guest. */
export const OUTPUT_BLOCK = 2 << 20;

export class StreamOutput {
  readonly out: DataView;
  outOff: number;
  /** STREAM_OPEN, or -errno of the send that failed. */
  end: number;
  /** The socket is full: the rest follows when it is writable. */
  blocked: boolean;
  /** A `reserve` failed though the socket is not full: flows resume in the next turn. */
  retry: boolean;

  private readonly io: StreamIo;
  private readonly region: number;
  private fd: number;
  /** Where the next frame goes. */
  private tail: number;
  // Reserved frames: place of the length, header bytes, payload room.
  private readonly frameAt: Int32Array;
  private readonly frameHeader: Int32Array;
  private readonly frameRoom: Int32Array;
  private frameBegin: number;
  private frameEnd: number;
  // Committed and not yet sent: pieces of the block.
  private readonly pieceAt: Int32Array;
  private readonly pieceLen: Int32Array;
  private pieceBegin: number;
  private pieceEnd: number;

  constructor(io: StreamIo, block: PrivateBlock) {
    this.io = io;
    this.region = block.region;
    this.out = block.view;
    this.outOff = LENGTH_SIZE;
    this.end = STREAM_EOF;
    this.blocked = false;
    this.retry = false;
    this.fd = -1;
    this.tail = 0;
    this.frameAt = new Int32Array(MAX_RESERVED);
    this.frameHeader = new Int32Array(MAX_RESERVED);
    this.frameRoom = new Int32Array(MAX_RESERVED);
    this.frameBegin = 0;
    this.frameEnd = 0;
    this.pieceAt = new Int32Array(MAX_RESERVED);
    this.pieceLen = new Int32Array(MAX_RESERVED);
    this.pieceBegin = 0;
    this.pieceEnd = 0;
  }

  start(fd: number): void {
    this.fd = fd;
    this.end = STREAM_OPEN;
    this.forget();
  }

  stop(): void {
    this.fd = -1;
    this.end = STREAM_EOF;
    this.forget();
  }

  /** See GuestPort.reserve. */
  reserve(headerLen: number, payloadLen: number, row: number): number {
    const frame = headerLen + payloadLen;
    if (this.end !== STREAM_OPEN || this.blocked) return -1;
    if (headerLen > MAX_HEADER || frame > MAX_STREAM_FRAME) return -1;
    const need = LENGTH_SIZE + (frame < ETHERNET_MIN_FRAME ? ETHERNET_MIN_FRAME : frame);
    if (!this.hasRoom(need)) {
      // With reservations outstanding the block cannot be emptied: the caller fills and commits those first.
      if (this.frameBegin < this.frameEnd) {
        this.retry = true;
        return -1;
      }
      this.flush();
      if (!this.hasRoom(need)) return -1;
    }
    const f = this.frameEnd++;
    this.frameAt[f] = this.tail;
    this.frameHeader[f] = headerLen;
    this.frameRoom[f] = payloadLen;
    if (payloadLen > 0) setRow(this.io.rows, row, this.region, this.tail + LENGTH_SIZE + headerLen, payloadLen);
    this.tail += need;
    return payloadLen > 0 ? 1 : 0;
  }

  /** See GuestPort.front. */
  front(): void {
    this.outOff = this.frameAt[this.frameBegin] + LENGTH_SIZE;
  }

  /** See GuestPort.commit. */
  commit(payloadLen: number, flags: number, csumStart: number, csumOffset: number): void {
    const f = this.frameBegin;
    if (f === this.frameEnd) return;
    const start = this.frameAt[f];
    const frame = this.frameHeader[f] + payloadLen;
    if ((flags & COMMIT_NEEDS_CSUM) !== 0) {
      const at = start + LENGTH_SIZE + csumStart;
      setRow(this.io.rows, ROWS_PORT, this.region, at, frame - csumStart);
      completeChecksum(this.io, ROWS_PORT, 1, this.out, at + csumOffset);
    }
    let length = frame;
    for (; length < ETHERNET_MIN_FRAME; length++) this.out.setUint8(start + LENGTH_SIZE + length, 0);
    this.out.setUint32(start, length);
    this.addPiece(start, LENGTH_SIZE + length);
    this.frameBegin = f + 1;
    if (this.frameBegin === this.frameEnd) {
      this.frameBegin = 0;
      this.frameEnd = 0;
      this.tail = start + LENGTH_SIZE + length;
    }
  }

  /** See GuestPort.cancel. */
  cancel(): void {
    if (this.frameBegin < this.frameEnd) this.tail = this.frameAt[this.frameBegin];
    this.frameBegin = 0;
    this.frameEnd = 0;
  }

  /** Sends what was committed, as far as the socket takes it. */
  flush(): void {
    if (this.blocked || this.end !== STREAM_OPEN) return;
    while (this.pieceBegin < this.pieceEnd) {
      if (!this.send()) return;
    }
    this.pieceBegin = 0;
    this.pieceEnd = 0;
    if (this.frameBegin === this.frameEnd) this.tail = 0;
  }

  /** The socket is writable again. Returns true if nothing is left over. */
  resume(): boolean {
    this.blocked = false;
    this.flush();
    return !this.blocked;
  }

  private hasRoom(need: number): boolean {
    return (
      this.tail + need <= OUTPUT_BLOCK &&
      this.frameEnd < MAX_RESERVED &&
      // Each reserved frame may become a piece.
      this.pieceEnd + (this.frameEnd - this.frameBegin) < MAX_RESERVED
    );
  }

  private addPiece(at: number, length: number): void {
    const last = this.pieceEnd - 1;
    if (last >= this.pieceBegin && this.pieceAt[last] + this.pieceLen[last] === at) {
      this.pieceLen[last] += length;
      return;
    }
    this.pieceAt[this.pieceEnd] = at;
    this.pieceLen[this.pieceEnd] = length;
    this.pieceEnd++;
  }

  /** One system call. False: the socket is full or broken. */
  private send(): boolean {
    const { rows } = this.io;
    const count = Math.min(this.pieceEnd - this.pieceBegin, ROWS_PORT_COUNT);
    let total = 0;
    for (let i = 0; i < count; i++) {
      const piece = this.pieceBegin + i;
      setRow(rows, ROWS_PORT + i, this.region, this.pieceAt[piece], this.pieceLen[piece]);
      total += this.pieceLen[piece];
    }
    const n = this.io.send(this.fd, ROWS_PORT, count, 0);
    if (n === total) {
      this.pieceBegin += count;
      return true;
    }
    if (n < 0 && n !== -EAGAIN) {
      this.end = n;
      return false;
    }
    this.blocked = true;
    for (let left = n; left > 0;) {
      const sent = Math.min(left, this.pieceLen[this.pieceBegin]);
      this.pieceAt[this.pieceBegin] += sent;
      this.pieceLen[this.pieceBegin] -= sent;
      if (this.pieceLen[this.pieceBegin] === 0) this.pieceBegin++;
      left -= sent;
    }
    return false;
  }

  private forget(): void {
    this.blocked = false;
    this.retry = false;
    this.tail = 0;
    this.frameBegin = 0;
    this.frameEnd = 0;
    this.pieceBegin = 0;
    this.pieceEnd = 0;
  }
}
