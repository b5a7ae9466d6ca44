/**
 * Notices a guest whose memory is not shared with us. Without `share=on` QEMU passes a file that the guest's writes
 * never reach: the rings that we map stay as they were, while the guest kicks for what it has put into its own. Nothing
 * fails, no frame passes, and no message explains why.
 *
 * A kick alone proves nothing: QEMU gives one to each ring when it starts, and Linux kicks a receive ring that it has put
 * nothing into. So neither available index may have moved for two seconds and more since the rings started, and either
 * one ring was kicked three times, or both were kicked a second time, or the transmit ring a second time after its start
 * was over, or both were kicked after that: with EVENT_IDX a guest that gets no answer kicks each ring once, as early as
 * QEMU (a fast one both within the start, a slow one none of them). One that is in order moves an index before its first
 * kick, and is not looked at after that.
 */
import type { SplitQueueDevice } from 'virtio-ring-ts';

/** For so long nothing may move, ms. */
export const SILENT_MS = 2000;
/** Kicks so soon after a ring's start belong to it, ms. */
const START_MS = 100;
/** Kicks of one ring, its first included. */
const KICKS = 3;

export const PRIVATE_MEMORY_TEXT =
  'the guest kicks its queues but they stay empty: its memory is probably not shared with this program; ' +
  'QEMU wants -object memory-backend-memfd,share=on for all of it, libvirt <memoryBacking> with ' +
  "<source type='memfd'/> and <access mode='shared'/>";

class Ring {
  queue: SplitQueueDevice | null = null;
  base = 0;
  startedMs = 0;
  kicks = 0;
  late = 0;

  /** Has the guest put something into it? A broken index is something. */
  get moved(): boolean {
    return this.queue !== null && (this.queue.lastAvail !== this.base || this.queue.refresh() !== 0);
  }
}

export class PrivateMemoryWatch {
  /** Nothing is known yet: kicks are to be told. */
  open: boolean;
  /** When to look, ms; Infinity: not. */
  dueMs: number;
  private readonly rings: readonly [Ring, Ring];
  private said: boolean;

  constructor() {
    this.open = false;
    this.dueMs = Infinity;
    this.rings = [new Ring(), new Ring()];
    this.said = false;
  }

  started(index: number, queue: SplitQueueDevice, nowMs: number): void {
    const ring = this.rings[index];
    ring.queue = queue;
    ring.base = queue.lastAvail;
    ring.startedMs = nowMs;
    ring.kicks = 0;
    ring.late = 0;
    this.open = !this.said;
    this.dueMs = Infinity;
  }

  stopped(index: number): void {
    this.rings[index].queue = null;
    this.dueMs = Infinity;
  }

  /** The front-end left. */
  reset(): void {
    this.open = false;
    this.said = false;
    this.dueMs = Infinity;
  }

  /** A kick of ring `index`, before what it is for is taken. Call only while `open`. */
  kicked(index: number, nowMs: number): void {
    const [rx, tx] = this.rings;
    const ring = this.rings[index];
    if (rx.moved || tx.moved) {
      this.close();
      return;
    }
    ring.kicks++;
    if (nowMs - ring.startedMs >= START_MS) ring.late++;
    if (rx.queue === null || tx.queue === null || !this.isSuspicious()) return;
    this.dueMs = Math.max(nowMs, rx.startedMs + SILENT_MS, tx.startedMs + SILENT_MS);
  }

  /** Is it certain now, for the first time in this session? */
  look(nowMs: number): boolean {
    if (nowMs < this.dueMs) return false;
    const [rx, tx] = this.rings;
    const found = !rx.moved && !tx.moved;
    this.close();
    this.said = found;
    return found;
  }

  private isSuspicious(): boolean {
    const [rx, tx] = this.rings;
    if (rx.kicks >= KICKS || tx.kicks >= KICKS) return true;
    if (rx.kicks > 1 && tx.kicks > 1) return true;
    return tx.late > 0 && (tx.kicks > 1 || rx.late > 0);
  }

  private close(): void {
    this.open = false;
    this.dueMs = Infinity;
  }
}
