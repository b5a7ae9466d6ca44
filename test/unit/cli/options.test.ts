import { DEFAULT_MAC, type Program } from '../../../src/cli/draft';
import { DEFAULT_MTU } from '../../../src/stack/config';
import { OPTIONS } from '../../../src/cli/option-table';
import { type Options, parseOptions } from '../../../src/cli/options';
import { formatIp } from '../../../src/config/address-text';
import { ConfigError } from '../../../src/errors';

const EPHEMERAL = { first: 32768, last: 60999 };

function parse(...argv: string[]): Options {
  const command = parseOptions(argv, EPHEMERAL);
  if (command.action !== 'run') throw new Error(`not run: ${command.action}`);
  return command.options;
}

function refusal(...argv: string[]): ConfigError {
  try {
    parseOptions(argv, EPHEMERAL);
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error(`accepted: ${argv.join(' ')}`);
}

const text = (addr: Uint8Array | null): string | null => (addr === null ? null : formatIp(addr));

describe('how options are written', () => {
  test.each<[string[], string]>([
    [['-s', '/a'], '/a'],
    [['-s/a'], '/a'],
    [['--socket', '/a'], '/a'],
    [['--socket=/a'], '/a'],
    [['--socket-path', '/a'], '/a'],
    [['--so', '/a'], '/a'],
    [['--sock=/a=b'], '/a=b'],
    [['-fds', '/a'], '/a'],
    [['-fds/a'], '/a'],
    [['-s', '/x', '-s', '/a'], '/a'],
    [['-s', '-weird'], '-weird'],
  ])('%j gives the socket %s', (argv, path) => {
    expect(parse(...argv).transport).toEqual({ kind: 'listen', path });
  });

  test.each<[string[], RegExp]>([
    [['--bogus'], /^unknown option --bogus \(see --help\)$/],
    [['--sokcet', 'x'], /^unknown option --sokcet, did you mean --socket\?/],
    [['-Z'], /^unknown option -Z/],
    [['-fZ'], /^unknown option -Z/],
    [['--no-dhcp-'], /ambiguous: --no-dhcp-dns, --no-dhcp-search/],
    [['--dns-'], /ambiguous: --dns-forward, --dns-host/],
    [['-s'], /^option -s needs an argument: PATH/],
    [['--mtu'], /^option --mtu needs an argument: BYTES/],
    [['--quiet=yes'], /^option --quiet takes no argument/],
    [['guest'], /^extra argument "guest"/],
    [['-f', 'guest', '--bogus'], /^extra argument "guest"/],
    [['-f', '--', '-q'], /^extra argument "-q"/],
  ])('%j is refused', (argv, message) => {
    const error = refusal(...argv);
    expect(error.code).toBe('CFG_ERR_USAGE');
    expect(error.message).toMatch(message);
    expect(error.message).not.toContain('\n');
  });

  test('an exact name wins over longer ones', () => {
    expect(parse('--no-dhcp').host).toMatchObject({ dhcp: false, dhcpv6: true, advertiseDns: true });
    expect(parse('--dns', '192.0.2.53').host.ip4.dns.map(formatIp)).toEqual(['192.0.2.53']);
  });

  test('help, version and capabilities take effect where they stand', () => {
    expect(parseOptions(['-h', '--bogus'])).toEqual({ action: 'help' });
    expect(parseOptions(['-f', '--version'])).toEqual({ action: 'version' });
    expect(parseOptions(['--print-cap'])).toEqual({ action: 'capabilities' });
    expect(refusal('--bogus', '-h').message).toMatch(/--bogus/);
  });

  test('no two options share a name, every one has a help text', () => {
    const names = OPTIONS.flatMap((option) => [...option.long, ...(option.short === '' ? [] : [option.short])]);
    expect(new Set(names).size).toBe(names.length);
    for (const option of OPTIONS) expect(option.help).not.toBe('');
  });
});

describe('what they mean', () => {
  test("nothing given: passt's defaults", () => {
    const options = parse();
    expect(options).toMatchObject({
      transport: { kind: 'listen', path: null },
      oneOff: false,
      logLevel: 'info',
      logFile: null,
      metrics: null,
      rules: [],
      freebind: false,
      warnings: [],
    });
    expect(options.host).toMatchObject({
      v4: true,
      v6: true,
      iface: null,
      mtu: DEFAULT_MTU,
      ourMac: DEFAULT_MAC,
      mapGateway: true,
      search: null,
      dnsNone: false,
      tcp: true,
      udp: true,
      icmp: true,
      keepDf: false,
      dhcp: true,
      ndp: true,
      dhcpv6: true,
      ra: true,
      advertiseDns: true,
      advertiseSearch: true,
    });
  });

  test.each<[string[], string]>([
    [['-q'], 'warn'],
    [['-d'], 'debug'],
    [['--trace'], 'trace'],
    [['-d', '-q'], 'warn'],
    [['-q', '-d'], 'debug'],
    [['--trace', '-d'], 'trace'],
    [['--trace', '-q'], 'warn'],
  ])('%j logs at %s', (argv, level) => {
    expect(parse(...argv).logLevel).toBe(level);
  });

  test('front-end', () => {
    expect(parse('--connect', '/q').transport).toEqual({ kind: 'connect', path: '/q' });
    expect(parse('-F', '7')).toMatchObject({ transport: { kind: 'fd', fd: 7 }, oneOff: true });
    expect(parse('-1')).toMatchObject({ oneOff: true });
    expect(parse('--vhost-user', '-f').transport).toEqual({ kind: 'listen', path: null });
    expect(parse('--stream', '--vhost-user').frontEnd).toBe('vhost-user');
    expect(parse('--vhost-user', '--stream').frontEnd).toBe('stream');
  });

  test("passt's defaults for passt's callers", () => {
    const as = (program: Program, ...argv: string[]): Options => {
      const command = parseOptions(argv, EPHEMERAL, { program });
      if (command.action !== 'run') throw new Error(command.action);
      return command.options;
    };
    expect(as('tubetti')).toMatchObject({ background: false, frontEnd: 'vhost-user' });
    expect(as('tubetti', '-b', '--stream')).toMatchObject({ background: true, frontEnd: 'stream' });
    expect(as('passt')).toMatchObject({ background: true, frontEnd: 'stream' });
    expect(as('passt', '-f', '--vhost-user')).toMatchObject({ background: false, frontEnd: 'vhost-user' });
  });

  test('what is asked of the service while it runs', () => {
    expect(parse()).toMatchObject({
      pid: null,
      pcap: null,
      statsSeconds: null,
      follow: true,
      pollUs: 0,
      moderation: 'adaptive',
      trace: false,
    });
    expect(parse('--moderation', 'standard').moderation).toBe('standard');
    expect(parse('-P', '/p', '-p', '/c', '--stats', '2', '--no-follow', '--poll-us', '1000', '--trace')).toMatchObject({
      pid: '/p',
      pcap: '/c',
      statsSeconds: 2,
      follow: false,
      pollUs: 1000,
      trace: true,
    });
  });

  test('addresses go to their family, the last one wins', () => {
    const { host } = parse(
      '-a',
      '192.0.2.9/28',
      '-a',
      '2001:db8::9/80',
      '-g',
      '192.0.2.1',
      '-g',
      'fe80::1',
      '-g',
      '192.0.2.14',
    );
    expect(text(host.ip4.addr)).toBe('192.0.2.9');
    expect(host.ip4.prefixLen).toBe(28);
    expect(text(host.ip6.addr)).toBe('2001:db8::9');
    expect(text(host.ip4.gateway)).toBe('192.0.2.14');
    expect(text(host.ip6.gateway)).toBe('fe80::1');
  });

  test.each<[string, number]>([
    ['24', 24],
    ['0', 0],
    ['255.255.252.0', 22],
    ['0.0.0.0', 0],
  ])('netmask %s is %i bits', (mask, bits) => {
    expect(parse('-n', mask).host.ip4.prefixLen).toBe(bits);
  });

  test.each<[string, number]>([
    ['0', 0],
    ['1500', 1500],
    ['0x5dc', 1500],
    ['02734', 1500],
    ['65521', 65521],
  ])('mtu %s is %i', (value, mtu) => {
    expect(parse('-m', value).host.mtu).toBe(mtu);
  });

  test('small MTUs only warn', () => {
    expect(parse('-m', '0').warnings).toEqual(['-m 0: no MTU is advertised']);
    expect(parse('-m', '67').warnings[0]).toMatch(/IPv4 needs at least 68/);
    expect(parse('-m', '1279').warnings[0]).toMatch(/IPv6 needs at least 1280/);
    expect(parse('-m', '1280').warnings).toEqual([]);
  });

  test('resolvers: three a family are kept, "none" forgets and stops reading resolv.conf', () => {
    const many = parse('-D', '192.0.2.1', '-D', '2001:db8::1', '-D', '192.0.2.2', '-D', '192.0.2.3', '-D', '192.0.2.4');
    expect(many.host.ip4.dns.map(formatIp)).toEqual(['192.0.2.1', '192.0.2.2', '192.0.2.3']);
    expect(many.host.ip6.dns.map(formatIp)).toEqual(['2001:db8::1']);
    expect(many.warnings).toHaveLength(1);
    expect(many.host.dnsNone).toBe(false);
    const none = parse('-D', '192.0.2.1', '--dns', 'none');
    expect(none.host.ip4.dns).toEqual([]);
    expect(none.host.dnsNone).toBe(true);
  });

  test('search domains: lists and repeats, six at most, "none" is none at all', () => {
    expect(parse('-S', 'a.example b.example', '-S', 'c.example.').host.search).toEqual([
      'a.example',
      'b.example',
      'c.example',
    ]);
    expect(parse('-S', 'none').host.search).toEqual([]);
    expect(refusal('-S', 'a b c d e f g').message).toMatch(/at most 6/);
  });

  test('the host as the guest sees it', () => {
    expect(parse('--no-map-gw').host.mapGateway).toBe(false);
    expect(parse('--map-host-loopback', 'none').host.mapGateway).toBe(false);
    const both = parse('--no-map-gw', '--map-host-loopback', '192.0.2.8', '--map-guest-addr', '2001:db8::8');
    expect(text(both.host.ip4.mapHostLoopback)).toBe('192.0.2.8');
    expect(text(both.host.ip6.mapGuestAddr)).toBe('2001:db8::8');
  });

  test('families: the last one wins', () => {
    expect(parse('-4').host).toMatchObject({ v4: true, v6: false, v6Required: false });
    expect(parse('-6').host).toMatchObject({ v4: false, v6: true, v6Required: true });
    expect(parse('-4', '-6').host).toMatchObject({ v4: false, v6: true });
    expect(parse('-4', '-a', '2001:db8::1').warnings).toEqual(['options for IPv6 have no effect: IPv6 is off']);
  });

  test('no ICMP is no NDP', () => {
    expect(parse('--no-icmp').host).toMatchObject({ icmp: false, ndp: false, tcp: true });
  });

  test.each<[string, string, number]>([
    ['9100', '127.0.0.1', 9100],
    ['0.0.0.0:9100', '0.0.0.0', 9100],
    ['[::1]:0', '::1', 0],
  ])('metrics %s', (value, host, port) => {
    expect(parse('--metrics', value).metrics).toEqual({ host, port });
  });

  test('ports are looked at last: the order of options does not matter', () => {
    const options = parse('-t', '22:23', '-u', '53', '--no-icmp');
    expect(options.rules).toMatchObject([
      { protocol: 'tcp', first: 22, last: 22, targetFirst: 23 },
      { protocol: 'udp', first: 53, last: 53, targetFirst: 53 },
    ]);
    expect(refusal('-t', '22', '--no-tcp').message).toBe('-t 22: ports cannot be forwarded with --no-tcp');
    expect(refusal('-u', '::1/53', '-4').message).toMatch(/IPv6 is off/);
  });
});

describe('values that are refused: option, value and what would be right', () => {
  test.each<[string[], RegExp]>([
    [['-m', '65522'], /^-m 65522: give a number from 0 to 65521$/],
    [['--mtu', '15oo'], /^--mtu 15oo: give a number/],
    [['--mtu', '-1'], /^--mtu -1: give a number/],
    [['--mtu', ''], /^--mtu "": give a number/],
    [['-a', '192.0.2'], /^-a 192.0.2: give an IPv4 or IPv6 address$/],
    [['-a', '127.0.0.1'], /loopback/],
    [['-a', '0.0.0.0'], /unspecified/],
    [['-a', '224.0.0.1'], /multicast/],
    [['-a', '255.255.255.255'], /broadcast/],
    [['-a', '::ffff:192.0.2.1'], /v4-mapped/],
    [['-a', '192.0.2.1/33'], /from 0 to 32/],
    [['-a', '2001:db8::1/129'], /from 0 to 128/],
    [['-a', '192.0.2.1/'], /prefix length/],
    [['-n', '255.0.255.0'], /^-n 255.0.255.0: give a prefix length/],
    [['-n', '33'], /from 0 to 32/],
    [['-M', '9a:55:9a:55:9a'], /^-M 9a:55:9a:55:9a: give a MAC/],
    [['-M', '01:00:5e:00:00:01'], /multicast/],
    [['-g', '::1'], /loopback/],
    [['-i', 'name-of-16-bytes'], /name of a network interface/],
    [['-o', '0.0.0.0'], /unspecified/],
    [['-o', '::1'], /loopback/],
    [['--outbound-if4', 'a/b'], /name of a network interface/],
    [['-D', ''], /^-D ""/],
    [['--dns-forward', '127.0.0.53'], /loopback/],
    [['--dns-host', '0.0.0.0'], /unspecified/],
    [['-S', ''], /domain names or "none"/],
    [['-H', 'a..b'], /^-H a\.\.b: give a domain name/],
    [['--fqdn', `${'a'.repeat(63)}.`.repeat(4)], /253 in all/],
    [['--map-host-loopback', '127.0.0.1'], /loopback/],
    [['-F', '-1'], /^-F -1: give a number/],
    [['-s', 'x'.repeat(108)], /path of 1 to 107 bytes/],
    [['-s', ''], /path of 1 to 107 bytes/],
    [['--metrics', '65536'], /^--metrics 65536: give PORT/],
    [['--metrics', 'localhost:9100'], /give PORT/],
    [['--metrics', '::1:9100'], /give PORT/],
    [['--log-size', '40959'], /from 40960/],
    [['--poll-us', '1001'], /^--poll-us 1001: give a number from 0 to 1000$/],
    [['--moderation', 'on'], /^--moderation on: give "off", "standard" or "adaptive"$/],
    [['--stats', '0'], /^--stats 0: give a number from 1 to 86400$/],
    [['-P', ''], /^-P "": give the path of a file$/],
    [['--pcap', ''], /^--pcap "": give the path of a file$/],
    [['--flow-log', ''], /^--flow-log "": give the path of a file$/],
  ])('%j', (argv, message) => {
    const error = refusal(...argv);
    expect(error.code).toBe('CFG_ERR_VALUE');
    expect(error.message).toMatch(message);
    expect(error.message).not.toContain('\n');
  });

  test('a loopback source address is taken for IPv4, as with passt', () => {
    expect(text(parse('-o', '127.0.0.1').host.ip4.outboundAddr)).toBe('127.0.0.1');
  });

  test.each<[string[], RegExp]>([
    [['-n', '24', '-a', '192.0.2.1/24'], /both give the prefix length/],
    [['-a', '192.0.2.1/24', '-n', '24'], /both give the prefix length/],
    [['-s', '/a', '--connect', '/b'], /--socket and --connect/],
    [['-s', '/a', '--fd', '3'], /--socket and --fd/],
    [['--poll-us', '50', '--stream'], /^--poll-us polls virtqueues, which --stream does not have$/],
    [['--moderation', 'off', '--stream'], /^--moderation applies to virtqueues, which --stream does not have$/],
    [['--stats', '1', '-b'], /--stats .* add --foreground/],
  ])('%j contradicts itself', (argv, message) => {
    const error = refusal(...argv);
    expect(error.code).toBe('CFG_ERR_CONFLICT');
    expect(error.message).toMatch(message);
  });
});

test('sockets that take orders', () => {
  const { control, confPath, slirpApi } = parse('--control', '/c', '-c', '/p', '--slirp-api', '/s');
  expect([control, confPath, slirpApi]).toEqual(['/c', '/p', '/s']);
  expect(refusal('--conf-path', '').message).toBe('--conf-path "": give a path of 1 to 107 bytes');
});

describe('options of passt that are not served are known by name', () => {
  test.each<[string[], RegExp]>([
    [['--repair-path', '/x'], /^--repair-path \/x is not supported yet: .* give "none"$/],
    [['--migrate-exit'], /^--migrate-exit is not supported yet: connections are not migrated$/],
    [['--migrate-no-linger'], /^--migrate-no-linger is not supported yet: connections are not migrated$/],
  ])('%j', (argv, message) => {
    const error = refusal(...argv);
    expect(error.code).toBe('CFG_ERR_UNSUPPORTED');
    expect(error.message).toMatch(message);
  });

  test('the only --repair-path there is', () => {
    expect(parse('--repair-path', 'none').warnings).toEqual([]);
  });

  test.each([
    ['--netns', 'x'],
    ['--userns', 'x'],
    ['--netns-only'],
    ['--no-netns-quit'],
    ['--no-pidns'],
    ['--config-net'],
    ['--no-copy-routes'],
    ['--no-copy-addrs'],
    ['--ns-mac-addr', '02:00:00:00:00:01'],
    ['-I', 'tap0'],
    ['-T', '22'],
    ['-U', '53'],
    ['--host-lo-to-ns-lo'],
    ['--no-splice'],
    ['--splice-only'],
    ['--dhcp-dns'],
    ['--dhcp-search'],
  ])("%s is pasta's", (...argv) => {
    const error = refusal(...argv);
    expect(error.code).toBe('CFG_ERR_UNSUPPORTED');
    expect(error.message).toContain(`${argv[0]} is for pasta mode only`);
  });

  test('what has no effect says so', () => {
    expect(parse('-e').warnings).toEqual(['-e has no effect: the log goes to stderr while there is one']);
    expect(parse('--chroot-fallback').warnings).toEqual([
      '--chroot-fallback has no effect: chroot(2) is taken by itself where pivot_root(2) fails',
    ]);
  });
});
