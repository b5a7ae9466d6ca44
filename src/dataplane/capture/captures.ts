/**
 * Captures that begin and end while the data plane runs: the guest's port is a capturing one while there is any, and the bare
 * one while there is none, so that they cost nothing then. Cold: runs once a capture.
 */
import type { Native } from '../../native';
import { KEY_DATAPLANE, KEY_KIND_SHIFT } from '../../stack/context';
import type { Counters } from '../../stack/counters';
import { ECONNRESET, EPIPE } from '../../stack/kit/linux';
import { EPOLLERR, EPOLLET, EPOLLHUP, EPOLLOUT } from '../../stack/ports';
import type { GuestPort } from '../../stack/ports';
import { SNAPLEN } from '../../pcap';
import { CAPTURE_COUNTS, type CaptureEnd, type CaptureStart } from '../commands';
import { allocateBlock, type PrivateBlock } from '../private-block';
import { CAPTURE_BLOCK, CaptureSink, SINK_DONE } from './capture-sink';
import { type CaptureIo, CapturingPort } from './capturing-port';

export const KIND_CAPTURE = KEY_DATAPLANE + 4;

type CapturesIo = CaptureIo &
  Pick<
    Native,
    'write' | 'realTimeUs' | 'fileSize' | 'ftruncate' | 'allocRegion' | 'regionBuffer' | 'watch' | 'unwatch'
  >;

interface Running {
  readonly id: number;
  readonly fd: number;
  readonly sink: CaptureSink;
}

export class Captures {
  private readonly native: CapturesIo;
  private readonly counters: Counters;
  private readonly bare: GuestPort;
  private readonly capturing: CapturingPort;
  /** Has `port` be the guest's from now on. */
  private readonly use: (port: GuestPort) => void;
  private readonly ended: (id: number, end: CaptureEnd) => void;
  /** That of `--pcap`, which lasts as long as the data plane. */
  private readonly kept: CaptureSink | null;
  private running: readonly Running[] = [];
  /** Blocks of captures that are over: regions that captures have used are used again. */
  private readonly spare: PrivateBlock[] = [];

  /** `kept`: the file that gets all frames from the beginning on, and who is told (a positive errno) if that fails; null: none. */
  constructor(
    native: CapturesIo,
    counters: Counters,
    port: GuestPort,
    kept: { readonly fd: number; readonly failed: (errno: number) => void } | null,
    heard: {
      readonly use: (port: GuestPort) => void;
      readonly ended: (id: number, end: CaptureEnd) => void;
    },
  ) {
    this.native = native;
    this.counters = counters;
    this.bare = port;
    this.use = heard.use;
    this.ended = heard.ended;
    this.kept = kept === null ? null : this.keptSink(kept.fd, kept.failed);
    this.capturing = new CapturingPort(port, native, this.sinks());
  }

  /** What the stack begins with. */
  get port(): GuestPort {
    return this.kept === null ? this.bare : this.capturing;
  }

  /** Between two frames. False: there is no memory or watch for it. */
  start({ id, fd, snap, frames, bytes, head, counts }: CaptureStart): boolean {
    const block = this.spare.pop() ?? this.newBlock();
    if (block === null) return false;
    const setup = {
      fd,
      snap,
      frames: frames ?? Infinity,
      bytes: bytes ?? Infinity,
      head,
      counts: new Float64Array(counts),
    };
    const sink = new CaptureSink(this.native, this.counters, block, setup, (end) => {
      this.ended(id, end === SINK_DONE ? 'done' : end === EPIPE || end === ECONNRESET ? 'left' : 'failed');
    });
    const watched = this.native.watch(fd, EPOLLOUT | EPOLLET, KIND_CAPTURE << KEY_KIND_SHIFT, id);
    if (watched < 0) {
      this.spare.push(block);
      return false;
    }
    sink.watched = true;
    this.running = [...this.running, { id, fd, sink }];
    this.change();
    sink.write();
    return true;
  }

  /** Between two frames. True: its descriptor is not used any more. `now`: what waits is not written. */
  stop(id: number, now: boolean): boolean {
    const one = this.running.find((each) => each.id === id);
    if (one === undefined) return true;
    if (!now) {
      one.sink.stop();
      return false;
    }
    if (!one.sink.isOver) one.sink.write();
    this.native.unwatch(one.fd);
    this.spare.push(one.sink.block);
    this.running = this.running.filter((each) => each !== one);
    this.change();
    return true;
  }

  /** The data plane ends: what descriptors take at once is written. */
  end(): void {
    for (const { sink } of this.running) sink.stop();
  }

  /** The client of capture `id` can be written to, or has left. */
  onEvent(id: number, events: number): void {
    const one = this.running.find((each) => each.id === id);
    if (one === undefined) return;
    if ((events & (EPOLLHUP | EPOLLERR)) !== 0) one.sink.fail(EPIPE);
    else one.sink.writable();
  }

  private sinks(): readonly CaptureSink[] {
    return [...(this.kept === null ? [] : [this.kept]), ...this.running.map(({ sink }) => sink)];
  }

  private change(): void {
    this.capturing.sinks = this.sinks();
    this.capturing.forget();
    this.use(this.capturing.sinks.length > 0 ? this.capturing : this.bare);
  }

  private newBlock(): PrivateBlock | null {
    try {
      return allocateBlock(this.native, CAPTURE_BLOCK);
    } catch {
      return null;
    }
  }

  private keptSink(fd: number, failed: (errno: number) => void): CaptureSink {
    const all = { snap: SNAPLEN, frames: Infinity, bytes: Infinity };
    const setup = { fd, ...all, head: new Uint8Array(0), counts: new Float64Array(CAPTURE_COUNTS) };
    return new CaptureSink(this.native, this.counters, allocateBlock(this.native, CAPTURE_BLOCK), setup, failed);
  }
}
