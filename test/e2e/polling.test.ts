/** `--poll-us` with a real guest: fewer kicks than frames, and nothing at all once there is nothing to do. */
import { poll } from '../support/world/processes';
import { bootUml } from '../support/world/uml';
import { FAMILIES, bringUp } from './network-cases';
import { describeWith, setUpBench, whyNotGuest, withGuest } from './support';
import { processorSeconds } from './tcp-support';

jest.setTimeout(120_000);

const EXCHANGES = 1000;
/** Of the exchanges, those with a kick. */
const FEW = 0.75;
const QUIET_MS = 1500;

describeWith('--poll-us with a uml guest', whyNotGuest('uml'), () => {
  const { stage, test } = withGuest(
    () => setUpBench(['--poll-us', '1000']),
    (bench) => bootUml({ socketPath: bench.socketPath, scratch: bench.scratch }),
    async (bench, guest) => {
      for (const family of FAMILIES) await bringUp(guest, family);
      return { bench, guest };
    },
  );

  for (const { name, remote } of FAMILIES) {
    test(`datagrams back and forth go without a kick for each, ${name}`, async () => {
      const { service, world } = stage().bench;
      const kicks = (): Promise<number> => service.metric('tubetti_notifications_total', { direction: 'from_guest' });
      const script = `guest-net udp-echo ${remote} ${String(world.remote.ports.udp)} 100 ${String(EXCHANGES)}`;
      // One each without it. A guest that is held up for more than a millisecond, on a busy machine, gives one all the
      // same, and the next few while the window is open less far: the quietest of three counts.
      let least = Infinity;
      for (let round = 0; round < 3 && least >= FEW * EXCHANGES; round++) {
        const before = await kicks();
        expect(await stage().guest.result(script, 'udp-echo')).toMatchObject({ count: String(EXCHANGES), resent: '0' });
        least = Math.min(least, (await kicks()) - before);
      }
      expect(least).toBeLessThan(FEW * EXCHANGES);
    });
  }

  test('a service with nothing to do sleeps', async () => {
    const { service } = stage().bench;
    let turns = -1;
    let seconds = 0;
    // The guest has a few words to say yet, so: two looks with not one turn of the loop between them.
    await poll(
      'the loop to rest',
      async () => {
        const now = await service.metric('tubetti_loop_turns_total');
        const used = processorSeconds(service);
        const rested = now === turns ? used - seconds : null;
        turns = now;
        seconds = used;
        // The metrics' own page costs a little.
        return rested !== null && rested < 0.1 ? true : null;
      },
      20_000,
      QUIET_MS,
    );
  });
});
