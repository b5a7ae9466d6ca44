/**
 * `npm run test:asan [-- jest's options]`: builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer, runs the
 * tests that use it, and builds the ordinary addon again. Exit status 1 if a test failed or a sanitizer said something
 * of the addon; what they said is in .cache/asan/.
 *
 * Node itself is not instrumented: of leaks only those count that were allocated by the addon's own code.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, capture, run } from './lib/run.mjs';

/** What calls the addon, and whose time limits a slower process keeps. */
const TESTS = [
  'test/unit/native',
  'test/unit/dataplane',
  'test/unit/stack/(tcp|udp)/real-sockets',
  'test/unit/config/listeners',
  'test/unit/vhost',
  'test/conformance/(guest-inside|guest-uso|vhost-|stream-server|fuzz)',
];
const ADDON = 'tubetti.node';
/** Frames above the addon's in the stack of an allocation of its own: malloc, operator new, a container. */
const OWN_DEPTH = 8;

const logs = join(ROOT, '.cache', 'asan');

/** @param {string} message @returns {never} */
function fail(message) {
  process.stderr.write(`test-asan: ${message}\n`);
  process.exit(2);
}

/** @param {boolean} sanitize */
function build(sanitize) {
  const env = { ...process.env, TUBETTI_SANITIZE: sanitize ? '1' : '' };
  const program = join(ROOT, 'scripts', 'build-addon.mjs');
  return spawnSync(process.execPath, [program, '--force'], { env, stdio: 'inherit' }).status === 0;
}

/**
 * The part of a report that is about the addon, or null: any error, and leaks that the addon's code allocated.
 * @param {string} text
 */
function ofAddon(text) {
  const blocks = text.split(/\n(?=(?:Direct|Indirect) leak of )/);
  const leaks = blocks.filter((block) => {
    if (!/^(Direct|Indirect) leak of /.test(block)) return false;
    const frames = block.split('\n').filter((line) => /^\s+#\d+ /.test(line));
    const own = frames.findIndex((line) => line.includes(ADDON) || line.includes('/addon/'));
    // V8 leaves what it made for itself, for us as for others, when a process ends in the middle.
    return own >= 0 && own < OWN_DEPTH && !frames.slice(0, own).some((line) => line.includes(' in v8::'));
  });
  const error = /ERROR: AddressSanitizer|runtime error:/.test(text) ? [text] : [];
  const found = error.length > 0 ? error : leaks;
  return found.length === 0 ? null : found.join('\n');
}

async function main() {
  const library = capture('g++', ['-print-file-name=libasan.so'])?.trim() ?? '';
  if (!library.startsWith('/')) fail("g++'s libasan not found: install it, e.g. apt-get install g++ libasan8");
  rmSync(logs, { recursive: true, force: true });
  mkdirSync(logs, { recursive: true });
  if ((await run(process.execPath, [join(ROOT, 'scripts', 'build.mjs')])).status !== 0) return 2;
  if (!build(true)) return 2;
  const log = `log_path=${join(logs, 'report')}`;
  const env = {
    LD_PRELOAD: library,
    // SIGBUS is the addon's own business (addon/sigbus.cc). Leaks of every process are written down, and judged here. A large
    // quarantine would be taken for a leak by the tests that watch resident memory.
    ASAN_OPTIONS: `${log}:detect_leaks=1:handle_sigbus=0:detect_odr_violation=0:allocator_may_return_null=1:quarantine_size_mb=32`,
    LSAN_OPTIONS: `exitcode=0:print_suppressions=0`,
    UBSAN_OPTIONS: `${log}:print_stacktrace=1:halt_on_error=1`,
    // LeakSanitizer traces its own process when that ends, which a sandboxed one is killed for.
    TUBETTI_SANDBOX: 'off',
  };
  const jest = join(ROOT, 'node_modules', 'jest', 'bin', 'jest.js');
  const more = process.argv.slice(2);
  const patterns = more.length > 0 ? more : ['--testPathPatterns', ...TESTS];
  const args = [jest, '--selectProjects', 'unit', 'conformance', '--runInBand', '--forceExit', ...patterns];
  const { status } = await run(process.execPath, args, { env });
  let finds = 0;
  for (const name of readdirSync(logs)) {
    const found = ofAddon(readFileSync(join(logs, name), 'utf8'));
    if (found === null) continue;
    finds++;
    process.stdout.write(`--- ${name}\n${found}\n`);
  }
  process.stdout.write(`test-asan: tests ${status === 0 ? 'passed' : 'failed'}, ${finds} reports about the addon\n`);
  return status === 0 && finds === 0 ? 0 : 1;
}

// The run is interrupted by the terminal, and the ordinary addon still comes back.
process.on('SIGINT', () => undefined);
try {
  process.exitCode = await main();
} finally {
  if (!build(false)) process.exitCode = 2;
}
