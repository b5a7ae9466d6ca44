/** The matcher against a naive model, and what its words mean. */
import fc from 'fast-check';
import { checkPolicy, policyOf } from '../../../../src/config/policy';
import { parseRule } from '../../../../src/config/policy-rule';
import type { StackContext } from '../../../../src/stack/context';
import { NatResult, natToHost } from '../../../../src/stack/ip/nat';
import { NO_PORT, type PolicyGate } from '../../../../src/stack/policy/gate';
import type { HostReach, Policy, PolicyRule, PolicyVerdict } from '../../../../src/stack/policy/types';
import { DatagramRig } from '../../../support/stack/datagram-rig';
import { ip, text, words } from '../../../support/stack/addresses';

const TCP = 6;
const UDP = 17;
const ICMP = 1;
const REACH: HostReach = {
  own: ['127.0.0.1', '192.0.2.10', '203.0.113.7', '2001:db8::10'].map(ip),
  onLink: [
    { address: ip('192.0.2.0'), length: 24 },
    { address: ip('2001:db8::'), length: 64 },
  ],
};

function rulesOf(...texts: string[]): PolicyRule[] {
  return texts.map((line) => {
    const [verdict, rule] = line.split(' ');
    return parseRule(verdict as PolicyVerdict, rule);
  });
}

/** A gate in a stack whose guest's gateway, 192.0.2.1, is the host's loopback, and whose resolver is 192.0.2.53. */
class Gated {
  readonly ctx: StackContext;
  readonly gate: PolicyGate;
  readonly verdicts: Float64Array;
  readonly logged: string[];

  constructor(policy: Policy) {
    const rig = new DatagramRig({ ip4: { dns: [ip('192.0.2.53')] }, ip6: { dns: [ip('2001:db8::53')] } });
    this.ctx = rig.ctx;
    this.gate = this.ctx.link.policy;
    this.logged = rig.logged;
    const verdicts = new SharedArrayBuffer(8 * (policy.rules.length + 1));
    this.verdicts = new Float64Array(verdicts);
    this.gate.set({ policy, reach: REACH, verdicts });
  }

  admits(protocol: number, address: string, port: number): boolean {
    const to = new NatResult();
    const addr = words(address);
    if (natToHost(this.ctx.link.nat, protocol, addr, 0, Math.max(0, port), to) !== 0) throw new Error(address);
    return this.gate.admits(this.ctx, protocol, addr, 0, port, to);
  }
}

const gated = (...texts: string[]): Gated => new Gated(policyOf(rulesOf(...texts), false));

