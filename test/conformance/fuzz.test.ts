/** The fuzzer of the running service (test/fuzz), for a moment: `npm run fuzz -- --minutes N` runs it longer. */
import { describeWith } from '../e2e/support';
import { whyNoNamespaces } from '../support/world/host-world';
import { fuzz } from '../fuzz/fuzz';
import { HOSTILE } from '../fuzz/sequences';

const SEQUENCES_OF_EACH = 4;

describeWith('hostile front-ends and guests', whyNoNamespaces(), () => {
  test('nothing they do ends the service, keeps the next guest waiting or is left behind', async () => {
    const kinds = Object.keys(HOSTILE);
    const seed = Date.now() % 2 ** 31;
    const sequences = kinds.length * SEQUENCES_OF_EACH;
    const report = await fuzz({ minutes: 2, seed, kinds, sequences, log: () => undefined });
    expect(report.tally.finds).toEqual([]);
    // None of the kinds may have come to nothing.
    for (const count of Object.values(report.tally.inputs)) expect(count).toBeGreaterThan(500);
  }, 180_000);
});
