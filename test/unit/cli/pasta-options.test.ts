/** Command lines of pasta. */
import { specOf } from '../../../src/config/port-spec';
import { parseOptions, type Options } from '../../../src/cli/options';
import { usage } from '../../../src/cli/usage';

const EPHEMERAL = { first: 32768, last: 60999 };

function read(...argv: string[]): Options {
  const command = parseOptions(argv, EPHEMERAL, { program: 'pasta' });
  if (command.action !== 'run') throw new Error(command.action);
  return command.options;
}

/** What `auto` is about: ports of the host, then `-T` and `-U`. */
function scanned({ namespace }: Options): string[] {
  const inward = namespace?.auto.map((rule) => `${rule.protocol} ${specOf(rule)}`) ?? [];
  const outward = namespace?.outward.filter(({ auto }) => auto) ?? [];
  return [...inward, ...outward.map(({ protocol, spec }) => `-> ${protocol} ${spec}`)];
}

describe('which namespace', () => {
  test('a command, whose own options are not ours; a shell', () => {
    expect(read('--config-net', 'ls', '-l', '--netns').namespace?.target).toEqual({
      kind: 'command',
      first: 1,
      name: 'ls',
    });
    expect(read('--', '1').namespace?.target).toEqual({ kind: 'process', pid: 1 });
    expect(read('1', '2').namespace?.target).toMatchObject({ kind: 'command', first: 0 });
    expect(read().namespace?.target).toMatchObject({ kind: 'command', first: null });
  });

  test('the place of the command counts words before the options', () => {
    const command = parseOptions(['-q', 'true'], EPHEMERAL, { program: 'pasta', skipped: 1 });
    expect(command).toMatchObject({ options: { namespace: { target: { first: 2 } } } });
  });

  test('a process, a path, a name', () => {
    expect(read('4711').namespace?.target).toEqual({ kind: 'process', pid: 4711 });
    expect(read('--netns', '/run/user/1/netns/x').namespace?.target).toEqual({
      kind: 'path',
      path: '/run/user/1/netns/x',
    });
    expect(read('--netns=blue').namespace?.target).toEqual({ kind: 'path', path: '/run/netns/blue' });
  });

  test.each([
    [['--netns', 'x', '12'], '--netns and "12"'],
    [['2147483648'], 'process 2147483648: give a number from 1 to 2147483647'],
    [['0'], 'process 0: give a number'],
    [['--no-copy-routes', '1'], '--no-copy-routes needs --config-net'],
    [['--no-copy-addrs', '1'], '--no-copy-addrs needs --config-net'],
    [['--host-lo-to-ns-lo', '--no-splice'], 'exclude each other'],
    [['--splice-only', '--no-splice'], '--splice-only and --no-splice exclude each other'],
    [['-T', '127.0.0.1/80', '1'], '-T 127.0.0.1/80: give ports without addresses'],
    [['-T', '80:192.0.2.1/80', '1'], 'give ports without addresses'],
    [['-T', '80', '-T', '79-81', '1'], '-T 79-81: tcp port 80 is forwarded here and in -T 80'],
    [['-U', '53', '-U', 'none', '1'], '-U none: conflicts with -U 53 before it'],
    [['--no-tcp', '-T', '80', '1'], '-T 80: ports cannot be forwarded with --no-tcp'],
    [['-I', 'a/b'], 'a/b'],
    [['--ns-mac-addr', 'x'], 'x'],
    [['--socket', '/tmp/x'], '--socket is for passt mode only'],
    [['-1'], 'is for passt mode only'],
    [['--no-dhcp-dns'], 'is for passt mode only'],
  ])('%j is refused', (argv, message) => {
    expect(() => read(...argv)).toThrow(message);
  });
});

describe('defaults', () => {
  test('of a command: the foreground, and silence', () => {
    expect(read('true')).toMatchObject({ background: false, logLevel: 'warn' });
    expect(read('-d', 'true')).toMatchObject({ background: false, logLevel: 'debug' });
    expect(read('-b', 'true').background).toBe(false);
  });

  test('of a namespace that is there: the background', () => {
    expect(read('1')).toMatchObject({ background: true, logLevel: 'info' });
    expect(read('-f', '1').background).toBe(false);
    expect(read('--netns', 'x').background).toBe(true);
  });

  test('resolvers are not advertised unless asked for', () => {
    expect(read('1').host).toMatchObject({ advertiseDns: false, advertiseSearch: false });
    expect(read('--dhcp-dns', '--dhcp-search', '1').host).toMatchObject({ advertiseDns: true, advertiseSearch: true });
  });

  test('--config-net: no router advertisements, and nothing that they would follow', () => {
    expect(read('--config-net', '1')).toMatchObject({ follow: false, host: { ra: false } });
    expect(read('1')).toMatchObject({ follow: true, host: { ra: true } });
  });

  test('ports: auto and none', () => {
    const auto = read('-t', 'auto', '-u', 'none', '-T', 'auto', '-U', 'none', '1');
    expect(auto.rules).toEqual([]);
    expect(scanned(auto)).toEqual(['tcp 1-32767', 'tcp 61000-65535', '-> tcp auto']);
    expect(scanned(read('1')).filter((line) => line.startsWith('->'))).toEqual(['-> tcp auto', '-> udp auto']);
    expect(scanned(read('1'))).toContain('udp 1-32767');
    expect(scanned(read('--no-udp', '1')).join()).not.toContain('udp');
    expect(scanned(read('-t', '80', '-T', '22:2222', '1')).join()).not.toContain('tcp 1-');
    expect(scanned(read('-t', '80-82,~81,auto', '-u', 'none', '-U', 'none', '-T', 'none', '1'))).toEqual([
      'tcp 80',
      'tcp 82',
    ]);
    expect(read('-T', '22:2222', '1').namespace?.outward).toMatchObject([
      { protocol: 'tcp', spec: '22:2222', auto: false, rules: [{ first: 22, targetFirst: 2222 }] },
      { protocol: 'udp', spec: 'auto', auto: true },
    ]);
    expect(read('-t', '8080:80', '1').rules).toMatchObject([{ first: 8080, targetFirst: 80 }]);
  });
});

test('command lines of callers: Podman, RootlessKit', () => {
  const podman =
    '--config-net -t 8080-8080:80-80 --dns-forward 169.254.1.1 -u none -T none -U none --no-map-gw --quiet';
  const namespace = read(...podman.split(' '), '--netns', '/run/user/1000/netns/a', '--map-guest-addr', '169.254.1.2');
  expect(namespace).toMatchObject({ background: true, logLevel: 'warn', namespace: { configNet: true } });
  const rootlesskit =
    '--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 ' +
    '--dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=auto --udp-ports=auto 4711';
  expect(read(...rootlesskit.split(' ')).namespace).toMatchObject({ ifname: 'tap0', gateway4: true, gateway6: false });
});

test('how the loopbacks are joined', () => {
  expect(read('1').namespace).toMatchObject({ splice: true, spliceOnly: false, hostLoToNsLo: false });
  expect(read('--no-splice', '1').namespace).toMatchObject({ splice: false });
  expect(read('--splice-only', '1').namespace).toMatchObject({ splice: true, spliceOnly: true, hostLoToNsLo: true });
});

test('the usage text is of namespaces', () => {
  const text = usage('pasta');
  expect(text).toContain('pasta [OPTION]... --netns PATH|NAME');
  expect(text).toContain('--ns-mac-addr MAC');
  expect(text).not.toContain('--socket');
});
