/**
 * The prober against the running service, which has to pass, and against back-ends that are wrong in one way each, which
 * it has to find. Needs a build.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative, type Native } from '../../src/native';
import { CHECKS } from '../../src/probe/checks';
import { runChecks } from '../../src/probe/main';
import { matches } from '../../src/probe/options';
import { Target } from '../../src/probe/target';
import { WireBackend } from '../support/guest/wire-backend';
import { BIN, PROGRAM, type Result, SAME_USER, launchProgram, runOnce } from '../support/program';

jest.setTimeout(240_000);

let native: Native;
let dir: string;

beforeAll(() => {
  native = loadNative();
});

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-probe-'));
});

afterEach(() => {
  rmSync(dir, { recursive: true });
});

/** Runs the prober as a program of its own, for as long as it takes. */
function probe(...argv: string[]): Promise<Result> {
  return new Promise((resolve) => {
    const child = spawn(BIN, ['probe', ...argv], { stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk));
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
    child.on('close', (status) => {
      resolve({ status, stdout, stderr });
    });
  });
}

interface Row {
  readonly id: string;
  readonly severity: string;
  readonly status: string;
  readonly reason: string;
}

test('the service passes every check, and skips only what it does not offer', async () => {
  const path = join(dir, 'socket');
  const service = launchProgram([...PROGRAM, '--foreground', ...SAME_USER, '-s', path]);
  try {
    await service.says(/<interface type='vhostuser'>/);
    const { status, stdout, stderr } = await probe('--socket', path, '--json');
    const { results } = JSON.parse(stdout) as { results: Row[] };
    expect(results.filter((row) => row.status === 'fail')).toEqual([]);
    const skipped = results.filter((row) => row.status === 'skip');
    expect(skipped.filter(({ reason }) => !reason.endsWith('is not offered'))).toEqual([]);
    expect(results).toHaveLength(CHECKS.length);
    // Most of them apply: this is no report of nothing.
    expect(skipped.length).toBeLessThan(CHECKS.length / 10);
    expect([status, stderr]).toEqual([0, '']);
  } finally {
    service.child.kill('SIGTERM');
    await service.exit;
  }
});

/** A back-end of the tests, which believes everything; `change` makes it wrong in one way more. */
class Believer {
  readonly path = join(dir, 'socket');
  private readonly listener = native.unixListen(this.path, 8);
  private readonly poll: number;
  private backends: WireBackend[] = [];

  constructor(change: (backend: WireBackend) => void) {
    this.poll = native.pollStart(this.listener, 1, () => {
      const backend = new WireBackend(native, native.unixAccept(this.listener));
      this.backends.push(backend);
      const handle = backend.connection.onMessage;
      backend.connection.onMessage = (message) => {
        try {
          handle?.(message);
        } catch {
          backend.close();
        }
      };
      void backend.connection.closed.then(() => backend.close());
      change(backend);
    });
  }

  close(): void {
    native.pollStop(this.poll);
    native.close(this.listener);
    for (const backend of this.backends) backend.close();
    this.backends = [];
  }
}

/** Results of some checks against a back-end, by their names. */
async function resultsOf(change: (backend: WireBackend) => void, ...only: string[]): Promise<Map<string, string>> {
  const backend = new Believer(change);
  try {
    const target = new Target(native, backend.path, 300, null);
    const checks = CHECKS.filter(({ id }) => only.includes(id));
    expect(checks).toHaveLength(only.length);
    const results = await runChecks(target, checks, 300);
    return new Map(results.map(({ check, status, reason }) => [check.id, `${status} ${reason}`.trim()]));
  } finally {
    backend.close();
  }
}

const nothing = (): void => undefined;

test('finds that a back-end acknowledges what it does not know and cannot do', async () => {
  const wrong = ['unknown.99', 'memory.no-file', 'vring.NUM-index-256', 'fds.memory-tcp', 'mtu.0'];
  const results = await resultsOf(nothing, 'stream.joined', 'state.restart', 'ring.indirect', ...wrong);
  for (const id of ['stream.joined', 'state.restart', 'ring.indirect']) expect(results.get(id)).toBe('pass');
  expect(results.get('unknown.99')).toBe('fail acknowledged as done, which it cannot be');
  expect(results.get('mtu.0')).toBe('fail acknowledged as done, which it cannot be');
});

