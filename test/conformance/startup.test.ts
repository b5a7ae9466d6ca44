/**
 * What a start costs: memory, modules loaded, compiled code. Counts rather than times, as machines that test do other
 * things too; `node bench/startup.mjs` has the times. Needs a build.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { launched } from '../support/program';

const ROOT = join(__dirname, '..', '..');
const DIST = join(ROOT, 'dist');
const LOADER = join(ROOT, 'bin', 'load.js');
const PRELOAD = join(ROOT, 'test', 'fixtures', 'loaded-modules.cjs');

/**
 * What the idle service has in memory beyond a Node that waits, KiB. Of the second thread, which is V8 once more, it is 8 to
 * 10 MiB.
 */
const PRIVATE_LIMIT = 22 * 1024;
/**
 * The same with pages of files, which all services of a host share, by the Node's major version: from 22 on most of it is
 * Node's own executable, of which V8's compilers use more. A newer Node is measured against the last.
 */
const RESIDENT_LIMIT: Readonly<Record<string, number>> = { 20: 25 * 1024, 22: 33 * 1024, 24: 37 * 1024, 26: 33 * 1024 };
/** Above this something is broken, whatever else the machine does. */
const START_LIMIT_MS = 10_000;

jest.setTimeout(30_000);

let dir: string;
let child: ChildProcess | null = null;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-startup-'));
});

afterEach(() => {
  child?.kill('SIGKILL');
  child = null;
  rmSync(dir, { recursive: true });
});

/** Starts the service and waits until it has said all it says at the start. */
async function started(nodeOptions: readonly string[], ...argv: string[]): Promise<ChildProcess> {
  const env: NodeJS.ProcessEnv = { ...process.env, LOADED_MODULES: join(dir, 'loaded.json') };
  // Certificates that the caller's shell has Node read are no part of a service.
  delete env.NODE_EXTRA_CA_CERTS;
  const [file, ...before] = launched(...nodeOptions);
  const run = spawn(file, [...before, '-s', join(dir, 'socket'), '--runas', '0', ...argv], {
    stdio: ['ignore', 'inherit', 'pipe'],
    env,
  });
  child = run;
  let text = '';
  await new Promise<void>((resolve, reject) => {
    run.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      if (text.includes("<interface type='vhostuser'>")) resolve();
    });
    run.once('exit', () => {
      reject(new Error(`ended before it had started:\n${text}`));
    });
  });
  return run;
}

async function ended(run: ChildProcess): Promise<void> {
  const exit = new Promise((resolve) => run.once('exit', resolve));
  run.kill('SIGTERM');
  await exit;
}

/** What the program had loaded when it ended. */
async function loadedBy(...argv: string[]): Promise<{ files: string[]; builtins: string[] }> {
  await ended(await started(['--require', PRELOAD], ...argv));
  return JSON.parse(readFileSync(join(dir, 'loaded.json'), 'utf8')) as { files: string[]; builtins: string[] };
}

/** KiB that a process has in memory: by itself, and with pages of files. */
function memoryOf(run: ChildProcess): { own: number; resident: number } {
  const status = readFileSync(`/proc/${String(run.pid)}/status`, 'latin1');
  const [own, resident] = ['RssAnon', 'VmRSS'].map((name) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]),
  );
  expect(own).toBeGreaterThan(0);
  return { own, resident };
}

/** The same of a Node that has nothing to do. */
async function bareNode(): Promise<{ own: number; resident: number }> {
  const env = { ...process.env };
  delete env.NODE_EXTRA_CA_CERTS;
  const run = spawn(process.execPath, ['-e', "process.stdout.write('.'); setInterval(() => {}, 1e8)"], { env });
  child = run;
  await new Promise((resolve) => run.stdout.once('data', resolve));
  const memory = memoryOf(run);
  await ended(run);
  return memory;
}

function middle(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
}

/** A garbage collection more or less at the start is some 0.5 MiB: of this number of starts the middle counts. */
const STARTS = 3;

