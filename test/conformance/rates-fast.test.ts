/**
 * The precision of --rate-in and --rate-out from 1 Mbit/s to 1 Gbit/s, in both directions, TCP and UDP, with a guest that is never
 * what is waited for (bench/bare), and rates that change while the service runs.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { OURS, startBackend, type StartedBackend } from '../../bench/macro/backend';
import { startBare, type BareGuest } from '../../bench/macro/bare';
import { Lab } from '../../bench/macro/lab';
import { describeWith } from '../e2e/support';
import type { ResultFields } from '../support/world/guest';
import { PROGRAM } from '../support/program';
import { whyNoNamespaces } from '../support/world/host-world';

jest.setTimeout(120_000);

const SECONDS = 2;
/** What a link that was idle may send at once, s (docs/policy.md), comes on top: a fortieth of what is measured. */
const BURST = 0.05;
const PRECISION = 0.05;
/** Ethernet, IPv4, UDP. */
const UDP_HEADERS = 14 + 20 + 8;
/** Ethernet, IPv4, TCP with time stamps, as far as both ends use them: between these. */
const TCP_HEADERS = { least: 14 + 20 + 20, most: 14 + 20 + 32 };
const DATAGRAM = 1400;

interface Shape {
  readonly mtu: number;
  readonly features: string;
  /** Payload of a TCP segment, or about that. */
  readonly segment: number;
  /** Mbit/s. */
  readonly rates: readonly number[];
}

const SHAPES: readonly Shape[] = [
  { mtu: 1500, features: 'none', segment: 1448, rates: [1, 10, 100] },
  { mtu: 65520, features: 'all', segment: 60_000, rates: [100, 1000] },
];

/** As fast as this machine has time for it: what others do on it may cost a try, and is no imprecision. */
const TRIES = 5;

describeWith('the precision of rates', whyNoNamespaces(), () => {
  let lab: Lab;

  beforeAll(async () => {
    lab = await Lab.open('bare', null);
  });

  afterAll(() => lab.close());

  describe.each(SHAPES)('MTU $mtu, features $features', ({ mtu, features, segment, rates }) => {
    let backend: StartedBackend;
    let guest: BareGuest;
    let control: string;

    beforeAll(async () => {
      control = join(lab.scratch, `control-${String(mtu)}`);
      const argv = [...OURS.argv, '--runas', '0', '--control', control];
      backend = await startBackend({ ...OURS, argv }, lab, mtu);
      guest = await startBare(lab.bare!, backend.socketPath, { interrupts: 'eventfd', features, ring: 256, mtu });
    });

    afterAll(async () => {
      await guest.powerOff();
      await backend.process.stop();
    });

    const setRates = (mbits: number): void => {
      const [program, ...rest] = PROGRAM;
      const argv = [...rest, 'ctl', '--control', control, 'rates', `${String(mbits)}M`, `${String(mbits)}M`];
      const { status, stderr } = spawnSync(program, argv, { encoding: 'utf8' });
      expect([status, stderr]).toEqual([0, '']);
    };

    const run = (verb: string, result: string, ...more: number[]): Promise<ResultFields> =>
      guest.client({
        client: [verb, lab.target(4), SECONDS, ...more].join(' '),
        result,
        seconds: SECONDS + 30,
        timeoutMs: 60_000,
      });

    /** Bits of frames in a second: at the least and at the most, by what is not known of their headers. */
    const measure = async (verb: string, mbits: number): Promise<readonly [least: number, most: number]> => {
      if (verb === 'up' || verb === 'down') {
        const { bytes, seconds } = await run(verb, 'bulk', 1);
        const payload = (8 * Number(bytes)) / Number(seconds);
        return [payload * (1 + TCP_HEADERS.least / segment), payload * (1 + TCP_HEADERS.most / segment)];
      }
      // Half more than may pass.
      const offered = Math.ceil((1.5 * mbits * 1e6) / 8 / (DATAGRAM + UDP_HEADERS));
      const { received, seconds } = await run(verb, 'datagrams', DATAGRAM, offered);
      const bits = (8 * Number(received) * (DATAGRAM + UDP_HEADERS)) / Number(seconds);
      return [bits, bits];
    };

    // At 1 Mbit/s what waits in the socket at the end comes for longer than the measurement takes.
    const verbs = (mbits: number): string[] => ['down', 'up', ...(mbits === 1 ? [] : ['udp-down']), 'udp-up'];
    test.each(rates.flatMap((mbits) => verbs(mbits).map((verb) => [mbits, verb] as const)))(
      '%d Mbit/s, %s',
      async (mbits, verb) => {
        setRates(mbits);
        const rate = mbits * 1e6;
        for (let tries = 1; ; tries++) {
          const [least, most] = await measure(verb, mbits);
          // Never faster, whatever the machine does.
          expect(least / rate).toBeLessThan(1 + PRECISION + BURST / SECONDS);
          if (most / rate > 1 - PRECISION) break;
          if (tries === TRIES) throw new Error(`too slow: ${String(Math.round(most))} bits a second`);
        }
      },
    );
  });
});
