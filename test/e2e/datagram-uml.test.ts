import type { Guest } from '../support/rig/guest';
import { bootUml } from '../support/rig/uml';
import { DATAGRAM_CASES, prepareWorld } from './datagram-cases';
import { FAMILIES, bringUp } from './network-cases';
import { describeWith, itShowing, setUpBench, whyNotGuest, type Bench } from './support';

jest.setTimeout(300_000);

describeWith('datagrams of a uml guest', whyNotGuest('uml'), () => {
  let bench: Bench | undefined;
  let guest: Guest | undefined;
  const stage = (): { bench: Bench; guest: Guest } => {
    if (bench === undefined || guest === undefined) throw new Error('the guest did not boot');
    return { bench, guest };
  };
  const test = itShowing(
    () => stage().bench,
    () => guest?.process.tail(40) ?? '',
  );

  beforeAll(async () => {
    bench = await setUpBench(['-m', '1500']);
    await prepareWorld(bench);
    guest = await bootUml({ socketPath: bench.socketPath, scratch: bench.scratch });
    for (const family of FAMILIES) await bringUp(guest, family);
  });

  afterAll(async () => {
    await guest?.powerOff();
    await bench?.destroy();
  });

  for (const { title, run } of DATAGRAM_CASES) test(title, () => run(stage()));
});
