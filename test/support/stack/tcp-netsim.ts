/**
 * A transfer between a model guest TCP and a scripted host peer through the stack, over a link that loses, repeats,
 * delays and reorders frames, on a fake clock. Everything follows from one seed.
 */
import { FakeRandom } from './fake-random';
import { ModelTcp } from './model-tcp';
import type { FakeSocket } from './fake-host-io';
import { TcpRig, describe, guestFrame, parseFrame, pattern } from './tcp-rig';
import type { GuestSegment, Segment } from './tcp-rig';

export interface NetsimOptions {
  readonly seed: number;
  /** Probabilities, 0 … 1. */
  readonly loss: number;
  readonly duplicate: number;
  /** Most extra delay of a frame, ms. */
  readonly jitter: number;
  /** Largest transfer in each direction. */
  readonly maxBytes: number;
}

export interface NetsimResult {
  readonly description: string;
  readonly ok: boolean;
  readonly problem: string;
  readonly toGuest: number;
  readonly toHost: number;
  readonly simulatedMs: number;
  readonly modelRetransmits: number;
  readonly rig: TcpRig;
}

/** No transfer may take longer than this in simulated time. */
const LIMIT_MS = 3_600_000;

interface InFlight {
  readonly at: number;
  readonly order: number;
  readonly toStack: Uint8Array | null;
  readonly toModel: Segment | null;
}

