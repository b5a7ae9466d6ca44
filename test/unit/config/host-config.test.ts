import { type Options, parseOptions } from '../../../src/cli/options';
import { formatIp } from '../../../src/config/address-text';
import {
  flowLimits,
  type HostFacts,
  resolveHostConfig,
  type ResolvedHost,
  stackConfig,
} from '../../../src/config/host-config';
import { parseResolvConf } from '../../../src/config/resolv-conf';
import { readEphemeralRange, readHostPorts, readSysctls } from '../../../src/config/sysctl';
import type { HostNetwork, InterfaceAddress, Route } from '../../../src/config/netlink';
import { parseIp } from '../../../src/config/address-text';
import { fixtureNetwork } from '../../support/config/fixtures';

function options(argv: string[]): Options {
  const command = parseOptions(argv, { first: 32768, last: 60999 });
  if (command.action !== 'run') throw new Error('not run');
  return command.options;
}

const EMPTY: HostNetwork = { links: [], addresses: [], routes: [] };

function facts(network: HostNetwork, resolvConf = '', v6Sockets = true): HostFacts {
  return { network, resolvConf: parseResolvConf(resolvConf), v6Sockets };
}

function resolve(argv: string[], host: HostFacts): ResolvedHost {
  return resolveHostConfig(options(argv).host, host);
}

/** Addresses as text, for reading. */
function shown(value: unknown): unknown {
  if (value instanceof Uint8Array) return formatIp(value);
  if (Array.isArray(value)) return value.map(shown);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, shown(inner)]));
}

const ip = (text: string): Uint8Array => parseIp(text)!;

/** A host with one interface, eth0 (2), and what is given on it. */
function oneInterface(
  addresses: [string, number, Partial<InterfaceAddress>?][],
  routes: Partial<Route>[],
): HostNetwork {
  return {
    links: [
      { index: 1, name: 'lo', flags: 1, mac: null, mtu: 65536 },
      { index: 2, name: 'eth0', flags: 1, mac: null, mtu: 1500 },
    ],
    addresses: addresses.map(([text, prefixLen, more]) => ({
      family: text.includes(':') ? 10 : 2,
      index: 2,
      prefixLen,
      flags: 0,
      scope: text.startsWith('fe80') ? 253 : 0,
      addr: ip(text),
      ...more,
    })),
    routes: routes.map((route) => ({
      family: 2,
      dstLen: 0,
      dst: null,
      table: 254,
      type: 1,
      scope: 0,
      priority: 0,
      index: 2,
      gateway: null,
      nextHops: [],
      nextHopId: 0,
      ...route,
    })),
  };
}

const ORDINARY = oneInterface(
  [
    ['192.0.2.2', 24],
    ['2001:db8::2', 64],
    ['fe80::2', 64],
  ],
  [{ gateway: ip('192.0.2.1') }, { family: 10, gateway: ip('fe80::1') }],
);

