/**
 * What callers leave out: streams, an environment, rights. Called as libvirt and container engines call passt: through a
 * link of that name, by an ordinary user. Needs a build.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BIN, call, connected, LAUNCHER, linkAs, type Called } from '../support/program';
import { poll } from '../support/world/processes';

jest.setTimeout(30_000);

const isRoot = process.getuid?.() === 0;
/** An ordinary user: somebody without an account, or who runs the tests. */
const AS_USER = isRoot ? ['setpriv', '--reuid', '12345', '--regid', '12345', '--clear-groups'] : [];
const NODE = `TUBETTI_NODE=${process.execPath}`;
const NOT_THERE = 'it is not on the PATH: install Node.js, or give its path in TUBETTI_NODE';

let dir: string;
let passt: string;
let pidFile: string;
let path: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-callers-'));
  chmodSync(dir, 0o777);
  passt = linkAs(dir, 'passt');
  pidFile = join(dir, 'pid');
  path = join(dir, 's');
});

afterEach(() => {
  // Only what wrote its number into this test's own folder.
  const pid = existsSync(pidFile) ? Number(readFileSync(pidFile, 'utf8')) : 0;
  if (pid > 1 && existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL');
  rmSync(dir, { recursive: true });
});

/** Calls it by `before`, and expects what a caller of passt expects. Returns the number of the service. */
async function expectStarted(before: readonly string[], program = passt): Promise<number> {
  const [file, ...rest] = [...AS_USER, ...before, program, '-q', '--vhost-user', '-s', path, '-P', pidFile];
  const { status, stdout, stderr } = await call(file, rest);
  expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: '' });
  (await connected(path)).destroy();
  return Number(readFileSync(pidFile, 'utf8'));
}

async function expectEnds(pid: number): Promise<void> {
  process.kill(pid, 'SIGTERM');
  await poll('its end', () => (existsSync(`/proc/${pid}`) ? null : true), 10_000);
  await poll('its socket file to go', () => (existsSync(path) ? null : true), 5000);
}

describe('streams that are closed', () => {
  test.each(['<&-', '>&-', '<&- >&-', '<&- >&- 2>&-'])('exec %s', async (streams) => {
    const pid = await expectStarted(['sh', '-c', `exec ${streams}; exec "$@"`, 'sh']);
    const { rdev } = statSync('/dev/null');
    if (isRoot) for (const fd of [0, 1, 2]) expect(statSync(`/proc/${pid}/fd/${fd}`).rdev).toBe(rdev);
    await expectEnds(pid);
  });
});

describe('an environment that is empty', () => {
  test('but for the Node to take', async () => {
    await expectEnds(await expectStarted(['env', '-i', NODE]));
  });

  test('but for a PATH with Node and nothing else', async () => {
    mkdirSync(join(dir, 'bin'));
    symlinkSync(process.execPath, join(dir, 'bin', 'node'));
    await expectEnds(await expectStarted(['env', '-i', `PATH=${join(dir, 'bin')}`]));
  });
});

describe('a link', () => {
  test('to a link, by a path that is not absolute', async () => {
    symlinkSync('passt', join(dir, 'passt.avx2'));
    await expectEnds(await expectStarted(['env', '-C', dir, NODE], './passt.avx2'));
  });
});

describe('where there is no Node: one line, and 1', () => {
  const expectSaid = ({ status, stdout, stderr }: Called, said: string): void => {
    expect({ status, stdout, stderr }).toEqual({ status: 1, stdout: '', stderr: said });
  };
  const env = (...words: readonly string[]): Promise<Called> => call('env', ['-i', ...words]);

  test.each([[[]], [['-b', '-P', '/dev/null']]])('called as tubetti %j', async (argv) => {
    expectSaid(
      await env('TUBETTI_NODE=no-such-node', BIN, ...argv),
      `tubetti: cannot run no-such-node: ${NOT_THERE}\n`,
    );
  });

  test('called as passt, which goes to the background', async () => {
    expectSaid(await env('TUBETTI_NODE=no-such-node', passt), `passt: cannot run no-such-node: ${NOT_THERE}\n`);
  });

  test('a path at which there is none, or nothing that can be run', async () => {
    const missing = join(dir, 'node');
    expectSaid(
      await env(`TUBETTI_NODE=${missing}`, BIN),
      `tubetti: cannot run ${missing}: No such file or directory\n`,
    );
    expectSaid(await env(`TUBETTI_NODE=${dir}`, BIN), `tubetti: cannot run ${dir}: Permission denied\n`);
  });

  test('the launcher by itself, without a PATH', async () => {
    expectSaid(await env(LAUNCHER, 'tubetti', 'no-such-node', BIN), `tubetti: cannot run no-such-node: ${NOT_THERE}\n`);
  });

  test('where the launcher was not built either', async () => {
    const other = join(dir, 'package', 'bin');
    mkdirSync(other, { recursive: true });
    copyFileSync(BIN, join(other, 'tubetti'));
    const said = 'cannot run no-such-node: install Node.js, or give its path in TUBETTI_NODE\n';
    expectSaid(await env('TUBETTI_NODE=no-such-node', join(other, 'tubetti')), `tubetti: ${said}`);
    symlinkSync(join(other, 'tubetti'), join(other, 'passt'));
    expectSaid(await env('TUBETTI_NODE=no-such-node', join(other, 'passt')), `passt: ${said}`);
  });
});

test('the shell that starts it is a POSIX one', () => {
  expect(spawnSync('sh', ['-n', BIN]).status).toBe(0);
  expect(readFileSync(BIN, 'utf8')).toMatch(/^#!\/bin\/sh\n/);
});
