/** The resolvers and search domains of the guest. */
import { formatIp } from '../../../src/config/address-text';
import { parseResolvConf } from '../../../src/config/resolv-conf';
import { facts, resolve, shown, ORDINARY } from '../../support/config/host-facts';

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