describe('template interface', () => {
  test('a real dump: first default route, best next hop, longest prefix, no deprecated address', () => {
    const host = resolve([], facts(fixtureNetwork()));
    expect(host.template4).toBe('veth0');
    expect(host.template6).toBe('veth0');
    expect(shown(host.ip4)).toMatchObject({
      guestAddr: '192.0.2.77',
      prefixLen: 32,
      gateway: '192.0.2.254',
      mapHostLoopback: '192.0.2.254',
      mapGuestAddr: null,
      addrFixed: false,
    });
    expect(shown(host.ip6)).toMatchObject({
      guestAddr: '2001:db8::2',
      gateway: 'fe80::99',
      ourLinkLocal: 'fe80::99',
      scopeId: 2,
    });
    expect(host.notes).toEqual([]);
  });

  test('-i takes another one; a family without an address there is local', () => {
    const host = resolve(['-i', 'veth1'], facts(fixtureNetwork()));
    expect(host.template4).toBe('veth1');
    // /32 of the point-to-point address beats /25.
    expect(shown(host.ip4)).toMatchObject({ guestAddr: '10.9.9.1', prefixLen: 32, gateway: '198.51.100.1' });
    expect(host.template6).toBeNull();
    expect(shown(host.ip6)).toMatchObject({ guestAddr: null, gateway: 'fe80::1', ourLinkLocal: 'fe80::1', scopeId: 0 });
    expect(host.notes).toEqual([{ level: 'info', text: 'IPv6: no global address on veth1, using local mode' }]);
  });

  test('--outbound-if4 is a template where -i is not', () => {
    const host = resolve(['--outbound-if4', 'veth1'], facts(fixtureNetwork()));
    expect([host.template4, host.template6]).toEqual(['veth1', 'veth0']);
    expect(host.ip4?.outboundIf).toBe('veth1');
    expect(resolve(['--outbound-if4', 'veth1', '-i', 'veth0'], facts(fixtureNetwork())).template4).toBe('veth0');
  });

  test.each([
    ['-i', 'eth9', '--interface eth9: no such interface (there are: lo, veth0, veth1)'],
    ['--outbound-if6', 'eth9', '--outbound-if6 eth9: no such interface (there are: lo, veth0, veth1)'],
  ])('%s of an unknown name', (option, name, message) => {
    expect(() => resolve([option, name], facts(fixtureNetwork()))).toThrow(message);
  });

  test('without a default route the first other route out of the host counts', () => {
    const network = oneInterface(
      [['192.0.2.2', 24]],
      [
        { dstLen: 24, dst: ip('192.0.2.0'), scope: 253 },
        { dstLen: 16, dst: ip('169.254.0.0'), gateway: ip('192.0.2.9') },
        { dstLen: 8, dst: ip('10.0.0.0'), table: 100, index: 3 },
        { dstLen: 8, dst: ip('10.0.0.0'), index: 1 },
        { dstLen: 8, dst: ip('10.0.0.0'), type: 7, index: 3 },
        { dstLen: 8, dst: ip('10.0.0.0'), gateway: ip('192.0.2.7') },
      ],
    );
    const host = resolve(['-4'], facts(network));
    expect(host.template4).toBe('eth0');
    expect(shown(host.ip4)).toMatchObject({ guestAddr: '192.0.2.2', gateway: null, mapHostLoopback: null });
    const stack = stackConfig(
      options(['-4']).host,
      host,
      readSysctls(() => null),
      flowLimits(1024, 0),
      false,
    );
    expect(stack.dhcp).toBe(false);
  });

  test('a duplicate or deprecated IPv6 address is none', () => {
    const network = oneInterface(
      [
        ['2001:db8::2', 128, { flags: 0x08 }],
        ['2001:db8::3', 128, { flags: 0x20 }],
        ['2001:db8::4', 64],
        ['fe80::2', 64],
      ],
      [{ family: 10, gateway: ip('2001:db8::1') }],
    );
    const host = resolve(['-6'], facts(network));
    expect(shown(host.ip6)).toMatchObject({
      guestAddr: '2001:db8::4',
      gateway: '2001:db8::1',
      ourLinkLocal: 'fe80::2',
    });
    expect(host.ip4).toBeNull();
  });

  test('a global address without a link-local one is not used', () => {
    const network = oneInterface([['2001:db8::2', 64]], [{ family: 10, gateway: ip('fe80::1') }]);
    const host = resolve(['-6'], facts(network));
    expect(host.template6).toBeNull();
    expect(host.ip6?.guestAddr).toBeNull();
  });
});

describe('local mode', () => {
  test('a host with nothing', () => {
    const host = resolve([], facts(EMPTY));
    expect(shown(host.ip4)).toMatchObject({
      guestAddr: '169.254.2.1',
      prefixLen: 16,
      gateway: '169.254.2.2',
      mapHostLoopback: '169.254.2.2',
    });
    expect(shown(host.ip6)).toMatchObject({ guestAddr: null, gateway: 'fe80::1', ourLinkLocal: 'fe80::1' });
    // Short: the network may come at any moment.
    expect([host.ip4?.leaseSec, host.ip6?.leaseSec]).toEqual([60, 60]);
    expect(host.notes.map((note) => note.text)).toEqual([
      'IPv4: no external interface to copy from, using local mode',
      'IPv6: no external interface to copy from, using local mode',
    ]);
    const stack = stackConfig(
      options([]).host,
      host,
      readSysctls(() => null),
      flowLimits(1024, 0),
      false,
    );
    expect(stack).toMatchObject({ dhcp: true, dhcpv6: false, ra: true, ndp: true });
  });

  test('given addresses replace the made-up ones', () => {
    const host = resolve(['-a', '198.51.100.9/24', '-g', '198.51.100.1', '-a', '2001:db8::9'], facts(EMPTY));
    expect(shown(host.ip4)).toMatchObject({
      guestAddr: '198.51.100.9',
      prefixLen: 24,
      gateway: '198.51.100.1',
      addrFixed: true,
    });
    expect(shown(host.ip6)).toMatchObject({ guestAddr: '2001:db8::9', gateway: 'fe80::1', addrFixed: true });
  });
});

