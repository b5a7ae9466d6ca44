/** Datagrams of one kind of guest. */
import type { Guest } from '../support/world/guest';
import type { GuestKind } from '../support/world/image';
import { SERVICE_ARGS, prepareWorld, type DatagramCase, type DatagramStage } from './datagram-cases';
import { FAMILIES, bringUp } from './network-cases';
import { describeWith, setUpBench, whyNotGuest, withGuest, type Bench } from './support';

/** `questions`: see {@link DatagramStage}. */
export function describeDatagrams(
  kind: GuestKind,
  boot: (bench: Bench) => Promise<Guest>,
  questions: number,
  cases: readonly DatagramCase[],
  missing = whyNotGuest(kind),
): void {
  describeWith(`datagrams of a ${kind} guest`, missing, () => {
    const { stage, test } = withGuest<DatagramStage>(
      () => setUpBench(SERVICE_ARGS),
      async (bench) => {
        await prepareWorld(bench);
        return boot(bench);
      },
      async (bench, guest) => {
        for (const family of FAMILIES) await bringUp(guest, family);
        return { bench, guest, questions };
      },
    );

    for (const { title, run } of cases) test(title, () => run(stage()));
  });
}
