/**
 * What the program's supervisor sees, with the sandbox in force: systemd's notifications, `--ready-fd`, the form of the
 * log. Needs a build.
 */
import { type ChildProcess, spawn, spawnSync, type StdioOptions } from 'node:child_process';
import { closeSync, existsSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { loadNative } from '../../src/native';
import { Guest } from '../support/guest/guest';
import { LAUNCHER, launchProgram, PROGRAM, runOnce, SAME_USER, SCRIPT } from '../support/program';
import { poll } from '../support/world/processes';

jest.setTimeout(30_000);

let dir: string;
const children: ChildProcess[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-super-'));
});

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  const pidFile = join(dir, 'pid');
  const pid = existsSync(pidFile) ? Number(readFileSync(pidFile, 'utf8')) : 0;
  if (pid > 1) kill(pid);
  rmSync(dir, { recursive: true });
});

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}

/** A datagram socket at a path or, with `@` in front, an abstract name. Debian always has perl. */
const LISTENER = `use Socket; $| = 1; my $name = $ARGV[0]; $name =~ s/^@/\\0/;
socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die; bind($s, pack_sockaddr_un($name)) or die;
print "bound\\n"; while (defined recv($s, my $m, 4096, 0)) { print $m }`;

/** A service manager's end; `told`: the lines it was sent. */
async function managerAt(name: string): Promise<{ told: () => string[] }> {
  const child = spawn('perl', ['-e', LISTENER, name], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  await poll('the service manager', () => (text.startsWith('bound\n') ? true : null), 10_000);
  return { told: () => text.split('\n').slice(1, -1) };
}

describe('systemd is told', () => {
  test.each(['path', 'abstract name'])('at its %s: ready, what it does, and that it ends', async (kind) => {
    const name = kind === 'path' ? join(dir, 'notify') : `@tubetti-test-${process.pid}`;
    const socket = join(dir, 's');
    const manager = await managerAt(name);
    const program = launchProgram([...PROGRAM, ...SAME_USER, '-s', socket], { NOTIFY_SOCKET: name });
    children.push(program.child);
    await poll('READY', () => (manager.told().includes('READY=1') ? true : null), 10_000);
    // Everything is there: a front-end is served at once.
    const guest = await Guest.start(loadNative(), { socket });
    const serving = `STATUS=serving a front-end on ${socket}`;
    await poll('STATUS', () => (manager.told().includes(serving) ? true : null), 10_000);
    await guest.stop();
    program.child.kill('SIGTERM');
    expect(await program.exit).toEqual({ status: 0, signal: null });
    await poll('STOPPING', () => (manager.told().includes('STOPPING=1') ? true : null), 10_000);
    const told = manager.told();
    expect(told[0]).toBe(`STATUS=waiting for a front-end on ${socket}`);
    expect(told.filter((line) => /^(READY|STOPPING)/.test(line))).toEqual(['READY=1', 'STOPPING=1']);
    expect(program.stderr()).not.toMatch(/refused by the sandbox|NOTIFY_SOCKET/);
  });

  test('of its process, where that is not the one that was started', async () => {
    const name = join(dir, 'notify');
    const manager = await managerAt(name);
    const argv = ['-b', ...SAME_USER, '-s', join(dir, 's'), '-P', join(dir, 'pid')];
    expect(runOnce(argv, { NOTIFY_SOCKET: name }).status).toBe(0);
    const pid = readFileSync(join(dir, 'pid'), 'utf8').trim();
    await poll('MAINPID', () => (manager.told().includes(`MAINPID=${pid}`) ? true : null), 10_000);
  });

  test('one that is not there costs a line', async () => {
    const program = launchProgram([...PROGRAM, ...SAME_USER, '-s', join(dir, 's')], { NOTIFY_SOCKET: join(dir, 'no') });
    children.push(program.child);
    await program.says(/waiting for a front-end/);
    expect(program.stderr()).toMatch(/NOTIFY_SOCKET \S+\/no: cannot connect, .*: no such file/);
  });
});

describe('--ready-fd', () => {
  /** Starts it with a pipe as descriptor 4; what was read from that until its end. */
  async function readiness(command: readonly string[]): Promise<string> {
    const stdio: StdioOptions = ['ignore', 'ignore', 'inherit', 'ignore', 'pipe'];
    const child = spawn(command[0], command.slice(1), { stdio });
    children.push(child);
    let text = '';
    const pipe = child.stdio[4] as Readable;
    pipe.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    await new Promise((resolve) => pipe.once('end', resolve));
    return text;
  }

  const serving = (...more: string[]): string[] => [
    ...SAME_USER,
    ...['-q', '-s', join(dir, 's'), '--ready-fd', '4', '-P', join(dir, 'pid')],
    ...more,
  ];

  test.each([
    ['the foreground', () => [...PROGRAM, ...serving()]],
    ['the background', () => [...PROGRAM, ...serving('-b')]],
    // The launcher may have to leave the caller, and does not.
    ['the foreground, told by the environment only', () => ['env', 'TUBETTI_BACKGROUND=0', ...PROGRAM, ...serving()]],
    ['the foreground, without the launcher', () => [process.execPath, SCRIPT, ...serving()]],
    ['the background, without the launcher', () => [process.execPath, SCRIPT, ...serving('-b')]],
  ])('in %s it gets a newline when the socket is there, and its end', async (_where, command) => {
    expect(await readiness(command())).toBe('\n');
    const guest = await Guest.start(loadNative(), { socket: join(dir, 's') });
    await guest.stop();
  });

  test('a start that fails is its end without a newline', async () => {
    expect(await readiness([...PROGRAM, ...serving('--mtu', 'x')])).toBe('');
  });

  test.each([
    ['--ready-fd 77', ['--ready-fd', '77'], /^tubetti: --ready-fd 77: descriptor 77 is not open, give one/],
    ['--ready-fd 2', ['--ready-fd', '2'], /^tubetti: --ready-fd 2: standard error is the log's/],
    ['--ready-fd x', ['--ready-fd', 'x'], /^tubetti: --ready-fd x: give a number from 1 to/],
    ['that of --fd', ['--fd', '5', '--ready-fd', '5'], /^tubetti: --ready-fd 5: that is the descriptor of --fd/],
  ])('%s is refused in one line', (_title, argv, line) => {
    const { status, stderr } = runOnce(argv);
    expect(status).toBe(1);
    expect(stderr).toMatch(line);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  });

  test('one that is open for reading only is refused', async () => {
    const fd = openSync('/etc/passwd', 'r');
    const stdio: StdioOptions = ['ignore', 'ignore', 'pipe', 'ignore', fd];
    const child = spawn(PROGRAM[0], [...PROGRAM.slice(1), ...serving()], { stdio });
    closeSync(fd);
    let text = '';
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    expect(await new Promise((resolve) => child.once('close', resolve))).toBe(1);
    expect(text).toBe('tubetti: --ready-fd 4: descriptor 4 is not open for writing\n');
  });
});

describe('--log-format json', () => {
  type Line = Record<string, unknown>;
  const parsed = (text: string): Line[] =>
    text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Line);

  test('every line of a life is an object: the start, the data plane, statistics, the end', async () => {
    const socket = join(dir, 's');
    const argv = ['--log-format', 'json', '-d', '--stats', '1', '-s', socket];
    const program = launchProgram([...PROGRAM, ...SAME_USER, ...argv]);
    children.push(program.child);
    await program.says(/waiting for a front-end/);
    const guest = await Guest.start(loadNative(), { socket });
    await guest.dhcp();
    await program.says(/"message":"counters"/);
    await guest.stop();
    program.child.kill('SIGTERM');
    await program.exit;
    const lines = parsed(program.stderr());
    for (const { time, level, message, program: name } of lines) {
      expect(time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      expect(['debug', 'info', 'warn']).toContain(level);
      expect(typeof message).toBe('string');
      expect(name).toBe('tubetti');
    }
    expect(lines.map(({ message }) => message)).toContainEqual(expect.stringMatching(/^guest's Ethernet address/));
    expect(lines).toContainEqual(
      expect.objectContaining({ message: 'front-end connected', site: 'front-end.connected' }),
    );
    const table = lines.find(({ message }) => message === 'counters') as { counters: Record<string, Line> } | undefined;
    expect(table?.counters['frames from_guest'].change).toBeGreaterThan(0);
  });

  test.each([
    ['an option that is wrong', ['--mtu', 'x'], /^--mtu x: give a number/],
    ['an option that is none', ['--nonsense'], /^unknown option --nonsense/],
    ['a service that cannot start', ['-s', '/nowhere/s'], /^--socket \/nowhere\/s: cannot listen/],
  ])('%s', (_title, argv, message) => {
    const { status, stderr } = runOnce([...argv, ...SAME_USER, '-q', '--log-format=json']);
    expect(status).toBe(1);
    const lines = parsed(stderr);
    expect(lines).toEqual([expect.objectContaining({ level: 'error', program: 'tubetti' })]);
    expect(lines[0].message).toMatch(message);
  });

  test('the launcher, too', () => {
    const [, name, , ...rest] = PROGRAM;
    const argv = [name, '/nowhere/"node"', ...rest, '--log-format', 'json'];
    const { status, stderr } = spawnSync(LAUNCHER, argv, { encoding: 'utf8' });
    expect(status).toBe(1);
    const [line] = parsed(stderr);
    expect(line).toMatchObject({ level: 'error', message: 'cannot run /nowhere/"node": No such file or directory' });
    expect(Math.abs(Date.parse(String(line.time)) - Date.now())).toBeLessThan(60_000);
  });
});

describe('priorities for the journal', () => {
  /** What it says on a standard error that is the file `path`. */
  async function said(named: (fd: number) => string, ...argv: string[]): Promise<string> {
    const path = join(dir, 'stream');
    const fd = openSync(path, 'w');
    const env = { ...process.env, JOURNAL_STREAM: named(fd) };
    const child = spawn(PROGRAM[0], [...PROGRAM.slice(1), ...argv], { stdio: ['ignore', 'ignore', fd], env });
    closeSync(fd);
    await new Promise((resolve) => child.once('close', resolve));
    return readFileSync(path, 'utf8');
  }
  const own = (fd: number): string => {
    const { dev, ino } = fstatSync(fd, { bigint: true });
    return `${dev}:${ino}`;
  };

  test('where it reads standard error, and only there', async () => {
    const wrong = ['--mtu', 'x'];
    expect(await said(own, ...wrong)).toMatch(/^<3>tubetti: --mtu x: give/);
    expect(await said(() => '1:2', ...wrong)).toMatch(/^tubetti: --mtu x: give/);
    const fails = [...SAME_USER, '--mtu', '1000', '-s', '/nowhere/s'];
    const lines = (await said(own, ...fails)).trimEnd().split('\n');
    expect(lines).toContainEqual(expect.stringMatching(/^<4>tubetti: warning: --mtu 1000/));
    expect(lines.at(-1)).toMatch(/^<3>tubetti: --socket/);
  });
});
