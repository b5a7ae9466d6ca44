/** Datagrams of one kind of guest. */
import type { Guest } from '../support/rig/guest';
import type { GuestKind } from '../support/rig/image';
import { SERVICE_ARGS, prepareWorld, type DatagramCase, type DatagramStage } from './datagram-cases';
import { FAMILIES, bringUp } from './network-cases';
import { describeWith, itShowing, setUpBench, whyNotGuest, type Bench } from './support';

/** `questions`: see {@link DatagramStage}. */
export function describeDatagrams(
  kind: GuestKind,
  boot: (bench: Bench) => Promise<Guest>,
  questions: number,
  cases: readonly DatagramCase[],
  missing = whyNotGuest(kind),
): void {
  describeWith(`datagrams of a ${kind} guest`, missing, () => {
    let stage: DatagramStage | undefined;
    const theStage = (): DatagramStage => {
      if (stage === undefined) throw new Error('the guest did not boot');
      return stage;
    };
    const test = itShowing(
      () => theStage().bench,
      () => stage?.guest.process.tail(40) ?? '',
    );

    beforeAll(async () => {
      const bench = await setUpBench(SERVICE_ARGS);
      try {
        await prepareWorld(bench);
        const guest = await boot(bench);
        for (const family of FAMILIES) await bringUp(guest, family);
        stage = { bench, guest, questions };
      } catch (error) {
        await bench.destroy();
        throw error;
      }
    });

    afterAll(async () => {
      await stage?.guest.powerOff();
      await stage?.bench.destroy();
    });

    for (const { title, run } of cases) test(title, () => run(theStage()));
  });
}