describe('prefix length', () => {
  test.each<[string[], number]>([
    [[], 24],
    [['-n', '20'], 20],
    [['-n', '0'], 24],
    [['-a', '10.1.2.3'], 24],
    [['-a', '10.1.2.3/9'], 9],
    [['-a', '10.1.2.3', '-n', '255.255.0.0'], 16],
  ])('%j', (argv, prefixLen) => {
    expect(resolve(argv, facts(ORDINARY)).ip4?.prefixLen).toBe(prefixLen);
  });

  test('an address with prefix length 0 gets that of its class', () => {
    const network = oneInterface([['172.20.0.5', 0]], [{ gateway: ip('172.20.0.1') }]);
    expect(resolve(['-4'], facts(network)).ip4?.prefixLen).toBe(16);
  });
});

describe('the host as the guest sees it', () => {
  test.each<[string[], string | null]>([
    [[], '192.0.2.1'],
    [['-g', '192.0.2.99'], '192.0.2.99'],
    [['--no-map-gw'], null],
    [['--map-host-loopback', 'none'], null],
    [['--no-map-gw', '--map-host-loopback', '192.0.2.8'], '192.0.2.8'],
    [['--map-host-loopback', '192.0.2.8', '--no-map-gw'], '192.0.2.8'],
  ])('%j', (argv, expected) => {
    expect(shown(resolve(argv, facts(ORDINARY)).ip4?.mapHostLoopback)).toBe(expected);
  });
});

