/**
 * A million frames through the data plane's real loop, rings, stack, addon and sockets, TCP and UDP, both ways at once.
 * In the steady state nothing may be allocated, so nothing is ever collected; and code that V8 has compiled stays.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { REPO_ROOT } from '../support/world/paths';

const FRAMES = 1_000_000;
const PROGRAM = join(__dirname, '../support/dataplane/steady-state.ts');
const HOOK = join(REPO_ROOT, 'scripts/lib/ts-hook.cjs');
const V8_FLAGS = ['--allow-natives-syntax', '--trace-deopt', '--trace-gc'];

interface Moved {
  /** Objects that V8 keeps as hash tables. */
  readonly dictionaries: readonly string[];
  readonly frames: number;
  readonly datagrams: number;
  readonly up: number;
  readonly down: number;
  readonly foreign: number;
  readonly retransmits: number;
  readonly warmUpMs: number;
  readonly steadyMs: number;
}

/** What was moved, and what V8 said while it was: lines of deoptimised functions (with the reason) and of collections. */
function run(features: string, frames: number): { moved: Moved; deoptimised: string[]; collections: string[] } {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [...V8_FLAGS, '--require', HOOK, PROGRAM, String(frames), features],
    { encoding: 'utf8', timeout: 60_000 },
  );
  if (status !== 0) throw new Error(stderr);
  const events = stdout.split('\n').flatMap((line) => {
    const deopt = /^\[bailout \(kind: [\w-]+, reason: (.*?)\): begin\. deoptimizing \S+ <JSFunction (\S*)/.exec(line);
    // From Node 24 on V8 also calls it a bailout where a loop that runs goes on in better code: that is not of interest.
    if (deopt?.[1] === 'prepare for on stack replacement (OSR)') return [];
    if (deopt !== null) return [{ kind: 'deopt', text: `${deopt[2]}: ${deopt[1]}` }];
    return /\bms: (Scavenge|Mark-)/.test(line) ? [{ kind: 'collection', text: line }] : [];
  });
  const marks = events.flatMap(({ text }, i) => (text.startsWith('steadyStateMarker: ') ? [i] : []));
  // Also the proof that deoptimisations are seen at all, and collections as well (the warm-up makes some).
  if (marks.length !== 2) throw new Error(`${String(marks.length)} marks in:\n${stdout}`);
  expect(events.slice(0, marks[0]).some(({ kind }) => kind === 'collection')).toBe(true);
  const steady = events.slice(marks[0] + 1, marks[1]);
  const of = (kind: string): string[] => steady.filter((event) => event.kind === kind).map(({ text }) => text);
  const moved = JSON.parse(stderr.slice(stderr.lastIndexOf('{'))) as Moved;
  return { moved, deoptimised: of('deopt'), collections: of('collection') };
}

it.each([
  ['large segments to the guest', FRAMES, 'all'],
  ['segments of the MTU to the guest', 400_000, 'csum,guest_csum,mrg_rxbuf,indirect_desc,event_idx'],
])(
  '%s, %d frames: no collection, no hash table, and no function is compiled over and over',
  (_title, frames, features) => {
    const { moved, deoptimised, collections } = run(features, frames);
    console.info(
      `warm-up of ${String(frames / 5)} frames ${String(moved.warmUpMs)} ms, then ${String(moved.steadyMs)} ms`,
    );
    expect(moved.frames).toBeGreaterThanOrEqual(frames);
    expect(moved.datagrams).toBeGreaterThan(frames / 5);
    expect(moved.up).toBeGreaterThan(frames * 100);
    expect(moved.down).toBeGreaterThan(frames * 100);
    expect(moved.foreign).toBe(0);
    expect(moved.retransmits).toBe(0);
    expect(collections).toEqual([]);
    expect(moved.dictionaries).toEqual([]);
    // Usually none. A case that comes once in a million frames may still teach V8 something, but not the same thing twice.
    expect(deoptimised.filter((each, i) => deoptimised.indexOf(each) !== i)).toEqual([]);
    expect(deoptimised.length).toBeLessThanOrEqual(2);
  },
  120_000,
);