test('finds replies with the wrong flags', async () => {
  const change = ({ connection }: WireBackend): void => {
    const send = connection.send.bind(connection);
    connection.send = (request, flags, ...rest) => send(request, flags | 8, ...rest);
  };
  const results = await resultsOf(change, 'header.reply-to-need-reply');
  expect(results.get('header.reply-to-need-reply')).toContain('reply with flags 0xd, not 0x5');
});

test('finds a back-end that stops answering, and one that does not serve the next front-end', async () => {
  let served = 0;
  const change = ({ connection }: WireBackend): void => {
    const { onMessage } = connection;
    const mute = served++ > 0;
    connection.onMessage = (message) => {
      if (!mute) onMessage?.(message);
    };
  };
  const results = await resultsOf(change, 'unknown.99', 'stream.joined');
  expect(results.get('stream.joined')).toMatch(/^fail the next front-end is not served: .*no answer within 300 ms/);
  expect(results.get('unknown.99')).toBe('skip the back-end is gone');
});

test('finds frames that are not given back, and a ring that goes on after GET_VRING_BASE', async () => {
  const change = ({ connection }: WireBackend): void => {
    const { onMessage } = connection;
    connection.onMessage = (message) => {
      if (message.request !== 11) onMessage?.(message);
      else connection.send(11, 5, message.payload);
    };
  };
  const results = await resultsOf(change, 'state.stopped', 'state.base-counts');
  expect(results.get('state.stopped')).toBe('fail a frame was taken');
  expect(results.get('state.base-counts')).toBe('fail 0 instead of 3');
});

test('--spawn tells a crash from a closed connection', async () => {
  const fixture = join(__dirname, '..', 'fixtures', 'probe', 'dying-backend.cjs');
  const { status, stdout } = await probe('--spawn', `'${process.execPath}' '${fixture}' {}`, '-o', 'unknown.99');
  expect(stdout).toMatch(/FAIL {2}unknown\.99 .*\n +back-end died: signal SIGSEGV/);
  expect(stdout).toMatch(/\n0 passed, 1 failed, 0 weak \(SHOULD\), 0 skipped\n$/);
  expect(status).toBe(1);
});

test('lists, helps, and refuses what it cannot use in one line', () => {
  const list = runOnce(['probe', '--list']);
  expect(list.status).toBe(0);
  for (const { id, spec } of CHECKS) {
    expect(list.stdout).toContain(`  ${id} `);
    expect(list.stdout).toContain(`${spec}\n`);
  }
  // node scripts/probe-list.mjs writes it there.
  expect(readFileSync(join(__dirname, '..', '..', 'docs', 'probe.md'), 'utf8')).toContain(list.stdout);
  const only = runOnce(['probe', '--list', '--only', 'ring.*']).stdout;
  expect(only).toContain('ring.indirect');
  expect(only).not.toContain('memory.');
  expect(runOnce(['probe', '--help']).stdout).toMatch(/^Usage: tubetti probe --socket PATH/);

  const refused = (...argv: string[]): string => {
    const { status, stdout, stderr } = runOnce(['probe', ...argv]);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^tubetti probe: [^\n]+\n$/);
    return stderr;
  };
  expect(refused()).toContain('give --socket PATH');
  expect(refused('--sockte', 'x')).toContain('did you mean --socket?');
  expect(refused('-s', 'x', '--timeout', '1s')).toContain('--timeout 1s');
  expect(refused('-s', 'x', '--only', 'nonesuch')).toContain('--only nonesuch');
  expect(refused('-s', 'x', 'y')).toContain('extra argument "y"');
  expect(refused('-s', 'y'.repeat(108))).toContain('107 bytes');
  expect(refused('-s', join(dir, 'nobody'), '--timeout', '10')).toContain('no back-end to check');
});

test('each check has a name of its own, a paragraph and a title, and patterns find it', () => {
  expect(new Set(CHECKS.map(({ id }) => id)).size).toBe(CHECKS.length);
  for (const { id, spec, title } of CHECKS) {
    expect(id).toMatch(/^[a-z-]+\.[A-Za-z0-9_-]+$/);
    expect(spec).toMatch(/^(vhost-user "[^"]+"|virtio 1\.2 §[\d.]+)$/);
    expect(title).not.toBe('');
    expect(matches([id], id, spec)).toBe(true);
  }
});