describe('rules', () => {
  test('the first that matches decides; any "allow" makes "deny" the default', () => {
    const one = gated('deny 198.51.100.7', 'allow 198.51.100.0/24:80,443', 'allow udp/any:123');
    expect(one.admits(TCP, '198.51.100.7', 443)).toBe(false);
    expect(one.admits(TCP, '198.51.100.8', 443)).toBe(true);
    expect(one.admits(TCP, '198.51.100.8', 8443)).toBe(false);
    expect(one.admits(ICMP, '198.51.100.8', NO_PORT)).toBe(false);
    expect(one.admits(UDP, '203.0.113.1', 123)).toBe(true);
    expect(one.admits(TCP, '203.0.113.1', 123)).toBe(false);
    expect([...one.verdicts]).toEqual([1, 1, 1, 3]);
    const open = gated('deny tcp/any:25');
    expect(open.admits(TCP, '203.0.113.1', 25)).toBe(false);
    expect(open.admits(UDP, '203.0.113.1', 25)).toBe(true);
    expect(open.admits(ICMP, '203.0.113.1', NO_PORT)).toBe(true);
  });

  test('a prefix of one family holds no address of the other', () => {
    expect(gated('allow ::/0').admits(TCP, '198.51.100.1', 80)).toBe(false);
    expect(gated('allow ::/0').admits(TCP, '2001:db8:1::1', 80)).toBe(true);
    expect(gated('allow 0.0.0.0/0').admits(TCP, '2001:db8:1::1', 80)).toBe(false);
    expect(gated('allow 0.0.0.0/0').admits(TCP, '198.51.100.1', 80)).toBe(true);
  });

  test.each([
    // The gateway's address stands for the host's loopback.
    ['host', '192.0.2.1', true],
    ['host', 'fe80::1', true],
    ['host', '192.0.2.10', true],
    ['host', '203.0.113.7', true],
    ['host', '198.51.100.1', false],
    ['host', '192.0.2.7', false],
    ['lan', '192.0.2.7', true],
    ['lan', '10.1.2.3', true],
    ['lan', '172.31.0.1', true],
    ['lan', '172.32.0.1', false],
    ['lan', '100.64.0.1', true],
    ['lan', '169.254.1.1', true],
    ['lan', 'fe80::7', true],
    ['lan', 'fd12::1', true],
    ['lan', '2001:db8::99', true],
    ['lan', '2001:db8:0:1::99', false],
    // By a translator on the way (RFC 6052).
    ['lan', '64:ff9b::a01:203', true],
    ['lan', '64:ff9b::c633:6401', false],
    ['metadata', '169.254.169.254', true],
    ['metadata', 'fd00:ec2::254', true],
    ['metadata', '64:ff9b::a9fe:a9fe', true],
    ['metadata', 'fe80::a9fe:a9fe', true],
    ['metadata', '169.254.169.253', false],
  ])('"%s" and %s: %p', (word, address, is) => {
    expect(gated(`allow ${word}`).admits(TCP, address, 80)).toBe(is);
  });

  test.each(['224.0.0.251', '239.255.255.250', '255.255.255.255', '192.0.2.255', 'ff02::fb', 'ff05::2', 'ff0e::1'])(
    'what all on a link hear is near: %s',
    (address) => {
      for (const protocol of [UDP, ICMP]) {
        expect(gated('deny lan').admits(protocol, address, 5353)).toBe(false);
        // The host is one of them.
        expect(gated('deny host').admits(protocol, address, 5353)).toBe(false);
        expect(gated('allow lan').admits(protocol, address, 5353)).toBe(true);
        // Who may reach the host may not reach its neighbours.
        expect(gated('allow host').admits(protocol, address, 5353)).toBe(false);
        expect(gated('deny metadata').admits(protocol, address, 5353)).toBe(true);
      }
      expect(gated(`allow ${address}`, 'deny host', 'deny lan', 'deny any').admits(UDP, address, 5353)).toBe(true);
    },
  );

  test('the last address of a network is near, and that of another network is not', () => {
    expect(gated('deny host').admits(UDP, '192.0.2.254', 9)).toBe(true);
    expect(gated('deny lan').admits(UDP, '198.51.100.255', 9)).toBe(true);
  });

  test('resolvers of the guest may be asked although their addresses are forbidden, unless a rule speaks of them', () => {
    for (const [address, port, is] of [
      ['192.0.2.53', 53, true],
      ['2001:db8::53', 53, true],
      ['192.0.2.53', 80, false],
      ['192.0.2.54', 53, false],
    ] as const) {
      expect(gated('deny lan').admits(UDP, address, port)).toBe(is);
      expect(gated('allow example.com').admits(UDP, address, port)).toBe(is);
    }
    expect(gated('deny dns').admits(UDP, '192.0.2.53', 53)).toBe(false);
    expect(gated('allow 198.51.100.1').admits(UDP, '192.0.2.53', 53)).toBe(false);
    expect(gated('allow dns').admits(UDP, '192.0.2.53', 53)).toBe(true);
    // Where names matter nobody else is asked, unless a rule allows it.
    expect(gated('deny bad.example').admits(UDP, '198.51.100.53', 53)).toBe(false);
    expect(gated('deny bad.example', 'allow 198.51.100.53').admits(UDP, '198.51.100.53', 53)).toBe(true);
    expect(gated('deny 198.51.100.1').admits(UDP, '198.51.100.53', 53)).toBe(true);
  });

  test('audit: what would be refused passes, is counted and said', () => {
    const one = new Gated(policyOf(rulesOf('deny tcp/any:25'), true));
    expect(one.admits(TCP, '2001:db8:1::1', 25)).toBe(true);
    expect([...one.verdicts]).toEqual([1, 0]);
    expect(one.logged).toEqual(['info: policy would refuse tcp [2001:db8:1::1]:25: rule "tcp/any:25"']);
  });

  test('a flood of refusals is a few lines, and all of them are counted', () => {
    const one = gated('allow 198.51.100.1');
    for (let i = 0; i < 1000; i++) one.admits(TCP, `203.0.113.${i % 250}`, 80);
    expect(one.logged).toHaveLength(5);
    expect([...one.verdicts]).toEqual([0, 1000]);
  });

  test('a policy that changes forgets its verdicts', () => {
    const one = gated('allow 198.51.100.1');
    expect(one.admits(TCP, '198.51.100.1', 80)).toBe(true);
    one.gate.set({ policy: policyOf(rulesOf('deny any'), false), reach: REACH, verdicts: new SharedArrayBuffer(0) });
    expect(one.admits(TCP, '198.51.100.1', 80)).toBe(false);
    one.gate.set({ policy: null, reach: REACH, verdicts: new SharedArrayBuffer(0) });
    expect(one.gate.on).toBe(false);
  });
});