test('the idle service has at most 22 MiB more than Node alone has, and is there soon', async () => {
  const bare = await bareNode();
  const own: number[] = [];
  const resident: number[] = [];
  for (let i = 0; i < STARTS; i++) {
    const before = Date.now();
    const run = await started([]);
    expect(Date.now() - before).toBeLessThan(START_LIMIT_MS);
    const memory = memoryOf(run);
    own.push(memory.own - bare.own);
    resident.push(memory.resident - bare.resident);
    await ended(run);
  }
  const [major] = process.versions.node.split('.');
  console.info(`Node ${process.versions.node}: ${own.join(', ')} KiB; ${resident.join(', ')} with files`);
  expect(middle(own)).toBeLessThanOrEqual(PRIVATE_LIMIT);
  expect(middle(resident)).toBeLessThanOrEqual(RESIDENT_LIMIT[major] ?? RESIDENT_LIMIT[26]);
});

test('the program is one file and the addon; what is not asked for is not loaded', async () => {
  const { files, builtins } = await loadedBy();
  const ours = files.filter((file) => file !== PRELOAD).map((file) => file.slice(ROOT.length + 1));
  expect(ours.sort()).toEqual(['bin/load.js', 'bin/tubetti.js', 'build/Release/tubetti.node']);
  for (const name of ['http', 'https', 'tls', 'crypto', 'zlib', 'dns', 'child_process', 'fs/promises', 'readline']) {
    expect(builtins).not.toContain(name);
  }
});

test('--metrics loads what it needs', async () => {
  const { files, builtins } = await loadedBy('--metrics', '127.0.0.1:0');
  expect(builtins).toContain('http');
  expect(files.some((file) => file.includes('/prom-client/'))).toBe(true);
});

test("the young generation is held when the service is ready, and the threads start under V8's own flags", async () => {
  const preload = join(dir, 'flags.cjs');
  const flags = join(dir, 'flags');
  // Opened at once: the sandbox has no such directory.
  const script = `const { openSync, writeSync } = require('node:fs');
    const v8 = require('node:v8');
    const fd = openSync(${JSON.stringify(flags)}, 'a');
    const { setFlagsFromString } = v8;
    v8.setFlagsFromString = (flag) => {
      writeSync(fd, flag + '\\n');
      setFlagsFromString(flag);
    };`;
  writeFileSync(preload, script);
  await ended(await started(['--require', preload]));
  expect(readFileSync(flags, 'latin1')).toBe('--semi-space-growth-factor=2\n--semi-space-growth-factor=1\n');
});

test("V8 takes the code that the build made, and refuses another program's", () => {
  // In a process of its own: V8 also refuses code made under other flags, and other tests change flags of this one.
  const isRejected = (file: string, cache: string): string => {
    const script = `const { compile } = require(${JSON.stringify(LOADER)});
      const cache = require('node:fs').readFileSync(${JSON.stringify(cache)});
      process.stdout.write(String(compile(${JSON.stringify(file)}, cache).cachedDataRejected));`;
    return spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' }).stdout;
  };
  const other = join(dir, 'other.js');
  for (const file of ['tubetti.js', 'data-plane.js']) {
    const cache = join(DIST, `${file}.cache`);
    expect(isRejected(join(DIST, file), cache)).toBe('false');
    writeFileSync(other, `exports.of = ${JSON.stringify(file)};`);
    expect(isRejected(other, cache)).toBe('true');
  }
  expect(existsSync(join(DIST, 'worker.js'))).toBe(true);
});

test('what a start calls was compiled by the build', () => {
  const script = `const { compile } = require(${JSON.stringify(LOADER)});
    process.stdout.write(String(compile(process.argv[1]).createCachedData().length));`;
  for (const file of ['tubetti.js', 'data-plane.js'].map((name) => join(DIST, name))) {
    const { stdout: outermost } = spawnSync(process.execPath, ['-e', script, file], { encoding: 'utf8' });
    expect(statSync(`${file}.cache`).size).toBeGreaterThan(1.3 * Number(outermost));
  }
});

test('the stack of a bug names the sources', () => {
  const script = `require(${JSON.stringify(LOADER)}).load(${JSON.stringify(join(DIST, 'tubetti.js'))}).run([])`;
  const { stderr } = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' });
  expect(stderr).toMatch(/^tubetti: TypeError/);
  const place = /at \w+ \((.*src\/cli\/invoked-name\.ts):(\d+):\d+\)/.exec(stderr);
  expect(place).not.toBeNull();
  const line = readFileSync(place![1], 'utf8').split('\n')[Number(place![2]) - 1];
  expect(line).toContain('basename');
});
