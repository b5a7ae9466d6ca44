/**
 * A guest that sends anything, peers that do anything, at any time: nothing throws, nothing spins, invariants hold, and
 * a reset of the guest leaves nothing behind. TCP_SEED=n runs one seed alone, PROPERTY_TIMES=n n times as many.
 */
import {
  ST_CONNECTING,
  ST_FREE,
  ST_OPEN,
  ST_RESET,
  ST_SYN_RCVD,
  ST_SYN_SENT,
  ST_TIME_WAIT,
  TIMERS,
} from '../../src/stack/tcp/flow';
import { C_FLOWS_TCP } from '../../src/stack/counters';
import type { FakeSocket } from '../support/stack/fake-host-io';
import { FakeRandom } from '../support/stack/fake-random';
import { TcpRig, guestFrame } from '../support/stack/tcp-rig';
import type { GuestSegment } from '../support/stack/tcp-rig';

/** `expect` is too slow for what is asked a million times. */
function must(ok: boolean, what: string): void {
  if (!ok) throw new Error(what);
}

function check(rig: TcpRig): void {
  const t = rig.tcp.engine;
  const waits = (f: number): boolean => t.ready.has(f) || t.light.has(f);
  let open = 0;
  let descriptors = rig.listeners.length;
  let used = 0;
  for (let f = 0; f < t.table.capacity; f++) {
    const state = t.state[f];
    if (state === ST_FREE) {
      must(t.fd[f] === -1, 'free slot with a descriptor');
      continue;
    }
    used++;
    if (state !== ST_TIME_WAIT) open++;
    if (t.fd[f] >= 0) descriptors++;
    must(t.fd[f] >= 0 === [ST_CONNECTING, ST_SYN_SENT, ST_SYN_RCVD, ST_OPEN].includes(state), 'descriptor by state');
    must(state !== ST_RESET || waits(f), 'an RST that nobody will send');
    if (state !== ST_OPEN) continue;
    must(((t.sndNxt[f] - t.sndUna[f]) | 0) >= 0, 'order of sequence numbers');
    must(((t.sndMax[f] - t.sndNxt[f]) | 0) >= 0, 'order of sequence numbers');
    must(((t.sndUna[f] - t.sockSeq[f]) | 0) >= 0, 'order of sequence numbers');
    must(((t.rcvAdv[f] - t.rcvNxt[f]) | 0) >= 0, 'order of sequence numbers');
    // Whatever is outstanding has a timer that will see to it, or waits for a receive buffer.
    if (t.sndMax[f] !== t.sndUna[f]) must(t.timers.isSet(TIMERS * f) || waits(f), 'outstanding without a timer');
  }
  must(t.table.count === used, 'slots in use');
  must(rig.counter(C_FLOWS_TCP) === open, 'gauge of flows');
  must(rig.host.openCount === descriptors, 'open descriptors');
  must(t.touched.length === 0 && t.gathered.flow === -1, 'work left from a batch');
}

function run(seed: number): void {
  const random = new FakeRandom(seed);
  const below = (n: number): number => Math.floor(((random.u32() >>> 0) / 2 ** 32) * n);
  const pick = <T>(...values: readonly T[]): T => values[below(values.length)];
  const rig = new TcpRig({
    seed,
    config: { tcpPeekOff: below(2) === 0, maxTcpFlows: pick(1, 2, 5, 20), mtu: pick(0, 1280, 1500, 65520) },
    port: { gsoTcp4: below(2) === 0, rowSize: pick(10, 20, 100, 70_000), bufferSize: pick(200, 1600, 70_000) },
    forward: [{ port: 80 }],
  });
  rig.host.sndbuf = pick(10, 5000, 200_000);
  rig.host.maxOpen = pick(3, 1000);
  const peers: FakeSocket[] = [];
  rig.host.onConnect = (s): void => void peers.push(s);
  let last = { seq: 0, ack: 0 };
  for (let step = 0; step < 80; step++) {
    switch (below(8)) {
      case 0: {
        const s = rig.host.incoming(rig.listeners[0], '203.0.113.5', 50000 + below(3));
        peers.push(s);
        break;
      }
      case 1:
        rig.port.freeBuffers = pick(0, 1, 3, 100_000);
        rig.post(0);
        break;
      case 2:
        rig.wait(pick(0, 5, 300, 3000, 70_000));
        break;
      case 3:
      case 4: {
        const s = peers.length > 0 ? pick(...peers) : undefined;
        if (s?.ending !== 'open') break;
        if (s.state === 'connecting') {
          if (below(4) === 0) s.refuse();
          else s.accept();
        } else if (s.state === 'connected' && rig.host.all.includes(s)) {
          const act = below(8);
          if (act < 3) s.write(Buffer.alloc(below(pick(10, 5000, 100_000))));
          else if (act < 5) s.read(below(100_000));
          else if (act === 5) s.close();
          else if (act === 6) s.writeUrgent(1);
          else s.reset();
        }
        break;
      }
      default:
        for (let n = below(12); n > 0; n--) rig.port.inject(guestFrame(anything()), { csumPartial: below(2) === 0 });
        break;
    }
    rig.settle();
    for (const s of rig.sent()) if (below(2) === 0) last = { seq: s.ack, ack: s.seq + s.payload.length };
    check(rig);
  }
  rig.stack.reset();
  check(rig);
  expect(rig.tcp.engine.table.count).toBe(0);
  expect(rig.tcp.engine.timers.count).toBe(0);

  function anything(): GuestSegment {
    const flags = pick(
      'S',
      'S',
      '.',
      '.',
      '.',
      'P.',
      'P.',
      'F.',
      'FP.',
      'R',
      'R.',
      'S.',
      'SF',
      'PU.',
      '',
      'SR.',
      'FSRPU.',
    );
    const off = (v: number): number => (v + pick(0, 0, 0, 0, 1, -1, below(3000), -below(3000), random.u32())) >>> 0;
    const known = rig.tcp.engine;
    const f = below(known.table.capacity);
    const real = below(2) === 0 && known.state[f] !== ST_FREE;
    return {
      flags,
      sport: pick(80, 1000, 1001),
      dport: pick(80, 50000, 50001, 50002),
      dst: pick('198.51.100.7', '203.0.113.5', '203.0.113.5'),
      seq: off(real ? known.rcvNxt[f] : last.seq),
      ack: off(real ? pick(known.sndMax[f], known.sndUna[f]) : last.ack),
      win: pick(0, 1, 100, 65535, below(65536)),
      urgent: below(100),
      ...(below(3) === 0 ? { mss: pick(0, 1, 100, 1460, 65535) } : {}),
      ...(below(3) === 0 ? { ws: below(256) } : {}),
      ...(below(8) === 0 ? { options: Uint8Array.from({ length: below(38) }, () => below(256)) } : {}),
      ...(below(20) === 0 ? { dataOffset: below(16) } : {}),
      badChecksum: below(20) === 0,
      payload: new Uint8Array(below(pick(1, 2, 1500, 9000))),
    };
  }
}

const only = process.env.TCP_SEED;
const runs = 250 * Number(process.env.PROPERTY_TIMES ?? 1);

test('hostile guests and peers', () => {
  const seeds = only === undefined ? Array.from({ length: runs }, (_, i) => 1 + i) : [Number(only)];
  for (const seed of seeds) {
    try {
      run(seed);
    } catch (e) {
      throw new Error(`seed ${String(seed)}`, { cause: e });
    }
  }
}, 120_000);
