/**
 * pasta's bypass with real namespaces and sockets: what passes between the two loopbacks. Needs a build.
 */
import { chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ControlClient } from '../../src/ctl/client';
import { openFdsOf } from '../support/open-fds';
import { LoopbackRig, type Where } from '../support/loopback-rig';
import { until, untilAsync } from '../support/pasta';
import { HOST_ADDRESS_4, HostWorld } from '../support/world/host-world';
import { command } from '../support/world/processes';

jest.setTimeout(120_000);

const BIG = 20e6;
/** Where it was fetched (scripts/lib/pesto.mjs). */
const PESTO = join(__dirname, '../../.cache/pesto/run');

let dir: string;
let world: HostWorld;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-splice-'));
  chmodSync(dir, 0o777);
  world = await HostWorld.create(dir);
});
afterAll(async () => {
  await world.destroy();
  rmSync(dir, { recursive: true });
});

let rig: LoopbackRig;
beforeEach(() => {
  rig = new LoopbackRig(world, dir);
});
afterEach(async () => {
  await rig.stop();
});

const LOOPBACKS = ['127.0.0.1', '::1'] as const;

test('TCP, both directions and families: content, half-close; it shows as a flow past the link', async () => {
  const metrics = join(dir, 'metrics.sock');
  await rig.start('-t', '7101', '-T', '7102:7103', '--metrics', `unix:${metrics}`);
  await rig.serve('inside', 'sum', '::', 7101);
  await rig.serve('host', 'sum', '::', 7103);
  for (const address of LOOPBACKS) {
    for (const [where, port] of [
      ['host', 7101],
      ['inside', 7102],
    ] as const) {
      for (const bytes of [1, 2048, BIG]) {
        const answer = await rig.run(where, 'send', address, port, bytes);
        // 32 digits of its sum, the number of bytes and a space came back.
        expect({ address, port, bytes, ...answer }).toMatchObject({
          error: null,
          bytes: String(bytes).length + 33,
        });
      }
    }
  }
  const { outward, forwards } = (await new ControlClient(rig.control).forwards()).body;
  expect(forwards).toContainEqual({ protocol: 'tcp', spec: '7101', listeners: 1, connections: 6 });
  expect(outward).toContainEqual({ protocol: 'tcp', spec: '7102:7103', listeners: 1, connections: 6 });
  const lines = (await command(['curl', '-sS', '--unix-socket', metrics, 'http://tubetti/metrics'])).split('\n');
  expect(lines).toContain('tubetti_forward_connections_total{protocol="tcp",rule="7101"} 6');
  expect(lines).toContain('tubetti_outward_listeners{protocol="tcp",rule="7102:7103"} 1');
  expect(lines).toContain('tubetti_outward_connections_total{protocol="tcp",rule="7102:7103"} 6');
});

test('resets go through in both directions, and a port that nobody listens on resets', async () => {
  await rig.start('-t', '7111-7112', '-T', '7113-7114', '-u', 'none', '-U', 'none');
  const inside = await rig.serve('inside', 'resetter', '::', 7111);
  expect(await rig.run('host', 'reset', '127.0.0.1', 7111)).toEqual({ error: 'ECONNRESET' });
  expect(await rig.run('host', 'reset', '::1', 7112)).toEqual({ error: 'ECONNRESET' });
  const outside = await rig.serve('host', 'resetter', '::', 7113);
  expect(await rig.run('inside', 'reset', '127.0.0.1', 7113)).toEqual({ error: 'ECONNRESET' });
  expect(await rig.run('inside', 'reset', '127.0.0.1', 7114)).toEqual({ error: 'ECONNRESET' });
  await inside.stop();
  await outside.stop();
  // The client resets: its server sees it.
  const sum = await rig.serve('inside', 'sum', '::', 7111);
  await rig.run('host', 'abort', '127.0.0.1', 7111);
  await sum.waitForLine(/^error ECONNRESET$/, 5000);
  await rig.noFlowsLeft();
});

