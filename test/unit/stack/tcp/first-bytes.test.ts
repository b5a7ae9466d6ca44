/** What the guest sends first, read before any of it leaves: ClientHellos, and queries to resolvers. */
import { policyOf } from '../../../../src/config/policy';
import { parseRule } from '../../../../src/config/policy-rule';
import { MARK_ASKED } from '../../../../src/stack/policy/rules';
import type { PolicyVerdict } from '../../../../src/stack/policy/types';
import { SCRATCH_FIRST_SLOTS } from '../../../../src/stack/scratch';
import { ip, words } from '../../../support/stack/addresses';
import { GREASE, hello, serverName } from '../../../support/stack/client-hello';
import { dnsAnswer, dnsQuery } from '../../../support/stack/dns';
import { openFromGuest, pattern, TcpRig, type Connection } from '../../../support/stack/tcp-rig';

/** Where `openFromGuest` connects to. */
const SERVER = '198.51.100.7';

function rigWith(rules: readonly string[], config: ConstructorParameters<typeof TcpRig>[0] = {}): TcpRig {
  const rig = new TcpRig({ ip4: { dns: [ip(SERVER)] }, ...config });
  const parsed = rules.map((line) => {
    const [verdict, rule] = line.split(' ');
    return parseRule(verdict as PolicyVerdict, rule);
  });
  rig.stack.setPolicy({
    policy: { ...policyOf(parsed, false), sni: 'require' },
    reach: { own: [], onLink: [] },
    verdicts: new SharedArrayBuffer(80),
  });
  const { names } = rig.ctx.link.policy;
  for (const name of ['good.example', 'other.example']) names.learn(name, MARK_ASKED, words(SERVER), 0, 0, 1e9);
  return rig;
}

const RULES = ['allow good.example:443'];

function expectReset(c: Connection): void {
  expect(c.socket.read()).toHaveLength(0);
  expect(c.received().at(-1)?.flags).toContain('R');
  expect(c.rig.drops('policy_denied')).toBe(1);
}

test('a hello that names an allowed server passes, whole or a byte at a time, and what follows flows freely', () => {
  for (const size of [1, 7, 5000]) {
    const c = openFromGuest(rigWith(RULES), { dport: 443 });
    const bytes = hello([...GREASE, ...serverName('good.example')], 90);
    for (let at = 0; at < bytes.length; at += size) {
      expect(c.socket.read()).toHaveLength(0);
      c.send(bytes.slice(at, at + size));
    }
    expect(Buffer.compare(c.socket.read(), bytes)).toBe(0);
    const more = pattern(3000);
    c.send(more);
    expect(Buffer.compare(c.socket.read(), more)).toBe(0);
    c.flags('F.');
    expect(c.rig.drops('policy_denied')).toBe(0);
  }
});

test.each<[string, Uint8Array]>([
  ['another server at the same address', hello(serverName('other.example'))],
  ['no server', hello(GREASE)],
  ['something else than TLS', Buffer.from('GET / HTTP/1.1\r\nHost: good.example\r\n\r\n')],
  ['a hello without end', Uint8Array.from([22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xf0, ...Buffer.alloc(17_000)])],
])('%s: reset before a byte reaches the host', (_what, bytes) => {
  const c = openFromGuest(rigWith(RULES), { dport: 443 });
  for (let at = 0; at < bytes.length; at += 1400) c.send(bytes.slice(at, at + 1400));
  expectReset(c);
});

test('a stream that ends before its hello does is reset, and one to another port is not held', () => {
  const c = openFromGuest(rigWith(RULES), { dport: 443 });
  c.send(hello(serverName('good.example')).slice(0, 30));
  c.flags('F.');
  expectReset(c);
  const other = openFromGuest(rigWith(['allow good.example']), { dport: 80 });
  other.send('GET /');
  expect(other.socket.readText()).toBe('GET /');
});

test('where a rule allows the address, no name is needed', () => {
  const c = openFromGuest(rigWith(['deny bad.example', `allow ${SERVER}`]), { dport: 443 });
  c.send('plain');
  expect(c.socket.readText()).toBe('plain');
  const bad = openFromGuest(rigWith(['deny bad.example', `allow ${SERVER}`]), { dport: 443 });
  bad.send(hello(serverName('bad.example')));
  expectReset(bad);
});

