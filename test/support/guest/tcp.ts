/**
 * The guest's TCP (RFC 9293): small, correct, fast enough to move hundreds of megabytes over a link that does not lose.
 *
 * What it leaves out: congestion control, SACK, timestamps, urgent data, keep-alive, a queue for segments out of order
 * (they are acknowledged again and counted). Lost segments are sent again, go-back-N, after `rtoMs` or three duplicate
 * acknowledgements. On a healthy link `stats.retransmits` stays 0, and tests say so.
 *
 * Acknowledgements are sent at the end of a batch of received frames (`flushAck`), one for each connection.
 */
import { ByteReader } from './byte-reader';
import { concat, be16, seqDiff } from './bytes';
import { ACK, FIN, PSH, RST, SYN, tcpHeader, type TcpSegment } from './packets';
import {
  LazyTimer,
  SendRing,
  TcpError,
  Waiters,
  type TcpEndpoints,
  type TcpHost,
  type TcpOptions,
  type TcpState,
  type TcpStats,
} from './tcp-types';

const NO_DATA = new Uint8Array(0);

export class TcpStream extends ByteReader implements TcpEndpoints {
  readonly localAddr: Uint8Array;
  readonly localPort: number;
  readonly remoteAddr: Uint8Array;
  readonly remotePort: number;
  state: TcpState;
  /** The peer's MSS, limited by ours: payload bytes of one segment on the wire. */
  mss: number;
  /** Settles when the connection is over in both directions, in whatever way. */
  readonly closed: Promise<void>;
  /** The error it ended with, if any. */
  error: TcpError | null = null;
  readonly stats: TcpStats = {
    segmentsSent: 0,
    segmentsReceived: 0,
    bytesSent: 0,
    bytesReceived: 0,
    retransmits: 0,
    duplicateAcks: 0,
    outOfOrder: 0,
    beyondWindow: 0,
    zeroWindowProbes: 0,
  };
  /** What the peer's SYN said. */
  peerMss = 0;
  peerWindowScale = -1;

  private readonly host: TcpHost;
  private readonly linkMss: number;
  private readonly ourMss: number;
  private readonly ourScale: number;
  private scaling = false;
  // Send side: the ring holds the bytes from una on, those up to nxt are out.
  private readonly ring: SendRing;
  private una: number;
  private nxt: number;
  private max: number;
  private sndWnd = 0;
  private wl1 = 0;
  private wl2 = 0;
  private ended = false;
  private finAcked = false;
  private dupAcks = 0;
  // Receive side.
  private rcvNxt = 0;
  private rcvAdv = 0;
  private readonly rcvBuffer: number;
  private eof = false;
  private readonly readable = new Waiters();
  private readonly writable = new Waiters();
  private readonly acked = new Waiters();
  private readonly openWaiters = new Waiters();
  /** Retransmission, window probes and TIME-WAIT: one at a time. */
  private readonly timer = new LazyTimer(() => this.expired());
  private readonly rtoMs: number;
  private backoff = 0;
  private readonly maxRetries: number;
  private readonly timeWaitMs: number;
  private settleClosed!: () => void;

  /** `linkMss`: what the link's MTU allows. `syn`: the peer's, if it opened the connection. */
  constructor(host: TcpHost, ends: TcpEndpoints, linkMss: number, options: TcpOptions, syn: TcpSegment | null) {
    super();
    this.host = host;
    this.localAddr = ends.localAddr;
    this.localPort = ends.localPort;
    this.remoteAddr = ends.remoteAddr;
    this.remotePort = ends.remotePort;
    this.linkMss = linkMss;
    this.ourMss = options.mss ?? linkMss;
    this.ourScale = options.windowScale === undefined ? 8 : (options.windowScale ?? -1);
    this.mss = Math.min(536, linkMss);
    this.ring = new SendRing(options.sendBuffer ?? 4 << 20);
    this.rcvBuffer = options.receiveBuffer ?? 4 << 20;
    this.rtoMs = options.rtoMs ?? 1000;
    this.maxRetries = options.maxRetries ?? 6;
    this.timeWaitMs = options.timeWaitMs ?? 200;
    const isn = (options.isn ?? Math.floor(Math.random() * 2 ** 32)) >>> 0;
    this.una = isn;
    this.nxt = (isn + 1) >>> 0;
    this.max = this.nxt;
    this.closed = new Promise((resolve) => (this.settleClosed = resolve));
    if (syn === null) {
      this.state = 'SYN_SENT';
    } else {
      this.state = 'SYN_RCVD';
      this.takeSyn(syn);
    }
    this.sendSyn();
    this.timer.start(this.rtoMs);
  }

