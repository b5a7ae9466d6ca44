import { formatIp } from '../../../src/config/address-text';
import { flowLimits, stackConfig } from '../../../src/config/host-config';
import { readSysctls } from '../../../src/config/sysctl';
import type { InterfaceAddress, Route } from '../../../src/config/netlink';
import { fixtureNetwork } from '../../support/config/fixtures';
import { EMPTY, facts, options, resolve, shown, ip, oneInterface, ORDINARY } from '../../support/config/host-facts';

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

describe('families', () => {
  test('a host without IPv6 sockets', () => {
    const host = resolve([], facts(ORDINARY, '', false));
    expect(host.ip6).toBeNull();
    expect(host.notes).toEqual([{ level: 'info', text: 'IPv6: off, this host has no IPv6 sockets' }]);
    expect(() => resolve(['-6'], facts(ORDINARY, '', false))).toThrow('no IPv6 sockets');
    expect(resolve(['-4'], facts(ORDINARY, '', false)).notes).toEqual([]);
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
