/**
 * `tubetti flows` and `top` before the real service, and the flow log: flows of all kinds, in both directions and families,
 * and a guest that opens and closes them as fast as it can.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { EndedFlow, FlowInfo } from '../../src/control/types';
import { loadNative } from '../../src/native';
import { type Bench, describeWith, setUpBench } from '../e2e/support';
import {
  closeGuests,
  configure,
  FORWARDED_PORT,
  GUEST_PORT,
  REMOTES,
  SERVICE_ARGS,
  startGuest,
} from '../support/guest/exercises';
import { floodFromGuest } from '../support/guest/floods';
import { BIN } from '../support/program';
import { residentBytes } from '../support/run-service';
import { guestFrame } from '../support/stack/tcp-segment';
import {
  HOST_ADDRESS_4,
  HOST_ADDRESS_6,
  HOST_NETWORK_6,
  REMOTE_ADDRESS_4,
  REMOTE_ADDRESS_6,
  whyNoNamespaces,
} from '../support/world/host-world';
import { poll } from '../support/world/processes';

jest.setTimeout(60_000);

const run = promisify(execFile);
const MIB = 1 << 20;
const TCP = { protocol: 'tcp' };
/** Flows of a flood: far more than the service keeps. */
const FLOOD = 30_000;

describeWith('flows of the running service', whyNoNamespaces(), () => {
  const native = loadNative();
  let directory: string;
  let control: string;
  let log: string;
  let bench: Bench;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tubetti-flows-'));
    control = join(directory, 'control');
    log = join(directory, 'flows.json');
    const logged = ['--flow-log', log, '--log-size', `${256 * MIB}`];
    bench = await setUpBench(['--control', control, ...logged, ...SERVICE_ARGS]);
  });

  afterEach(closeGuests);

  afterAll(async () => {
    await bench.destroy();
    rmSync(directory, { recursive: true });
  });

  async function tubetti(...argv: string[]): Promise<string> {
    const { stdout } = await run(BIN, [argv[0], '--control', control, ...argv.slice(1)]);
    return stdout;
  }

  async function flows(...argv: string[]): Promise<FlowInfo[]> {
    const lines = (await tubetti('flows', '--json', ...argv)).split('\n').filter((line) => line !== '');
    return lines.map((line) => JSON.parse(line) as FlowInfo);
  }

  function logged(): (EndedFlow & { readonly lost?: number })[] {
    const lines = readFileSync(log, 'utf8').split('\n').slice(0, -1);
    return lines.map((line) => JSON.parse(line) as EndedFlow);
  }

  test('all kinds, both directions, both families: as the guest and the world see them', async () => {
    const began = Date.now();
    const guest = await startGuest(native, bench.service);
    await configure(guest, undefined);
    const { remote } = bench.world;
    const expected: object[] = [];
    const listener = guest.tcpListen(GUEST_PORT);
    const service = guest.udpBind(GUEST_PORT);
    const streams = [];
    for (const address of REMOTES) {
      const v4 = address === REMOTE_ADDRESS_4;
      const host = v4 ? HOST_ADDRESS_4 : HOST_ADDRESS_6;
      // Of IPv6 it has two.
      const me = v4 ? HOST_ADDRESS_4 : (expect.stringContaining(HOST_NETWORK_6) as string);
      const guests = { origin: 'guest', rule: null, name: null };
      const stream = await guest.tcpConnect(address, remote.ports.echo);
      await stream.write(Buffer.alloc(100_000));
      await stream.readExactly(100_000);
      streams.push(stream);
      const peer = (port: number): object => ({ peer: { address, port } });
      const tcp = { protocol: 'tcp', state: 'open', fromGuest: 100_000, toGuest: 100_000 };
      expected.push({ ...guests, ...tcp, ...peer(remote.ports.echo), guest: { address: me } });
      const socket = guest.udpBind();
      for (const size of [700, 300]) {
        await socket.send(address, remote.ports.udp, Buffer.alloc(size));
        await socket.recv();
      }
      const answered = { state: 'answered', rttUs: null };
      expected.push({
        ...guests,
        ...answered,
        protocol: 'udp',
        fromGuest: 1000,
        toGuest: 1000,
        ...peer(remote.ports.udp),
      });
      await guest.ping(address, { size: 56 });
      expected.push({ ...guests, ...answered, protocol: 'icmp', fromGuest: 56, toGuest: 56, peer: { address } });

      const forwarded = { origin: 'host', rule: SERVICE_ARGS[1], guest: { address: me, port: GUEST_PORT } };
      const client = remote.call('tcpEcho', { address: host, port: FORWARDED_PORT, bytes: 50_000 });
      const inbound = await listener.accept();
      await inbound.readExactly(50_000);
      expected.push({ ...forwarded, protocol: 'tcp', fromGuest: 0, toGuest: 50_000 });
      streams.push(inbound);
      client.catch(() => undefined);
      const query = remote.call('udpEcho', { address: host, port: FORWARDED_PORT, bytes: 10, timeoutMs: 5000 });
      const { addr, port, data } = await service.recv();
      await service.send(addr, port, data);
      await query;
      expected.push({
        ...forwarded,
        ...answered,
        protocol: 'udp',
        fromGuest: 10,
        toGuest: 10,
        peer: { address: addr, port },
      });
    }
    // Others may be there: what the guest's own set-up left behind.
    const found = await flows();
    for (const flow of expected) expect(found).toEqual(expect.arrayContaining([deep(flow)]));
    expect(found.filter(({ protocol }) => protocol === 'tcp')).toHaveLength(4);
    for (const { startedAt, protocol, rttUs } of found) {
      expect(startedAt).toBeGreaterThan(began - 1000);
      expect(startedAt).toBeLessThanOrEqual(Date.now() + 5);
      if (protocol === 'tcp') expect(rttUs).toBeGreaterThan(0);
    }
    expect(await flows('--protocol', 'tcp')).toHaveLength(4);

    // For people.
    const table = await tubetti('flows', '-p', 'tcp');
    expect(table.split('\n')[0]).toMatch(/^PROTO +GUEST +PEER +STATE +FROM +TO +AGE +RTT +RULE +ID$/);
    expect(table).toContain(`[${REMOTE_ADDRESS_6}]:${remote.ports.echo}`);
    const top = await tubetti('top', '--once');
    expect(top).toMatch(/^[0-9]+ flows: 4 TCP, /);

    // Closed from outside: the guest's end and the peer's learn of it.
    const [victim] = found.filter(({ protocol, origin }) => protocol === 'tcp' && origin === 'guest');
    expect(await tubetti('flows', '--close', victim.id)).toBe('');
    await streams[0].closed;
    expect(streams[0].error).toMatchObject({ code: 'ECONNRESET' });
    await expect(tubetti('flows', '--close', victim.id)).rejects.toMatchObject({ code: 1 });
    expect((await flows()).map(({ id }) => id)).not.toContain(victim.id);

    // The rest ends when another guest comes; the log agrees with what was shown.
    for (const stream of streams) stream.reset();
    await guest.stop();
    await startGuest(native, bench.service);
    const ended = await poll('the flow log', () => (logged().length >= found.length ? logged() : null), 5000);
    expect(ended.find(({ id }) => id === victim.id)).toMatchObject({ reason: 'operator', fromGuest: 100_000 });
    for (const { state, rttUs, startedAt, ...flow } of found) {
      const end = ended.find(({ id }) => id === flow.id);
      expect(end).toMatchObject(flow);
      expect(Math.abs((end?.startedAt ?? 0) - startedAt)).toBeLessThanOrEqual(5);
      expect(end?.endedAt).toBeGreaterThanOrEqual(startedAt);
      expect(['operator', 'guest-reset', 'reset']).toContain(end?.reason);
      expect([state, rttUs]).not.toContain(undefined);
    }
  });

  test('a guest that opens and closes thousands a second: bounded memory, frames are served, each end is in the log', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const before = logged().length;
    const { port } = await bench.world.remote.call('freePort', {});
    const opened = (): Promise<number> => bench.service.metric('tubetti_flows_opened_total', TCP);
    const openedBefore = (await opened()) - (await bench.service.metric('tubetti_flows', TCP));
    // Refused at once: each SYN is a flow that begins and ends.
    const syn = (n: number, src: string): Uint8Array =>
      guestFrame({
        src,
        dst: REMOTE_ADDRESS_4,
        sport: 1024 + (n % 60_000),
        dport: port,
        flags: 'S',
        seq: n,
        mss: 1460,
      });
    const { pid } = bench.service.process;
    const stop = floodFromGuest(guest, syn, 30_000);
    let slowest = 0;
    /** Most resident bytes until another FLOOD were opened. */
    const mostResident = async (): Promise<number> => {
      const until = (await opened()) + FLOOD;
      let most = 0;
      while ((await opened()) < until) {
        const asked = performance.now();
        await guest.ping(REMOTE_ADDRESS_4);
        slowest = Math.max(slowest, performance.now() - asked);
        await flows('--protocol', 'icmp');
        most = Math.max(most, residentBytes(pid));
      }
      return most;
    };
    // The heap grows first to where garbage collection keeps it, give or take what is due for collection; a leak makes it grow further.
    let growth = Infinity;
    for (let most = await mostResident(), tries = 1; growth >= 8 * MIB && tries <= 3; tries++) {
      const now = await mostResident();
      growth = now - most;
      most = now;
    }
    stop();
    await guest.stop();
    expect(growth).toBeLessThan(8 * MIB);
    expect(slowest).toBeLessThan(1000);
    await poll('no flow', async () => ((await bench.service.metric('tubetti_flows', TCP)) === 0 ? true : null), 5000);
    const flowsOpened = (await opened()) - openedBefore;
    const said = (): number =>
      logged()
        .slice(before)
        .reduce((sum, { protocol, lost }) => sum + (protocol === 'tcp' ? 1 : (lost ?? 0)), 0);
    await poll('all ends', () => (said() >= flowsOpened ? true : null), 5000).catch(() => undefined);
    expect(said()).toBe(flowsOpened);
    expect(flowsOpened).toBeGreaterThanOrEqual(2 * FLOOD);
    expect(
      logged()
        .slice(before)
        .some(({ reason }) => reason === 'not-connected'),
    ).toBe(true);
  }, 120_000);
});

/** Asymmetric matchers all the way down. */
function deep(value: object): object {
  const entries = Object.entries(value).map(([name, one]: [string, unknown]) => [
    name,
    typeof one === 'object' && one !== null && !('asymmetricMatch' in one) ? deep(one) : one,
  ]);
  return expect.objectContaining(Object.fromEntries(entries) as object) as object;
}
