/**
 * Rows of the guest's frames that TCP keeps until the end of the batch: payload of one flow, which leaves with one call.
 *
 * Rows are handed out from low to high: a frame's rows begin where the handler of the frame before said that rows are free
 * (`freeRow`, FlowHandler.fromGuest). What is gathered lies in rows first … end - 1, without gaps. A frame whose rows begin
 * at `end` follows directly: its payload is moved down to there, over its own headers' rows, and extends what is gathered.
 * A frame whose rows begin elsewhere, because another protocol's handler has kept rows between, cannot be added: what is
 * gathered goes out first. When it has gone, rows first … end - 1 are free again, so the next frame's payload is moved down
 * to `first`, as long as its rows follow (`place`).
 */
import type { FrameInfo } from '../context';
import { ROWS_PER_CALL } from '../scratch';

export class GatheredRows {
  /** Whose payload it is, after that flow's rcvNxt; -1: nothing is gathered. */
  flow = -1;
  bytes = 0;
  /** Segments that it came in. */
  segments = 0;
  first = -1;
  private end = -1;

  /** Number of rows. */
  get count(): number {
    return this.end - this.first;
  }

  /** First row that is free when `frame` was handled: what FlowHandler.fromGuest returns. */
  freeRow(frame: FrameInfo): number {
    if (this.flow >= 0) return Math.max(this.end, frame.row);
    const row = this.place(frame);
    // The next segments may keep rows from here on: nothing before them is known to be free any more.
    this.first = row;
    this.end = row;
    return row;
  }

  /** Where this frame's payload rows may start: right behind what is gathered, if the frame's rows follow it. */
  place(frame: FrameInfo): number {
    if (this.end !== frame.row) return frame.row;
    // The rows before belong to this handler: what is no longer gathered there is free again.
    return this.flow >= 0 ? this.end : this.first;
  }

  /** Must what is gathered go out before payload of `flow` in `frame` is added? */
  mustGoBefore(flow: number, frame: FrameInfo): boolean {
    if (this.flow < 0) return false;
    return this.flow !== flow || this.end !== frame.row || this.count + frame.rowCount > ROWS_PER_CALL;
  }

  /** Adds a segment's payload of `bytes`, named by `count` rows from `row` on, which is where `place` said. */
  add(flow: number, row: number, count: number, bytes: number): void {
    if (this.flow < 0) {
      this.flow = flow;
      this.first = row;
      this.bytes = 0;
      this.segments = 0;
    }
    this.end = row + count;
    this.bytes += bytes;
    this.segments++;
  }

  /** Bytes gathered of `flow`. */
  bytesOf(flow: number): number {
    return this.flow === flow ? this.bytes : 0;
  }

  /** Forgets what is gathered of `flow`. */
  drop(flow: number): void {
    if (this.flow === flow) this.flow = -1;
  }

  /** The batch is over, and what was gathered has gone: no row is ours any more. */
  release(): void {
    this.flow = -1;
    this.first = -1;
    this.end = -1;
  }
}
