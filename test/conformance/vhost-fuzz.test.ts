/**
 * Recorded traces with random damage. Whatever is said, the session ends as left or as a broken protocol (never as
 * our bug), gives everything back, and the next front-end is served.
 */
import fc from 'fast-check';
import type { Native } from '../../src/native';
import { loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import { LeakCheck } from '../support/vhost/leaks';
import { encode } from '../support/vhost/mock-front-end';
import { Descriptors, Rig, replay } from '../support/vhost/rig';
import type { FdKind, Step } from '../support/vhost/traces';
import * as t from '../support/vhost/traces';

/** Longer by TUBETTI_FUZZ_SECONDS; the limit of a test leaves room for the last run and the leak check. */
const SECONDS = Number(process.env.TUBETTI_FUZZ_SECONDS ?? '6');

let native: Native;

beforeAll(() => {
  native = loadNative();
});

/** A step as it goes out: its bytes, its descriptors, and where they are cut into several sends. */
interface Wire {
  readonly bytes: Uint8Array;
  readonly fds: readonly FdKind[];
  readonly cut: number;
}

interface Damage {
  readonly kind: 'drop' | 'twice' | 'swap' | 'byte' | 'word' | 'length' | 'fds' | 'noise' | 'cut' | 'request' | 'ack';
  readonly at: number;
  readonly offset: number;
  readonly value: number;
  readonly fds: readonly FdKind[];
}

const INTERESTING = [
  0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff,
];

const damage: fc.Arbitrary<Damage> = fc.record({
  kind: fc.constantFrom('drop', 'twice', 'swap', 'byte', 'word', 'length', 'fds', 'noise', 'cut', 'request', 'ack'),
  at: fc.nat(200),
  offset: fc.nat(80),
  value: fc.oneof(fc.constantFrom(...INTERESTING), fc.nat(0xffff_ffff)),
  fds: fc.array(fc.constantFrom<FdKind>('event', 'memory', 'socket', 'log'), { maxLength: 10 }),
});

function onWire(step: Step): Wire {
  return { bytes: encode(step.request, step.payload, { needReply: step.needReply }), fds: step.fds, cut: 0 };
}

function patched(bytes: Uint8Array, patch: (dv: DataView, length: number) => void): Uint8Array {
  const copy = Uint8Array.from(bytes);
  patch(new DataView(copy.buffer), copy.length);
  return copy;
}

function apply(wires: readonly Wire[], d: Damage): readonly Wire[] {
  if (wires.length === 0) return wires;
  const at = d.at % wires.length;
  const wire = wires[at];
  // A piece of noise may be shorter than a header.
  if ((d.kind === 'request' || d.kind === 'ack') && wire.bytes.length < 12) return wires;
  const replaced = (...by: Wire[]): Wire[] => [...wires.slice(0, at), ...by, ...wires.slice(at + 1)];
  switch (d.kind) {
    case 'drop':
      return replaced();
    case 'twice':
      return replaced(wire, wire);
    case 'swap': {
      const next = wires.at(at + 1) ?? wire;
      return next === wire ? wires : [...wires.slice(0, at), next, wire, ...wires.slice(at + 2)];
    }
    case 'byte':
      return replaced({ ...wire, bytes: patched(wire.bytes, (dv, n) => dv.setUint8(d.offset % n, d.value & 0xff)) });
    case 'word': {
      // Only in the payload, on a field's boundary: the header would end most runs at once.
      if (wire.bytes.length < 16) return wires;
      const words = (wire.bytes.length - 12) >> 2;
      return replaced({
        ...wire,
        bytes: patched(wire.bytes, (dv) => dv.setUint32(12 + 4 * (d.offset % words), d.value, true)),
      });
    }
    case 'length': {
      // A payload that is longer or shorter, with a header that agrees.
      const size = d.offset;
      const bytes = new Uint8Array(12 + size);
      bytes.set(wire.bytes.subarray(0, bytes.length));
      return replaced({ ...wire, bytes: patched(bytes, (dv) => dv.setUint32(8, size, true)) });
    }
    case 'fds':
      return replaced({ ...wire, fds: d.fds });
    case 'noise': {
      const bytes = new Uint8Array(d.offset + 1).fill(d.value & 0xff);
      return replaced({ bytes, fds: d.fds, cut: 0 }, wire);
    }
    case 'cut':
      return replaced({ ...wire, cut: 1 + (d.offset % wire.bytes.length) });
    case 'request':
      return replaced({ ...wire, bytes: patched(wire.bytes, (dv) => dv.setUint32(0, d.value % 48, true)) });
    case 'ack':
      return replaced({
        ...wire,
        bytes: patched(wire.bytes, (dv) => dv.setUint32(4, dv.getUint32(4, true) ^ 8, true)),
      });
  }
}

test(
  'mutated traces',
  async () => {
    const leaks = new LeakCheck(native);
    const rig = new Rig(native);
    rig.server.start();
    let runs = 0;
    const traces = Object.values(t.TRACES);
    try {
      await fc.assert(
        fc.asyncProperty(
          fc.constantFrom(...traces),
          fc.array(damage, { minLength: 1, maxLength: 6 }),
          fc.boolean(),
          async (trace, damages, patient) => {
            runs++;
            const wires = damages.reduce(apply, trace.map(onWire));
            const frontEnd = rig.connect();
            const fds = new Descriptors(frontEnd);
            for (const { bytes, fds: kinds, cut } of wires) {
              const now = kinds.map((kind) => fds.make(kind));
              if (cut > 0) {
                frontEnd.sendRaw(bytes.subarray(0, cut), now);
                if (patient) await new Promise((resolve) => setImmediate(resolve));
              }
              frontEnd.sendRaw(bytes.subarray(cut), cut > 0 ? [] : now);
            }
            if (patient) for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
            frontEnd.close();
            expect((await rig.sessionEnd()).reason).not.toBe('internal');
            expect(rig.device.running.size).toBe(0);

            const next = rig.connect();
            await replay(next, t.DPDK_22_11);
            await next.ask(p.VHOST_USER_GET_FEATURES);
            expect(rig.device.running.size).toBe(2);
            next.close();
            expect(await rig.sessionEnd()).toEqual({ reason: 'left' });
          },
        ),
        { numRuns: 100_000, interruptAfterTimeLimit: SECONDS * 1000, markInterruptAsFailure: false },
      );
    } finally {
      await rig.close();
    }
    expect(runs).toBeGreaterThan(10);
    await leaks.verify();
  },
  (SECONDS + 30) * 1000,
);
