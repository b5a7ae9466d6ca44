/**
 * `npm run bench:floods`: what an established connection gets before, during and after floods of several kinds, from the
 * guest and from outside, and how long new ones take (median and longest), as a Markdown table for docs/security.md. `--seconds N` for each phase (default 2), `--rate N`
 * frames a second of the guest's floods (default 20000). Needs network namespaces; the guest is the tests' own front-end,
 * which runs in this process: part of what a flood takes is its own time, the rows without a flood tell how much.
 */
import { parseArgs } from 'node:util';
import { setUpBench } from '../../test/e2e/support';
import { GUEST_FLOODS, floodFromGuest, floodFromOutside } from '../../test/support/guest/floods';
import { FORWARDED_PORT, GUEST_PORT } from '../../test/support/guest/exercises';
import { Guest } from '../../test/support/guest/guest';
import { REMOTE_ADDRESS_4, whyNoNamespaces } from '../../test/support/world/host-world';
import { loadNative } from '../../src/native';

const BLOB = 64 << 20;
const SERVICE_ARGS = ['-t', `${String(FORWARDED_PORT)}:${String(GUEST_PORT)}`, '-u', `${String(FORWARDED_PORT)}:9`];

type Stop = () => Promise<string>;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** A download on one connection that lasts; `bytes` counts. */
class GoodFlow {
  bytes = 0;
  private stopped = false;

  constructor(
    private readonly guest: Guest,
    private readonly port: number,
  ) {}

  async run(): Promise<void> {
    const stream = await this.guest.tcpConnect(REMOTE_ADDRESS_4, this.port, { timeoutMs: 30_000 });
    while (!this.stopped) {
      await stream.readExactly(1 << 16);
      this.bytes += 1 << 16;
    }
    stream.reset();
  }

  stop(): void {
    this.stopped = true;
  }

  /** MB/s over `seconds`. */
  async rate(seconds: number): Promise<number> {
    const [before, at] = [this.bytes, performance.now()];
    await sleep(seconds * 1000);
    return (this.bytes - before) / (performance.now() - at) / 1000;
  }
}

/** New connections to a host that answers, one after the other; `times` are how long each took, ms. */
class GoodConnections {
  times: number[] = [];
  private stopped = false;

  constructor(
    private readonly guest: Guest,
    private readonly port: number,
  ) {}

  async run(): Promise<void> {
    while (!this.stopped) {
      const at = performance.now();
      const stream = await this.guest.tcpConnect(REMOTE_ADDRESS_4, this.port, { timeoutMs: 30_000 });
      this.times.push(performance.now() - at);
      stream.reset();
      await sleep(20);
    }
  }

  stop(): void {
    this.stopped = true;
  }

  /** Median and longest since the last call. */
  report(): string {
    const times = this.times.sort((a, b) => a - b);
    this.times = [];
    if (times.length === 0) return 'none';
    return `${times[times.length >> 1].toFixed(1)} (${times[times.length - 1].toFixed(0)})`;
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { seconds: { type: 'string', default: '2' }, rate: { type: 'string', default: '20000' } },
  });
  const [seconds, rate] = [Number(values.seconds), Number(values.rate)];
  if (!(seconds > 0) || !(rate > 0)) throw new Error('--seconds and --rate: give numbers above 0');
  const missing = whyNoNamespaces();
  if (missing !== null) throw new Error(missing);
  const native = loadNative();
  const bench = await setUpBench(SERVICE_ARGS);
  const { world } = bench;
  try {
    await world.remote.call('setBlob', { bytes: BLOB, seed: 1 });
    const outside = async (kind: 'tcp' | 'udp'): Promise<Stop> => {
      const flood = await floodFromOutside(world, kind, FORWARDED_PORT);
      return async () => {
        await flood.stop('SIGKILL');
        return '';
      };
    };
    const floods: (readonly [string, (guest: Guest) => Promise<Stop>])[] = [
      ['none', () => Promise.resolve(() => Promise.resolve(''))],
      ...GUEST_FLOODS.map(
        ([name, frame]) =>
          [
            `guest: ${name}`,
            (guest: Guest) => {
              const [stop, at] = [floodFromGuest(guest, frame, rate), performance.now()];
              return Promise.resolve(() => {
                const each = Math.round(stop() / ((performance.now() - at) / 1000));
                return Promise.resolve(`${String(each)}/s`);
              });
            },
          ] as const,
      ),
      ['outside: connections that the guest does not answer', () => outside('tcp')],
      ['outside: datagrams to a forwarded port', () => outside('udp')],
    ];
    console.log('| flood | rate | before, MB/s | during | after | share | connect before, ms | during |');
    console.log('| --- | --: | --: | --: | --: | --: | --: | --: |');
    for (const [name, begin] of floods) {
      const guest = await Guest.start(native, { socket: bench.socketPath, tcp: { timeWaitMs: 20 } });
      await guest.dhcp();
      guest.tcp.answersUnknown = false;
      guest.answersUnknownPorts = false;
      const good = new GoodFlow(guest, world.remote.ports.endless);
      const connections = new GoodConnections(guest, world.remote.ports.echo);
      const running = [good.run(), connections.run()];
      await good.rate(1);
      connections.report();
      const before = await good.rate(seconds);
      const connectBefore = connections.report();
      const stop = await begin(guest);
      const during = await good.rate(seconds);
      const connectDuring = connections.report();
      const told = await stop();
      await sleep(500);
      const after = await good.rate(seconds);
      good.stop();
      connections.stop();
      await Promise.all(running);
      await guest.stop();
      const share = ((200 * during) / (before + after)).toFixed(0);
      const rates = [before, during, after].map((each) => each.toFixed(0)).join(' | ');
      console.log(`| ${name} | ${told} | ${rates} | ${share} % | ${connectBefore} | ${connectDuring} |`);
    }
  } finally {
    await bench.destroy();
  }
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
