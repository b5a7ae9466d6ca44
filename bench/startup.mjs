/**
 * What a start costs, beside a peer: time from exec to a socket that takes connections, and to a service that is ready to
 * hear a front-end (the door is closed, all filters are in force); CPU time of all threads until then; and the memory of
 * the idle service. `node bench/startup.mjs [-n STARTS] [--nodes 22,24,26] [--peer 'passt --vhost-user -f'] [--json]`.
 *
 * The starts of the programs take turns, so that what else the machine does hits all of them. Medians, and of times the
 * least besides: on a machine that does other things at once it says more. Node by itself is a
 * row of its own: the time of `node -e 0` from exec to exit, the memory of a Node that waits; what is above it is ours.
 * `--nodes`: the same rows under other releases, in trees as `npm run test:nodes` makes them.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { parseMajors, prepareNode } from '../scripts/lib/nodes.mjs';

const BIN = join(dirname(dirname(fileURLToPath(import.meta.url))), 'bin', 'tubetti');
const TIMEOUT_MS = 20_000;
const TIMES = ['listening ms', 'ready ms', 'CPU ms'];
const COLUMNS = [...TIMES, 'RSS MiB', 'PSS MiB', 'private MiB'];
/** Time for a program to come to rest before its memory is looked at. */
const SETTLE_MS = 700;

const { values } = parseArgs({
  options: {
    n: { type: 'string', short: 'n', default: '11' },
    nodes: { type: 'string' },
    peer: { type: 'string' },
    json: { type: 'boolean' },
  },
});
const starts = Number(values.n);
if (!Number.isInteger(starts) || starts < 1) {
  process.stderr.write(`bench/startup: -n ${values.n}: give a number of starts, 1 or more\n`);
  process.exit(1);
}

// A service has a clean environment: what the caller's shell says to Node is left out.
delete process.env.NODE_EXTRA_CA_CERTS;
delete process.env.NODE_OPTIONS;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** True if somebody takes a connection at `path`. */
function answers(path) {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}

