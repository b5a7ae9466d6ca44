/** `tubetti probe`: from a command line to an exit status. bin/tubetti.js calls `run`; the service never loads it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ConfigError, messageOf } from '../errors';
import { loadNative, type Native } from '../native';
import { readableStack } from '../stack-trace';
import type { Check } from './check';
import { CHECKS } from './checks';
import { matches, parseProbeLine, type ProbeOptions, probeUsage } from './options';
import { jsonText, listText, resultText, summaryText, totalsOf } from './report';
import { type Result, Runner } from './run';
import { Target } from './target';

const PASSED = 0;
const FAILED = 1;
const UNUSABLE = 2;

function loadAddon(): Native {
  try {
    return loadNative();
  } catch (error) {
    throw new ConfigError('CFG_ERR_HOST', messageOf(error));
  }
}

/** Runs `checks` in order. `onResult` is called with each result. */
export async function runChecks(
  target: Target,
  checks: readonly Check[],
  timeoutMs: number,
  onResult: (result: Result) => void = () => undefined,
): Promise<Result[]> {
  const runner = new Runner(target, timeoutMs);
  const results: Result[] = [];
  try {
    for (const check of checks) {
      const result = await runner.run(check);
      results.push(result);
      onResult(result);
    }
  } finally {
    await runner.end();
  }
  return results;
}

/** One front-end before all checks: what cannot be spoken to at all is no back-end that fails checks. */
async function tryOut(target: Target, timeoutMs: number): Promise<void> {
  target.start();
  try {
    (await target.open({}, Math.max(timeoutMs, 5000))).close();
  } catch (error) {
    await target.stop();
    throw new ConfigError('CFG_ERR_SOCKET', `${target.path}: no back-end to check: ${messageOf(error)}`);
  }
  await target.stop();
}

async function probe(options: ProbeOptions, checks: readonly Check[]): Promise<number> {
  const native = loadAddon();
  native.raiseFileLimit();
  const dir = options.socket === '' ? mkdtempSync(join(tmpdir(), 'tubetti-probe-')) : null;
  const path = dir === null ? options.socket : join(dir, 'socket');
  try {
    const target = new Target(native, path, options.timeoutMs, options.spawn);
    await tryOut(target, options.timeoutMs);
    let spec = '';
    const results = await runChecks(target, checks, options.timeoutMs, (result) => {
      if (options.json) return;
      if (result.check.spec !== spec) process.stdout.write(`${spec === '' ? '' : '\n'}${result.check.spec}\n`);
      spec = result.check.spec;
      process.stdout.write(`${resultText(result)}\n`);
    });
    process.stdout.write(options.json ? jsonText(results) : `\n${summaryText(results)}\n`);
    return totalsOf(results).failed > 0 ? FAILED : PASSED;
  } finally {
    if (dir !== null) rmSync(dir, { recursive: true, force: true });
  }
}

/** Runs the prober with the arguments behind "probe". Returns its exit status. */
export async function run(argv: readonly string[]): Promise<number> {
  try {
    const options = parseProbeLine(argv);
    if (options.action === 'help') {
      process.stdout.write(probeUsage());
      return PASSED;
    }
    const checks = CHECKS.filter(({ id, spec }) => matches(options.only, id, spec));
    if (checks.length === 0) {
      throw new ConfigError('CFG_ERR_VALUE', `--only ${options.only.join(', ')}: no check has that name (see --list)`);
    }
    if (options.action === 'list') {
      process.stdout.write(listText(checks));
      return PASSED;
    }
    return await probe(options, checks);
  } catch (error) {
    const text =
      error instanceof ConfigError ? error.message : error instanceof Error ? readableStack(error) : String(error);
    process.stderr.write(`tubetti probe: ${text}\n`);
    return UNUSABLE;
  }
}
