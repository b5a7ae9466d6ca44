import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Command, type Options, parseOptions } from '../../../src/cli/options';
import { formatIp } from '../../../src/config/address-text';
import { ConfigError } from '../../../src/errors';

const EPHEMERAL = { first: 32768, last: 60999 };

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-config-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

function file(name: string, content: string): string {
  const path = join(dir, name);
  writeFileSync(path, content);
  return path;
}

function command(argv: string[], env: NodeJS.ProcessEnv = {}): Command {
  return parseOptions(argv, EPHEMERAL, { env });
}

function parse(argv: string[], env: NodeJS.ProcessEnv = {}): Options {
  const result = command(argv, env);
  if (result.action !== 'run') throw new Error(`not run: ${result.action}`);
  return result.options;
}

function refusal(argv: string[], env: NodeJS.ProcessEnv = {}): string {
  try {
    command(argv, env);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error('accepted');
}

const YAML = `
# A guest's network.
socket: /run/net.sock
mtu: 1500
address: [198.51.100.7/25, 2001:db8::7]
dns: [192.0.2.53, '192.0.2.54']
search:
  - a.example
tcp-ports: ['2222:22', 8080]
no-map-gw: true
one-off: false
`;

describe('a configuration file', () => {
  test.each(['net.yaml', 'net.conf'])('%s is YAML', (name) => {
    const options = parse(['--config', file(name, YAML)]);
    expect(options).toMatchObject({ transport: { kind: 'listen', path: '/run/net.sock' }, oneOff: false });
    expect(options.host).toMatchObject({ mtu: 1500, mapGateway: false, search: ['a.example'] });
    expect(options.host.ip4.addr === null ? '' : formatIp(options.host.ip4.addr)).toBe('198.51.100.7');
    expect(options.host.ip6.addr === null ? '' : formatIp(options.host.ip6.addr)).toBe('2001:db8::7');
    expect(options.host.ip4.dns.map(formatIp)).toEqual(['192.0.2.53', '192.0.2.54']);
    expect(options.rules).toMatchObject([
      { first: 2222, targetFirst: 22 },
      { first: 8080, targetFirst: 8080 },
    ]);
  });

  test('.json is JSON', () => {
    const path = file('net.json', JSON.stringify({ mtu: 1400, 'udp-ports': '53', background: true, quiet: true }));
    const options = parse(['--config', path]);
    expect(options).toMatchObject({ background: true, logLevel: 'warn', rules: [{ protocol: 'udp', first: 53 }] });
    expect(options.host.mtu).toBe(1400);
  });

  test('an empty one says nothing', () => {
    expect(parse(['--config', file('empty.yaml', '# nothing\n')])).toEqual(parse([]));
  });

  test.each<[string, string]>([
    ['mtu: 70000', 'FILE: mtu 70000: give a number from 0 to 65521'],
    ['mtu: [1, 2]', 'FILE: mtu: give one value, not a list'],
    ['mtu: {a: 1}', 'FILE: mtu: {"a":1}: give text or a number (BYTES)'],
    ['mtu:', 'FILE: mtu: null: give text or a number (BYTES)'],
    ['no-tcp: 1', 'FILE: no-tcp: 1: give true or false'],
    ['mtuu: 1', 'FILE: mtuu: no such option, did you mean mtu?'],
    ['help: true', 'FILE: help: allowed on the command line only'],
    ['config: x', 'FILE: config: allowed on the command line only'],
    ['migrate-exit: true', 'FILE: migrate-exit is not supported yet: connections are not migrated'],
    ['netns: x', 'FILE: netns is for pasta mode only'],
    ['- mtu', 'FILE: give the options as keys and values, like "mtu: 1500"'],
    ['tcp-ports: 0', 'FILE: tcp-ports 0: '],
    ['mtu: 1\nmtu: 2', '--config FILE: Map keys must be unique at line 2, column 1'],
    ['a: [1', '--config FILE: '],
  ])('%j is refused', (content, message) => {
    const path = file('bad.yaml', content);
    const said = refusal(['--config', path]);
    expect(said.replaceAll(path, 'FILE').startsWith(message)).toBe(true);
    expect(said).not.toContain('\n');
  });

  test('one that is not there, one that is no JSON', () => {
    const missing = join(dir, 'missing');
    expect(refusal(['--config', missing])).toContain(`--config ${missing}: cannot read: no such file or directory`);
    const path = file('bad.json', '{mtu: 1}');
    expect(refusal(['--config', path])).toMatch(/^--config \S+: .*JSON/);
  });
});

describe('the environment', () => {
  test('an option a variable; repeatable ones are words', () => {
    const options = parse([], {
      TUBETTI_SOCKET_PATH: '/run/s',
      TUBETTI_TCP_PORTS: '22,80 127.0.0.1/443',
      TUBETTI_NO_DHCP: '1',
      TUBETTI_NO_RA: 'no',
      TUBETTI_MTU: '',
      PATH: '/bin',
    });
    expect(options.transport).toEqual({ kind: 'listen', path: '/run/s' });
    expect(options.rules.map(({ first }) => first)).toEqual([22, 80, 443]);
    expect(options.host).toMatchObject({ dhcp: false, ra: true, mtu: 65520 });
    expect(options.warnings).toEqual([]);
  });

  test('errors name the variable', () => {
    expect(refusal([], { TUBETTI_MTU: 'x' })).toBe('TUBETTI_MTU x: give a number from 0 to 65521');
    expect(refusal([], { TUBETTI_NO_TCP: 'maybe' })).toBe('TUBETTI_NO_TCP maybe: give 1 or 0');
    expect(refusal([], { TUBETTI_TCP_PORTS: 'x' })).toMatch(/^TUBETTI_TCP_PORTS x: /);
  });

  test('variables of the build, the tests and unit files are not ours; a typing error is pointed at', () => {
    const others = ['NO_INSTALL', 'TEST_BACKEND', 'FEATURES', 'OPTIONS', 'SANITIZE', 'WERROR', 'FUZZ_SECONDS', 'HELP'];
    const env = Object.fromEntries(others.map((name) => [`TUBETTI_${name}`, 'x']));
    expect(parse([], env)).toEqual(parse([]));
    expect(parse([], { TUBETTI_MTUU: '1' }).warnings).toEqual([
      'environment: TUBETTI_MTUU is not an option, did you mean TUBETTI_MTU?',
    ]);
  });

  test('TUBETTI_CONFIG names the file, the command line another one', () => {
    const one = file('one.yaml', 'mtu: 1000');
    const two = file('two.yaml', 'mtu: 2000');
    expect(parse([], { TUBETTI_CONFIG: one }).host.mtu).toBe(1000);
    expect(parse(['--config', two], { TUBETTI_CONFIG: one }).host.mtu).toBe(2000);
  });
});

describe('what counts more', () => {
  const layers = (content: string, env: NodeJS.ProcessEnv, ...argv: string[]): Options =>
    parse(['--config', file('f.yaml', content), ...argv], env);

  test('file, then environment, then command line', () => {
    expect(layers('mtu: 1000', {}).host.mtu).toBe(1000);
    expect(layers('mtu: 1000', { TUBETTI_MTU: '2000' }).host.mtu).toBe(2000);
    expect(layers('mtu: 1000', { TUBETTI_MTU: '2000' }, '-m', '3000').host.mtu).toBe(3000);
  });

  test('lists are replaced, not joined; within one place they add up', () => {
    expect(layers('tcp-ports: [22, 80]', {}, '-t', '1', '-t', '2').rules.map(({ first }) => first)).toEqual([1, 2]);
    expect(layers('dns: [192.0.2.1]', { TUBETTI_DNS: '192.0.2.2 192.0.2.3' }).host.ip4.dns.map(formatIp)).toEqual([
      '192.0.2.2',
      '192.0.2.3',
    ]);
    expect(layers('tcp-ports: 22\nudp-ports: 53', {}, '-t', '1').rules).toHaveLength(2);
  });

  test('one address of each family may come from another place', () => {
    const { host } = layers('address: [192.0.2.1, 2001:db8::1]', {}, '-a', '192.0.2.2');
    expect(host.ip4.addr === null ? '' : formatIp(host.ip4.addr)).toBe('192.0.2.2');
    expect(host.ip6.addr === null ? '' : formatIp(host.ip6.addr)).toBe('2001:db8::1');
  });

  test('switches can be taken back, opposites replace each other', () => {
    expect(layers('no-tcp: true', { TUBETTI_NO_TCP: '0' }).host.tcp).toBe(true);
    expect(layers('background: true', {}, '-f').background).toBe(false);
    expect(layers('foreground: false', {}).background).toBe(true);
    expect(layers('vhost-user: false', {}).frontEnd).toBe('stream');
    expect(layers('trace: true', {}, '-d').logLevel).toBe('debug');
    expect(layers('ipv4-only: true', {}, '-6').host).toMatchObject({ v4: false, v6: true });
  });

  test('another way to the front-end is no contradiction', () => {
    expect(layers('socket: /s', {}, '--connect', '/c').transport).toEqual({ kind: 'connect', path: '/c' });
    expect(layers('fd: 7', {}, '-s', '/s')).toMatchObject({ transport: { kind: 'listen', path: '/s' }, oneOff: false });
    expect(refusal(['--config', file('both.yaml', 'socket: /s\nconnect: /c')])).toMatch(/--socket and --connect/);
  });
});
