/**
 * Captures of the guest's frames that clients begin and end while the service runs.
 *
 * Theory of operation. The data plane writes a capture straight into the client's connection, by a descriptor of its own for it,
 * so that its bytes never pass this thread; what the client does not read is left out and counted there. Here is kept which
 * captures there are, when each is to end, and who is told. A descriptor is closed when the data plane has said that it does not
 * use it any more, and then only: its number may be another's afterwards.
 *
 * A capture is over by a limit that it was given, by an order, when its client leaves, or with the data plane that writes it.
 */
import {
  CAPTURE_BYTES,
  CAPTURE_COUNTS,
  CAPTURE_FRAMES,
  CAPTURE_LEFT_OUT,
  type CaptureEnd,
  type CaptureStart,
} from '../dataplane/commands';
import { describeErrno } from '../errors';
import type { Native } from '../native';
import { captureHeader, SNAPLEN } from '../pcap';
import type { Events } from './events';
import { refuse } from './problem';
import type { CaptureInfo, CaptureQuery, CaptureReason } from './types';

/** Captures at a time. Each has a block of 1 MiB in the data plane, and costs it a copy of each frame. */
export const MAX_CAPTURES = 4;
/** Captures that are over and are still listed. */
const REMEMBERED = 16;
/** Time for a client to read what it has not yet, when its capture is to end. */
const DRAIN_MS = 2000;

export interface CapturePlane {
  onCaptureEnded: ((id: number, end: CaptureEnd) => void) | null;
  startCapture(start: CaptureStart): Promise<boolean>;
  stopCapture(id: number, now: boolean): Promise<boolean>;
}

/** A capture that has begun. */
export interface BegunCapture {
  readonly id: string;
  /** Settles when nothing is written to the client any more. */
  readonly ended: Promise<void>;
  /** The client is gone. */
  readonly leave: () => void;
}

interface Running {
  readonly id: number;
  readonly startedAt: number;
  readonly snap: number;
  readonly counts: Float64Array;
  readonly resolve: () => void;
  /** -1: closed. */
  fd: number;
  /** Why it is to end, or has ended. */
  reason: CaptureReason | null;
  endedAt: number | null;
  over: boolean;
  timer: NodeJS.Timeout | null;
}

const REASONS: Readonly<Record<CaptureEnd, CaptureReason>> = { done: 'limit', left: 'client', failed: 'error' };

function infoOf({ id, startedAt, endedAt, reason, snap, counts }: Running): CaptureInfo {
  const [packets, bytes, lost] = [counts[CAPTURE_FRAMES], counts[CAPTURE_BYTES], counts[CAPTURE_LEFT_OUT]];
  return { id: `${id}`, startedAt, endedAt, reason: endedAt === null ? null : reason, snap, packets, bytes, lost };
}

export class Captures {
  private readonly io: Pick<Native, 'dupFd' | 'close'>;
  private readonly plane: CapturePlane;
  private readonly events: Pick<Events, 'emit'>;
  private readonly running = new Map<number, Running>();
  private readonly past: CaptureInfo[] = [];
  private lastId = 0;

  constructor(io: Pick<Native, 'dupFd' | 'close'>, plane: CapturePlane, events: Pick<Events, 'emit'>) {
    this.io = io;
    this.plane = plane;
    this.events = events;
    plane.onCaptureEnded = (id, end) => {
      const one = this.running.get(id);
      if (one !== undefined) void this.finish(one, REASONS[end]);
    };
  }

  /** Those that run, and the last ones that do not. */
  list(): readonly CaptureInfo[] {
    return [...this.past, ...[...this.running.values()].map(infoOf)];
  }

  /**
   * Writes frames to the socket `fd` from now on, behind `head(id)`. It stays the caller's, and may be closed at any time: there is
   * another one for it before this returns. Throws Refused.
   */
  async start(fd: number, query: CaptureQuery, head: (id: string) => string): Promise<BegunCapture> {
    if (this.running.size >= MAX_CAPTURES)
      throw refuse(503, 'busy', `there are ${MAX_CAPTURES} captures already: end one of them`);
    const own = this.io.dupFd(fd);
    if (own < 0) throw refuse(503, 'busy', `no descriptor for it: ${describeErrno(own)}`);
    const { snap = SNAPLEN, packets = null, bytes = null, seconds } = query;
    const id = ++this.lastId;
    const counts = new SharedArrayBuffer(CAPTURE_COUNTS * Float64Array.BYTES_PER_ELEMENT);
    let resolve = (): void => undefined;
    const ended = new Promise<void>((settle) => {
      resolve = settle;
    });
    const one: Running = {
      ...{ id, snap, resolve, fd: own, startedAt: Date.now(), counts: new Float64Array(counts) },
      ...{ reason: null, endedAt: null, over: false, timer: null },
    };
    this.running.set(id, one);
    const begins = Buffer.concat([Buffer.from(head(`${id}`), 'latin1'), captureHeader(snap)]);
    if (!(await this.plane.startCapture({ id, fd: own, snap, frames: packets, bytes, head: begins, counts }))) {
      this.running.delete(id);
      this.release(one);
      throw refuse(503, 'busy', 'the data plane cannot begin a capture: it has no memory, or was replaced');
    }
    this.events.emit('capture-started', { id: `${id}`, snap });
    if (seconds !== undefined && !one.over)
      one.timer = setTimeout(() => {
        this.stop(one, 'time');
      }, seconds * 1000).unref();
    return {
      id: `${id}`,
      ended,
      leave: () => {
        void this.finish(one, 'client');
      },
    };
  }

  /** Ends a capture, once its client has read what there is. False: there is none of that id. */
  end(id: string): boolean {
    const one = this.running.get(Number(id));
    if (one === undefined || `${one.id}` !== id) return false;
    this.stop(one, 'order');
    return true;
  }

  /** The data plane that wrote them is gone. */
  lost(): void {
    for (const one of this.running.values()) void this.finish(one, 'data-plane');
  }

  /** The service ends. */
  close(): void {
    for (const one of this.running.values()) void this.finish(one, 'end');
  }

  private stop(one: Running, reason: CaptureReason): void {
    if (one.reason !== null) return;
    one.reason = reason;
    if (one.timer !== null) clearTimeout(one.timer);
    one.timer = setTimeout(() => {
      void this.finish(one, reason);
    }, DRAIN_MS).unref();
    void this.plane.stopCapture(one.id, false);
  }

  /** It is over at once. */
  private async finish(one: Running, reason: CaptureReason): Promise<void> {
    if (one.over) return;
    one.over = true;
    one.reason ??= reason;
    if (one.timer !== null) clearTimeout(one.timer);
    await this.plane.stopCapture(one.id, true);
    this.release(one);
    one.endedAt = Date.now();
    if (!this.running.delete(one.id)) return; // it never began
    const info = infoOf(one);
    this.past.push(info);
    if (this.past.length > REMEMBERED) this.past.shift();
    const { id, packets, bytes, lost } = info;
    this.events.emit('capture-stopped', { id, reason: one.reason, packets, bytes, lost });
    one.resolve();
  }

  private release(one: Running): void {
    if (one.fd >= 0) this.io.close(one.fd);
    one.fd = -1;
  }
}
