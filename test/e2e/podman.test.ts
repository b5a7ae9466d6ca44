/**
 * Rootless Podman of Debian 13 with us in the place of pasta, in a machine of its own: what Podman's own tests of pasta ask for
 * (its test/system/505-networking-pasta.bats, by what is checked and not by its text), and who else uses pasta.
 */
import { whyNoDebianRoot } from '../support/world/debian-root';
import {
  GATEWAY_4,
  GATEWAY_6,
  HOST_ADDRESS_4,
  HOST_ADDRESS_6,
  HostWorld,
  REMOTE_ADDRESS_4,
  REMOTE_ADDRESS_6,
} from '../support/world/host-world';
import { scratchDirectory } from '../support/world/paths';
import { IMAGE, PodmanMachine } from '../support/world/podman';
import { poll } from '../support/world/processes';
import { describeWith } from './support';

jest.setTimeout(120_000);

const DNS_ANSWER_4 = '203.0.113.9';
const DNS_ANSWER_6 = '2001:db8:9::9';
/** Podman's own for --dns-forward and --map-guest-addr. */
const PODMAN_RESOLVER = '169.254.1.1';
const PODMAN_HOST = '169.254.1.2';
/** Podman leaves a container's root without. */
const PING = '--cap-add NET_RAW';
const LARGE_BYTES = 10 << 20;
const SMALL_BYTES = 2048;

/** Addresses of the host's by which a container's ports are reached, and the interface that has them. */
const PLACES = [
  { family: 'IPv4', place: 'tap', address: HOST_ADDRESS_4, device: 'eth0' },
  { family: 'IPv4', place: 'loopback', address: '127.0.0.1', device: 'lo' },
  { family: 'IPv6', place: 'tap', address: HOST_ADDRESS_6, device: 'eth0' },
  { family: 'IPv6', place: 'loopback', address: '::1', device: 'lo' },
] as const;
const PROTOCOLS = ['tcp', 'udp'] as const;
type Protocol = (typeof PROTOCOLS)[number];

/** A forward: the ports on the host, and by how much those in the container are higher. */
interface Forward {
  readonly kind: string;
  readonly first: number;
  readonly count: number;
  readonly shift: number;
}
const FORWARDS: readonly Forward[] = [
  { kind: 'a port', first: 5100, count: 1, shift: 0 },
  { kind: 'a range', first: 5110, count: 3, shift: 0 },
  { kind: 'a port that is another one inside', first: 5120, count: 1, shift: 1 },
  { kind: 'a range that is another one inside', first: 5130, count: 3, shift: 10 },
];
/** Those that belong to an address or to an interface: one for each of PLACES. */
const BOUND_TO_ADDRESS = 5200;
const BOUND_TO_DEVICE = 5300;

const range = (first: number, count: number): string => (count === 1 ? `${first}` : `${first}-${first + count - 1}`);
const inBrackets = (address: string): string => (address.includes(':') ? `[${address}]` : address);

/** Podman's options for all forwards, and the ports on which a container must listen. */
function publish(): { options: string; inside: readonly number[] } {
  const inside = new Set<number>();
  const options: string[] = [];
  for (const { first, count, shift } of FORWARDS) {
    for (let i = 0; i < count; i++) inside.add(first + shift + i);
    for (const protocol of PROTOCOLS)
      options.push(`-p ${range(first, count)}:${range(first + shift, count)}/${protocol}`);
  }
  const pasta: string[] = [];
  for (const [at, { address, device }] of PLACES.entries()) {
    const port = BOUND_TO_ADDRESS + at;
    for (const protocol of PROTOCOLS) options.push(`-p ${inBrackets(address)}:${port}:${port}/${protocol}`);
    inside.add(port);
    // Podman has no words for an interface, so these go to us as they are.
    for (const option of ['-t', '-u']) {
      pasta.push(option, `${address}%${device}/${BOUND_TO_DEVICE + at}:${BOUND_TO_DEVICE + at + 10}`);
    }
    inside.add(BOUND_TO_DEVICE + at + 10);
  }
  return { options: `--network pasta:${pasta.join(',')} ${options.join(' ')}`, inside: [...inside] };
}