describe('resolvers', () => {
  const names = (argv: string[], resolvConf: string, network = ORDINARY): unknown => {
    const { ip4 } = resolve(['-4', ...argv], facts(network, resolvConf));
    return shown({ dns: ip4?.dns, match: ip4?.dnsMatch, host: ip4?.dnsHost });
  };

  test.each<[string, string[], string, unknown]>([
    [
      'ordinary ones are advertised',
      [],
      'nameserver 198.51.100.53',
      { dns: ['198.51.100.53'], match: null, host: null },
    ],
    [
      'three at most, no duplicates',
      [],
      '1 1 2 3 4'
        .split(' ')
        .map((n) => `nameserver 198.51.100.${n}`)
        .join('\n'),
      { dns: ['198.51.100.1', '198.51.100.2', '198.51.100.3'], match: null, host: null },
    ],
    [
      'a loopback one becomes the gateway, which is intercepted',
      [],
      'nameserver 127.0.0.53',
      { dns: ['192.0.2.1'], match: '192.0.2.1', host: '127.0.0.53' },
    ],
    [
      'so does the gateway itself',
      [],
      'nameserver 192.0.2.1',
      { dns: ['192.0.2.1'], match: '192.0.2.1', host: '192.0.2.1' },
    ],
    [
      'or what --dns-forward says',
      ['--dns-forward', '192.0.2.54'],
      'nameserver 127.0.0.53',
      { dns: ['192.0.2.54'], match: '192.0.2.54', host: '127.0.0.53' },
    ],
    [
      '--dns-forward intercepts beside an ordinary one',
      ['--dns-forward', '192.0.2.54'],
      'nameserver 198.51.100.53',
      { dns: ['198.51.100.53'], match: '192.0.2.54', host: '198.51.100.53' },
    ],
    [
      '--dns-host is where to',
      ['--dns-forward', '192.0.2.54', '--dns-host', '127.0.0.9'],
      'nameserver 198.51.100.53',
      { dns: ['198.51.100.53'], match: '192.0.2.54', host: '127.0.0.9' },
    ],
    [
      'nowhere to map a loopback one',
      ['--no-map-gw'],
      'nameserver 127.0.0.53\nnameserver 198.51.100.53',
      { dns: ['198.51.100.53'], match: null, host: null },
    ],
    [
      '-D is advertised as it is',
      ['-D', '127.0.0.1'],
      'nameserver 198.51.100.53',
      { dns: ['127.0.0.1'], match: null, host: null },
    ],
    [
      "-D and --dns-forward: queries go to the host's resolver",
      ['-D', '192.0.2.54', '--dns-forward', '192.0.2.54'],
      'nameserver 127.0.0.53',
      { dns: ['192.0.2.54'], match: '192.0.2.54', host: '127.0.0.53' },
    ],
    [
      '… or to -D, never to 0.0.0.0',
      ['-D', '198.51.100.7', '--dns-forward', '192.0.2.54'],
      '',
      { dns: ['198.51.100.7'], match: '192.0.2.54', host: '198.51.100.7' },
    ],
    ['… or nowhere', ['--dns-forward', '192.0.2.54'], '', { dns: [], match: null, host: null }],
    ['-D none', ['-D', 'none'], 'nameserver 198.51.100.53', { dns: [], match: null, host: null }],
    [
      '-D of the other family',
      ['-D', '2001:db8::53'],
      'nameserver 198.51.100.53',
      { dns: ['198.51.100.53'], match: null, host: null },
    ],
  ])('%s', (_name, argv, resolvConf, expected) => {
    expect(names(argv, resolvConf)).toEqual(expected);
  });

  test('a loopback resolver of IPv6', () => {
    const { ip6 } = resolve([], facts(ORDINARY, 'nameserver ::1\nnameserver fe80::53%eth0'));
    expect(shown(ip6)).toMatchObject({ dns: ['fe80::1', 'fe80::53'], dnsMatch: 'fe80::1', dnsHost: '::1' });
  });

  test('what is left out is said', () => {
    expect(resolve(['-4', '--no-map-gw'], facts(ORDINARY, 'nameserver 127.0.0.53')).notes).toEqual([
      { level: 'warn', text: expect.stringContaining('127.0.0.53') as string },
    ]);
    expect(resolve(['-4', '--dns-forward', '192.0.2.54'], facts(ORDINARY)).notes).toEqual([
      { level: 'warn', text: expect.stringContaining('give --dns-host') as string },
    ]);
  });

  test("search domains: the host's unless given", () => {
    expect(resolve([], facts(ORDINARY, 'search a.example b.example')).search).toEqual(['a.example', 'b.example']);
    expect(resolve(['-S', 'c.example'], facts(ORDINARY, 'search a.example')).search).toEqual(['c.example']);
    expect(resolve(['-S', 'none'], facts(ORDINARY, 'search a.example')).search).toEqual([]);
  });
});

describe('families', () => {
  test('a host without IPv6 sockets', () => {
    const host = resolve([], facts(ORDINARY, '', false));
    expect(host.ip6).toBeNull();
    expect(host.notes).toEqual([{ level: 'info', text: 'IPv6: off, this host has no IPv6 sockets' }]);
    expect(() => resolve(['-6'], facts(ORDINARY, '', false))).toThrow('no IPv6 sockets');
    expect(resolve(['-4'], facts(ORDINARY, '', false)).notes).toEqual([]);
  });
});

describe('resolv.conf', () => {
  test('keywords, blanks, comments, scopes, the last search line', () => {
    const parsed = parseResolvConf(
      [
        '# nameserver 192.0.2.1',
        'nameserver 192.0.2.2',
        'nameserver\t192.0.2.3   # here',
        ' nameserver 192.0.2.4',
        'nameserver fe80::1%eth0',
        'nameserver not-an-address',
        'nameserver',
        'domain d.example e.example',
        'search a.example',
        `search b.example. ${'x'.repeat(64)} c.example\r`,
        'options edns0',
      ].join('\n'),
    );
    expect(parsed.nameservers.map(formatIp)).toEqual(['192.0.2.2', '192.0.2.3', 'fe80::1']);
    expect(parsed.search).toEqual(['b.example', 'c.example']);
  });

  test('domain is a search list of one', () => {
    expect(parseResolvConf('domain d.example e.example').search).toEqual(['d.example']);
  });
});