  // ---- what a test uses

  /** Resolves when the connection is established; rejects with TcpError. */
  opened(): Promise<void> {
    if (this.error !== null) return Promise.reject(this.error);
    if (this.state !== 'SYN_SENT' && this.state !== 'SYN_RCVD') return Promise.resolve();
    return this.openWaiters.wait();
  }

  /** The next bytes, null at the end of the stream. Rejects after a reset, but first gives what came before it. */
  async read(): Promise<Uint8Array | null> {
    for (;;) {
      const chunk = this.take();
      if (chunk !== undefined) {
        this.windowOpened();
        return chunk;
      }
      if (this.eof) return null;
      if (this.error !== null) throw this.error;
      if (this.state === 'CLOSED') return null;
      await this.readable.wait();
    }
  }

  /** Bytes written and not acknowledged. */
  get unacknowledged(): number {
    return this.ring.length;
  }

  /** The peer's receive window, in bytes. */
  get peerWindow(): number {
    return this.sndWnd;
  }

  /** Resolves when all bytes are in the send buffer. */
  async write(data: Uint8Array): Promise<void> {
    let at = 0;
    while (at < data.length) {
      if (this.error !== null) throw this.error;
      if (this.ended || this.state === 'CLOSED') throw new TcpError('EPIPE', 'written after the end');
      const room = this.ring.capacity - this.ring.length;
      if (room === 0) {
        await this.writable.wait();
        continue;
      }
      const n = Math.min(room, data.length - at);
      this.ring.push(data.subarray(at, at + n));
      at += n;
      this.output();
    }
  }

  /** Resolves when the peer has acknowledged all bytes written. */
  async flush(): Promise<void> {
    while (this.ring.length > 0) {
      if (this.error !== null) throw this.error;
      await this.acked.wait();
    }
  }

  /** Sends FIN after all bytes. Resolves when the peer has acknowledged it; reading goes on. Need not be awaited. */
  end(): Promise<void> {
    if (!this.ended) {
      this.ended = true;
      this.output();
    }
    const done = this.untilFinAcked();
    done.catch(() => undefined);
    return done;
  }

  private async untilFinAcked(): Promise<void> {
    while (!this.finAcked) {
      if (this.error !== null) throw this.error;
      await this.acked.wait();
    }
  }

  /** Sends RST and forgets the connection. */
  reset(): void {
    if (this.state === 'CLOSED') return;
    this.emit(this.nxt, RST | ACK, NO_DATA);
    this.destroy(new TcpError('ECONNRESET', 'reset by this end'));
  }

  /** Forgets the connection without a word. */
  destroy(error: TcpError | null): void {
    if (this.state === 'CLOSED') return;
    this.state = 'CLOSED';
    this.error ??= error;
    this.timer.stop();
    this.host.remove(this);
    const failure = this.error ?? new TcpError('EPIPE', 'the connection is closed');
    for (const list of [this.openWaiters, this.writable, this.acked]) list.fail(failure);
    this.readable.wake(); // read() looks what is left
    this.settleClosed();
  }

  // ---- what the host calls

