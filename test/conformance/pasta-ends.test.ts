/**
 * How pasta ends, and what may end beside it: commands that signals kill, namespaces that vanish, a data plane that dies, a
 * process in the namespace that floods. Whatever happens, no process, interface, descriptor or zombie is left. Needs a build.
 */
import { spawnSync } from 'node:child_process';
import { appendFileSync, chmodSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { openFdsOf } from '../support/open-fds';
import { PastaRig, until, untilAsync, USER } from '../support/pasta';
import { GATEWAY_4, GATEWAY_6, HostWorld } from '../support/world/host-world';
import { helperProgram } from '../support/world/image';
import { type ManagedProcess, command, poll } from '../support/world/processes';
import type { World } from '../support/world/world';

jest.setTimeout(60_000);

const caller = process.getuid?.() === 0 ? USER : { ...USER, prefix: [] };
const NO_PORTS = ['-t', 'none', '-u', 'none'];
const ENDED_MS = 5000;
/** From the fault to a new connection, on a machine that has a processor for us. */
const BACK_MS = 1000;
const FLOOD_SECONDS = 4;
/** What a flood of frames may add to the resident memory of the service. */
const GROWTH = 40 << 20;
const shareOf = (): number => Math.max(1, loadavg()[0] / availableParallelism());

let dir: string;
let world: HostWorld;
let rig: PastaRig;
/** What a test has left running. */
const running: { stop: (signal: 'SIGKILL') => Promise<unknown> }[] = [];

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-pasta-ends-'));
  chmodSync(dir, 0o777);
  world = await HostWorld.create(dir);
});
beforeEach(() => {
  rig = new PastaRig(world, caller);
});
afterEach(async () => {
  for (const each of running.splice(0).reverse()) await each.stop('SIGKILL');
  await until(
    () => rig.left().length === 0,
    ENDED_MS,
    () => `left: ${rig.left().join(', ')}`,
  );
});
afterAll(async () => {
  await world.destroy();
  rmSync(dir, { recursive: true });
});

async function container(): Promise<ManagedProcess> {
  const held = await rig.container();
  running.push(held);
  return held;
}

async function worldIn(held: ManagedProcess): Promise<World> {
  const inside = await rig.worldIn(held);
  running.push({ stop: () => inside.stop() });
  return inside;
}

/** Runs a command in the namespaces of a container. */
function enter(held: ManagedProcess, argv: readonly string[]): string[] {
  const namespaces = ['--target', String(held.pid), '--user', '--net', '--preserve-credentials'];
  // Who made them is root in there.
  return [...caller.prefix, 'nsenter', ...namespaces, '--', ...argv];
}

const interfaces = async (held: ManagedProcess): Promise<string[]> =>
  (JSON.parse(await command(enter(held, ['ip', '-j', 'link']))) as { ifname: string }[]).map(({ ifname }) => ifname);

async function echoes(from: World, bytes = 1000, address = GATEWAY_4): Promise<boolean> {
  const { sent, received } = await from.call('tcpEcho', { address, port: world.host.ports.echo, bytes });
  return sent.sha256 === received.sha256;
}

/** The command's process once it has begun; numbers as they are here. */
async function commandOf(name: string): Promise<number> {
  await until(
    () => rig.pidsOf(name).length > 0,
    10_000,
    () => `no ${name}: ${rig.left().join()}`,
  );
  return rig.pidsOf(name)[0];
}

describe('a command that a signal ends', () => {
  test.each([
    ['SIGTERM', 15],
    ['SIGSEGV', 11],
    ['SIGKILL', 9],
    ['SIGUSR1', 10],
  ] as const)('%s', async (signal, number) => {
    const { ended } = rig.start(['--no-pidns', '-q', 'sleep', '60'], '');
    process.kill(await commandOf('sleep'), signal);
    expect((await ended).status).toBe(128 + number);
  });

  test('as the first process of its PID namespace, from outside', async () => {
    const { ended } = rig.start(['-q', 'sleep', '60'], '');
    process.kill(await commandOf('sleep'), 'SIGKILL');
    expect((await ended).status).toBe(128 + 9);
  });

  test('one of its own that a signal ends is its own matter', async () => {
    const { status } = await rig.run(['-q', 'sh', '-c', 'sh -c "kill -SEGV \\$\\$"; echo $? >&2; exit 3']);
    expect(status).toBe(3);
  });
});

test('a command has the caller’s streams and no other descriptor', async () => {
  // The last is that of ls.
  expect(await rig.run(['-q', 'ls', '/proc/self/fd'])).toEqual({ status: 0, stdout: '0\n1\n2\n3\n', stderr: '' });
});

/** Children of these processes that have ended and were not waited for. */
function zombies(pids: readonly number[]): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'latin1');
        const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        return state === 'Z' && pids.includes(Number(parent)) ? [stat] : [];
      } catch {
        return [];
      }
    });
}

test('connections come and go: descriptors stay as many, no process is left over', async () => {
  const held = await container();
  expect((await rig.run(['--config-net', '-q', ...NO_PORTS, String(held.pid)])).status).toBe(0);
  const inside = await worldIn(held);
  const pids = rig.left().map((line) => Number(line.split(' ')[0]));
  const ours = pids.filter((pid) => pid !== held.pid && !isWorld(pid));
  const open = (): number[] => ours.map((pid) => openFdsOf(pid));
  expect(await echoes(inside)).toBe(true);
  const before = open();
  for (let i = 0; i < 100; i++) await echoes(inside, 100, i % 2 === 0 ? GATEWAY_4 : GATEWAY_6);
  await until(
    () => open().every((count, at) => count <= before[at]),
    10_000,
    () => `${String(before)} became ${String(open())}`,
  );
  expect(zombies(ours)).toEqual([]);
});