describe('kernel settings', () => {
  test('defaults where the kernel does not say, bounds where it says strange things', () => {
    expect(readSysctls(() => null)).toEqual({
      udpTimeoutMs: 180_000,
      udpStreamTimeoutMs: 300_000,
      hostPorts: expect.any(Uint8Array) as unknown,
      tcpSynRetries: 6,
      tcpSynLinearTimeouts: 4,
      tcpRtoMaxMs: 120_000,
      tcpKeepaliveMs: 7_200_000,
    });
    const odd = new Map([
      ['netfilter/nf_conntrack_udp_timeout', '0\n'],
      ['netfilter/nf_conntrack_udp_timeout_stream', '3600\n'],
      ['ipv4/tcp_syn_retries', 'many'],
      ['ipv4/tcp_rto_max_ms', '5\n'],
      ['ipv4/tcp_keepalive_time', '1\n'],
    ]);
    expect(readSysctls((name) => odd.get(name) ?? null)).toMatchObject({
      // Longer than RFC 4787 wants is obeyed, shorter is not.
      udpTimeoutMs: 180_000,
      udpStreamTimeoutMs: 3_600_000,
      hostPorts: expect.any(Uint8Array) as unknown,
      tcpSynRetries: 6,
      tcpRtoMaxMs: 1000,
      tcpKeepaliveMs: 60_000,
    });
  });

  test.each<[string | null, number, number]>([
    ['32768\t60999\n', 32768, 60999],
    [null, 49152, 65535],
    ['5 4', 49152, 65535],
    ['0 70000', 49152, 65535],
  ])('ephemeral range of %j', (text, first, last) => {
    expect(readEphemeralRange(() => text)).toEqual({ first, last });
  });
});

test('limits of flows share the descriptors out and leave room', () => {
  for (const files of [256, 1024, 4096, 65536, 1 << 20]) {
    const limits = flowLimits(files, 10);
    const sum = limits.maxTcpFlows + limits.maxUdpFlows + limits.maxPingFlows;
    if (files >= 1024) expect(sum).toBeLessThan(files - 10 - 128);
    for (const limit of Object.values(limits)) expect(limit).toBeGreaterThan(0);
  }
  expect(flowLimits(1 << 20, 0)).toEqual({ maxTcpFlows: 65536, maxUdpFlows: 32768, maxPingFlows: 4096 });
});

describe('which address of several', () => {
  const TEMPORARY = 0x01;
  const DADFAILED = 0x08;
  const DEPRECATED = 0x20;
  const TENTATIVE = 0x40;
  const among = (...flags: (readonly [string, number, number])[]): string => {
    const network = oneInterface(
      [
        ...flags.map(([text, length, bits]): [string, number, Partial<InterfaceAddress>] => [
          text,
          length,
          { flags: bits },
        ]),
        ['fe80::2', 64],
      ],
      [{ gateway: ip('192.0.2.1') }, { family: 10, gateway: ip('fe80::1') }],
    );
    const { ip4, ip6 } = resolve([], facts(network));
    return formatIp(flags[0][0].includes(':') ? ip6!.guestAddr! : ip4!.guestAddr);
  };

  test.each<[string, number]>([
    ['temporary', TEMPORARY],
    ['deprecated', DEPRECATED],
    ['tentative', TENTATIVE],
    ['found to be another host\u2019s', DADFAILED],
  ])('a stable, preferred, finished one before one that is %s', (_, bad) => {
    expect(among(['2001:db8::bad', 64, bad], ['2001:db8::2', 64, 0])).toBe('2001:db8::2');
    expect(among(['2001:db8::bad', 128, bad], ['2001:db8::2', 64, 0])).toBe('2001:db8::2');
    expect(among(['192.0.2.99', 24, bad], ['192.0.2.2', 24, 0])).toBe('192.0.2.2');
  });

  test('of worse ones the one that lasts longest; none that another host has', () => {
    expect(among(['2001:db8::d', 64, DEPRECATED], ['2001:db8::7', 64, TEMPORARY])).toBe('2001:db8::7');
    expect(among(['2001:db8::7', 64, TEMPORARY], ['2001:db8::3', 64, TENTATIVE])).toBe('2001:db8::3');
    expect(among(['2001:db8::d', 64, DEPRECATED])).toBe('2001:db8::d');
    const only = oneInterface([['192.0.2.99', 24, { flags: DADFAILED }]], [{ gateway: ip('192.0.2.1') }]);
    expect(resolve([], facts(only)).template4).toBe(null);
  });
});