// ---- a naive model

const bits = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(2).padStart(8, '0')).join('');

interface ModelFlow {
  readonly protocol: number;
  readonly address: string;
  readonly port: number;
}

function modelAllows(rules: readonly string[], { protocol, address, port }: ModelFlow): boolean {
  for (const line of rules) {
    const [verdict, rule] = line.split(' ');
    const { groups } = /^(?:(?<proto>\w+)\/)?\[?(?<addr>[^\]]*?)\]?\/(?<len>\d+)(?::(?<ports>.*))?$/.exec(rule)!;
    const { proto, addr, len, ports } = groups!;
    if (proto !== undefined && { tcp: TCP, udp: UDP, icmp: ICMP }[proto] !== protocol) continue;
    if (addr.includes(':') !== address.includes(':')) continue;
    if (bits(ip(addr)).slice(0, Number(len)) !== bits(ip(address)).slice(0, Number(len))) continue;
    if (ports !== undefined) {
      if (protocol === ICMP) continue;
      const inside = ports.split(',').some((part) => {
        const [first, last = first] = part.split('-');
        return port >= Number(first) && port <= Number(last);
      });
      if (!inside) continue;
    }
    return verdict === 'allow';
  }
  return !rules.some((line) => line.startsWith('allow'));
}

// Few bits that vary, so that prefixes meet.
const ADDRESS4 = fc.tuple(fc.constantFrom(11, 12), fc.nat(3), fc.nat(3)).map(([a, b, c]) => `${a}.${b}.0.${c}`);
const ADDRESS6 = fc.tuple(fc.nat(3), fc.nat(3)).map(([a, b]) => `2a00:${a}::${b + 1}`);
const ADDRESS = fc.oneof(ADDRESS4, ADDRESS6);
const PORTS = fc.constantFrom('', ':80', ':79-81', ':1-65535', ':22,80,100-200');
const RULE = fc
  .tuple(fc.constantFrom('allow', 'deny'), fc.constantFrom('', 'tcp/', 'udp/'), ADDRESS, fc.nat(128), PORTS)
  .map(([verdict, protocol, address, length, ports]) => {
    const bytes = ip(address);
    const len = Math.min(length, 8 * bytes.length);
    for (let i = len; i < 8 * bytes.length; i++) bytes[i >> 3] &= ~(0x80 >> (i & 7));
    const shown = text(
      words(
        address.includes(':')
          ? Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] << 8) | bytes[2 * i + 1]).toString(16)).join(':')
          : bytes.join('.'),
      ),
    );
    const host = shown.includes(':') ? `[${shown}]/${len}` : `${shown}/${len}`;
    return `${verdict} ${protocol}${host}${ports}`;
  });
const FLOW = fc.record({
  protocol: fc.constantFrom(TCP, UDP, ICMP),
  address: ADDRESS,
  port: fc.constantFrom(22, 80, 81, 150, 443),
});

test('any rules and flows: as the model says, whatever the cache holds', () => {
  fc.assert(
    fc.property(fc.array(RULE, { maxLength: 12 }), fc.array(FLOW, { maxLength: 30 }), (rules, flows) => {
      const one = gated(...rules);
      for (const flow of [...flows, ...flows]) {
        const port = flow.protocol === ICMP ? NO_PORT : flow.port;
        expect(one.admits(flow.protocol, flow.address, port)).toBe(rules.length === 0 || modelAllows(rules, flow));
      }
    }),
    { numRuns: 60 },
  );
});

test('what a file holds: each error names its place', () => {
  const errors = (value: unknown): string[] => {
    const result = checkPolicy(value);
    return 'errors' in result ? result.errors.map(({ at, message }) => `${at}: ${message}`) : [];
  };
  expect(
    errors({ rules: [{ allow: ['github.com:443', 'any:70000'] }, { deny: 'x', allow: 'y' }], sni: 'maybe' }),
  ).toEqual([
    'rules/0/allow/1: any:70000: ports are numbers from 1 to 65535, like 443, 80,443 or 8000-8999, not "70000"',
    'rules/1: give either "allow" or "deny"',
    'sni: give "off" or "require"',
  ]);
  expect(errors({ rule: [] })).toEqual(['rule: no such key: there are rules, default, audit, denied-names, sni']);
  expect(errors([])).toEqual([': give an object with the keys rules, default, audit, denied-names, sni']);
  fc.assert(fc.property(fc.anything({ maxDepth: 4 }), (value) => void checkPolicy(value)));
  fc.assert(fc.property(fc.string(), (value) => void checkPolicy({ rules: [{ allow: value }] })));
});
