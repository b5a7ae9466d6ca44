/** TCP with real guests: complete, exact, and nothing lost. What is asked of each kind of guest is a matter of scale. */
import type { Guest } from '../support/world/guest';
import type { GuestKind } from '../support/world/image';
import { FAMILIES, bringUp } from './network-cases';
import { describeWith, setUpBench, whyNotGuest, withGuest, type Bench } from './support';
import { openDescriptors, settled } from './tcp-support';

/** How much a guest is given to do. */
export interface Scale {
  readonly bulkBytes: number;
  readonly parallel: number;
  readonly shortConnections: number;
  /** Bulk transfers for this long with every counter of the guest watched; 0: none. */
  readonly watchedMs: number;
}

/** A port of the host that reaches {@link GUEST_PORT}, and one whose service is not there. */
export const OPEN_PORT = 2222;
export const GUEST_PORT = 22;
export const CLOSED_PORT = 2223;
export const SERVICE_ARGS = ['-t', `${String(OPEN_PORT)}:${String(GUEST_PORT)},${String(CLOSED_PORT)}:23`];

export interface Stage {
  readonly bench: Bench;
  readonly guest: Guest;
  /** Descriptors of the service with the guest connected and no flow open. */
  readonly descriptors: number;
  readonly scale: Scale;
}

export interface TcpCase {
  readonly title: string;
  readonly run: (stage: Stage) => Promise<void>;
}

export function describeTcp(
  kind: GuestKind,
  boot: (bench: Bench) => Promise<Guest>,
  scale: Scale,
  cases: readonly TcpCase[],
): void {
  describeWith(`TCP of a ${kind} guest`, whyNotGuest(kind), () => {
    const { stage, test } = withGuest(
      () => setUpBench(SERVICE_ARGS),
      boot,
      (bench, guest) => stageFor(bench, guest, scale),
    );

    testTcp(test, stage, cases);
  });
}

/** Configures a guest that has just booted, and counts what is open before the first flow. */
export async function stageFor(bench: Bench, guest: Guest, scale: Scale): Promise<Stage> {
  for (const family of FAMILIES) await bringUp(guest, family);
  // What is opened once and stays (log, metrics) is open by then.
  await bench.service.metricsPage();
  return { bench, guest, scale, descriptors: openDescriptors(bench.service) };
}

/** A test for each case. After it no flow is left, nor a descriptor more than before. */
export function testTcp(
  test: (title: string, body: () => Promise<void>) => void,
  stage: () => Stage,
  cases: readonly TcpCase[],
): void {
  for (const { title, run } of cases) {
    test(title, async () => {
      const { bench, descriptors } = stage();
      await run(stage());
      await settled(bench.service, descriptors);
    });
  }
}
