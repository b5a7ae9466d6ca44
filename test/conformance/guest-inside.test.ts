/** The service as it is run, before a guest that breaks no rule and notes every rule that the service breaks. */
import { loadNative } from '../../src/native';
import type { GuestOptions } from '../support/guest/guest';
import { SERVICE_ARGS, SHAPES, useBench, exercise, startGuest, stopGuest } from '../support/guest/exercises';
import { describeWith, type Bench } from '../e2e/support';
import { whyNoNamespaces } from '../support/world/host-world';

jest.setTimeout(30_000);

describeWith('the guest inside', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;

  useBench(SERVICE_ARGS, (made) => {
    bench = made;
  });

  test.each(SHAPES)('%s', async (_title: string, options: GuestOptions) => {
    const guest = await startGuest(native, bench.service, options);
    await exercise(guest, bench, options);
    await stopGuest(guest);
  });
});