  /** A segment of this connection, its checksum verified. */
  receive(s: TcpSegment): void {
    this.stats.segmentsReceived++;
    if (this.state === 'CLOSED') return;
    if (this.state === 'SYN_SENT') {
      this.receiveInSynSent(s);
      return;
    }
    // RFC 9293 §3.10.7.4, first: acceptability.
    let { seq, data } = s;
    const length = data.length + ((s.flags & (SYN | FIN)) !== 0 ? 1 : 0);
    const before = seqDiff(this.rcvNxt, seq);
    if ((s.flags & RST) !== 0) {
      if (seqDiff(seq, this.rcvNxt) >= 0 && seqDiff(seq, this.rcvAdv) <= 0) this.peerReset();
      return;
    }
    if ((s.flags & SYN) !== 0) {
      if (this.state === 'SYN_RCVD' && seqDiff(seq, this.rcvNxt) === -1) this.sendSyn();
      else this.host.ackPending(this);
      return;
    }
    if ((s.flags & ACK) === 0) return;
    if (!this.takeAck(s)) return;
    if (length === 0) {
      if (before > 0) this.host.ackPending(this); // a keep-alive
      return;
    }
    this.host.ackPending(this);
    if (before > 0) {
      // Old bytes in front: a retransmission.
      if (before >= length) return;
      data = data.subarray(Math.min(before, data.length));
      seq = this.rcvNxt;
    }
    if (seqDiff(seq, this.rcvNxt) > 0) {
      this.stats.outOfOrder++;
      return;
    }
    this.takeData(data, (s.flags & FIN) !== 0);
  }

  /** Sends the acknowledgement owed. */
  flushAck(): void {
    if (this.state !== 'CLOSED' && this.state !== 'SYN_SENT') this.emit(this.nxt, ACK, NO_DATA);
  }

  // ---- inside

  private takeSyn(s: TcpSegment): void {
    this.peerMss = s.mss;
    this.peerWindowScale = s.windowScale;
    this.scaling = s.windowScale >= 0 && this.ourScale >= 0;
    this.mss = Math.min(this.linkMss, s.mss === 0 ? 536 : s.mss);
    this.rcvNxt = (s.seq + 1) >>> 0;
    this.rcvAdv = this.rcvNxt;
    this.sndWnd = s.window;
    this.wl1 = s.seq;
    this.wl2 = s.ack;
  }

  private receiveInSynSent(s: TcpSegment): void {
    const ackOk = (s.flags & ACK) !== 0 && s.ack === this.nxt;
    if ((s.flags & ACK) !== 0 && !ackOk) {
      if ((s.flags & RST) === 0) this.emit(s.ack, RST, NO_DATA);
      return;
    }
    if ((s.flags & RST) !== 0) {
      if (ackOk) this.destroy(new TcpError('ECONNREFUSED', 'connection refused'));
      return;
    }
    if ((s.flags & SYN) === 0 || !ackOk) return; // simultaneous open is left out
    this.takeSyn(s);
    this.una = s.ack;
    this.established();
    this.emit(this.nxt, ACK, NO_DATA);
    this.output();
  }

  private established(): void {
    this.state = 'ESTABLISHED';
    this.backoff = 0;
    this.timer.stop();
    this.openWaiters.wake();
  }

  private peerReset(): void {
    const refused = this.state === 'SYN_RCVD';
    this.destroy(new TcpError('ECONNRESET', refused ? 'reset during the handshake' : 'connection reset by peer'));
  }