/** Time that the threads of a process had a processor, ms. Those that have ended are not in it. */
function cpuMs(pid) {
  return readdirSync(`/proc/${pid}/task`)
    .map((thread) => Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1').split(' ')[0]) / 1e6)
    .reduce((sum, ms) => sum + ms, 0);
}

function mebibytes(text, key) {
  const match = new RegExp(`^${key}:\\s+(\\d+) kB`, 'm').exec(text);
  return match === null ? Number.NaN : Number(match[1]) / 1024;
}

function memoryOf(pid) {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1');
  return {
    'RSS MiB': mebibytes(rollup, 'Rss'),
    'PSS MiB': mebibytes(rollup, 'Pss'),
    'private MiB': mebibytes(rollup, 'Private_Dirty') + mebibytes(rollup, 'Private_Clean'),
  };
}

/** Settles when the service writes to `pipe`; rejects if it ends without that. */
function readiness(pipe) {
  return new Promise((resolve, reject) => {
    pipe.once('data', resolve).once('close', () => reject(new Error('it ended before it was ready')));
  });
}

/** Starts one service, under `node`, and looks at it. `tells`: it says on descriptor 3 that it is ready. */
async function sample(node, argv, tells = false) {
  const dir = mkdtempSync(join(tmpdir(), 'tubetti-startup-'));
  const path = join(dir, 'socket');
  const [file, ...args] = argv;
  const begin = process.hrtime.bigint();
  const child = spawn(file, [...args, ...(tells ? ['--ready-fd', '3'] : []), '--socket', path], {
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    env: { ...process.env, TUBETTI_NODE: node },
  });
  const sinceBegin = () => Number(process.hrtime.bigint() - begin) / 1e6;
  const ready =
    tells && readiness(child.stdio[3]).then(() => ({ 'ready ms': sinceBegin(), 'CPU ms': cpuMs(child.pid) }));
  const exit = new Promise((resolve) => child.once('exit', resolve));
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    said += text;
  });
  try {
    while (!(await answers(path))) {
      if (child.exitCode !== null || sinceBegin() > TIMEOUT_MS) {
        throw new Error(`${argv.join(' ')} did not listen:\n${said}`);
      }
      await sleep(1);
    }
    const listening = sinceBegin();
    const rest = ready ? await ready : { 'CPU ms': cpuMs(child.pid) };
    await sleep(SETTLE_MS);
    return { 'listening ms': listening, ...rest, ...memoryOf(child.pid) };
  } finally {
    child.kill('SIGTERM');
    await exit;
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Node doing nothing: the time of its start and end; the memory of one that waits. */
async function bare(node) {
  const begin = process.hrtime.bigint();
  spawnSync(node, ['-e', '0']);
  const time = Number(process.hrtime.bigint() - begin) / 1e6;
  const child = spawn(node, ['-e', "process.stdout.write('.'); setInterval(() => {}, 1e8)"]);
  const exit = new Promise((resolve) => child.once('exit', resolve));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const cpu = cpuMs(child.pid);
  await sleep(SETTLE_MS);
  try {
    return { 'listening ms': time, 'CPU ms': cpu, ...memoryOf(child.pid) };
  } finally {
    child.kill();
    await exit;
  }
}

function median(list) {
  const sorted = list.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  return sorted.length === 0 ? Number.NaN : sorted[sorted.length >> 1];
}

/** The rows of one Node. */
function rowsOf(suffix, node, bin) {
  return [
    [`tubetti${suffix}`, () => sample(node, [bin, '--runas', '0'], true)],
    [`--sandbox off${suffix}`, () => sample(node, [bin, '--runas', '0', '--sandbox', 'off'], true)],
    [`without launcher${suffix}`, () => sample(node, [node, `${bin}.js`, '--runas', '0'], true)],
    [`node -e 0${suffix}`, () => bare(node)],
  ];
}

const programs = new Map(rowsOf('', process.execPath, BIN));
for (const major of values.nodes === undefined ? [] : parseMajors(values.nodes)) {
  const { node, tree } = await prepareNode(major, (line) => process.stderr.write(`${line}\n`));
  for (const [name, run] of rowsOf(`, ${major}`, node, join(tree, 'bin', 'tubetti'))) programs.set(name, run);
}
if (values.peer !== undefined) {
  const argv = values.peer.split(' ').filter((word) => word !== '');
  programs.set(argv[0], () => sample(process.execPath, argv));
}

const samples = new Map([...programs.keys()].map((name) => [name, []]));
for (let i = 0; i < starts; i++) {
  for (const [name, run] of programs) samples.get(name).push(await run());
}
/** Of each column what `of` makes of its values. */
function rowsBy(columns, of) {
  return new Map(
    [...samples].map(([name, list]) => [
      name,
      Object.fromEntries(columns.map((key) => [key, of(list.map((one) => one[key] ?? Number.NaN))])),
    ]),
  );
}

const medians = rowsBy(COLUMNS, median);
const least = rowsBy(TIMES, (list) => Math.min(...list));
if (values.json) {
  const result = { starts, medians: Object.fromEntries(medians), least: Object.fromEntries(least) };
  process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
} else {
  const one = (value) => (value === undefined || Number.isNaN(value) ? '–' : value.toFixed(1));
  const cell = (name, key) => {
    const value = one(medians.get(name)[key]);
    return value === '–' || !TIMES.includes(key) ? value : `${value} (${one(least.get(name)[key])})`;
  };
  process.stdout.write(
    `median of ${starts} starts (least)\n${' '.repeat(24)}${COLUMNS.map((key) => key.padStart(16)).join('')}\n`,
  );
  for (const name of medians.keys()) {
    process.stdout.write(
      `${name.slice(-24).padEnd(24)}${COLUMNS.map((key) => cell(name, key).padStart(16)).join('')}\n`,
    );
  }
}
