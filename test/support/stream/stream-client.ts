/** A client of the stream protocol by hand: frames out, frames in, and what becomes of the connection. */
import { connect, type Socket } from 'node:net';
import { framed } from './stream-rig';

export class StreamClient {
  /** Settles when the other end closed the connection. */
  readonly closed: Promise<void>;
  private readonly socket: Socket;
  private readonly frames: Buffer[] = [];
  private readonly waiting: ((frame: Buffer) => void)[] = [];
  private partial: Buffer = Buffer.alloc(0);

  private constructor(socket: Socket) {
    this.socket = socket;
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        resolve();
      });
    });
    socket.on('error', () => undefined);
    socket.on('data', (bytes: Buffer) => {
      this.take(bytes);
    });
  }

  static connect(path: string): Promise<StreamClient> {
    return new Promise((resolve, reject) => {
      const socket = connect(path, () => {
        resolve(new StreamClient(socket));
      });
      socket.once('error', reject);
    });
  }

  /** Raw bytes, without a length. */
  write(bytes: Uint8Array): void {
    this.socket.write(bytes);
  }

  send(frame: Uint8Array): void {
    this.write(framed(frame));
  }

  /** The next frame that `wanted` accepts; others are thrown away. */
  async receive(wanted: (frame: Buffer) => boolean): Promise<Buffer> {
    for (;;) {
      const frame = this.frames.shift() ?? (await new Promise<Buffer>((resolve) => this.waiting.push(resolve)));
      if (wanted(frame)) return frame;
    }
  }

  /** Reads nothing until `resume`. */
  pause(): void {
    this.socket.pause();
  }

  resume(): void {
    this.socket.resume();
  }

  /** Closes at once: what the service still had to say is lost. Settles when it is closed. */
  async destroy(): Promise<void> {
    this.socket.destroy();
    await this.closed;
  }

  private take(bytes: Buffer): void {
    this.partial = Buffer.concat([this.partial, bytes]);
    while (this.partial.length >= 4) {
      const end = 4 + this.partial.readUInt32BE(0);
      if (this.partial.length < end) return;
      const frame = this.partial.subarray(4, end);
      this.partial = this.partial.subarray(end);
      const waiter = this.waiting.shift();
      if (waiter === undefined) this.frames.push(frame);
      else waiter(frame);
    }
  }
}