test('a peer that never reads: the sender is stopped by full buffers, and all arrives once it reads', async () => {
  await rig.start('-t', '7121', '-u', 'none', '-T', 'none', '-U', 'none');
  const silent = await rig.serve('inside', 'silent', '::', 7121);
  const filler = rig.begin('host', 'fill', '127.0.0.1', 7121);
  await silent.waitForLine(/^accepted$/, 5000);
  const [, taken] = await filler.waitForLine(/^full ([0-9]+)$/, 20_000);
  expect(Number(taken)).toBeGreaterThan(1 << 16);
  expect(rig.pipes()).toBeGreaterThan(0);
  filler.child.stdin?.write('close');
  silent.child.stdin?.write('read');
  const [, sent] = await filler.waitForLine(/"bytes":([0-9]+)/, 10_000);
  const [, got] = await silent.waitForLine(/^ended ([0-9]+)$/, 10_000);
  expect(Number(got)).toBeGreaterThanOrEqual(Number(sent));
  await rig.noFlowsLeft();
});

test.each(LOOPBACKS)(
  'nothing paces the bytes within the host, whatever its congestion control is: %s',
  async (address) => {
    await rig.start('-t', '7125', '-T', '7126:7127', '-u', 'none', '-U', 'none');
    await rig.serve('inside', 'echo', '::', 7125);
    await rig.serve('host', 'echo', '::', 7127);
    for (const [from, port, to, target] of [
      ['host', 7125, 'inside', 7125],
      ['inside', 7126, 'host', 7127],
    ] as const) {
      const open = rig.begin(from, 'together', address, port, 1);
      await open.waitForLine(/^open 1$/, 5000);
      // The socket that was accepted, and the one that connects.
      expect(await rig.sockets(from, 'sport', '=', `:${port}`)).toMatch(/ reno /);
      expect(await rig.sockets(to, 'dport', '=', `:${target}`)).toMatch(/ reno /);
      open.child.stdin?.write('close');
      await open.waitForLine(/"right":1/, 5000);
    }
  },
);

test('connections of the namespace are not paced either', async () => {
  const setting = '/proc/sys/net/ipv4/tcp_congestion_control';
  // Those that a namespace may choose.
  const words = (await command(world.inHost(['sysctl', '-n', 'net.ipv4.tcp_allowed_congestion_control']))).split(/\s+/);
  for (const name of words.filter((word) => /^(cubic|bbr)/.test(word))) {
    await command(world.inHost(['sh', '-c', `echo ${name} >${setting}`]));
    await rig.start('-t', 'none', '-u', 'none', '-T', 'none', '-U', 'none');
    const shell = ['nsenter', '--target', String(rig.container.pid), '--user', '--net', '--preserve-credentials'];
    // The host's own is that of the first namespace of all, and not this one's.
    const inside = (await command([...shell, 'cat', setting])).trim();
    expect([name, inside === 'reno']).toEqual([name, name !== 'cubic']);
    await rig.stop();
  }
});

test('a reset ends a connection whose other side takes nothing', async () => {
  await rig.start('-t', '7131', '-u', 'none', '-T', 'none', '-U', 'none');
  const silent = await rig.serve('inside', 'silent', '::', 7131);
  const filler = rig.begin('host', 'fill', '127.0.0.1', 7131);
  await filler.waitForLine(/^full [0-9]+$/, 20_000);
  await silent.stop('SIGKILL');
  await filler.waitForLine(/ECONNRESET|EPIPE/, 5000);
  await rig.noFlowsLeft();
});

test('10 000 connections one after the other and 1000 at a time leave nothing open', async () => {
  await rig.start('-t', '7141', '-T', '7142', '-u', 'none', '-U', 'none');
  await rig.serve('inside', 'echo', '::', 7141);
  await rig.serve('host', 'echo', '::', 7142);
  await rig.run('host', 'many', '127.0.0.1', 7141, 200, 50);
  await rig.noFlowsLeft();
  const before = openFdsOf(rig.pid);
  expect(await rig.run('host', 'many', '127.0.0.1', 7141, 10_000, 4)).toEqual({ right: 10_000 });
  for (const [where, port] of [
    ['host', 7141],
    ['inside', 7142],
  ] as const) {
    const together = rig.begin(where, 'together', '127.0.0.1', port, 1000);
    await together.waitForLine(/^open 1000$/, 20_000);
    expect(await rig.flows()).toBe(1000);
    together.child.stdin?.write('close');
    await together.waitForLine(/"right":1000/, 20_000);
    await rig.noFlowsLeft();
  }
  // Of each kind of socket in stock there may be more or fewer.
  expect(Math.abs(openFdsOf(rig.pid) - before)).toBeLessThan(130);
  expect(rig.pipes()).toBeLessThan(130);
});