function isWorld(pid: number): boolean {
  return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('world-server');
}

describe('a namespace that vanishes', () => {
  test('with a connection through it', async () => {
    const held = await container();
    expect((await rig.run(['--config-net', '-q', ...NO_PORTS, String(held.pid)])).status).toBe(0);
    const inside = await worldIn(held);
    await world.host.call('setBlob', { bytes: 1 << 20, seed: 1 });
    void inside.call('tcpEcho', { address: GATEWAY_4, port: world.host.ports.echo, bytes: 1 << 30 }).catch(() => null);
    await inside.stop();
    await held.stop('SIGKILL');
    await until(
      () => rig.left().length === 0,
      ENDED_MS,
      () => `left: ${rig.left().join(', ')}`,
    );
  });

  test.each([0, 40, 80, 120, 160, 250])('%d ms into the start', async (delay) => {
    const held = await rig.container();
    const { ended } = rig.start(['--config-net', '-q', ...NO_PORTS, String(held.pid)], '');
    await new Promise((settle) => setTimeout(settle, delay));
    await held.stop('SIGKILL');
    const { status, stdout, stderr } = await ended;
    // It was ready before, or it says what is wrong.
    expect(status === 0 ? '' : stderr).toMatch(status === 0 ? /^$/ : /^pasta: [^\n]+\n$/);
    expect(stdout).toBe('');
    await until(
      () => rig.left().length === 0,
      ENDED_MS,
      () => `left: ${rig.left().join(', ')}`,
    );
  });
});

test.each([
  ['a port that is taken', () => ['-t', String(world.host.ports.echo)], /^pasta: -t \d+: /],
  ['a name that is taken', () => ['-I', 'lo'], /^pasta: cannot make interface lo in the namespace: /],
  ['a gateway that is none', () => ['-g', 'nowhere'], /^pasta: (-g|--gateway) nowhere: /],
])('%s: one line, and the namespace is as it was', async (_title, options, line) => {
  const held = await container();
  const { status, stderr } = await rig.run(['--config-net', '-q', ...options(), String(held.pid)]);
  expect(status).toBe(1);
  expect(stderr).toMatch(line);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  expect(await interfaces(held)).toEqual(['lo']);
});

test('the sandbox is on, and its data plane dies: another one has the same interface', async () => {
  const faults = mkdtempSync(join(dir, 'faults-'));
  chmodSync(faults, 0o777);
  spawnSync('mkfifo', ['-m', '666', join(faults, 'fifo')]);
  for (const name of ['asked', 'die-on-ring', 'done']) {
    writeFileSync(join(faults, name), '');
    chmodSync(join(faults, name), 0o666);
  }
  const held = await container();
  const preload = join(__dirname, '../fixtures/dataplane/faults.cjs');
  const env = { TUBETTI_FAULTS: faults, NODE_OPTIONS: `--require ${preload}` };
  const service = rig.start(['--config-net', '--foreground', ...NO_PORTS, String(held.pid)], '', env);
  await poll('the interface', async () => ((await interfaces(held)).length > 1 ? true : null), 10_000);
  const inside = await worldIn(held);
  await untilAsync(
    () => echoes(inside).catch(() => false),
    10_000,
    () => 'no network',
  );
  const link = ['ip', '-j', 'addr', 'show', 'eth0'];
  const before = await command(enter(held, link));
  appendFileSync(join(faults, 'asked'), 't');
  // It turns when something comes.
  await echoes(inside).catch(() => false);
  await poll('the fault', () => (readFileSync(join(faults, 'done'), 'latin1') === 't' ? true : null), 5000, 1);
  const began = performance.now();
  await untilAsync(
    () => echoes(inside).catch(() => false),
    20_000,
    () => 'no connection any more',
  );
  expect(performance.now() - began).toBeLessThan(BACK_MS * shareOf());
  expect(await command(enter(held, link))).toBe(before);
  await held.stop('SIGKILL');
  const { status, stderr } = await service.ended;
  expect(status).toBe(0);
  expect(stderr.match(/data plane failed, starting a new one/g)).toHaveLength(1);
});

test('a process of the namespace that floods: memory and log are bounded, and others are served', async () => {
  const held = await container();
  const service = rig.start(['--config-net', '--foreground', ...NO_PORTS, String(held.pid)], '');
  await poll('the interface', async () => ((await interfaces(held)).length > 1 ? true : null), 10_000);
  const inside = await worldIn(held);
  await untilAsync(
    () => echoes(inside).catch(() => false),
    10_000,
    () => 'no network',
  );
  // Releases of Node name their main thread differently.
  const pid = ['node', 'MainThread', 'node-MainThread'].flatMap((name) => rig.pidsOf(name))[0];
  const resident = (): number =>
    Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) * 1024;
  const flood = enter(held, [helperProgram('guest-link'), 'flood', 'eth0', GATEWAY_4, String(FLOOD_SECONDS)]);
  await command(flood); // compiled, tables at their size
  const before = resident();
  const flooding = command(flood);
  let served = 0;
  const end = Date.now() + FLOOD_SECONDS * 1000;
  while (Date.now() < end) if (await echoes(inside).catch(() => false)) served++;
  const sent = Number(/frames=(\d+)/.exec(await flooding)?.[1]);
  expect(sent).toBeGreaterThan(10_000);
  expect(served).toBeGreaterThan(0);
  expect(resident() - before).toBeLessThan(GROWTH);
  await untilAsync(
    () => echoes(inside, 1e6).catch(() => false),
    10_000,
    () => 'no connection after the flood',
  );
  await held.stop('SIGKILL');
  const { status, stderr } = await service.ended;
  expect(status).toBe(0);
  // A few kinds of line, each at most so often.
  expect(stderr.split('\n').length).toBeLessThan(200);
});