test('a socket that takes a part gets the rest when it has room', () => {
  const c = openFromGuest(rigWith(RULES), { dport: 443 });
  const bytes = hello([...serverName('good.example'), 0x12, 0x34, 8, 0, ...Buffer.alloc(2048)]);
  c.socket.sndbuf = 1000;
  for (let at = 0; at < bytes.length; at += 700) c.send(bytes.slice(at, at + 700));
  let got = Buffer.alloc(0);
  for (let i = 0; i < 100 && got.length < bytes.length; i++) {
    c.rig.act(() => {
      got = Buffer.concat([got, c.socket.read()]);
      c.socket.edge();
    });
    c.rig.wait(20);
  }
  expect(Buffer.compare(got, bytes)).toBe(0);
  expect(c.rig.drops('policy_denied')).toBe(0);
});

test('flows that begin a hello and never end it: others get their turn after a while', () => {
  const rig = rigWith(RULES, { config: { maxTcpFlows: 1024 } });
  for (let i = 0; i < SCRATCH_FIRST_SLOTS + 5; i++) {
    const c = openFromGuest(rig, { dport: 443, sport: 20_000 + i });
    c.send(Uint8Array.of(22, 3));
    rig.sent();
  }
  const good = openFromGuest(rig, { dport: 443 });
  const bytes = hello(serverName('good.example'));
  good.send(bytes);
  expect(good.socket.read()).toHaveLength(0);
  rig.wait(5100);
  rig.sent();
  for (let i = 0; i < 2; i++)
    rig.guest(good.segment({ flags: 'P.', seq: (good.seq - bytes.length) >>> 0, payload: bytes }));
  expect(Buffer.compare(good.socket.read(), bytes)).toBe(0);
});

describe('DNS over TCP', () => {
  const framed = (...messages: readonly Uint8Array[]): Uint8Array =>
    Uint8Array.from(messages.flatMap((m) => [m.length >> 8, m.length & 0xff, ...m]));

  test.each([true, false])('queries and answers in pieces are read (SO_PEEK_OFF: %p)', (tcpPeekOff) => {
    const rig = rigWith(['allow fresh.example'], { config: { tcpPeekOff } });
    const c = openFromGuest(rig, { dport: 53 });
    const queries = framed(dnsQuery(1, 'fresh.example'), dnsQuery(2, 'fresh.example', 28));
    for (let at = 0; at < queries.length; at += 5) c.send(queries.slice(at, at + 5));
    expect(Buffer.compare(c.socket.read(), queries)).toBe(0);
    const answers = framed(
      dnsAnswer(1, 'fresh.example', [{ name: 'fresh.example', a: '203.0.113.1' }]),
      dnsAnswer(2, 'fresh.example', [{ name: 'fresh.example', a: '2001:db8:9::1' }], 28),
    );
    const { names } = rig.ctx.link.policy;
    for (let at = 0; at < answers.length; at += 9) {
      rig.act(() => c.socket.write(answers.slice(at, at + 9)));
      c.ack = (c.base + Math.min(at + 9, answers.length)) >>> 0;
      c.flags('.');
    }
    expect(Buffer.concat(rig.sent().map((s) => s.payload)).length).toBeGreaterThan(0);
    expect(names.nameOf(words('203.0.113.1'), 0)).toBe('fresh.example');
    expect(names.nameOf(words('2001:db8:9::1'), 0)).toBe('fresh.example');
  });

  test.each<[string, Uint8Array]>([
    ['a name that no rule allows', framed(dnsQuery(1, 'other.example'))],
    ['what is no query', framed(Buffer.from('tunnel'))],
    ['a length without end', Uint8Array.of(0xff, 0xff, 1)],
  ])('%s: reset before a byte reaches the host', (_what, bytes) => {
    const c = openFromGuest(rigWith(['allow fresh.example']), { dport: 53 });
    c.send(bytes);
    expectReset(c);
  });
});