test('UDP, both directions and families: content, the source port kept', async () => {
  await rig.start('-u', '7151:7152', '-U', '7153:7154', '-t', 'none', '-T', 'none', '--host-lo-to-ns-lo');
  for (const address of LOOPBACKS) {
    for (const [where, other, port, to] of [
      ['host', 'inside', 7151, 7152],
      ['inside', 'host', 7153, 7154],
    ] as const) {
      const echo = await rig.serve(other, 'udpEcho', address, to);
      const answer = await rig.run(where, 'datagrams', address, port, 200, 9000);
      expect({ address, where, ...answer }).toMatchObject({ right: 200 });
      // The peer is seen as who it is: from the same loopback address and port.
      await echo.waitForLine(new RegExp(`^from ${address} ${String(answer.port)}$`), 1000);
      await echo.stop('SIGKILL');
    }
  }
  expect(await rig.flows()).toBe(4);
});

test('who is seen inside: the namespace’s own address, or the loopback as --host-lo-to-ns-lo says', async () => {
  await rig.start('-u', '7161', '-t', '7161', '-T', 'none', '-U', 'none');
  const echo = await rig.serve('inside', 'udpEcho', '0.0.0.0', 7161);
  expect(await rig.run('host', 'datagrams', '127.0.0.1', 7161, 1, 10)).toMatchObject({ right: 1 });
  await echo.waitForLine(new RegExp(`^from ${HOST_ADDRESS_4.replaceAll('.', '\\.')} [0-9]+$`), 1000);
  // From another address of the host it comes over the interface.
  await rig.serve('inside', 'sum', '0.0.0.0', 7161);
  expect(await rig.run('host', 'send', HOST_ADDRESS_4, 7161, 1000)).toMatchObject({ error: null });
  expect(await rig.flows()).toBe(1);
});

test('--splice-only: no interface, loopback to loopback only', async () => {
  await rig.start('--splice-only', '-t', '7171', '-T', '7172', '-u', '7171', '-U', 'none');
  await rig.serve('inside', 'sum', '127.0.0.1', 7171);
  await rig.serve('host', 'sum', '127.0.0.1', 7172);
  expect(await rig.run('host', 'send', '127.0.0.1', 7171, BIG)).toMatchObject({ error: null, bytes: 41 });
  expect(await rig.run('inside', 'send', '127.0.0.1', 7172, BIG)).toMatchObject({ error: null, bytes: 41 });
  expect(await rig.run('host', 'reset', HOST_ADDRESS_4, 7171)).toEqual({ error: 'ECONNRESET' });
  const target = String(rig.container.pid);
  const links = await command([
    'nsenter',
    '--target',
    target,
    '--user',
    '--net',
    '--preserve-credentials',
    'ip',
    '-o',
    'link',
  ]);
  expect(links.split('\n')).toHaveLength(1);
});

test('auto both ways: ports follow what listens on the other side, and ours are not forwarded back', async () => {
  await rig.start('-t', '7180-7185,~7183,auto', '-T', '7186-7189,auto', '-u', 'none', '-U', 'none');
  const reach = (where: Where, port: number) => async (): Promise<boolean> =>
    (await rig.run(where, 'send', '127.0.0.1', port, 10)).error === null;
  const inside = await rig.serve('inside', 'sum', '::', 7181);
  const left = await rig.serve('inside', 'sum', '::', 7183);
  const outside = await rig.serve('host', 'sum', '127.0.0.1', 7187);
  await untilAsync(reach('host', 7181), 5000, () => 'inside is not reached');
  await untilAsync(reach('inside', 7187), 5000, () => 'the host is not reached');
  expect(await reach('host', 7183)()).toBe(false);
  const { forwards, outward } = (await new ControlClient(rig.control).forwards()).body;
  expect(forwards.map(({ spec }) => spec)).toEqual(['7181']);
  expect(outward).toMatchObject([{ spec: '7186-7189,auto', listeners: 1 }]);
  await Promise.all([inside.stop(), left.stop(), outside.stop()]);
  await untilAsync(
    async () => !(await reach('host', 7181)()),
    5000,
    () => 'inside is forwarded still',
  );
  await untilAsync(
    async () => !(await reach('inside', 7187)()),
    5000,
    () => 'the host is forwarded still',
  );
});

