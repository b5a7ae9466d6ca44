/**
 * A small guest TCP to test the stack against: one connection, correct rather than fast. It retransmits by go-back-N
 * on time-outs and the first segment on three duplicate acknowledgements, reassembles, closes its window when its
 * application is slow, probes closed windows, and half-closes. It shares no code with the stack.
 */
import type { GuestSegment, Segment } from './tcp-rig';

export interface ModelOptions {
  readonly isn: number;
  readonly mss: number;
  /** Window scale offered; null: no option. */
  readonly ws: number | null;
  readonly receiveBuffer: number;
  /** Bytes the application wants to send. */
  readonly data: Uint8Array;
  /** Probe closed windows with a byte of data rather than an empty segment below the window. */
  readonly probeWithData: boolean;
}

type State = 'closed' | 'synSent' | 'synRcvd' | 'open' | 'done' | 'reset';

const RTO_MS = 300;
const RTO_MAX_MS = 2000;

export class ModelTcp {
  state: State = 'closed';
  /** What the application has read. */
  readonly chunks: Uint8Array[] = [];
  receivedBytes = 0;
  /** The peer's FIN was reached. */
  eof = false;
  /** The application closed its side (FIN goes out when all is sent). */
  closing = false;
  finAcked = false;
  retransmits = 0;
  resetBy = '';

  private readonly o: ModelOptions;
  private una: number;
  private nxt: number;
  private max: number;
  private sndWnd = 0;
  private sndScale = 0;
  private rcvScale = 0;
  private wl1 = 0;
  private wl2 = 0;
  private peerMss = 536;
  private rcvNxt = 0;
  private rcvAdv = 0;
  private unread: Uint8Array[] = [];
  private unreadBytes = 0;
  private readonly early = new Map<number, { data: Uint8Array; fin: boolean }>();
  private rto = RTO_MS;
  private timerAt = Infinity;
  private dupAcks = 0;
  private out: GuestSegment[] = [];

  constructor(o: ModelOptions) {
    this.o = o;
    this.una = o.isn | 0;
    this.nxt = o.isn | 0;
    this.max = o.isn | 0;
  }

  connect(now: number): void {
    this.state = 'synSent';
    this.sendSyn('S', now);
  }

  /** Time of the next timer. */
  get deadline(): number {
    return this.timerAt;
  }

  /** Takes the segments to send. */
  output(): GuestSegment[] {
    const out = this.out;
    this.out = [];
    return out;
  }

  /** The application reads up to `max` bytes. */
  read(max: number): void {
    let left = max;
    while (left > 0 && this.unread.length > 0) {
      const head = this.unread[0];
      const n = Math.min(left, head.length);
      this.chunks.push(head.subarray(0, n));
      this.receivedBytes += n;
      this.unreadBytes -= n;
      left -= n;
      if (n === head.length) this.unread.shift();
      else this.unread[0] = head.subarray(n);
    }
    if (left < max && this.state === 'open') {
      const before = (this.rcvAdv - this.rcvNxt) | 0;
      // Window update when it opens by a segment or half the buffer.
      const step = Math.min(this.o.mss, this.o.receiveBuffer / 2);
      if (this.free() - before >= step) this.ack();
    }
  }

  /** Everything was sent, received, read and acknowledged, both ways. */
  get finished(): boolean {
    return this.eof && this.finAcked && this.unreadBytes === 0;
  }

  tick(now: number): void {
    if (now < this.timerAt) return;
    this.timerAt = Infinity;
    switch (this.state) {
      case 'synSent':
        this.sendSyn('S', now);
        return;
      case 'synRcvd':
        this.sendSyn('S.', now);
        return;
      case 'open':
        break;
      default:
        return;
    }
    this.rto = Math.min(this.rto * 2, RTO_MAX_MS);
    const outstanding = this.una !== this.max;
    if (this.sndWnd === 0 && (outstanding || this.toSend() > 0)) {
      // Also where it is the answer to a probe with data that was lost.
      this.probe(now);
    } else if (outstanding) {
      this.retransmits++;
      this.nxt = this.una;
      this.transmit(now, 1);
    }
  }

  // ---- segments in

  input(s: Segment, now: number): void {
    const syn = s.flags.includes('S');
    const ack = s.flags.includes('.');
    if (s.flags.includes('R')) {
      this.reset(s, ack);
      return;
    }
    switch (this.state) {
      case 'closed':
        if (syn && !ack) this.passive(s, now);
        return;
      case 'synSent':
        if (!syn || !ack) return;
        if (s.ack !== (this.o.isn + 1) >>> 0) {
          this.emit('R', s.ack);
          return;
        }
        this.learn(s);
        this.established(s);
        this.ack();
        this.transmit(now, Infinity);
        return;
      case 'synRcvd':
        if (syn) {
          this.sendSyn('S.', now);
          return;
        }
        if (!ack || s.ack !== (this.o.isn + 1) >>> 0) return;
        this.established(s);
        break;
      case 'open':
      case 'done':
        if (syn) {
          this.ack();
          return;
        }
        break;
      case 'reset':
        return;
    }
    this.data(s, now);
  }

