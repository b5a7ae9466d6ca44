/** The index of rules beside a scan of them. */
import fc from 'fast-check';
import { parseRule } from '../../../../src/config/policy-rule';
import {
  CLASS_DNS,
  CLASS_HOST,
  CLASS_LAN,
  CLASS_METADATA,
  CLASS_PRIVATE,
  inPrefix,
  prefixWords,
} from '../../../../src/stack/policy/classes';
import { Marks } from '../../../../src/stack/policy/rule-index';
import { CompiledRules, MARK_ALIAS, MARK_ASKED, MARK_GIVEN, NO_PORT } from '../../../../src/stack/policy/rules';
import type { PolicyRule, PolicyVerdict } from '../../../../src/stack/policy/types';
import { isV4 } from '../../../../src/stack/ip/address';
import { words } from '../../../support/stack/addresses';

const TCP = 6;
const UDP = 17;
const ICMP = 1;
const CLASSES = { host: CLASS_HOST, lan: CLASS_LAN, metadata: CLASS_METADATA, dns: CLASS_DNS } as const;

interface Flow {
  readonly protocol: number;
  readonly address: string;
  readonly port: number;
  readonly classes: number;
}

/** Does one rule match? `mark`: what its name has to do with the address. */
function matches(rule: PolicyRule, flow: Flow, mark: number): boolean {
  const wanted = { any: [TCP, UDP, ICMP], tcp: [TCP], udp: [UDP], icmp: [ICMP] }[rule.protocol];
  if (!wanted.includes(flow.protocol)) return false;
  if (rule.ports.length > 0) {
    if (flow.protocol === ICMP) return false;
    if (!rule.ports.some(([first, last]) => flow.port >= first && flow.port <= last)) return false;
  }
  const { host } = rule;
  switch (host.kind) {
    case 'any':
      return true;
    case 'prefix': {
      const address = words(flow.address);
      const [prefix, masks] = [new Int32Array(4), new Int32Array(4)];
      prefixWords(host.address, host.length, prefix, masks, 0);
      return (host.address.length === 4) === isV4(address, 0) && inPrefix(prefix, masks, 0, address, 0);
    }
    case 'name':
      if (rule.verdict === 'deny') return mark !== 0;
      if ((mark & MARK_ASKED) === 0) return false;
      return (flow.classes & CLASS_PRIVATE) === 0 || rule.private || (mark & MARK_GIVEN) !== 0;
    default:
      return (flow.classes & CLASSES[host.kind]) !== 0;
  }
}

const NUMBER = fc.nat(2);
const HOST = fc.oneof(
  fc.constantFrom('0.0.0.0/0', '11.0.0.0/8', '11.0.0.0/15', '11.2.0.0/16', '11.1.0.0/24', '11.1.0.0/31', '11.1.0.2/31'),
  fc.tuple(NUMBER, NUMBER).map(([a, b]) => `11.${String(a)}.0.${String(b)}`),
  fc.constantFrom('[::/0]', '[2a00::/16]', '[2a00:1::/32]', '[2a00:2::/96]', '[2a00:1::2/127]'),
  fc.tuple(NUMBER, NUMBER).map(([a, b]) => `[2a00:${String(a)}::${String(b)}]`),
  fc.constantFrom('any', 'host', 'lan', 'metadata', 'dns', 'a.example', '*.example'),
);
const PORTS = fc.constantFrom('', ':80', ':79-81', ':80,80', ':1-65535', ':22,80,100-200', ':443');
const RULE = fc
  .tuple(
    fc.constantFrom<PolicyVerdict>('allow', 'deny'),
    fc.constantFrom('', 'tcp/', 'udp/'),
    HOST,
    PORTS,
    fc.boolean(),
  )
  .map(([verdict, protocol, host, ports, own]) => ({
    ...parseRule(verdict, `${protocol}${host}${host === 'dns' ? '' : ports}`),
    private: own,
  }));
const PING = fc.constantFrom('icmp/any', 'icmp/11.1.0.1', 'any').map((text) => parseRule('allow', text));
const FLOW = fc.record({
  protocol: fc.constantFrom(TCP, UDP, ICMP),
  address: fc.oneof(
    fc.tuple(NUMBER, NUMBER).map(([a, b]) => `11.${a}.0.${b}`),
    fc.tuple(NUMBER, NUMBER).map(([a, b]) => `2a00:${a}::${b}`),
  ),
  port: fc.constantFrom(22, 79, 80, 150, 443, 5000),
  classes: fc.nat(31),
});
const MARK = fc.constantFrom(0, MARK_ASKED, MARK_ALIAS, MARK_ASKED | MARK_GIVEN);

test('the first rule is that of a scan, whatever the rules, the flow, and the marks', () => {
  const check = (rules: readonly PolicyRule[], flows: readonly Flow[], bits: readonly number[]): void => {
    const compiled = new CompiledRules(rules);
    const marks = new Marks(rules.length);
    const markOf = (i: number): number => (rules[i].host.kind === 'name' ? bits[i % bits.length] : 0);
    for (let i = rules.length - 1; i >= 0; i--) if (markOf(i) !== 0) marks.add(i, markOf(i));
    for (const flow of flows) {
      const port = flow.protocol === ICMP ? NO_PORT : flow.port;
      const found = compiled.first(flow.protocol, words(flow.address), 0, port, flow.classes, marks);
      expect(found).toBe(rules.findIndex((rule, i) => matches(rule, flow, markOf(i))));
    }
    marks.clear();
    expect([marks.count, marks.bits.some((bit) => bit !== 0)]).toEqual([0, false]);
  };
  fc.assert(
    fc.property(
      fc.array(fc.oneof({ weight: 9, arbitrary: RULE }, { weight: 1, arbitrary: PING }), { maxLength: 60 }),
      fc.array(FLOW, { maxLength: 20 }),
      fc.array(MARK, { minLength: 1, maxLength: 7 }),
      check,
    ),
    { numRuns: 500 },
  );
});