test('-T and -U change at run time by ctl and pesto; auto shows its ports', async () => {
  const pesto = `${rig.control}.pesto`;
  await rig.start('-T', '7231', '-U', '7232-7239,auto', '-t', 'none', '-u', 'none', '--conf-path', pesto);
  const client = new ControlClient(rig.control);
  const outward = async () => (await client.forwards()).body.outward;
  await rig.serve('host', 'sum', '127.0.0.1', 7231);
  await rig.serve('host', 'sum', '127.0.0.1', 7241);
  await rig.serve('host', 'udpEcho', '127.0.0.1', 7242);
  await rig.serve('host', 'udpEcho', '127.0.0.1', 7233);
  expect(await rig.run('inside', 'send', '127.0.0.1', 7231, 10)).toMatchObject({ error: null });
  expect(await rig.run('inside', 'send', '127.0.0.1', 7240, 10)).toMatchObject({ error: 'ECONNREFUSED' });
  const items = [
    { protocol: 'tcp', spec: '7240:7241' },
    { protocol: 'udp', spec: '7242' },
  ];
  await client.ask('POST', '/v1/outward', { body: { forwards: items } });
  expect(await rig.run('inside', 'send', '127.0.0.1', 7240, BIG)).toMatchObject({ error: null, bytes: 41 });
  expect(await rig.run('inside', 'datagrams', '127.0.0.1', 7242, 5, 100)).toMatchObject({ right: 5 });
  await untilAsync(
    async () => (await outward())[1].ports?.join() === '7233',
    5000,
    () => 'auto has found nothing',
  );
  expect(await outward()).toMatchObject([
    { protocol: 'tcp', spec: '7231', listeners: 1, connections: 1 },
    { protocol: 'udp', spec: '7232-7239,auto', listeners: 1, ports: [7233] },
    { protocol: 'tcp', spec: '7240:7241', listeners: 1, connections: 1 },
    { protocol: 'udp', spec: '7242', listeners: 1, connections: 1 },
  ]);
  const flows = await client.flows();
  expect(flows.flows.map(({ rule }) => rule)).toContain('7242');
  await client.ask('POST', '/v1/outward/remove', { body: { forwards: [items[0]] } });
  expect(await rig.run('inside', 'send', '127.0.0.1', 7240, 10)).toMatchObject({ error: 'ECONNREFUSED' });
  if (!existsSync(PESTO)) return;
  const shown = await command(world.inHost([PESTO, pesto]));
  expect(shown).toMatch(/SPLICE\n.*TCP .*7231 /);
  await command(world.inHost([PESTO, '-A', '-T', '7240:7241', pesto]));
  await untilAsync(
    async () => (await outward()).some(({ spec }) => spec === '7240:7241'),
    5000,
    () => 'pesto has added nothing',
  );
  expect(await rig.run('inside', 'send', '127.0.0.1', 7240, 10)).toMatchObject({ error: null });
  await command(world.inHost([PESTO, '-D', '-T', '7231', pesto]));
  await untilAsync(
    async () => !(await outward()).some(({ spec }) => spec === '7231'),
    5000,
    () => 'pesto has removed nothing',
  );
  expect((await outward()).map(({ spec }) => spec)).toEqual(['7232-7239,auto', '7242', '7240:7241']);
});

test('both sides forward one port to the other: a connection is refused, not passed round and round', async () => {
  await rig.start('-t', '7191', '-T', '7191', '-u', '7191', '-U', '7191');
  expect(await rig.run('host', 'reset', '127.0.0.1', 7191)).toEqual({ error: 'ECONNRESET' });
  await rig.run('host', 'datagrams', '127.0.0.1', 7191, 1, 10);
  expect(await rig.flows()).toBeLessThan(3);
});

test('a policy holds for what leaves by -T', async () => {
  await rig.start('-T', '7201-7202', '-t', 'none', '-u', 'none', '-U', 'none', '--allow', 'tcp/host:7201');
  await rig.serve('host', 'sum', '127.0.0.1', 7201);
  await rig.serve('host', 'sum', '127.0.0.1', 7202);
  expect(await rig.run('inside', 'send', '127.0.0.1', 7201, 10)).toMatchObject({ error: null });
  expect(await rig.run('inside', 'reset', '127.0.0.1', 7202)).toEqual({ error: 'ECONNRESET' });
});

test('the namespace vanishes while bytes flow', async () => {
  await rig.start('-t', '7211', '-u', 'none');
  await rig.serve('inside', 'silent', '::', 7211);
  const filler = rig.begin('host', 'fill', '127.0.0.1', 7211);
  await filler.waitForLine(/^full [0-9]+$/, 20_000);
  await rig.stopPeersInside();
  await rig.container.stop('SIGKILL');
  await until(
    () => rig.pasta.left().length === 0,
    5000,
    () => `left: ${rig.pasta.left().join(', ')}`,
  );
});