describe('a way out without a router of IPv4', () => {
  const by = (route: Partial<Route>): unknown =>
    shown(resolve([], facts(oneInterface([['192.0.2.2', 24]], [route]))).ip4);
  const made = {
    guestAddr: '192.0.2.2',
    prefixLen: 24,
    gateway: '169.254.2.2',
    mapHostLoopback: '169.254.2.2',
    leaseSec: 3600,
  };

  test('by an IPv6 router, alone or among several, or straight onto a link: we are the router', () => {
    expect(by({ gateway: ip('fe80::1') })).toMatchObject(made);
    expect(by({ index: 0, nextHops: [{ index: 2, hops: 0, gateway: ip('fe80::1') }] })).toMatchObject(made);
    expect(by({ gateway: null })).toMatchObject(made);
  });

  test('of next hops over the interface one of IPv4 is taken', () => {
    const hops = [ip('192.0.2.7'), ip('fe80::1')].map((gateway, hops) => ({ index: 2, hops, gateway }));
    expect(by({ index: 0, nextHops: hops })).toMatchObject({ gateway: '192.0.2.7' });
  });
});

describe('resolvers that only the other family reaches', () => {
  const V6_ONLY = 'nameserver 2001:db8:5::53\nnameserver 2001:db8:5::54\n';
  const V4_ONLY = 'nameserver 198.51.100.53\n';

  test('-4 and -6: the gateway stands for the first one', () => {
    const four = resolve(['-4'], facts(ORDINARY, V6_ONLY));
    expect(shown(four.ip4)).toMatchObject({ dns: ['192.0.2.1'], dnsMatch: '192.0.2.1', dnsHost: '2001:db8:5::53' });
    expect(four.notes).toEqual([]);
    const six = resolve(['-6'], facts(ORDINARY, V4_ONLY));
    expect(shown(six.ip6)).toMatchObject({ dns: ['fe80::1'], dnsMatch: 'fe80::1', dnsHost: '198.51.100.53' });
  });

  test('a link-local one is on the interface that the file names', () => {
    const network = {
      ...ORDINARY,
      links: [...ORDINARY.links, { index: 7, name: 'eth7', flags: 1, mac: null, mtu: 1500 }],
    };
    const scope = (text: string): number => resolve(['-4'], facts(network, text)).ip4!.dnsHostScope;
    expect([scope('nameserver fe80::53%eth7'), scope('nameserver fe80::53%7'), scope('nameserver fe80::53')]).toEqual([
      7, 7, 2,
    ]);
  });

  test('a guest with both families has them by itself', () => {
    expect(shown(resolve([], facts(ORDINARY, V6_ONLY)).ip4)).toMatchObject({ dns: [], dnsMatch: null });
  });

  test.each<[string, string[], boolean, RegExp]>([
    [
      'nothing stands for them',
      ['-4', '--no-map-gw'],
      true,
      /IPv6 addresses only \(2001:db8:5::53, 2001:db8:5::54\), and no guest-side address/,
    ],
    ['no IPv6 sockets', ['-4'], false, /IPv6 addresses only .*no IPv6 sockets/],
  ])('one warning: %s', (_, argv, sockets, warning) => {
    const host = resolve(argv, facts(ORDINARY, V6_ONLY, sockets));
    expect(host.ip4?.dns).toEqual([]);
    expect(host.notes.filter(({ level }) => level === 'warn').map(({ text }) => text)).toEqual([
      expect.stringMatching(warning),
    ]);
  });

  test('--dns-forward and --dns-host across families', () => {
    expect(
      shown(resolve(['-4', '--no-map-gw', '--dns-forward', '10.0.2.3'], facts(ORDINARY, V6_ONLY)).ip4),
    ).toMatchObject({
      dns: ['10.0.2.3'],
      dnsHost: '2001:db8:5::53',
    });
    const given = ['-4', '--dns-forward', '10.0.2.3', '--dns-host', '2001:db8::53'];
    expect(shown(resolve(given, facts(ORDINARY, V4_ONLY)).ip4)).toMatchObject({ dnsHost: '2001:db8::53' });
  });
});

