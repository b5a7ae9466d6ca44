/**
 * `npm run bench:scrapers`: what a guest's download gets with 100 scrapes a second and 1000 clients that connect to the
 * metrics and say nothing, beside what it gets without them; as a Markdown table, the last line with the share that
 * docs/security.md promises (0.97). `--seconds N` for each phase (default 5), `--rounds N` (default 5; medians), `--scrapes
 * N` a second (100), `--idle N` (1000), `--unix` for a UNIX socket. The phases of a round take turns: without, with, with,
 * without. Needs network namespaces; the guest and the scrapers are processes of their own.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { setUpBench } from '../../test/e2e/support';
import { BLOB, GoodFlow } from '../../test/support/guest/good-flow';
import { Guest } from '../../test/support/guest/guest';
import { whyNoNamespaces } from '../../test/support/world/host-world';
import { loadNative } from '../../src/native';

const PROMISED = 0.97;
const CLIENT = join(__dirname, 'client.ts');
const HOOK = join(__dirname, '..', '..', 'scripts', 'lib', 'ts-hook.cjs');

function numberOf(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new Error(`--${name} ${text}: give a number above 0`);
  return value;
}

const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/** Starts the scrapers; settles when all their idle clients are there. `stop`: how many pages they got. */
async function scrapers(command: readonly string[]): Promise<{ stop: () => Promise<number> }> {
  const child: ChildProcess = spawn(command[0], command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] });
  let text = '';
  const ended = new Promise<void>((resolve) => child.once('close', resolve));
  await new Promise<void>((resolve, reject) => {
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      if (text.startsWith('ready\n')) resolve();
    });
    void ended.then(() => {
      reject(new Error('the scrapers ended'));
    });
  });
  return {
    stop: async () => {
      child.stdin?.end();
      await ended;
      return Number(text.split('\n')[1]);
    },
  };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '5' },
      rounds: { type: 'string', default: '5' },
      scrapes: { type: 'string', default: '100' },
      idle: { type: 'string', default: '1000' },
      unix: { type: 'boolean', default: false },
    },
  });
  const seconds = numberOf('seconds', values.seconds);
  const rounds = numberOf('rounds', values.rounds);
  const missing = whyNoNamespaces();
  if (missing !== null) throw new Error(missing);
  const bench = await setUpBench();
  const socket = join(bench.scratch, 'metrics.sock');
  if (values.unix) {
    // The last --metrics counts.
    await bench.service.stop();
    await bench.restartWith(['--metrics', `unix:${socket}`]);
  }
  const { world, service } = bench;
  try {
    await world.remote.call('setBlob', { bytes: BLOB, seed: 1 });
    const at = values.unix ? socket : String(service.metricsPort);
    const client = [process.execPath, '--require', HOOK, CLIENT, at, values.scrapes, values.idle];
    const guest = await Guest.start(loadNative(), { socket: bench.socketPath, tcp: { timeWaitMs: 20 } });
    await guest.dhcp();
    const good = new GoodFlow(guest, world.remote.ports.blob);
    const running = good.run();
    await good.rate(2);
    console.log('| round | without, MB/s | with, MB/s | pages/s | share |');
    console.log('| --: | --: | --: | --: | --: |');
    const shares: number[] = [];
    for (let round = 1; round <= rounds; round++) {
      const before = await good.rate(seconds);
      const began = performance.now();
      const { stop } = await scrapers(world.inHost(client));
      const during = await good.rate(2 * seconds);
      const pages = (await stop()) / ((performance.now() - began) / 1000);
      const after = await good.rate(seconds);
      const share = (2 * during) / (before + after);
      shares.push(share);
      const cells = [round, ((before + after) / 2).toFixed(0), during.toFixed(0), pages.toFixed(0), share.toFixed(3)];
      console.log(`| ${cells.join(' | ')} |`);
    }
    good.stop();
    await running;
    await guest.stop();
    const share = median(shares);
    console.log(`\nmedian share: ${share.toFixed(3)} (promised: ${PROMISED}) ${share >= PROMISED ? 'met' : 'MISSED'}`);
    if (share < PROMISED) process.exitCode = 1;
  } finally {
    await bench.destroy();
  }
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
