/**
 * `npm run page:picture`: takes the picture of the page that the documents show, docs/images/page.png, from a service with
 * a guest that downloads, pings and asks. Needs a build, and what the end-to-end tests need.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadNative } from '../../../src/native';
import { setUpBench } from '../../e2e/support';
import { BLOB, GoodFlow } from '../guest/good-flow';
import { startGuest } from '../guest/exercises';
import { Browser } from './browser';
import { REMOTE_ADDRESS_4 } from './host-world';
import { REPO_ROOT } from './paths';

const WIDTH = 1100;
const HEIGHT = 1390;
/** How long the plots are, and how long the guest downloads and rests. */
const SECONDS = 45;
const BUSY_MS = 7000;
const QUIET_MS = 3000;

async function main(): Promise<void> {
  const bench = await setUpBench(['-t', '2222:22', '-u', '5353:53', '--label', 'vm=web1']);
  try {
    const { remote } = bench.world;
    await remote.call('setBlob', { bytes: BLOB, seed: 1 });
    const guest = await startGuest(loadNative(), bench.service);
    await guest.dhcp();
    const browser = await Browser.start(bench.world, join(bench.scratch, 'profile'));
    await browser.open(`http://127.0.0.1:${bench.service.metricsPort}/`, 'light', WIDTH, HEIGHT);
    const began = performance.now();
    const socket = guest.udpBind();
    while (performance.now() - began < SECONDS * 1000) {
      const good = new GoodFlow(guest, remote.ports.blob);
      const running = good.run();
      await sleep(BUSY_MS * (0.5 + Math.random()));
      good.stop();
      await running;
      for (let quiet = 0; quiet < QUIET_MS; quiet += 250) {
        (await guest.tcpConnect(REMOTE_ADDRESS_4, remote.ports.echo)).reset();
        await socket.send(REMOTE_ADDRESS_4, remote.ports.udp, new Uint8Array(100));
        await guest.ping(REMOTE_ADDRESS_4);
        await sleep(250);
      }
    }
    // With some flows open, in time for them to be listed.
    const open = [];
    for (const port of [remote.ports.echo, remote.ports.sink])
      open.push(await guest.tcpConnect(REMOTE_ADDRESS_4, port));
    await browser.evaluate("document.querySelector('#flow-protocol').value = 'tcp'");
    await browser.until('the flows', "document.querySelectorAll('#flow-table tbody tr').length === 2");
    writeFileSync(join(REPO_ROOT, 'docs', 'images', 'page.png'), await browser.picture(WIDTH, HEIGHT));
    await browser.stop();
    guest.close();
  } finally {
    await bench.destroy();
  }
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(error);
    process.exit(1);
  },
);