export function runTransfer(o: NetsimOptions): NetsimResult {
  const random = new FakeRandom(o.seed);
  const below = (n: number): number => Math.floor(((random.u32() >>> 0) / 2 ** 32) * n);
  const chance = (p: number): boolean => (random.u32() >>> 0) / 2 ** 32 < p;
  const pick = <T>(...values: readonly T[]): T => values[below(values.length)];
  const size = (): number => pick(0, 1, below(100), below(3000), below(o.maxBytes), below(o.maxBytes));

  const v6 = chance(0.3);
  const fromHost = chance(0.5);
  const gso = chance(0.5);
  const peekOff = chance(0.5);
  const mss = pick(88, 200, 536, 1220, 1460, 1460, 8960, 65495);
  const mtu = pick(1500, 1500, 9000, 65520, 0);
  const ws = pick(null, 0, 3, 7, 14);
  const receiveBuffer = pick(below(200) + 1, below(4000) + 200, 16384, 65535, 262144);
  const rowSize = pick(64 + below(1500), 4096, 70_000);
  const buffers = pick(1_000_000, 1_000_000, 4 + below(40));
  const bufferSize = pick(1526, 4096, 70_000);
  const sndbuf = pick(2000 + below(4000), 16384, 87040, 262144);
  const wmemMax = pick(null, 8192, 212_992);
  const overhead = pick(1, 1, 1.3, 2.5);
  const toHost = pattern(size(), below(1000));
  const toGuest = pattern(size(), below(1000));
  const guestClosesFirst = chance(0.33);
  const hostWaitsForEof = chance(0.33);
  const description = JSON.stringify({
    ...o,
    v6,
    fromHost,
    gso,
    peekOff,
    mss,
    mtu,
    ws,
    receiveBuffer,
    rowSize,
    buffers,
    bufferSize,
    sndbuf,
    wmemMax,
    overhead,
    toHost: toHost.length,
    toGuest: toGuest.length,
    guestClosesFirst,
    hostWaitsForEof,
  });

  const rig = new TcpRig({
    seed: random.u32(),
    config: { tcpPeekOff: peekOff, mtu },
    port: { gsoTcp4: gso, gsoTcp6: gso, rowSize, buffers, bufferSize: Math.max(bufferSize, buffers < 100 ? 1526 : 0) },
    ...(fromHost ? { forward: [{ port: 8080, targetPort: 80 }] } : {}),
  });
  rig.host.sndbuf = sndbuf;
  rig.host.wmemMax = wmemMax;
  const model = new ModelTcp({ isn: random.u32(), mss, ws, receiveBuffer, data: toHost, probeWithData: chance(0.5) });
  const ends = v6
    ? { src: '2001:db8::10', dst: '2001:db8:1::7', sport: 40000, dport: 443 }
    : { src: '192.0.2.10', dst: '198.51.100.7', sport: 40000, dport: 443 };
  let reply = ends;

  let socket: FakeSocket | null = null;
  if (fromHost) {
    socket = rig.host.incoming(rig.listeners[0], v6 ? '2001:db8:1::7' : '198.51.100.7', 51000);
    reply = { ...ends, sport: 80, dport: 51000 };
  } else {
    rig.host.onConnect = (s): void => {
      socket ??= s;
      timers.push({
        at: rig.clock.nowMs + below(50),
        run: () => {
          if (s.state === 'connecting') s.accept();
        },
      });
    };
  }

  const timers: { at: number; run: () => void }[] = [];
  let link: InFlight[] = [];
  let order = 0;
  let hostWritten = 0;
  let hostClosed = false;
  const hostRead: Uint8Array[] = [];
  let hostReadBytes = 0;
  let problem = '';
  const start = rig.clock.nowMs;

  const ship = (toStack: Uint8Array | null, toModel: Segment | null): void => {
    if (chance(o.loss)) return;
    const copies = chance(o.duplicate) ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      link.push({ at: rig.clock.nowMs + 1 + below(o.jitter + 1), order: order++, toStack, toModel });
    }
  };
  const shipModel = (): void => {
    for (const s of model.output()) ship(guestFrame({ ...reply, ...s } satisfies GuestSegment), null);
  };
  const shipStack = (): void => {
    for (const f of rig.port.sentFrames()) ship(null, parseFrame(f.bytes, f.gsoType, f.gsoSize));
  };
  const hostActs = (): void => {
    const s = socket;
    if (s?.state !== 'connected') return;
    if (chance(0.7) && hostWritten < toGuest.length && s.receive.length < 262144) {
      const n = Math.min(toGuest.length - hostWritten, pick(1, below(2000) + 1, 65536, 262144));
      s.write(toGuest.subarray(hostWritten, hostWritten + n));
      hostWritten += n;
    }
    if (chance(0.7) && s.sent.length > 0) {
      const data = s.read(pick(1 + below(2000), 65536, Infinity));
      hostRead.push(data);
      hostReadBytes += data.length;
    }
    if (!hostClosed && hostWritten === toGuest.length && (!hostWaitsForEof || !guestClosesFirst || s.atEnd)) {
      hostClosed = true;
      s.close();
    }
  };
  const guestActs = (): void => {
    model.read(pick(1 + below(3000), 65536, 1 << 20));
    if (!model.closing && model.state === 'open' && (guestClosesFirst || model.eof || !hostWaitsForEof)) {
      model.closing = chance(0.5);
    }
    model.push(rig.clock.nowMs);
  };
  const hostDone = (): boolean => socket !== null && socket.atEnd && hostReadBytes >= toHost.length && hostClosed;

  if (!fromHost) model.connect(rig.clock.nowMs);
  let nextAct = start;
  for (;;) {
    const now = rig.clock.nowMs;
    if (now - start > LIMIT_MS) {
      problem = 'does not terminate';
      break;
    }
    if (model.state === 'reset') {
      problem = `the model was reset by ${model.resetBy}`;
      break;
    }
    if (model.finished && hostDone()) break;
    if (now >= nextAct) {
      hostActs();
      guestActs();
      nextAct = now + 1 + below(20);
      if (buffers < 1000 && rig.port.freeBuffers < buffers) rig.post(buffers - rig.port.freeBuffers);
    }
    for (const t of timers.splice(0)) {
      if (t.at <= now) t.run();
      else timers.push(t);
    }
    const due = link.filter((f) => f.at <= now).sort((a, b) => a.at - b.at || a.order - b.order);
    link = link.filter((f) => f.at > now);
    for (const f of due) {
      if (f.toStack !== null) {
        trace(now, '<', parseFrame(f.toStack));
        rig.port.inject(f.toStack);
      }
      if (f.toModel !== null) {
        trace(now, '   >', f.toModel);
        model.input(f.toModel, now);
      }
    }
    model.tick(now);
    rig.settle();
    shipModel();
    shipStack();
    const next = Math.min(
      nextAct,
      model.deadline,
      rig.stack.nextDeadline(),
      ...link.map((f) => f.at),
      ...timers.map((t) => t.at),
    );
    rig.clock.advance(Math.max(1, Math.ceil(next) - now));
  }
  const simulatedMs = rig.clock.nowMs - start;
  if (problem === '') {
    if (Buffer.compare(Buffer.concat(model.chunks), toGuest) !== 0) problem = 'bytes to the guest differ';
    else if (Buffer.compare(Buffer.concat(hostRead), toHost) !== 0) problem = 'bytes to the host differ';
  }
  if (problem === '') problem = drain(rig, model, reply);
  return {
    description,
    ok: problem === '',
    problem,
    toGuest: toGuest.length,
    toHost: toHost.length,
    simulatedMs,
    modelRetransmits: model.retransmits,
    rig,
  };
}

/** With TCP_TRACE set, what arrives at either end. */
function trace(now: number, arrow: string, s: Segment): void {
  if (process.env.TCP_TRACE !== undefined) process.stderr.write(`${String(now)} ${arrow} ${describe(s)}\n`);
}

/** After the transfer: a perfect link and a guest that still answers; every flow and descriptor must go. */
function drain(rig: TcpRig, model: ModelTcp, reply: Partial<GuestSegment>): string {
  model.state = 'done';
  rig.port.post(1000);
  for (let n = 0; n < 200; n++) {
    rig.wait(500);
    for (const f of rig.port.sentFrames()) model.input(parseFrame(f.bytes), rig.clock.nowMs);
    for (const s of model.output()) rig.port.inject(guestFrame({ ...reply, ...s } satisfies GuestSegment));
    rig.settle();
    if (rig.tcp.engine.table.count === 0) break;
  }
  if (rig.tcp.engine.table.count !== 0) return 'flows are left over';
  if (rig.tcp.engine.timers.count !== 0) return 'timers are left over';
  if (rig.host.openCount !== rig.listeners.length) return 'descriptors are left over';
  return '';
}
