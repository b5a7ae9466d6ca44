/**
 * A namespace that opens connections past the link as fast as it can, and never reads or closes; and datagrams likewise. What
 * it takes is bounded, others are served, and nothing is left of it. Measures memory and processor time. Needs a build.
 */
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LoopbackRig, type Where } from '../support/loopback-rig';
import { openFdsOf } from '../support/open-fds';
import { ROOT } from '../support/pasta';
import { residentBytes } from '../support/run-service';
import { HostWorld } from '../support/world/host-world';
import type { ManagedProcess } from '../support/world/processes';

jest.setTimeout(120_000);

/** The service's limit of descriptors: tables follow from it (an eighth of 0.62 and 0.31 of them are the bypass's). */
const FILES = 4096;
const TCP_SHARE = (((FILES * 0.62) / 8) * 3) / 4;
const UDP_SHARE = (((FILES * 0.31) / 8) * 3) / 4;
const GROWTH = 20 << 20;
const LINES = 40;
const LIMITED = { ...ROOT, prefix: ['prlimit', `--nofile=${String(FILES)}:${String(FILES)}`, '--'] };

let dir: string;
let world: HostWorld;
let rig: LoopbackRig;
let log: string;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-pasta-flood-'));
  chmodSync(dir, 0o777);
  world = await HostWorld.create(dir);
});
afterAll(async () => {
  await world.destroy();
  rmSync(dir, { recursive: true });
});
beforeEach(() => {
  rig = new LoopbackRig(world, dir, LIMITED);
  log = `${rig.control}.log`;
});
afterEach(async () => {
  await rig.stop();
});

/** Milliseconds of processor time that the service has had. */
function cpuMs(): number {
  const fields = readFileSync(`/proc/${String(rig.pid)}/stat`, 'latin1')
    .replace(/^.*\) /s, '')
    .split(' ');
  return 10 * (Number(fields[11]) + Number(fields[12]));
}

const logged = (): number => readFileSync(log, 'utf8').split('\n').length - 1;

/** A connection that is there before, during and after. */
class Steady {
  private readonly peer: ManagedProcess;
  /** Lines of it. */
  private echoes = 0;

  constructor(where: Where, port: number) {
    this.peer = rig.begin(where, 'steady', '127.0.0.1', port, 100_000);
  }

  async works(): Promise<void> {
    if (this.echoes > 0) this.peer.child.stdin?.write('again\n');
    await this.peer.waitForLine(/^echoed$/, 10_000, this.echoes++);
    expect(this.peer.lines).toHaveLength(this.echoes);
  }
}

test('connections', async () => {
  await rig.start('-t', '7301', '-T', '7302-7303', '-u', 'none', '-U', 'none', '-l', log);
  await rig.serve('inside', 'echo', '0.0.0.0', 7301);
  await rig.serve('host', 'echo', '127.0.0.1', 7302);
  const silent = await rig.serve('host', 'silent', '127.0.0.1', 7303);
  const steady = [new Steady('host', 7301), new Steady('inside', 7302)];
  for (const one of steady) await one.works();
  // Once to its bounds, which buffers and compiled code are for.
  const first = rig.begin('inside', 'flood', '127.0.0.1', 7303, 200, 1);
  await first.waitForLine(/^stopped at /, 30_000);
  await first.stop('SIGKILL');
  const [memory, files, lines] = [residentBytes(rig.pid), openFdsOf(rig.pid), logged()];
  const flood = rig.begin('inside', 'flood', '127.0.0.1', 7303, 3000, 300_000);
  await flood.waitForLine(/^stopped at /, 30_000);
  const flows = await rig.flows();
  expect(flows).toBeGreaterThan(100);
  expect(flows).toBeLessThanOrEqual(TCP_SHARE + 1);
  for (const one of steady) await one.works();
  // Both sockets and a pipe, two descriptors, for each.
  expect(openFdsOf(rig.pid) - files).toBeLessThan(4 * TCP_SHARE);
  expect(residentBytes(rig.pid) - memory).toBeLessThan(GROWTH);
  // What waits is not looked at again and again.
  const before = cpuMs();
  await new Promise((resolve) => setTimeout(resolve, 1000));
  expect(cpuMs() - before).toBeLessThan(300);
  expect(await rig.run('host', 'send', '127.0.0.1', 7301, 1000)).toMatchObject({ error: null, bytes: 1000 });
  await flood.stop('SIGKILL');
  // What was sent is not lost while its server lives, which never reads it.
  await silent.stop('SIGKILL');
  for (const one of steady) await one.works();
  expect(await rig.run('inside', 'send', '127.0.0.1', 7302, 1000)).toMatchObject({ error: null, bytes: 1000 });
  await rig.stopPeers();
  await rig.noFlowsLeft();
  expect(openFdsOf(rig.pid) - files).toBeLessThan(130);
  expect(logged() - lines).toBeLessThan(LINES);
});

test('datagrams', async () => {
  await rig.start('-u', '7311', '-U', '7312-7313', '-t', 'none', '-T', 'none', '-l', log);
  await rig.serve('inside', 'udpEcho', '0.0.0.0', 7311);
  await rig.serve('host', 'udpEcho', '127.0.0.1', 7312);
  await rig.serve('host', 'udpSilent', '127.0.0.1', 7313);
  const first = rig.begin('inside', 'udpFlood', '127.0.0.1', 7313, 300, 1000);
  await first.waitForLine(/^round 10$/, 30_000);
  await first.stop('SIGKILL');
  const [memory, files, lines] = [residentBytes(rig.pid), openFdsOf(rig.pid), logged()];
  const flood = rig.begin('inside', 'udpFlood', '127.0.0.1', 7313, 1000, 1000);
  await flood.waitForLine(/^round 10$/, 30_000);
  const flows = await rig.flows();
  expect(flows).toBeGreaterThan(50);
  expect(flows).toBeLessThanOrEqual(UDP_SHARE + 1);
  expect(await rig.run('host', 'datagrams', '127.0.0.1', 7311, 50, 1000)).toMatchObject({ right: 50 });
  await flood.waitForLine(/^round 30$/, 30_000);
  expect(openFdsOf(rig.pid) - files).toBeLessThan(150);
  expect(residentBytes(rig.pid) - memory).toBeLessThan(GROWTH);
  await flood.stop('SIGKILL');
  expect(await rig.run('inside', 'datagrams', '127.0.0.1', 7312, 50, 1000)).toMatchObject({ right: 50 });
  expect(await rig.run('host', 'datagrams', '127.0.0.1', 7311, 50, 1000)).toMatchObject({ right: 50 });
  expect(logged() - lines).toBeLessThan(LINES);
});
