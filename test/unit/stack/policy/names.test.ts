/** Names: what the guest's resolver says opens addresses, and what a guest may try. */
import { policyOf } from '../../../../src/config/policy';
import { parseRule } from '../../../../src/config/policy-rule';
import { MARK_ASKED } from '../../../../src/stack/policy/rules';
import type { Policy, PolicyVerdict } from '../../../../src/stack/policy/types';
import { ip } from '../../../support/stack/addresses';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import { dnsAnswer, dnsQuery, type DnsRecord } from '../../../support/stack/dns';
import { datagram } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const RESOLVER = '192.0.2.53';
const WEB = '203.0.113.5';
const HOST = '198.51.100.99';

class Named {
  readonly rig = new DatagramRig({ ip4: { dns: [ip(RESOLVER)] } });
  private id = 100;
  private port = 4000;

  constructor(rules: readonly string[], over: Partial<Policy> = {}) {
    const parsed = rules.map((line) => {
      const [verdict, rule, opens] = line.split(' ');
      return parseRule(verdict as PolicyVerdict, rule, opens === 'private');
    });
    this.set({ ...policyOf(parsed, false), ...over });
  }

  set(policy: Policy | null): void {
    this.rig.stack.setPolicy({
      policy,
      reach: { own: [ip('127.0.0.1'), ip(GUEST)], onLink: [{ address: ip('192.0.2.0'), length: 24 }] },
      verdicts: new SharedArrayBuffer(8 * 20),
    });
  }

  /** A query from a fresh port; what left the host. */
  ask(name: string, server = RESOLVER): { id: number; port: number; left: string[] } {
    const id = this.id++;
    const port = this.port++;
    this.rig.guest(datagram(GUEST, port, server, 53, dnsQuery(id, name)));
    this.rig.pump();
    return { id, port, left: this.rig.left() };
  }

  answer(port: number, message: Uint8Array, server = RESOLVER): void {
    this.rig.host.deliver({ address: server, port: 53 }, { address: HOST, port }, message);
    this.rig.pump();
  }

  resolve(name: string, records: readonly DnsRecord[], server = RESOLVER): void {
    const { id, port, left } = this.ask(name, server);
    expect(left).toHaveLength(1);
    this.rig.seen();
    this.answer(port, dnsAnswer(id, name, records), server);
    // The answer comes to the guest as it was.
    expect(this.rig.seen()).toHaveLength(1);
  }

  /** Does a datagram from a fresh port go out? */
  reaches(address: string, port = 443): boolean {
    this.rig.left();
    this.rig.guest(datagram(GUEST, this.port++, address, port, ascii('x')));
    this.rig.pump();
    return this.rig.left().length === 1;
  }
}

const A = (name: string, a: string, ttl = 300): DnsRecord => ({ name, a, ttl });

test('an answer opens the address for the ports of the rule', () => {
  const it = new Named(['allow www.example:443', 'allow *.cdn.example']);
  expect(it.reaches(WEB)).toBe(false);
  it.resolve('www.example', [A('www.example', WEB)]);
  expect(it.reaches(WEB)).toBe(true);
  expect(it.reaches(WEB, 80)).toBe(false);
  it.resolve('a.b.cdn.example', [A('a.b.cdn.example', '203.0.113.6')]);
  expect(it.reaches('203.0.113.6', 80)).toBe(true);
  expect(it.rig.ctx.link.policy.names.nameOf(Int32Array.of(0, 0, 0xffff, 0xcb007105 | 0), 0)).toBe('www.example');
});

test('capitals of the question make no difference, and aliases are followed', () => {
  const it = new Named(['allow www.example']);
  it.resolve('WWW.Example', [{ name: 'WWW.Example', cname: 'x.cdn.example' }, A('x.cdn.example', WEB)]);
  expect(it.reaches(WEB)).toBe(true);
});

test('names that no rule allows are not looked up: an answer of ours says so, and nothing leaves', () => {
  const it = new Named(['allow www.example']);
  for (const name of ['other.example', 'secret.exfiltrated.bad.example', 'example', '']) {
    expect(it.ask(name).left).toEqual([]);
    const [frame] = it.rig.seen();
    expect(frame.startsWith(`${RESOLVER}:53 > ${GUEST}:`)).toBe(true);
    expect(Buffer.from(frame.split(' ').slice(3).join(' '), 'latin1')[3] & 0xf).toBe(5);
  }
  expect(it.ask('www.example').left).toHaveLength(1);
  const nx = new Named(['deny bad.example'], { deniedNames: 'nxdomain' });
  expect(nx.ask('bad.example').left).toEqual([]);
  expect(Buffer.from(nx.rig.seen()[0].split(' ').slice(3).join(' '), 'latin1')[3] & 0xf).toBe(3);
  expect(nx.ask('good.example').left).toHaveLength(1);
});

test('what is no query does not pass', () => {
  const it = new Named(['allow www.example']);
  it.rig.guest(datagram(GUEST, 4000, RESOLVER, 53, ascii('a tunnel, not a question')));
  it.rig.guest(datagram(GUEST, 4000, RESOLVER, 53, dnsAnswer(1, 'www.example', [])));
  expect(it.rig.left()).toEqual([]);
  expect(it.rig.drops('policy_denied')).toBe(2);
});

