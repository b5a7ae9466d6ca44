/** Memory that is not shared (QEMU without share=on) before the running service: one line that says what to do. */
import { setTimeout as sleep } from 'node:timers/promises';
import { loadNative } from '../../src/native';
import { SILENT_MS } from '../../src/dataplane/virtio/private-memory';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { SERVICE_ARGS, closeGuests, expectAlive, killGuest, startGuest, stopGuest } from '../support/guest/exercises';
import type { Guest } from '../support/guest/guest';
import { whyNoNamespaces } from '../support/world/host-world';
import { poll } from '../support/world/processes';

jest.setTimeout(60_000);

const KICKS = 'tubetti_notifications_total';
const FROM_GUEST = { direction: 'from_guest' };

describeWith('memory that is not shared', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;

  const said = (): string[] => bench.service.process.lines.filter((line) => line.includes('is probably not shared'));

  /** The service has seen this kick. */
  async function kick(guest: Guest, ring: 0 | 1): Promise<void> {
    const before = await bench.service.metric(KICKS, FROM_GUEST);
    guest.frontEnd.rings[ring].kick();
    await poll('the kick', async () => ((await bench.service.metric(KICKS, FROM_GUEST)) > before ? true : null), 5000);
  }

  beforeAll(async () => {
    bench = await setUpBench(SERVICE_ARGS);
  });

  afterAll(async () => {
    closeGuests();
    await bench.destroy();
  });

  test('is said, once in a session; the next front-end is served', async () => {
    const guest = await startGuest(native, bench.service, { privateMemory: true });
    for (let i = 0; i < 3; i++) await kick(guest, 1);
    await poll('the line', () => Promise.resolve(said().length > 0 ? true : null), 5000);
    expect(said()[0]).toMatch(/share=on.*<access mode='shared'\/>/);
    await guest.frontEnd.stop();
    await guest.frontEnd.start();
    for (let i = 0; i < 50; i++) guest.frontEnd.rings[i % 2].kick();
    for (let i = 0; i < 3; i++) await kick(guest, 1);
    await sleep(SILENT_MS + 500);
    expect(said()).toHaveLength(1);
    killGuest(guest);
    const next = await startGuest(native, bench.service);
    await expectAlive(next, bench);
    await stopGuest(next);
    expect(said()).toHaveLength(1);
  });

  test('a guest in order is never taken for one: down, kicking for nothing, then at work', async () => {
    const before = said().length;
    const guest = await startGuest(native, bench.service);
    for (let i = 0; i < 10; i++) await kick(guest, i % 2 === 0 ? 0 : 1);
    await sleep(SILENT_MS + 500);
    await expectAlive(guest, bench);
    for (let i = 0; i < 10; i++) await kick(guest, i % 2 === 0 ? 0 : 1);
    await stopGuest(guest);
    expect(said()).toHaveLength(before);
  });
});
