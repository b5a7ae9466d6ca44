/** One round at one MTU: all back-ends side by side, each with a fresh process and a fresh guest. */
import type { Case, Family } from './cases';
import { Contender, needsGuest, type Planned, type RoundContext } from './contender';
import type { BackendSpec, RunOptions } from './options';

/** The cells measured at one MTU: cases without a matrix belong to the first MTU and the first family. */
export function planFor({ guest, cases, mtus, families }: RunOptions, mtu: number): Planned[] {
  return cases.flatMap((each) => {
    if (each.matrix !== true && mtu !== mtus[0]) return [];
    const wanted: readonly Family[] = each.matrix === true ? families : families.slice(0, 1);
    return wanted.map((family) => ({ case: each, cell: { case: each.name, guest, mtu, family } }));
  });
}

/**
 * Every cell is measured with all back-ends one right after the other: a machine whose speed changes by the minute is
 * then about the same for all of them. The guests that wait meanwhile are idle. What cannot be measured becomes a sample
 * that says why.
 */
export async function runRound(specs: readonly BackendSpec[], context: RoundContext): Promise<void> {
  const plan = planFor(context.run, context.mtu);
  const contenders = specs.map((spec) => new Contender(spec, context, plan));
  const alone = plan.filter((each) => !needsGuest(each.case));
  const apart = plan.filter((each) => leavesMuch(each.case));
  const together = plan.filter((each) => !alone.includes(each) && !apart.includes(each));
  try {
    await inTurns(alone, contenders, context.round);
    for (const each of contenders) await each.prepare();
    await inTurns(together, contenders, context.round);
    for (const contender of inTurn(contenders, context.round)) {
      for (const each of apart) await contender.measure(each);
      await contender.close();
    }
  } finally {
    for (const each of contenders) await each.close();
  }
}

/** What stays open until the guest ends: with several guests at once the far end would be out of descriptors. */
function leavesMuch({ kind }: Case): boolean {
  return kind === 'idle';
}

async function inTurns(plan: readonly Planned[], contenders: readonly Contender[], round: number): Promise<void> {
  for (const [index, each] of plan.entries()) {
    for (const contender of inTurn(contenders, round + index)) await contender.measure(each);
  }
}

/** Another begins each time, so that none always has the machine as another left it. */
function inTurn<T>(all: readonly T[], turn: number): T[] {
  const first = turn % all.length;
  return [...all.slice(first), ...all.slice(0, first)];
}
