/** A queue of bytes for fakes: append at the end, look anywhere, drop from the front. */
export class ByteQueue {
  private bytes = new Uint8Array(4096);
  private start = 0;
  private end = 0;

  get length(): number {
    return this.end - this.start;
  }

  push(data: Uint8Array): void {
    if (this.end + data.length > this.bytes.length) {
      const need = this.length + data.length;
      const next = need * 2 > this.bytes.length ? new Uint8Array(need * 2) : this.bytes;
      next.set(this.bytes.subarray(this.start, this.end));
      this.end = this.length;
      this.start = 0;
      this.bytes = next;
    }
    this.bytes.set(data, this.end);
    this.end += data.length;
  }

  /** Copy of up to `length` bytes from `offset` on. */
  peek(offset: number, length: number): Uint8Array {
    return this.bytes.slice(Math.min(this.end, this.start + offset), Math.min(this.end, this.start + offset + length));
  }

  drop(length: number): void {
    if (length > this.length) throw new Error('byte queue: dropped more than there is');
    this.start += length;
  }

  /** Takes up to `length` bytes from the front. */
  take(length: number): Uint8Array {
    const out = this.peek(0, length);
    this.drop(out.length);
    return out;
  }
}
