/**
 * Recorded traces with random damage. Whatever is said, the session ends as left or as a broken protocol (never as
 * our bug), gives everything back, and the next front-end is served.
 */
import fc from 'fast-check';
import type { Native } from '../../src/native';
import { loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import { DAMAGE_KINDS, INTERESTING, apply, onWire, type Damage } from '../support/vhost/damage';
import { LeakCheck } from '../support/vhost/leaks';
import { Descriptors, Rig, replay } from '../support/vhost/rig';
import type { FdKind } from '../support/vhost/traces';
import * as t from '../support/vhost/traces';

/** Longer by TUBETTI_FUZZ_SECONDS; the limit of a test leaves room for the last run and the leak check. */
const SECONDS = Number(process.env.TUBETTI_FUZZ_SECONDS ?? '6');

let native: Native;

beforeAll(() => {
  native = loadNative();
});

const damage: fc.Arbitrary<Damage> = fc.record({
  kind: fc.constantFrom(...DAMAGE_KINDS),
  at: fc.nat(200),
  offset: fc.nat(80),
  value: fc.oneof(fc.constantFrom(...INTERESTING), fc.nat(0xffff_ffff)),
  fds: fc.array(fc.constantFrom<FdKind>('event', 'memory', 'socket', 'log'), { maxLength: 10 }),
});

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