describe('addresses that no host has', () => {
  test.each<[string[], string]>([
    [
      ['-a', '10.0.2.0/24'],
      '--address 10.0.2.0/24: this is the address of the network 10.0.2.0/24 itself, give a host address in that subnet',
    ],
    [
      ['-a', '10.0.2.255', '-n', '24'],
      '--address 10.0.2.255/24: this is the broadcast address of 10.0.2.0/24, give a host address in that subnet',
    ],
    [
      ['-a', '10.0.2.255'],
      '--address 10.0.2.255/24: this is the broadcast address of 10.0.2.0/24, give a host address in that subnet',
    ],
    [
      ['-a', '10.0.2.4/30'],
      '--address 10.0.2.4/30: this is the address of the network 10.0.2.4/30 itself, give a host address in that subnet',
    ],
    [['-a', '0.1.2.3/8'], '--address 0.1.2.3/8: a host cannot have an address in 0.0.0.0/8, give another'],
    [['-n', '255.255.255.254'], ''],
    [['-n', '30'], ''],
    [
      ['-g', '192.0.2.255'],
      '--gateway 192.0.2.255: this is the broadcast address of 192.0.2.0/24, give the address of a router in it',
    ],
    [
      ['-g', '192.0.2.0'],
      '--gateway 192.0.2.0: this is the address of the network 192.0.2.0/24 itself, give the address of a router in it',
    ],
    [['-a', '10.0.2.1', '-g', '10.0.2.1'], "--gateway 10.0.2.1: this is the guest's own address, give another"],
    [['-a', '192.0.2.1'], "--address 192.0.2.1: this is the gateway's address, give another or --gateway too"],
    [
      ['-a', '2001:db8:7::'],
      "--address 2001:db8:7::: this is the routers' anycast address of 2001:db8:7::/64, give a host address in that subnet",
    ],
    [
      ['-a', 'fe80::7'],
      '--address fe80::7: the guest forms its own link-local address, give a global or unique local (fc00::/7) one',
    ],
    [['-a', '10.0.2.0/31', '-g', '10.0.2.1'], ''],
    [['-a', '10.0.2.255/32'], ''],
    [['-a', '10.0.2.255/16'], ''],
    [['-a', '2001:db8:7::1'], ''],
  ])('%j', (argv, refusal) => {
    const attempt = (): unknown => resolve(argv, facts(ORDINARY));
    if (refusal === '') expect(attempt).not.toThrow();
    else expect(attempt).toThrow(new Error(refusal));
  });

  test('a mask that makes the host\u2019s own address one; the host\u2019s own mask is its own affair', () => {
    const network = oneInterface([['192.0.2.7', 31]], [{ gateway: ip('192.0.2.6') }]);
    expect(() => resolve([], facts(network))).not.toThrow();
    expect(() => resolve(['-n', '29'], facts(network))).toThrow(
      "--netmask 29: the host's address 192.0.2.7 would be the broadcast address of 192.0.2.0/29, give another mask or --address",
    );
  });
});

describe('ports of programs of the host', () => {
  test('ordinary ones outside the ephemeral range, and of that those that are known or reserved', () => {
    const sysctl: Record<string, string> = {
      'ipv4/ip_local_port_range': '32768\t60999\n',
      'ipv4/ip_local_reserved_ports': '40000,40002-40003\n',
    };
    const bits = readHostPorts((name) => sysctl[name] ?? null);
    const has = (port: number): boolean => (bits[port >> 3] & (1 << (port & 7))) !== 0;
    expect([1024, 5353, 32767, 61000, 65535, 51820, 40000, 40002, 40003].filter((port) => !has(port))).toEqual([]);
    expect([0, 123, 500, 1023, 32768, 60999, 40001, 40004].filter(has)).toEqual([]);
  });
});