  /** RFC 9293 §3.10.7.4, fifth. False if the segment goes no further. */
  private takeAck(s: TcpSegment): boolean {
    if (seqDiff(s.ack, this.max) > 0) {
      this.host.ackPending(this);
      return false;
    }
    if (this.state === 'SYN_RCVD') {
      if (seqDiff(s.ack, this.una) <= 0) return false;
      this.una = (this.una + 1) >>> 0;
      this.established();
    }
    const acked = seqDiff(s.ack, this.una);
    const window = s.window << (this.scaling ? this.peerWindowScale : 0);
    const duplicate = acked === 0 && s.data.length === 0 && window === this.sndWnd && (s.flags & FIN) === 0;
    if (acked > 0) {
      const bytes = Math.min(acked, this.ring.length);
      this.una = s.ack;
      if (seqDiff(this.nxt, this.una) < 0) this.nxt = this.una;
      this.ring.release(bytes);
      this.backoff = 0;
      this.dupAcks = 0;
      if (acked > bytes) this.finAcknowledged();
      if (seqDiff(this.max, this.una) === 0) this.timer.stop();
      else this.timer.start(this.rtoMs);
      this.writable.wake();
      this.acked.wake();
    } else if (duplicate && seqDiff(this.nxt, this.una) > 0) {
      this.stats.duplicateAcks++;
      if (++this.dupAcks === 3) this.goBack();
    }
    if (seqDiff(s.seq, this.wl1) > 0 || (s.seq === this.wl1 && seqDiff(s.ack, this.wl2) >= 0)) {
      this.sndWnd = window;
      this.wl1 = s.seq;
      this.wl2 = s.ack;
    }
    if (this.state === 'CLOSED') return false;
    this.output();
    return true;
  }

  private finAcknowledged(): void {
    this.finAcked = true;
    if (this.state === 'FIN_WAIT_1') this.state = 'FIN_WAIT_2';
    else if (this.state === 'CLOSING') this.timeWait();
    else if (this.state === 'LAST_ACK') {
      this.acked.wake();
      this.destroy(null);
    }
  }

  private takeData(data: Uint8Array, fin: boolean): void {
    const room = seqDiff(this.rcvAdv, this.rcvNxt);
    if (data.length > room) {
      // One byte beyond a closed window is a probe, not an offence.
      if (room > 0 || data.length > 1) this.stats.beyondWindow += data.length - room;
      data = data.subarray(0, room);
      fin = false;
    }
    if (data.length > 0 && !this.eof) {
      this.rcvNxt = (this.rcvNxt + data.length) >>> 0;
      this.stats.bytesReceived += data.length;
      this.received(data);
    }
    if (fin && !this.eof) {
      this.rcvNxt = (this.rcvNxt + 1) >>> 0;
      this.eof = true;
      if (this.state === 'ESTABLISHED') this.state = 'CLOSE_WAIT';
      else if (this.state === 'FIN_WAIT_1') this.state = 'CLOSING';
      else if (this.state === 'FIN_WAIT_2') this.timeWait();
    }
    this.readable.wake();
  }

  private timeWait(): void {
    this.state = 'TIME_WAIT';
    this.settleClosed();
    this.timer.start(this.timeWaitMs);
  }

  /** Sends what the window allows, then FIN. */
  private output(): void {
    if (this.state === 'SYN_SENT' || this.state === 'SYN_RCVD' || this.state === 'CLOSED') return;
    const largest = this.host.largestPayload(this, this.mss);
    for (;;) {
      const out = Math.min(seqDiff(this.nxt, this.una), this.ring.length);
      const unsent = this.ring.length - out;
      const n = Math.min(unsent, this.sndWnd - out, largest);
      if (n <= 0 || (n < unsent && n < this.mss && out > 0)) break;
      this.emit(this.nxt, ACK | (n === unsent ? PSH : 0), this.ring.peek(out, n));
      this.advance(n);
    }
    const out = seqDiff(this.nxt, this.una);
    if (this.ended && out === this.ring.length && !this.finAcked) {
      this.emit(this.nxt, ACK | FIN, NO_DATA);
      this.advance(1);
      if (this.state === 'ESTABLISHED') this.state = 'FIN_WAIT_1';
      else if (this.state === 'CLOSE_WAIT') this.state = 'LAST_ACK';
    }
    if (!this.timer.running && this.ring.length > 0) this.timer.start(this.rtoMs); // closed window: probe it
  }

