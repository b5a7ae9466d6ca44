/**
 * Whole transfers through the stack over bad links: every byte arrives, in order, in both directions, whatever is lost,
 * repeated or reordered; every transfer ends, and leaves nothing behind. The seed of a failure is in its message:
 * TCP_SEED=n runs that one alone; PROPERTY_TIMES=n makes n times as many transfers.
 */
import { runTransfer } from '../support/stack/tcp-netsim';

const LINKS = [
  { name: 'perfect', loss: 0, duplicate: 0, jitter: 0, maxBytes: 300_000, runs: 100 },
  { name: 'reordering', loss: 0, duplicate: 0.02, jitter: 8, maxBytes: 60_000, runs: 60 },
  { name: 'lossy', loss: 0.03, duplicate: 0.02, jitter: 3, maxBytes: 40_000, runs: 80 },
  { name: 'awful', loss: 0.1, duplicate: 0.1, jitter: 10, maxBytes: 15_000, runs: 80 },
];

const only = process.env.TCP_SEED;
const times = Number(process.env.PROPERTY_TIMES ?? 1);

describe.each(LINKS)('$name link', ({ runs: once, ...link }) => {
  const runs = once * times;
  test(
    `${String(runs)} transfers`,
    () => {
      const base = 1 + LINKS.findIndex((l) => l.name === link.name) * 1_000_000;
      const seeds = only === undefined ? Array.from({ length: runs }, (_, i) => base + i) : [Number(only)];
      for (const seed of seeds) {
        const r = runTransfer({ seed, ...link });
        if (!r.ok) throw new Error(`seed ${String(seed)}: ${r.problem}: ${r.description}`);
      }
    },
    120_000 * times,
  );
});
