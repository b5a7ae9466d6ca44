/**
 * The data plane's side of the control plane's commands when the guest's link is a stream: which socket carries the
 * link, and how that ended. What RingControl is for virtqueues. Cold: allocates.
 */
import type { MessagePort } from 'node:worker_threads';
import { getSystemErrorName } from 'node:util';
import type { Native } from '../../native';
import { KEY_DATAPLANE, KEY_KIND_SHIFT } from '../../stack/context';
import { C_STREAM_BLOCKED, C_STREAM_RESETS } from '../../stack/counters';
import type { Counters } from '../../stack/counters';
import { ECONNRESET, EPIPE } from '../../stack/kit/linux';
import { EPOLLIN, EPOLLOUT, EPOLLRDHUP } from '../../stack/ports';
import type { StreamEnd } from '../../stream/device';
import type { CommandMessage } from '../commands';
import { LinkControl } from '../link-control';
import type { LinkCommand } from '../link-control';
import { allocateBlock } from '../private-block';
import { INPUT_BLOCK, MAX_STREAM_FRAME, MIN_STREAM_FRAME, STREAM_BAD_LENGTH, STREAM_EOF } from './input';
import { OUTPUT_BLOCK } from './output';
import { StreamGuestPort } from './port';

export const KIND_STREAM = KEY_DATAPLANE + 2;

export class StreamControl extends LinkControl {
  readonly port: StreamGuestPort;
  /** The connection's generation: events of an earlier one are stale. */
  generation: number;
  /** A connection was made since the loop last looked. */
  opened: boolean;
  /** The other end was seen to be gone; what it sent before is still read. */
  hangup: boolean;

  private fd: number;
  private writeWatched: boolean;
  /** Probes to answer, by their numbers. */
  private readonly probes: number[];

  constructor(native: Native, messages: MessagePort, wakeFd: number, counters: Counters) {
    super(native, messages, wakeFd, counters);
    this.port = new StreamGuestPort(native, allocateBlock(native, INPUT_BLOCK), allocateBlock(native, OUTPUT_BLOCK));
    this.generation = 0;
    this.opened = false;
    this.hangup = false;
    this.fd = -1;
    this.writeWatched = false;
    this.probes = [];
  }

  /** A probe came: the next wait is a look, and then `answerProbes` is due. */
  get probing(): boolean {
    return this.probes.length > 0;
  }

  /** After a wait that began after the probe came: a client that had left by then is known to have left. */
  answerProbes(): void {
    if (this.hangup) this.finish(STREAM_EOF);
    for (const seq of this.probes) this.post({ kind: 'done', seq, value: this.fd >= 0 ? 1 : 0 });
    this.probes.length = 0;
  }

  /** Asks to be told when the socket takes more, or not any longer. */
  watchWritable(on: boolean): void {
    if (this.fd < 0 || this.writeWatched === on) return;
    this.writeWatched = on;
    if (on) this.counters[C_STREAM_BLOCKED]++;
    const events = EPOLLIN | EPOLLRDHUP | (on ? EPOLLOUT : 0);
    this.native.rewatch(this.fd, events, KIND_STREAM << KEY_KIND_SHIFT, this.generation);
  }

  /** The connection is over: `end` as in StreamInput and StreamOutput. Tells the control plane, which closes it. */
  finish(end: number): void {
    if (this.fd < 0) return;
    const how = this.describeEnd(end);
    this.close();
    this.post({ kind: 'streamEnded', end: how });
  }

  private describeEnd(end: number): StreamEnd {
    if (end === STREAM_BAD_LENGTH) {
      this.counters[C_STREAM_RESETS]++;
      const limits = `${MIN_STREAM_FRAME} to ${MAX_STREAM_FRAME}`;
      return { reason: 'protocol', detail: `frame length ${this.port.input.badLength} is out of range (${limits})` };
    }
    // These errors only say that the client is gone.
    if (end >= 0 || end === -EPIPE || end === -ECONNRESET) return { reason: 'left', detail: '' };
    return { reason: 'failed', detail: getSystemErrorName(end) };
  }

  /** A probe is answered after the next wait (`answerProbes`). */
  protected override take(message: CommandMessage): void {
    if (message.command.kind === 'streamProbe') this.probes.push(message.seq);
    else super.take(message);
  }

  protected executeOwn(command: LinkCommand): number {
    switch (command.kind) {
      case 'streamOpen':
        this.open(command.fd);
        return 0;
      case 'streamClose':
        this.close();
        return 0;
      default:
        return 0; // about virtqueues: there are none
    }
  }

  protected end(): void {
    this.close();
  }

  private open(fd: number): void {
    this.close();
    this.fd = fd;
    this.generation = (this.generation + 1) & 0x7fffffff;
    this.hangup = false;
    this.opened = true;
    this.port.start(fd);
    const watched = this.native.watch(fd, EPOLLIN | EPOLLRDHUP, KIND_STREAM << KEY_KIND_SHIFT, this.generation);
    if (watched < 0) {
      this.finish(watched);
      return;
    }
    // Flows are kept from one client to the next, as passt keeps them: a guest that knows nothing of them resets them.
    this.stack?.onLinkUp();
  }

  private close(): void {
    if (this.fd < 0) return;
    this.native.unwatch(this.fd);
    this.port.stop();
    this.fd = -1;
    this.writeWatched = false;
    this.hangup = false;
  }
}