describeWith('rootless Podman', whyNoDebianRoot('podman'), () => {
  const scratch = scratchDirectory();
  let world: HostWorld;
  let podman: PodmanMachine;

  beforeAll(async () => {
    world = await HostWorld.create(scratch.path);
    podman = await PodmanMachine.start(world, scratch.path);
    await world.remote.call('dnsOn', { port: 53, a: DNS_ANSWER_4, aaaa: DNS_ANSWER_6 });
  }, 300_000);

  afterAll(async () => {
    // Whatever the set-up came to.
    await (podman as PodmanMachine | undefined)?.stop();
    await (world as HostWorld | undefined)?.destroy();
    scratch.remove();
  });

  /** Global addresses of a container's interfaces, without prefix. */
  async function addresses(options: string): Promise<string[]> {
    const output = await podman.container(options, 'ip addr show scope global');
    return [...output.matchAll(/inet6? ([0-9a-f.:]+)\/\d+/g)].map(([, address]) => address);
  }

  async function gateways(options: string): Promise<string[]> {
    const output = await podman.container(options, 'ip route; ip -6 route');
    return [...output.matchAll(/^default via ([0-9a-f.:]+)/gm)].map(([, gateway]) => gateway);
  }

  test('Podman takes us for pasta, and runs us as it runs pasta', async () => {
    expect(await podman.sh('podman info --format "{{.Host.RootlessNetworkCmd}} {{.Host.Pasta.Executable}}"')).toBe(
      'pasta /usr/local/bin/pasta',
    );
    const line = await podman.sh(`podman run --rm --detach --name seen ${IMAGE} sleep 60 >/dev/null
      pgrep --full --list-full -- 'tubetti[.]js --config-net' | head -n 1; podman stop --time 0 seen >/dev/null`);
    expect(line).toMatch(
      /tubetti\.js --config-net --dns-forward 169\.254\.1\.1 -t none -u none -T none -U none --no-map-gw --quiet --netns \S+ --map-guest-addr 169\.254\.1\.2$/,
    );
  });

  describe('addresses and routes', () => {
    test('the host’s, and the host’s gateways', async () => {
      expect(await addresses('')).toEqual([HOST_ADDRESS_4, HOST_ADDRESS_6]);
      expect(await gateways('')).toEqual([GATEWAY_4, GATEWAY_6]);
    });

    test.each([
      ['-4', [HOST_ADDRESS_4]],
      ['-6', [HOST_ADDRESS_6]],
      ['-a,203.0.113.1', ['203.0.113.1', HOST_ADDRESS_6]],
      ['-a,2001:db8:7::1', [HOST_ADDRESS_4, '2001:db8:7::1']],
    ])('--network pasta:%s', async (options, expected) => {
      expect(await addresses(`--network pasta:${options}`)).toEqual(expected);
    });

    test.each([
      ['-a,192.0.2.3,-g,192.0.2.4', ['192.0.2.4', GATEWAY_6]],
      ['-a,2001:db8:7::2,-g,2001:db8:7::1', [GATEWAY_4, '2001:db8:7::1']],
    ])('--network pasta:%s', async (options, expected) => {
      expect(await gateways(`--network pasta:${options}`)).toEqual(expected);
    });

    test('a pod’s name is that of the host’s address', async () => {
      try {
        await podman.sh('podman pod create --name penne --network pasta');
        const hosts = await podman.container('--pod penne', 'cat /etc/hosts');
        expect(hosts).toMatch(new RegExp(`^${HOST_ADDRESS_4.replaceAll('.', '\\.')}\\s.*\\bpenne\\b`, 'm'));
      } finally {
        await podman.run('podman pod rm --force --time 0 penne');
      }
    });
  });

  describe('the interface', () => {
    test.each([
      ['pasta', 65520],
      ['pasta:-m,1280', 1280],
    ])('MTU with --network %s', async (network, mtu) => {
      const output = await podman.container(`--network ${network}`, 'ip link');
      expect(output).toMatch(/^\d+: lo: <LOOPBACK,UP/m);
      expect(output).toMatch(new RegExp(`^\\d+: eth0: .* mtu ${mtu} `, 'm'));
    });

    test('options of containers.conf, and those of the command line that come after them', async () => {
      const show = 'ip link show myname';
      const conf = '~/.config/containers/pasta.conf';
      await podman.sh(`cp ~/.config/containers/containers.conf ${conf}
        printf '[network]\\npasta_options = ["-I", "myname", "--ns-mac-addr", "02:00:00:00:00:01"]\\n' >>${conf}`);
      const run = (network: string): Promise<string> =>
        podman.sh(`CONTAINERS_CONF=${conf} podman run --rm --network ${network} ${IMAGE} ${show}`);
      expect(await run('pasta')).toContain('link/ether 02:00:00:00:00:01');
      expect(await run('pasta:--ns-mac-addr,02:00:00:00:00:02')).toContain('link/ether 02:00:00:00:00:02');
    });
  });

  describe('names', () => {
    test('Podman’s resolver is asked first, and answers', async () => {
      const output = await podman.container('', 'cat /etc/resolv.conf; nslookup fusilli.test');
      expect(output).toMatch(/^(search .*\n)?nameserver 169\.254\.1\.1$/m);
      expect(output).toMatch(new RegExp(`Server:\\s+${PODMAN_RESOLVER}`));
      for (const address of [DNS_ANSWER_4, DNS_ANSWER_6]) expect(output).toContain(address);
    });

    test('another address for it', async () => {
      const output = await podman.container(
        '--network pasta:--dns-forward,198.51.100.77',
        'cat /etc/resolv.conf; nslookup fusilli.test 198.51.100.77',
      );
      expect(output).toMatch(/^nameserver 198\.51\.100\.77$/m);
      expect(output).toContain(DNS_ANSWER_4);
    });

    test('host.containers.internal is the host', async () => {
      const { blob } = world.host.ports;
      await world.host.call('setBlob', { bytes: SMALL_BYTES, seed: 3 });
      const output = await podman.container(
        '',
        `grep host.containers.internal /etc/hosts; guest-net tcp-receive ${PODMAN_HOST} ${blob} | wc -c`,
      );
      expect(output).toMatch(/^169\.254\.1\.2\s/);
      expect(output.split('\n').pop()).toBe(`${SMALL_BYTES}`);
    });
  });

  describe('published ports', () => {
    beforeAll(async () => {
      const { options, inside } = publish();
      const servers = inside.map((port) => `guest-net tcp-serve ${port}; guest-net udp-serve ${port}`).join('; ');
      await podman.sh(`podman run --detach --name ports ${options} ${IMAGE} sh -c '${servers}; exec sleep 600'`);
      await poll('the last of the servers', async () => (await arrives('udp', '127.0.0.1', 5100)) || null, 20_000);
    });
    afterAll(() => podman.run('podman rm --force --time 0 ports'));

    async function arrives(protocol: Protocol, address: string, port: number, bytes = 1): Promise<boolean> {
      if (protocol === 'udp') return (await world.host.call('udpEcho', { address, port, bytes, timeoutMs: 2000 })).ok;
      const { sent, received } = await world.host.call('tcpEcho', { address, port, bytes });
      return sent.sha256 === received.sha256;
    }

    describe.each(PROTOCOLS)('%s', (protocol) => {
      describe.each(PLACES)('$family, $place', ({ address, ...place }) => {
        test.each(FORWARDS)('$kind', async ({ first, count }) => {
          for (let port = first; port < first + count; port++)
            expect(await arrives(protocol, address, port)).toBe(true);
        });
        test.each([
          ['address', BOUND_TO_ADDRESS],
          ['address and interface', BOUND_TO_DEVICE],
        ])('a port of an %s', async (_kind, first) => {
          for (const at of PLACES.keys()) {
            const own = PLACES[at].address === address;
            // That a datagram does not come takes its time to be seen.
            if (protocol === 'udp' && !own) continue;
            const reached = await arrives(protocol, address, first + at).catch(() => false);
            expect({ ...place, at, reached }).toEqual({ ...place, at, reached: own });
          }
        });
        test.each([
          ['small', SMALL_BYTES],
          ['large', protocol === 'tcp' ? LARGE_BYTES : 50_000],
        ])('a %s transfer', async (_kind, bytes) => {
          expect(await arrives(protocol, address, 5100, bytes)).toBe(true);
        });
      });
    });
  });

  test('a protocol that we have not', async () => {
    const { code, output } = await podman.run(`podman run --rm -p 5500:5500/sctp ${IMAGE} true`);
    expect(code).toBe(126);
    expect(output).toContain("can't forward protocol: sctp");
  });

  test('what we say ends up in Podman’s error', async () => {
    const { code, output } = await podman.run(`podman run --rm --network pasta:--no-such-option ${IMAGE} true`);
    expect(code).toBe(126);
    expect(output).toMatch(/pasta failed with exit code 1:\n?pasta: unknown option --no-such-option/);
  });

  test('we end with the container', async () => {
    const pid = Number(
      await podman.sh(`podman run --rm --network pasta:-P,/tmp/pasta.pid ${IMAGE} true; cat /tmp/pasta.pid`),
    );
    const isGone = async (): Promise<true | null> => ((await podman.run(`kill -0 ${pid}`)).code === 0 ? null : true);
    await poll('our end', isGone, 5000);
    await expectNone();
  });

  test('out to the world, both families', async () => {
    const { sha256 } = await world.remote.call('setBlob', { bytes: LARGE_BYTES, seed: 5 });
    const { blob } = world.remote.ports;
    for (const address of [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6]) {
      const output = await podman.container('', `guest-net tcp-receive ${address} ${blob} | sha256sum`);
      expect(output.slice(0, 64)).toBe(sha256);
    }
    expect(await podman.container(PING, `ping -c 1 -W 5 ${REMOTE_ADDRESS_4} >/dev/null && echo yes`)).toBe('yes');
  });

  /** A TCP echo at the host's loopback, as soon as whoever forwards it is there. */
  async function expectEcho(port: number): Promise<void> {
    const echoes = async (): Promise<true | null> => {
      const { sent, received } = await world.host.call('tcpEcho', { address: '127.0.0.1', port, bytes: 100_000 });
      return sent.sha256 === received.sha256 ? true : null;
    };
    await poll(`an echo at port ${port}`, () => echoes().catch(() => null), 10_000);
  }

  test('a network of Podman’s own, which we connect: its names, the world’s, a published port', async () => {
    const { blob } = world.remote.ports;
    await world.remote.call('setBlob', { bytes: LARGE_BYTES, seed: 6 });
    try {
      await podman.sh(`podman network create penne
        podman run --detach --name rotini --network penne -p 5600:5601 ${IMAGE} sh -c 'guest-net tcp-serve 5601; exec sleep 600'`);
      const script = `nslookup rotini; nslookup fusilli.test; guest-net tcp-receive ${REMOTE_ADDRESS_4} ${blob} | wc -c`;
      const output = await podman.container('--network penne', script);
      expect(output).toMatch(/Name:\s+rotini.dns.podman\nAddress: 10\./);
      expect(output).toContain(DNS_ANSWER_4);
      expect(output.split('\n').pop()).toBe(`${LARGE_BYTES}`);
      await expectEcho(5600);
    } finally {
      await podman.run('podman rm --force --time 0 rotini; podman network rm --force penne');
    }
  });

  describe('in the place of slirp4netns', () => {
    beforeAll(() => podman.machine.sh('ln -s /usr/bin/tubetti-slirp4netns /usr/local/bin/slirp4netns'));
    afterAll(() => podman.machine.sh('rm /usr/local/bin/slirp4netns'));

    test('Podman: addresses, names, a port by the API socket, and the end', async () => {
      const network = '--network slirp4netns:port_handler=slirp4netns,enable_ipv6=true';
      try {
        await podman.sh(`podman run --detach --name slirped ${network} -p 5700:5701 ${IMAGE} \
          sh -c 'guest-net tcp-serve 5701; exec sleep 600'`);
        const output = await podman.sh(
          `podman exec slirped ip addr show tap0; podman exec slirped nslookup fusilli.test`,
        );
        for (const part of ['inet 10.0.2.100/24', 'inet6 fd00::100/64', 'mtu 65520', DNS_ANSWER_4]) {
          expect(output).toContain(part);
        }
        await expectEcho(5700);
      } finally {
        await podman.run('podman rm --force --time 0 slirped');
      }
      await expectNone();
    });

    test('RootlessKit, which sets the interface up by itself', async () => {
      const output = await podman.sh(`rootlesskit --net=slirp4netns --disable-host-loopback --copy-up=/etc \
        --port-driver=slirp4netns sh -c 'ip addr show tap0; busybox nslookup fusilli.test'`);
      for (const part of ['inet 10.0.2.100/24', 'mtu 65520', DNS_ANSWER_4]) expect(output).toContain(part);
      await expectNone();
    });
  });

  test('RootlessKit, with us for pasta: names, and a port as soon as somebody listens on it', async () => {
    const child = podman.run(`rootlesskit --net=pasta --disable-host-loopback --copy-up=/etc --port-driver=implicit \
      sh -c 'ip addr show tap0; busybox nslookup fusilli.test; busybox nc -l -p 5800 -e cat'`);
    await expectEcho(5800);
    const { code, output } = await child;
    expect({ code, output: code === 0 ? '' : output }).toEqual({ code: 0, output: '' });
    for (const part of ['inet 10.0.2.100/24', 'mtu 65520', DNS_ANSWER_4]) expect(output).toContain(part);
    await expectNone();
  });

  /** Nothing is left of us. */
  async function expectNone(): Promise<void> {
    const isGone = async (): Promise<true | null> =>
      (await podman.run('pgrep --full tubetti[.]js')).code === 1 ? true : null;
    await poll('our end', isGone, 5000);
  }
});
