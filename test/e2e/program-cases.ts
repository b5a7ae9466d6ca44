/** Programs that people use, in a UML guest, which runs those of the host (guest/from-host): dig, tracepath, iperf3. */
import { GATEWAY_4, REMOTE_ADDRESS_4, REMOTE_ADDRESS_6 } from '../support/world/host-world';
import { which } from '../support/world/paths';
import { ManagedProcess } from '../support/world/processes';
import { BEYOND_4, NARROW, type DatagramCase } from './datagram-cases';

/** Null if the programs are there, else which is not, in one sentence. */
export function whyNoPrograms(): string | null {
  const missing = ['dig', 'tracepath', 'iperf3'].find((name) => which(name) === null);
  return missing === undefined ? null : `${missing} is not installed`;
}

/** What iperf3's JSON says of a test. */
interface IperfResult {
  readonly end: { readonly sum: { readonly packets: number; readonly lost_packets: number; readonly bytes: number } };
}

const PACKETS = 1000;
const SIZE = 1400;
/** Slower than the guest reads, with a buffer for its bad moments: what is lost then is lost by us. */
const AMOUNT = `-b 10M -l ${String(SIZE)} -k ${String(PACKETS)}`;

export const IPERF_CASES: readonly DatagramCase[] = [
  {
    title: 'iperf3 -u, both ways',
    run: async ({ bench, guest }) => {
      await guest.sh('echo 8000000 >/proc/sys/net/core/rmem_default');
      for (const address of [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6]) {
        // Bound to the address: it answers from that of its route otherwise.
        const argv = bench.world.inRemote(['iperf3', '-s', '-B', address, '--forceflush']);
        const server = new ManagedProcess('iperf3', argv);
        try {
          await server.waitForLine(/^Server listening/, 5000);
          for (const way of ['', '-R']) {
            const output = await guest.sh(`from-host iperf3 -c ${address} -u ${AMOUNT} ${way} -J`);
            const { sum } = (JSON.parse(output) as IperfResult).end;
            expect(sum.packets).toBeGreaterThanOrEqual(PACKETS * 0.99);
            expect(sum.bytes).toBeGreaterThanOrEqual(PACKETS * SIZE * 0.99);
            expect(sum.lost_packets).toBeLessThanOrEqual(PACKETS * 0.01);
          }
        } finally {
          await server.stop('SIGKILL');
        }
      }
    },
  },
];

export const TRACEPATH_CASES: readonly DatagramCase[] = [
  {
    title: 'tracepath gets there, in both families',
    run: async ({ guest }) => {
      const four = await guest.sh(`from-host tracepath -n -m 3 ${REMOTE_ADDRESS_4}`);
      expect(four).toMatch(/^ *1: +198\.51\.100\.1 .* reached$/m);
      expect(four).toContain('pmtu 1500');
      const six = await guest.sh(`from-host tracepath -n -m 3 ${REMOTE_ADDRESS_6}`);
      expect(six).toContain('reached');
    },
  },
  {
    title: 'tracepath finds the router, and the MTU of the way behind it',
    run: async ({ guest }) => {
      const output = await guest.sh(`from-host tracepath -n -m 2 ${BEYOND_4}`);
      expect(output).toMatch(new RegExp(`^ *1: +${GATEWAY_4.replaceAll('.', '\\.')} `, 'm'));
      expect(output).toContain(`pmtu ${String(NARROW)}`);
    },
  },
];
