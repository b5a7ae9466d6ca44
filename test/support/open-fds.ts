/** How many descriptors a process has open. */
import { readdirSync } from 'node:fs';

const LOOKS = 6;
const APART_MS = 10;

/**
 * The least of a few looks: a scrape's connection that is just being closed, or a file of /proc that the watchdog reads, is
 * open for a moment, while what was forgotten stays open.
 */
export function openFdsOf(pid: number | 'self'): number {
  const nobody = new Int32Array(new SharedArrayBuffer(4));
  let least = Infinity;
  for (let look = 0; look < LOOKS; look++) {
    if (look > 0) Atomics.wait(nobody, 0, 0, APART_MS);
    least = Math.min(least, readdirSync(`/proc/${pid}/fd`).length);
  }
  return least;
}
