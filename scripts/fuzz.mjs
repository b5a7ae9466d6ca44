/**
 * `npm run fuzz -- --minutes N`: hostile front-ends and guests against the running service (docs/testing.md). Exit
 * status 1 if something was found, with the options that run that sequence again.
 */
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';
import { ROOT } from './lib/run.mjs';
import { SetupError, setUp } from './lib/setup.mjs';

const HELP = `npm run fuzz -- [--minutes N] [--seed N] [--sequences N] [--kinds messages,rings,frames,life] [--warm-up N]

  --minutes N     how long (default 5)
  --seed N        of the first sequence; the next ones have the numbers that follow (default: from the clock)
  --sequences N   end after this many sequences
  --kinds LIST    only these kinds of sequences
  --warm-up N     sequences before the first look at descriptors and memory (default 0)
`;

const require = createRequire(import.meta.url);

/** @param {string} option @param {string | undefined} text @param {number} otherwise */
function number(option, text, otherwise) {
  if (text === undefined) return otherwise;
  if (!/^\d+(\.\d+)?$/.test(text)) throw new SetupError(`--${option} ${text}: give a number`);
  return Number(text);
}

async function main() {
  const string = /** @type {const} */ ({ type: 'string' });
  const { values } = parseArgs({
    options: {
      minutes: string,
      seed: string,
      sequences: string,
      kinds: string,
      'warm-up': string,
      help: { type: 'boolean' },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  await setUp({ guests: false, log: (line) => console.error(`set-up: ${line}`) });
  require('./lib/ts-hook.cjs');
  const { whyNoNamespaces } = require(`${ROOT}/test/support/world/host-world.ts`);
  const missing = whyNoNamespaces();
  if (missing !== null) throw new SetupError(missing);
  const { fuzz, reportText } = require(`${ROOT}/test/fuzz/fuzz.ts`);
  const { SEQUENCES } = require(`${ROOT}/test/fuzz/sequences.ts`);
  const kinds = values.kinds?.split(',') ?? Object.keys(SEQUENCES);
  const unknown = kinds.find((kind) => !(kind in SEQUENCES));
  if (unknown !== undefined) {
    throw new SetupError(`--kinds ${unknown}: give some of ${Object.keys(SEQUENCES).join(',')}`);
  }
  const report = await fuzz({
    minutes: number('minutes', values.minutes, 5),
    seed: number('seed', values.seed, Date.now() % 2 ** 31),
    sequences: number('sequences', values.sequences, Infinity),
    kinds,
    warmUp: number('warm-up', values['warm-up'], 0),
    log: (/** @type {string} */ line) => console.error(line),
  });
  console.log(reportText(report));
  return report.tally.finds.length === 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  const usage =
    error instanceof SetupError || /** @type {{ code?: string }} */ (error).code?.startsWith('ERR_PARSE_ARGS');
  if (!usage) throw error;
  console.error(`${/** @type {Error} */ (error).message}\n${HELP}`);
  process.exitCode = 2;
}
