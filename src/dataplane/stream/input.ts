/**
 * Frames from a guest over QEMU's stream protocol: a 4-byte big-endian length, then an Ethernet frame, again and again.
 *
 * Theory of operation. One large private block takes what the socket has, many frames a system call. Frames are parsed
 * where they lie and named by one row each, so their payload goes to the host's sockets from there; the first bytes are
 * copied to `head` because the stack wants them at offset 0. Bytes are never overwritten before `releaseReceived`: when
 * the block is nearly full and frames are still held, `more` ends the batch; once they are released, what is left of
 * an unfinished frame moves to the block's start. A new connection starts with an empty block, so a frame that a client
 * did not finish is never taken for the beginning of the next client's.
 *
 * A length out of range means that the two ends no longer agree on where frames begin: the connection is over.
 */
import type { Native } from '../../native';
import { ROWS_PORT } from '../../stack/scratch';
import { copyBytes } from '../../stack/kit/bytes';
import { EAGAIN } from '../../stack/kit/linux';
import { setRow } from '../../stack/kit/rows';
import { HEAD_FIRST, MAX_HEAD } from '../../stack/ports';
import type { PrivateBlock } from '../private-block';

/** Bytes of the length in front of each frame. */
export const LENGTH_SIZE = 4;
/** Lengths that a frame may have; QEMU's are in between, and a peer that says another one is not in step. */
export const MIN_STREAM_FRAME = 14;
export const MAX_STREAM_FRAME = 65535;

/** What the port's two sides need of the addon. */
export type StreamIo = Pick<Native, 'rows' | 'checksum' | 'recv' | 'send'>;

/** Bytes of the block for frames from the guest. */
export const INPUT_BLOCK = 1 << 20;
/** With less room than this at the block's end the next read starts at its beginning, if that is free. */
const READ_AT_LEAST = INPUT_BLOCK / 4;

/** How a connection ended, in `StreamInput.end` and `StreamOutput.end`; other negative values are -errno. */
export const STREAM_OPEN = 0;
export const STREAM_EOF = 1;
export const STREAM_BAD_LENGTH = 2;

export class StreamInput {
  readonly head: DataView;
  headLen: number;
  /** STREAM_OPEN, or why there is nothing more to be had. */
  end: number;
  /** The length that was out of range. */
  badLength: number;
  /** Frames may wait though `receive` returned 0: call again after `releaseReceived`. */
  more: boolean;

  private readonly io: StreamIo;
  private readonly region: number;
  private readonly view: DataView;
  private readonly bytes: Uint8Array;
  private fd: number;
  /** The socket had no more when it was last read. */
  private drained: boolean;
  /** Frames were given out and not released. */
  private held: boolean;
  /** Not yet given out: bytes `at` … `filled` - 1. */
  private at: number;
  private filled: number;
  private frameAt: number;
  private frameLen: number;

  constructor(io: StreamIo, block: PrivateBlock) {
    this.io = io;
    this.region = block.region;
    this.view = block.view;
    this.bytes = new Uint8Array(block.view.buffer, block.view.byteOffset, block.view.byteLength);
    this.head = new DataView(new ArrayBuffer(MAX_HEAD));
    this.headLen = 0;
    this.end = STREAM_EOF;
    this.badLength = 0;
    this.more = false;
    this.fd = -1;
    this.drained = true;
    this.held = false;
    this.at = 0;
    this.filled = 0;
    this.frameAt = 0;
    this.frameLen = 0;
  }

  /** Takes a connected non-blocking socket; nothing of an earlier one is left. */
  start(fd: number): void {
    this.fd = fd;
    this.end = STREAM_OPEN;
    this.more = false;
    this.drained = false;
    this.held = false;
    this.at = 0;
    this.filled = 0;
  }

  stop(): void {
    this.fd = -1;
    this.end = STREAM_EOF;
    this.more = false;
  }

  /** The socket is readable, or its other end is gone. */
  ready(): void {
    this.drained = false;
  }

  /** See GuestPort.receive. */
  receive(row: number): number {
    if (this.fd < 0 || this.end > STREAM_EOF) return 0;
    for (;;) {
      const have = this.filled - this.at;
      if (have >= LENGTH_SIZE) {
        const length = this.view.getUint32(this.at);
        if (length < MIN_STREAM_FRAME || length > MAX_STREAM_FRAME) {
          this.badLength = length;
          this.end = STREAM_BAD_LENGTH;
          return 0;
        }
        if (have >= LENGTH_SIZE + length) return this.accept(row, length);
      }
      if (!this.fill()) return 0;
    }
  }

  /** See GuestPort.pull. */
  pull(n: number): number {
    const want = Math.min(n, this.frameLen, MAX_HEAD);
    if (want > this.headLen) {
      copyBytes(this.view, this.frameAt + this.headLen, this.head, this.headLen, want - this.headLen);
      this.headLen = want;
    }
    return this.headLen;
  }

  /** See GuestPort.substitute. The frame that was received stays held, as it is. */
  substitute(from: DataView, off: number, length: number): void {
    this.frameLen = length;
    // All that `pull` could ask for, so that it never looks at the block.
    this.headLen = Math.min(length, MAX_HEAD);
    copyBytes(from, off, this.head, 0, this.headLen);
  }

  /** See GuestPort.releaseReceived. */
  releaseReceived(): void {
    this.held = false;
  }

  private accept(row: number, length: number): number {
    const at = this.at + LENGTH_SIZE;
    setRow(this.io.rows, row, this.region, at, length);
    this.frameAt = at;
    this.frameLen = length;
    this.headLen = Math.min(length, HEAD_FIRST);
    copyBytes(this.view, at, this.head, 0, this.headLen);
    this.at = at + length;
    this.held = true;
    return length;
  }

  /** Reads what the socket has. False: nothing came, for one of many reasons. */
  private fill(): boolean {
    if (this.drained || this.end !== STREAM_OPEN) return false;
    if (INPUT_BLOCK - this.filled < READ_AT_LEAST) {
      if (this.held) {
        this.more = true;
        return false;
      }
      this.bytes.copyWithin(0, this.at, this.filled);
      this.filled -= this.at;
      this.at = 0;
    } else if (this.at === this.filled && !this.held) {
      this.at = 0;
      this.filled = 0;
    }
    const room = INPUT_BLOCK - this.filled;
    setRow(this.io.rows, ROWS_PORT, this.region, this.filled, room);
    const n = this.io.recv(this.fd, ROWS_PORT, 1, 0);
    // A read that was not filled found the end of the queue: the next one waits for an event.
    this.drained = n < room;
    if (n > 0) {
      this.filled += n;
      return true;
    }
    if (n !== -EAGAIN) this.end = n === 0 ? STREAM_EOF : n;
    return false;
  }
}