test('another resolver is not asked, and where a rule lets the guest ask everybody it is not believed', () => {
  const other = '198.51.100.66';
  expect(new Named(['allow www.example']).ask('www.example', other).left).toEqual([]);
  const open = new Named(['allow www.example', 'allow any:53']);
  open.resolve('www.example', [A('www.example', WEB)], other);
  expect(open.reaches(WEB)).toBe(false);
  const trusted = new Named(['allow www.example', `allow ${other}`]);
  trusted.resolve('www.example', [A('www.example', WEB)], other);
  expect(trusted.reaches(WEB)).toBe(true);
});

test('answers that were not asked for open nothing', () => {
  const it = new Named(['allow www.example']);
  const { id, port } = it.ask('www.example');
  // Another identifier, another name, another type, and a record of another name.
  it.answer(port, dnsAnswer(id + 1, 'www.example', [A('www.example', WEB)]));
  it.answer(port, dnsAnswer(id, 'other.example', [A('other.example', WEB)]));
  it.answer(port, dnsAnswer(id, 'www.example', [A('www.example', WEB)], 28));
  it.answer(port, dnsAnswer(id, 'www.example', [A('other.example', WEB)]));
  expect(it.reaches(WEB)).toBe(false);
  it.answer(port, dnsAnswer(id, 'www.example', [A('www.example', WEB)]));
  expect(it.reaches(WEB)).toBe(true);
});

test('a name that leads to the host or its network opens nothing, unless its rule says so (DNS rebinding)', () => {
  const near = ['192.0.2.1', '192.0.2.10', '10.0.0.1', '169.254.169.254', '192.0.2.77'];
  const it = new Named(['allow *.example']);
  for (const address of near) {
    it.resolve('evil.example', [A('evil.example', address)]);
    expect([address, it.reaches(address)]).toEqual([address, false]);
  }
  const opened = new Named(['allow git.example private', 'allow *.example']);
  opened.resolve('git.example', [A('git.example', '10.0.0.1')]);
  expect(opened.reaches('10.0.0.1')).toBe(true);
  opened.resolve('evil.example', [A('evil.example', '10.0.0.2')]);
  expect(opened.reaches('10.0.0.2')).toBe(false);
  const lan = new Named(['allow *.example', 'allow lan']);
  lan.resolve('printer.example', [A('printer.example', '10.0.0.1')]);
  expect(lan.reaches('10.0.0.1')).toBe(true);
});

test('after its time and a minute the name opens nothing new, and flows go on', () => {
  const it = new Named(['allow www.example']);
  it.resolve('www.example', [A('www.example', WEB, 10)]);
  it.rig.guest(datagram(GUEST, 5000, WEB, 443, ascii('early')));
  expect(it.rig.left()).toHaveLength(1);
  it.rig.later(69_000);
  expect(it.reaches(WEB)).toBe(true);
  it.rig.guest(datagram(GUEST, 5000, WEB, 443, ascii('keep')));
  it.rig.later(2000);
  expect(it.reaches(WEB)).toBe(false);
  it.rig.left();
  it.rig.guest(datagram(GUEST, 5000, WEB, 443, ascii('more')));
  expect(it.rig.left()).toHaveLength(1);
  // Asked again, it opens again.
  it.resolve('www.example', [A('www.example', WEB, 10)]);
  expect(it.reaches(WEB)).toBe(true);
});

test('a denied name closes what it leads to, also as an alias', () => {
  const it = new Named(['deny bad.example']);
  it.resolve('good.example', [{ name: 'good.example', cname: 'bad.example' }, A('bad.example', WEB)]);
  expect(it.reaches(WEB)).toBe(false);
  expect(it.reaches('203.0.113.9')).toBe(true);
});

test('a policy that changes closes what it forbids and nothing else', () => {
  const it = new Named(['allow www.example', 'allow 203.0.113.9']);
  it.resolve('www.example', [A('www.example', WEB)]);
  it.rig.guest(datagram(GUEST, 5000, WEB, 443, ascii('a')), datagram(GUEST, 5001, '203.0.113.9', 443, ascii('b')));
  expect(it.rig.left()).toHaveLength(2);
  const { udp } = it.rig as unknown as { udp: { flows: { table: { count: number } } } };
  const count = (): number => udp.flows.table.count;
  it.set({ ...policyOf([parseRule('allow', 'www.example')], false) });
  // The resolver's flow goes as well: its answers are read from the next query on.
  expect(count()).toBe(1);
  expect(it.reaches('203.0.113.9')).toBe(false);
  expect(it.reaches(WEB)).toBe(true);
  it.set(null);
  expect(it.reaches('203.0.113.9')).toBe(true);
});

test('a flood of names and addresses is bounded, and what the guest asked last is known', () => {
  const it = new Named(['allow *.example']);
  const { names } = it.rig.ctx.link.policy;
  const words = new Int32Array(4);
  for (let i = 0; i < 50_000; i++) {
    words.set([0, 0, 0xffff, 0x01000000 + i]);
    names.learn(`n${i}.example`, MARK_ASKED, words, 0, 0, 1000);
    words.set([0, 0, 0xffff, 0x01ffffff]);
    names.learn(`n${i}.example`, MARK_ASKED, words, 0, 0, 1000);
  }
  expect(names.size).toBeLessThanOrEqual(4096);
  expect(names.nameOf(words, 0)).toBe('n49999.example');
  for (let i = 0; i < 3000; i++) it.ask(`q${i}.example`);
  it.resolve('www.example', [A('www.example', WEB)]);
  expect(it.reaches(WEB)).toBe(true);
});
