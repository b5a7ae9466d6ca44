/**
 * `--flow-log`: a line of JSON at the end of each flow (`EndedFlow` of types.ts).
 *
 * Theory of operation. The data plane describes a flow that ends in a ring of bounded size (stack/kit/flow-ends.ts) and
 * wakes us with the first; DRAIN_MS later all that is there is written. So a guest that opens and closes flows as fast as it
 * can costs a bounded part of this thread's time, and no memory: of what the ring had no place for, the number is a
 * line of its own, `{"time":…,"lost":N}`. So are flows that went with a data plane which failed:
 * `{"time":…,"restart":"data-plane","flows":N}`. While the disk takes nothing, what could not be written is counted and said
 * in the same way later, and the log says it once.
 */
import { BoundedFile } from '../bounded-file';
import { describeSystemError } from '../errors';
import { ENDS_AWAKE, ENDS_BYTES, ENDS_LOST, ENDS_READ, ENDS_ROWS, ENDS_WRITTEN } from '../stack/kit/flow-ends';
import { endsControl, endsRows } from '../stack/kit/flow-ends';
import { FLOW_WORDS } from '../stack/kit/flow-rows';
import { endedFlow, epochOfClock, type FlowWords } from './flow-text';

/** Between two writes, ms: at most ENDS_ROWS lines, 40 000 a second. */
const DRAIN_MS = 100;
/** Bytes of lines written at once; less than the smallest file may have. */
const CHUNK = 16_384;

export interface FlowLogOptions {
  readonly path: string;
  /** The file's limit; the oldest lines go (src/bounded-file.ts). */
  readonly maxBytes: number;
  readonly words: FlowWords;
  readonly warn: (message: string) => void;
}

interface Ring {
  /** Number of the data plane that writes to it, as ids of flows have it. */
  readonly worker: number;
  readonly control: Int32Array;
  readonly rows: Float64Array;
}

/** Is a `FlowEndsReader` (supervisor/setup.ts). */
export class FlowLog {
  private readonly options: FlowLogOptions;
  private readonly file: BoundedFile;
  private ring: Ring | null = null;
  private timer: NodeJS.Timeout | null = null;
  /** Ends that are in no line. */
  private missing = 0;
  private failing = false;

  /** Opens the file. Throws the system's error, or FileRefused. */
  constructor(options: FlowLogOptions) {
    this.options = options;
    this.file = new BoundedFile(options.path, options.maxBytes, '');
  }

  open(worker: number): SharedArrayBuffer {
    const ring = new SharedArrayBuffer(ENDS_BYTES);
    this.ring = { worker, control: endsControl(ring), rows: endsRows(ring) };
    return ring;
  }

  filled(): void {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.drain();
    }, DRAIN_MS);
  }

  lost(flows: number): void {
    if (this.ring === null) return;
    this.take(this.ring);
    this.ring = null;
    this.write([JSON.stringify({ time: Date.now(), restart: 'data-plane', flows })], 0);
  }

  /** Writes what is there, and closes the file. */
  close(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    if (this.ring !== null) this.take(this.ring);
    this.ring = null;
    this.file.close();
  }

  private drain(): void {
    const { ring } = this;
    if (ring === null) return;
    this.take(ring);
    const { control } = ring;
    Atomics.store(control, ENDS_AWAKE, 0);
    // What came before that woke nobody.
    const more = Atomics.load(control, ENDS_WRITTEN) !== control[ENDS_READ] || Atomics.load(control, ENDS_LOST) !== 0;
    if (!more) return;
    Atomics.store(control, ENDS_AWAKE, 1);
    this.filled();
  }

  /** Empties the ring into the file. */
  private take({ worker, control, rows }: Ring): void {
    const epoch = epochOfClock();
    const written = Atomics.load(control, ENDS_WRITTEN);
    let read = control[ENDS_READ];
    let lines: string[] = [];
    let bytes = 0;
    while (read !== written) {
      const at = (read & (ENDS_ROWS - 1)) * FLOW_WORDS;
      const line = JSON.stringify(endedFlow(this.options.words, worker, rows, at, epoch));
      read = (read + 1) | 0;
      Atomics.store(control, ENDS_READ, read);
      bytes += line.length + 1;
      lines.push(line);
      if (bytes < CHUNK) continue;
      this.write(lines, lines.length);
      lines = [];
      bytes = 0;
    }
    this.missing += Atomics.exchange(control, ENDS_LOST, 0);
    if (lines.length > 0 || this.missing > 0) this.write(lines, lines.length);
  }

  /** `flows`: how many ends are in `lines`. */
  private write(lines: readonly string[], flows: number): void {
    const { missing } = this;
    const all = missing === 0 ? lines : [JSON.stringify({ time: Date.now(), lost: missing }), ...lines];
    const why = this.append(Buffer.from(`${all.join('\n')}\n`));
    if (why === null) {
      this.missing = 0;
      this.failing = false;
      return;
    }
    this.missing += flows;
    if (this.failing) return;
    this.failing = true;
    this.options.warn(`--flow-log ${this.options.path}: cannot write, ends of flows are lost: ${why}`);
  }

  /** Null, or why it cannot be. */
  private append(lines: Buffer): string | null {
    try {
      return this.file.append(lines) ? null : 'no space left on device';
    } catch (error) {
      return describeSystemError(error);
    }
  }
}