  private reset(s: Segment, ack: boolean): void {
    if (this.state === 'synSent' && !(ack && s.ack === (this.o.isn + 1) >>> 0)) return;
    if (this.state === 'done' || this.state === 'closed' || this.state === 'reset') return;
    // Only where the next byte is expected (RFC 5961 §3.2), else challenge.
    if (this.state === 'open' && (s.seq | 0) !== this.rcvNxt) {
      this.ack();
      return;
    }
    this.resetBy = `${s.flags} in ${this.state}`;
    // TIME-WAIT: the other end may have forgotten the connection and answer an old duplicate so. Nothing is lost.
    this.state = this.eof && this.finAcked ? 'done' : 'reset';
    this.timerAt = Infinity;
  }

  private passive(s: Segment, now: number): void {
    this.state = 'synRcvd';
    this.learn(s);
    this.sendSyn('S.', now);
  }

  private learn(s: Segment): void {
    this.rcvNxt = (s.seq + 1) | 0;
    this.rcvAdv = this.rcvNxt;
    this.peerMss = Math.min(s.mss ?? 536, this.o.mss * 4);
    if (s.ws !== null && this.o.ws !== null) {
      this.sndScale = s.ws;
      this.rcvScale = this.o.ws;
    }
  }

  private established(s: Segment): void {
    const syn = s.flags.includes('S');
    this.state = 'open';
    this.una = (this.o.isn + 1) | 0;
    this.nxt = this.una;
    this.max = this.una;
    this.sndWnd = syn ? s.win : s.win << this.sndScale;
    this.wl1 = s.seq | 0;
    this.wl2 = s.ack | 0;
    this.timerAt = Infinity;
    this.rto = RTO_MS;
  }

  private data(s: Segment, now: number): void {
    const fin = s.flags.includes('F');
    const length = s.payload.length + (fin ? 1 : 0);
    const ahead = ((s.seq | 0) - this.rcvNxt) | 0;
    const window = (this.rcvAdv - this.rcvNxt) | 0;
    const last = ahead + length - 1;
    const ok =
      length === 0
        ? ahead === 0 || (ahead > 0 && ahead < window)
        : (ahead >= 0 && ahead < window) || (last >= 0 && ahead < window) || (s.payload.length === 0 && ahead === 0);
    if (!ok) {
      this.ack();
      return;
    }
    this.acknowledged(s, length, now);
    if (length > 0) this.accept(s, ahead, fin, window);
    this.transmit(now, Infinity);
  }

  private accept(s: Segment, ahead: number, fin: boolean, window: number): void {
    let data = s.payload;
    let at = ahead;
    if (at < 0) {
      data = data.subarray(Math.min(data.length, -at));
      at = 0;
    }
    if (at + data.length > window) {
      data = data.subarray(0, Math.max(0, window - at));
      fin = false;
    }
    const seq = (this.rcvNxt + at) | 0;
    const old = this.early.get(seq);
    if (old === undefined || old.data.length <= data.length) this.early.set(seq, { data, fin });
    this.assemble();
    this.ack();
  }

  private assemble(): void {
    for (let again = true; again;) {
      again = false;
      for (const [seq, e] of this.early) {
        const overlap = (this.rcvNxt - seq) | 0;
        if (overlap < 0) continue;
        this.early.delete(seq);
        if (overlap < e.data.length) {
          const fresh = e.data.subarray(overlap);
          this.unread.push(fresh);
          this.unreadBytes += fresh.length;
          this.rcvNxt = (this.rcvNxt + fresh.length) | 0;
          again = true;
        }
        if (e.fin && !this.eof && overlap <= e.data.length) {
          this.rcvNxt = (this.rcvNxt + 1) | 0;
          this.eof = true;
          again = true;
        }
      }
    }
  }

