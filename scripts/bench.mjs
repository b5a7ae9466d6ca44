/**
 * `npm run bench`: Tubetti beside other back-ends with a real guest (bench/README.md). `--help` says how.
 * Everything it starts lives in namespaces of its own and ends with it.
 */
import { accessSync, constants } from 'node:fs';
import { createRequire } from 'node:module';
import { ROOT } from './lib/run.mjs';
import { SetupError, setUp } from './lib/setup.mjs';

const require = createRequire(import.meta.url);

async function main() {
  // The options are TypeScript, which needs node_modules.
  const available = await setUp({ guests: true, log: (line) => console.error(`set-up: ${line}`) });
  require('./lib/ts-hook.cjs');
  const { bench, HELP, UsageError, parseOptions } = require(`${ROOT}/bench/macro/main.ts`);
  const { whyNoNamespaces } = require(`${ROOT}/test/support/world/host-world.ts`);
  if (process.argv.some((word) => /^--guests(=|$)/.test(word))) return manyGuests(whyNoNamespaces());
  try {
    const options = parseOptions(process.argv.slice(2));
    if (options === 'help') {
      console.log(HELP);
      return 0;
    }
    const measures = options.from.length === 0;
    const missing = measures ? (whyNoNamespaces() ?? whyNot(options.run, available)) : null;
    if (missing !== null) throw new SetupError(missing);
    return await bench(options);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(`${error.message}\nnpm run bench -- --help`);
    return 2;
  }
}

/**
 * `--guests N`: another bench, of what many services on a host cost.
 * @param {string | null} missing
 */
async function manyGuests(missing) {
  const guests = require(`${ROOT}/bench/guests/main.ts`);
  if (process.argv.includes('--help')) {
    console.log(guests.GUESTS_HELP);
    return 0;
  }
  try {
    const options = guests.parseGuestsOptions(process.argv.slice(2));
    if (missing !== null) throw new SetupError(missing);
    return await guests.benchGuests(options);
  } catch (error) {
    if (!(error instanceof guests.GuestsUsageError)) throw error;
    console.error(`${error.message}\nnpm run bench -- --guests 50 --help`);
    return 2;
  }
}

/**
 * @param {{ guest: 'uml' | 'qemu' | 'testpmd' | 'bare' | 'netns', accel: 'tcg' | 'kvm' }} run
 * @param {{ uml: boolean, qemu: boolean, testpmd: boolean }} available
 */
function whyNot({ guest, accel }, available) {
  // A front-end of our own, compiled as the traffic program is; and no front-end at all.
  if (guest === 'bare' || guest === 'netns') return null;
  if (guest === 'qemu' && accel === 'kvm') {
    try {
      accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    } catch {
      return '--accel kvm: /dev/kvm is not here or not for this user; --accel tcg emulates';
    }
  }
  return available[guest] ? null : `--guest ${guest}: it is not here and could not be set up`;
}

// Children and scratch files are cleaned up on `exit`, which these signals do not reach by themselves.
for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
]) {
  process.on(signal, () => process.exit(status));
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error instanceof SetupError ? error.message : error);
  process.exitCode = 1;
}