  private advance(n: number): void {
    // The timer may still run for a window probe: it starts afresh with the first byte out.
    if (this.nxt === this.una || !this.timer.running) this.timer.start(this.rtoMs);
    this.nxt = (this.nxt + n) >>> 0;
    if (seqDiff(this.nxt, this.max) > 0) this.max = this.nxt;
  }

  private goBack(): void {
    this.stats.retransmits++;
    this.nxt = this.una;
    this.output();
  }

  private expired(): void {
    if (this.state === 'TIME_WAIT') {
      this.destroy(null);
      return;
    }
    const closedWindow = this.sndWnd === 0 && this.ring.length > 0 && this.nxt === this.una;
    if (++this.backoff > this.maxRetries && !closedWindow) {
      this.destroy(new TcpError('ETIMEDOUT', `no answer in state ${this.state}`));
      return;
    }
    if (this.state === 'SYN_SENT' || this.state === 'SYN_RCVD') {
      this.stats.retransmits++;
      this.sendSyn();
    } else if (closedWindow) {
      // RFC 9293 §3.8.6.1: one byte beyond the window.
      this.stats.zeroWindowProbes++;
      this.emit(this.una, ACK, this.ring.peek(0, 1));
      // Not counted as sent, so that it goes out again when the window opens; but it may be acknowledged.
      if (this.max === this.una) this.max = (this.una + 1) >>> 0;
    } else {
      this.goBack();
    }
    this.timer.start(this.rtoMs * 2 ** Math.min(this.backoff, 6));
  }

  /** Announces a larger window if it grew by two segments or half the buffer. */
  private windowOpened(): void {
    if (this.eof || this.state === 'CLOSED' || this.state === 'SYN_SENT') return;
    const grown = this.window() - seqDiff(this.rcvAdv, this.rcvNxt);
    if (grown >= Math.min(2 * this.mss, this.rcvBuffer >> 1)) this.emit(this.nxt, ACK, NO_DATA);
  }

  private window(): number {
    const scale = this.scaling ? this.ourScale : 0;
    return Math.min(0xffff, (this.rcvBuffer - this.unread) >> scale) << scale;
  }

  private sendSyn(): void {
    const options: Uint8Array[] = [];
    if (this.ourMss > 0) options.push(Uint8Array.of(2, 4), be16(this.ourMss));
    const scale = this.state === 'SYN_RCVD' ? this.scaling : this.ourScale >= 0;
    if (scale) options.push(Uint8Array.of(1, 3, 3, this.ourScale));
    const flags = this.state === 'SYN_RCVD' ? SYN | ACK : SYN;
    const isn = this.una;
    this.transmit(isn, flags, Math.min(0xffff, this.rcvBuffer), concat(...options), NO_DATA);
    this.rcvAdv = (this.rcvNxt + Math.min(0xffff, this.rcvBuffer)) >>> 0;
  }

  private emit(seq: number, flags: number, payload: Uint8Array): void {
    const window = (flags & RST) !== 0 ? 0 : this.window();
    // Never take back what was promised (RFC 9293 §3.8.6).
    const edge = (this.rcvNxt + window) >>> 0;
    if (seqDiff(edge, this.rcvAdv) > 0) this.rcvAdv = edge;
    const field = Math.max(0, seqDiff(this.rcvAdv, this.rcvNxt)) >>> (this.scaling ? this.ourScale : 0);
    this.transmit(seq, flags, Math.min(0xffff, field), NO_DATA, payload);
  }

  private transmit(seq: number, flags: number, window: number, options: Uint8Array, payload: Uint8Array): void {
    const header = tcpHeader(this, seq, (flags & ACK) !== 0 ? this.rcvNxt : 0, flags, window, options);
    this.stats.segmentsSent++;
    this.stats.bytesSent += payload.length;
    this.host.output(this, header, payload);
  }
}
