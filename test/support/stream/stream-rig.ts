/** The stream port over a real socket pair, with the client's end in the test's hands. */
import { INPUT_BLOCK } from '../../../src/dataplane/stream/input';
import type { PrivateBlock } from '../../../src/dataplane/private-block';
import { OUTPUT_BLOCK } from '../../../src/dataplane/stream/output';
import { StreamGuestPort } from '../../../src/dataplane/stream/port';
import { loadNative } from '../../../src/native';
import type { Native } from '../../../src/native';
import { ROWS_IN, ROWS_OUT } from '../../../src/stack/scratch';
import { COMMIT_NEEDS_CSUM } from '../../../src/stack/ports';

const EAGAIN = 11;
const NO_FDS = new Int32Array(1);

/** A frame as the protocol carries it. */
export function framed(frame: Uint8Array): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(frame.length);
  return Buffer.concat([length, frame]);
}

/** The frames in what a client received. @throws Error if it does not end with a whole one. */
export function unframed(bytes: Uint8Array): Buffer[] {
  const all = Buffer.from(bytes);
  const frames: Buffer[] = [];
  for (let at = 0; at < all.length;) {
    if (all.length - at < 4) throw new Error(`${all.length - at} bytes left`);
    const end = at + 4 + all.readUInt32BE(at);
    if (end > all.length) throw new Error(`a frame of ${end - at - 4} bytes, ${all.length - at - 4} are there`);
    frames.push(all.subarray(at + 4, end));
    at = end;
  }
  return frames;
}

export class StreamRig {
  readonly native: Native = loadNative();
  readonly port: StreamGuestPort;
  client = -1;
  server = -1;
  private readonly regions: number[] = [];

  constructor() {
    this.port = new StreamGuestPort(this.native, this.block(INPUT_BLOCK), this.block(OUTPUT_BLOCK));
    this.connect();
  }

  /** A new client; the former's ends are closed. */
  connect(): void {
    this.disconnect();
    const pair = new Int32Array(2);
    if (this.native.unixPair(pair) < 0) throw new Error('socketpair');
    [this.client, this.server] = pair;
    this.port.start(this.server);
  }

  disconnect(): void {
    this.port.stop();
    if (this.client >= 0) this.native.close(this.client);
    if (this.server >= 0) this.native.close(this.server);
    this.client = this.server = -1;
  }

  /** The client sends. @throws Error if the socket does not take it all. */
  write(bytes: Uint8Array): void {
    const n = this.native.sendFds(this.client, bytes, 0, bytes.length, NO_FDS, 0);
    if (n !== bytes.length) throw new Error(`sent ${n} of ${bytes.length} bytes`);
  }

  /** All that the client can read now. */
  read(): Buffer {
    const parts: Buffer[] = [];
    for (;;) {
      const part = Buffer.alloc(1 << 16);
      const n = this.native.recvFds(this.client, part, 0, part.length, NO_FDS);
      if (n === -EAGAIN || n === 0) return Buffer.concat(parts);
      if (n < 0) throw new Error(`recv: ${n}`);
      parts.push(part.subarray(0, n));
    }
  }

  /** One turn of the loop as far as the port sees it: all frames that are there, as their rows name them. */
  turn(): Buffer[] {
    const { port } = this;
    const frames: Buffer[] = [];
    port.input.ready();
    do {
      port.input.more = false;
      for (let row = ROWS_IN; ; row += port.rowCount) {
        const length = port.receive(row);
        if (length === 0) break;
        const frame = this.gather(row, port.rowCount);
        if (frame.length !== length) throw new Error(`rows name ${frame.length} bytes of ${length}`);
        for (let i = 0; i < port.headLen; i++) {
          if (port.head.getUint8(i) !== frame[i]) throw new Error(`head differs at ${i}`);
        }
        frames.push(frame);
      }
      port.releaseReceived();
    } while (port.input.more);
    return frames;
  }

  /** Sends one frame to the client, not flushed. False: no room. */
  send(header: Uint8Array, payload: Uint8Array, checksum?: { start: number; offset: number }): boolean {
    const { port } = this;
    const rows = port.reserve(header.length, payload.length, ROWS_OUT);
    if (rows < 0) return false;
    this.scatter(ROWS_OUT, rows, payload);
    this.commit(header, payload.length, checksum);
    return true;
  }

  /** Completes the oldest reserved frame. */
  commit(header: Uint8Array, payloadLen: number, checksum?: { start: number; offset: number }): void {
    const { port } = this;
    port.front();
    header.forEach((byte, i) => port.out.setUint8(port.outOff + i, byte));
    port.commit(payloadLen, checksum ? COMMIT_NEEDS_CSUM : 0, checksum?.start ?? 0, checksum?.offset ?? 0);
  }

  gather(row: number, count: number): Buffer {
    const { region, offset, length } = this.native.rows;
    const parts: Uint8Array[] = [];
    for (let r = row; r < row + count; r++) {
      parts.push(new Uint8Array(this.native.regionBuffer(region[r]), offset[r], length[r]).slice());
    }
    return Buffer.concat(parts);
  }

  scatter(row: number, count: number, bytes: Uint8Array): void {
    const { region, offset, length } = this.native.rows;
    let done = 0;
    for (let r = row; r < row + count; r++) {
      const n = Math.min(length[r], bytes.length - done);
      new Uint8Array(this.native.regionBuffer(region[r]), offset[r], n).set(bytes.subarray(done, done + n));
      done += n;
    }
    if (done !== bytes.length) throw new Error(`rows take ${done} of ${bytes.length} bytes`);
  }

  close(): void {
    this.disconnect();
    for (const region of this.regions) this.native.retireRegion(region);
  }

  private block(size: number): PrivateBlock {
    const region = this.native.allocRegion(size);
    if (region < 0) throw new Error(`allocRegion: ${region}`);
    this.regions.push(region);
    return { region, view: new DataView(this.native.regionBuffer(region)) };
  }
}
