/** What was received and not read yet, and ways to read it that end with the stream. */
import { concat } from './bytes';

export abstract class ByteReader {
  private readonly chunks: Uint8Array[] = [];
  private unreadBytes = 0;

  /** The next bytes, null at the end of the stream. */
  abstract read(): Promise<Uint8Array | null>;

  /** Everything up to the end of the stream. */
  async readAll(): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    for (;;) {
      const chunk = await this.read();
      if (chunk === null) return concat(...parts);
      parts.push(chunk);
    }
  }

  /** Exactly `n` bytes; throws if the stream ends before. */
  async readExactly(n: number): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    let have = 0;
    while (have < n) {
      const chunk = await this.read();
      if (chunk === null) throw new Error(`end of stream after ${have} of ${n} bytes`);
      const take = chunk.subarray(0, n - have);
      if (take.length < chunk.length) this.chunks.unshift(chunk.subarray(take.length));
      this.unreadBytes += chunk.length - take.length;
      parts.push(take);
      have += take.length;
    }
    return concat(...parts);
  }

  /** Bytes received and not read. */
  get unread(): number {
    return this.unreadBytes;
  }

  protected received(data: Uint8Array): void {
    this.chunks.push(data);
    this.unreadBytes += data.length;
  }

  /** Takes the oldest of them; undefined: there are none. */
  protected take(): Uint8Array | undefined {
    const chunk = this.chunks.shift();
    if (chunk !== undefined) this.unreadBytes -= chunk.length;
    return chunk;
  }
}