  private acknowledged(s: Segment, length: number, now: number): void {
    if (!s.flags.includes('.')) return;
    const ack = s.ack | 0;
    const window = s.win << this.sndScale;
    const progress = (ack - this.una) | 0;
    if (progress < 0 || ((ack - this.max) | 0) > 0) return;
    if (progress > 0) {
      this.una = ack;
      if (((ack - this.nxt) | 0) > 0) this.nxt = ack;
      this.dupAcks = 0;
      this.rto = RTO_MS;
      this.timerAt = this.una === this.max ? Infinity : now + this.rto;
      if (this.closing && ack === this.end()) this.finAcked = true;
    } else if (length === 0 && window === this.sndWnd && this.una !== this.max) {
      if (++this.dupAcks === 3) {
        const next = this.nxt;
        this.retransmits++;
        this.nxt = this.una;
        this.transmit(now, 1);
        if (((next - this.nxt) | 0) > 0) this.nxt = next;
      }
    }
    const newer = ((s.seq | 0) - this.wl1) | 0;
    if (newer > 0 || (newer === 0 && ((ack - this.wl2) | 0) >= 0)) {
      if (this.sndWnd === 0 && window > 0) this.nxt = this.una;
      this.sndWnd = window;
      this.wl1 = s.seq | 0;
      this.wl2 = ack;
    }
  }

  // ---- segments out

  /** Sequence number after the FIN. */
  private end(): number {
    return (this.o.isn + 1 + this.o.data.length + 1) | 0;
  }

  private toSend(): number {
    const end = this.closing ? this.end() : (this.end() - 1) | 0;
    return (end - this.nxt) | 0;
  }

  /** The application may close, or an acknowledgement came: send what goes. */
  push(now: number): void {
    if (this.state === 'open') this.transmit(now, Infinity);
  }

  private transmit(now: number, most: number): void {
    for (let n = 0; n < most; n++) {
      const room = (this.una + this.sndWnd - this.nxt) | 0;
      const offset = (this.nxt - (this.o.isn + 1)) | 0;
      const left = this.o.data.length - offset;
      const fin = this.closing && left >= 0;
      if (room <= 0 || (left <= 0 && !(fin && this.toSend() > 0))) break;
      const len = Math.max(0, Math.min(left, room, this.peerMss, this.o.mss * 4));
      const last = fin && len === left && room > len;
      this.emit(last ? 'FP.' : 'P.', this.nxt, this.o.data.subarray(offset, offset + len));
      this.nxt = (this.nxt + len + (last ? 1 : 0)) | 0;
      if (((this.nxt - this.max) | 0) > 0) this.max = this.nxt;
      if (this.timerAt === Infinity) this.timerAt = now + this.rto;
    }
    const waiting = this.toSend() > 0 && this.una === this.max;
    if (waiting && this.timerAt === Infinity) this.timerAt = now + this.rto;
  }

  private probe(now: number): void {
    const offset = (this.una - (this.o.isn + 1)) | 0;
    if (this.o.probeWithData && offset < this.o.data.length) {
      this.emit('.', this.una, this.o.data.subarray(offset, offset + 1));
      if (((this.una + 1 - this.max) | 0) > 0) this.max = (this.una + 1) | 0;
    } else {
      this.emit('.', (this.una - 1) | 0);
    }
    this.timerAt = now + this.rto;
  }

  private free(): number {
    const used = this.unreadBytes;
    return Math.max(0, this.o.receiveBuffer - used);
  }

  /** Window field; the right edge never moves left. */
  private window(syn: boolean): number {
    const scale = syn ? 0 : this.rcvScale;
    const want = (this.rcvNxt + this.free()) | 0;
    // No silly windows.
    const step = Math.min(this.o.mss, Math.ceil(this.o.receiveBuffer / 2));
    if (((want - this.rcvAdv) | 0) >= step) this.rcvAdv = want;
    const open = Math.max(0, (this.rcvAdv - this.rcvNxt) | 0);
    const field = Math.min(65535, (open + (1 << scale) - 1) >>> scale);
    const edge = (this.rcvNxt + (field << scale)) | 0;
    if (((edge - this.rcvAdv) | 0) > 0) this.rcvAdv = edge;
    return field;
  }

  private ack(): void {
    this.emit('.', this.max);
  }

  private sendSyn(flags: string, now: number): void {
    const win = this.window(true);
    this.out.push({
      flags,
      seq: this.o.isn >>> 0,
      ack: flags === 'S' ? 0 : this.rcvNxt >>> 0,
      win: flags === 'S' ? Math.min(65535, this.o.receiveBuffer) : win,
      mss: this.o.mss,
      ...(this.o.ws === null ? {} : { ws: this.o.ws }),
    });
    this.max = (this.o.isn + 1) | 0;
    this.nxt = this.max;
    this.rto = Math.min(this.rto * 2, RTO_MAX_MS);
    this.timerAt = now + this.rto;
  }

  private emit(flags: string, seq: number, payload?: Uint8Array): void {
    this.out.push({
      flags,
      seq: seq >>> 0,
      ack: flags.includes('.') ? this.rcvNxt >>> 0 : 0,
      win: this.window(false),
      ...(payload === undefined ? {} : { payload }),
    });
  }
}
