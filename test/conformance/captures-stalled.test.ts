/** Clients that begin a capture and never read it, while traffic flows: what that costs the guest, and the service's memory. */
import { readdirSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { loadNative } from '../../src/native';
import { ControlClient } from '../../src/ctl/client';
import { closeGuests, startGuest } from '../support/guest/exercises';
import { residentBytes } from '../support/run-service';
import { REMOTE_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';
import { scratchDirectory } from '../support/world/paths';
import { poll } from '../support/world/processes';

jest.setTimeout(60_000);

const MIB = 1 << 20;
const BYTES = 24 * MIB;
const ROUNDS = 5;
const CLIENTS = 4;

/** What a process has used of the processor, ms: proc(5), schedstat of its threads, in ns. */
function processorMs(pid: number): number {
  return readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => {
    const text = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1');
    return sum + Number(text.split(' ')[0]) / 1e6;
  }, 0);
}

describeWith('captures that nobody reads', whyNoNamespaces(), () => {
  const scratch = scratchDirectory();
  let bench: Bench;

  afterAll(async () => {
    closeGuests();
    await bench.destroy();
    scratch.remove();
  });

  test('the guest is as fast as without them, and memory is bounded', async () => {
    const control = join(scratch.path, 'control');
    bench = await setUpBench(['--control', control]);
    const guest = await startGuest(loadNative(), bench.service);
    await guest.dhcp();
    await bench.world.remote.call('setBlob', { bytes: BYTES, seed: 1 });
    const client = new ControlClient(control);
    const running = async (): Promise<number> =>
      (await client.captures()).filter(({ endedAt }) => endedAt === null).length;
    const pid = bench.service.process.pid;
    /** Of one download, ms of processor time: what else this machine does is no part of it. */
    const download = async (): Promise<number> => {
      const begin = processorMs(pid);
      const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, bench.world.remote.ports.blob);
      for (let left = BYTES; left > 0;) left -= (await stream.read())?.length ?? Infinity;
      await stream.end();
      return processorMs(pid) - begin;
    };
    const stalled: Socket[] = [];
    const stall = async (): Promise<void> => {
      while (stalled.length < CLIENTS) {
        const socket = connect(control);
        socket.pause();
        socket.write('GET /v1/capture HTTP/1.1\r\nHost: tubetti\r\n\r\n');
        stalled.push(socket);
      }
      await poll('the captures', async () => ((await running()) === CLIENTS ? true : null), 10_000);
      // Their blocks are full.
      await download();
    };
    const unstall = async (): Promise<void> => {
      for (const socket of stalled.splice(0)) socket.destroy();
      await poll('their end', async () => ((await running()) === 0 ? true : null), 10_000);
    };
    await stall();
    await unstall();
    const before = residentBytes(pid);
    // The best of some rounds, turn about.
    let [alone, beside] = [Infinity, Infinity];
    for (let round = 0; round < ROUNDS; round++) {
      alone = Math.min(alone, await download());
      await stall();
      beside = Math.min(beside, await download());
      const captures = await client.captures();
      expect(captures.filter(({ endedAt }) => endedAt === null).every(({ lost }) => lost > 100)).toBe(true);
      await unstall();
    }
    console.log(
      `a download of ${BYTES / MIB} MiB: ${alone.toFixed(0)} ms alone, ${beside.toFixed(0)} ms beside them, of the processor`,
    );
    expect(beside).toBeLessThan(alone * 1.6);
    expect(residentBytes(pid) - before).toBeLessThan(16 * MIB);
    expect(guest.violations).toEqual([]);
  });
});
