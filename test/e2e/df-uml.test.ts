/**
 * Who set "don't fragment", the application or Linux's habit? A real guest's sockets in each mode of IP_MTU_DISCOVER send
 * datagrams longer than the host's link takes to an ordinary application, with both values of `--df`; and they are what
 * answers of forwarded ports are sent with. The table is in docs/adr/0009-df-of-datagrams.md.
 */
import { helperProgram } from '../support/world/image';
import { command } from '../support/world/processes';
import { bootUml } from '../support/world/uml';
import { FAMILIES, bringUp, type Family } from './network-cases';
import { describeWith, setUpBench, whyNotGuest, withGuest, type Booted } from './support';

jest.setTimeout(180_000);

/** More than the host's 1500, less than the guest's 65520. */
const SIZE = 3000;
const COUNT = 4;
const MODES = ['dont', 'want', 'do', 'probe'] as const;
type Mode = (typeof MODES)[number];
const SERVICE_PORT: Readonly<Record<Mode, number>> = { dont: 7200, want: 7201, do: 7202, probe: 7203 };
const PORTS = Object.values(SERVICE_PORT).map(String);

/**
 * Of each datagram: a, it arrived; l, it was lost; r, the guest's own kernel refused it with EMSGSIZE. A router tells a
 * connected socket by an error of its next call, so even the default's second datagram is refused.
 */
interface Outcome {
  readonly outcome: string;
  /** The path MTU that the guest's socket believes in afterwards. */
  readonly mtu: string;
}

const ALL: Outcome = { outcome: 'aaaa', mtu: '65520' };
const EVERY = {
  sent: { dont: ALL, want: ALL, do: ALL, probe: ALL },
  answered: { dont: 'aaa', want: 'aaa', do: 'aaa', probe: 'aaa' },
};
const KEPT = {
  dont: ALL,
  want: { outcome: 'lraa', mtu: '1500' },
  do: { outcome: 'lrrr', mtu: '1500' },
  probe: { outcome: 'lrlr', mtu: '1500' },
};
/** Three questions of a remote client to a service of the guest: which are answered. Its socket hears of no errors. */
const ANSWERED = { dont: 'aaa', want: 'laa', do: 'lll', probe: 'lll' };
/** IPv6 has no "may be fragmented": routers treat every packet as one with DF. */
const EXPECTED = {
  fragment: {
    IPv4: EVERY,
    IPv6: EVERY,
  },
  keep: {
    IPv4: { sent: KEPT, answered: ANSWERED },
    IPv6: { sent: { ...KEPT, dont: { outcome: 'laaa', mtu: '1500' } }, answered: { ...ANSWERED, dont: 'laa' } },
  },
};

describe.each(['fragment', 'keep'] as const)('--df %s', (df) => {
  describeWith('a uml guest', whyNotGuest('uml'), () => {
    const { stage, test } = withGuest<Booted>(
      () => setUpBench(['--df', df, ...PORTS.flatMap((port) => ['-u', port])]),
      (bench) => bootUml({ socketPath: bench.socketPath, scratch: bench.scratch }),
      async (bench, guest) => {
        for (const family of FAMILIES) await bringUp(guest, family);
        for (const mode of MODES) await guest.sh(`guest-net udp-serve ${String(SERVICE_PORT[mode])} ${mode}`);
        return { bench, guest };
      },
    );

    /** What the guest knows of paths goes with its addresses and routes. */
    const forget = async (family: Family): Promise<void> => {
      await stage().guest.sh('ip link set eth0 down');
      await bringUp(stage().guest, family);
    };

    for (const family of FAMILIES) {
      test(`${family.name}: what the guest sends, by the mode of its socket`, async () => {
        const { bench, guest } = stage();
        const port = String(bench.world.remote.ports.udp);
        const found: Record<string, Readonly<Record<string, string>>> = {};
        for (const mode of MODES) {
          await forget(family);
          const run = `guest-net udp-df ${mode} ${family.remote} ${port} ${String(SIZE)} ${String(COUNT)}`;
          found[mode] = await guest.result(run, 'udp-df');
        }
        expect(found).toEqual(EXPECTED[df][family.name].sent);
      });

      test(`${family.name}: what its service answers a remote client`, async () => {
        const { bench } = stage();
        const found: Record<string, string> = {};
        for (const mode of MODES) {
          await forget(family);
          let answered = '';
          for (let i = 0; i < 3; i++) {
            const question = { address: family.host, port: SERVICE_PORT[mode], bytes: SIZE, timeoutMs: 1500 };
            answered += (await bench.world.remote.call('udpEcho', question)).ok ? 'a' : 'l';
          }
          found[mode] = answered;
        }
        expect(found).toEqual(EXPECTED[df][family.name].answered);
      });
    }
  });
});

describeWith('the same sockets on the host, without a guest', whyNotGuest('uml'), () => {
  it('refuses what has DF, and sends the rest in fragments', async () => {
    const bench = await setUpBench();
    try {
      const found: Record<string, Record<string, string>> = {};
      for (const { name, remote } of FAMILIES) {
        found[name] = {};
        for (const mode of MODES) {
          const argv = [helperProgram('guest-net'), 'udp-df', mode, remote, String(bench.world.remote.ports.udp)];
          const said = await command(bench.world.inHost([...argv, String(SIZE), String(COUNT)]));
          found[name][mode] = /outcome=(\w+)/.exec(said)?.[1] ?? said;
        }
      }
      const expected = { dont: 'aaaa', want: 'aaaa', do: 'rrrr', probe: 'rrrr' };
      expect(found).toEqual({ IPv4: expected, IPv6: expected });
    } finally {
      await bench.destroy();
    }
  });
});
