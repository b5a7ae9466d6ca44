import { addressWords } from '../../../../src/stack/ip/address';
import type { Ip4Config, Ip6Config, StackConfig } from '../../../../src/stack/config';
import type { LinkState } from '../../../../src/stack/context';
import { createLinkState } from '../../../../src/stack/link/guest-state';
import { dropCode } from '../../../../src/stack/counters';
import { NatResult, natSourceToGuest, natTables, natToGuest, natToHost } from '../../../../src/stack/ip/nat';
import { ip, text, words } from '../../../support/stack/addresses';
import { stackConfig } from '../../../support/stack/stack-config';

const TCP = 6;
const UDP = 17;
const ICMP = 1;
const ICMP6 = 58;

function link(guest4 = '192.0.2.10', guest6 = '2001:db8::10', guest6LinkLocal = 'fe80::10'): LinkState {
  const state = createLinkState(stackConfig());
  state.guest4 = words(guest4)[3];
  addressWords(ip(guest6), state.guest6, 0);
  addressWords(ip(guest6LinkLocal), state.guest6LinkLocal, 0);
  return state;
}

function config(ip4: Partial<Ip4Config> | null = {}, ip6: Partial<Ip6Config> | null = {}): StackConfig {
  return stackConfig(
    {},
    ip4 === null
      ? null
      : { mapGuestAddr: ip('192.0.2.77'), dnsMatch: ip('192.0.2.1'), dnsHost: ip('127.0.0.53'), ...ip4 },
    ip6 === null
      ? null
      : { mapGuestAddr: ip('2001:db8::77'), dnsMatch: ip('fe80::1'), dnsHost: ip('2001:db8::53'), ...ip6 },
  );
}

function toHost(cfg: StackConfig, protocol: number, dst: string, port: number): string {
  const out = new NatResult();
  const w = words(dst);
  const code = natToHost(natTables(cfg), protocol, w, 0, port, out);
  if (code !== 0) return `drop ${String(code)}`;
  return `${text(out.dst)}${out.scope === 0 ? '' : `%${String(out.scope)}`}${out.local ? ' local' : ''}`;
}

function toGuest(cfg: StackConfig, state: LinkState, peer: string, local: string, target: string | null): string {
  const out = new NatResult();
  const p = words(peer);
  const l = words(local);
  const t = target === null ? null : words(target);
  const code = natToGuest(natTables(cfg), state, p, 0, l, t, out);
  return code !== 0 ? `drop ${String(code)}` : `${text(out.src)} > ${text(out.dst)}`;
}

describe('guest to host', () => {
  // The default set-up: 192.0.2.1 / fe80::1 are gateway, host loopback alias and resolver at once.
  test.each<[string, number, string, number, string]>([
    ['resolver by UDP', UDP, '192.0.2.1', 53, '127.0.0.53 local'],
    ['resolver by TCP', TCP, '192.0.2.1', 53, '127.0.0.53 local'],
    ['resolver, DNS over TLS', TCP, '192.0.2.1', 853, '127.0.0.53 local'],
    ['resolver, IPv6', UDP, 'fe80::1', 53, '2001:db8::53'],
    ['echo never goes to the resolver', ICMP, '192.0.2.1', 53, '127.0.0.1 local'],
    ['ICMPv6 echo never goes to the resolver', ICMP6, 'fe80::1', 53, '::1 local'],
    ['another port of the resolver is host loopback', UDP, '192.0.2.1', 54, '127.0.0.1 local'],
    ['host loopback, TCP', TCP, '192.0.2.1', 80, '127.0.0.1 local'],
    ['host loopback, IPv6', TCP, 'fe80::1', 80, '::1 local'],
    ['host address by its alias', TCP, '192.0.2.77', 80, '192.0.2.10 local'],
    ['host address by its alias, IPv6', UDP, '2001:db8::77', 80, '2001:db8::10 local'],
    ['the assigned address reaches the host', TCP, '192.0.2.10', 80, '192.0.2.10 local'],
    ['others unchanged', UDP, '198.51.100.7', 53, '198.51.100.7'],
    ['others unchanged, IPv6', TCP, '2001:db8:1::7', 853, '2001:db8:1::7'],
    ['a link-local neighbour is scoped', TCP, 'fe80::99', 80, 'fe80::99%3'],
    ['link-local multicast is scoped', UDP, 'ff02::fb', 5353, 'ff02::fb%3'],
    ['wider multicast is not scoped', UDP, 'ff0e::1', 5353, 'ff0e::1'],
    ['IPv4 multicast', UDP, '224.0.0.251', 5353, '224.0.0.251'],
    ['broadcast', UDP, '255.255.255.255', 67, '255.255.255.255'],
    ['loopback is not for guests', TCP, '127.0.0.1', 80, `drop ${String(dropCode('loopback_address'))}`],
    ['all of 127/8', TCP, '127.9.9.9', 80, `drop ${String(dropCode('loopback_address'))}`],
    ['::1', TCP, '::1', 80, `drop ${String(dropCode('loopback_address'))}`],
    ['0.0.0.0', UDP, '0.0.0.0', 80, `drop ${String(dropCode('destination_invalid'))}`],
    ['::', UDP, '::', 80, `drop ${String(dropCode('destination_invalid'))}`],
  ])('%s', (_name, protocol, dst, port, expected) => {
    expect(toHost(config(), protocol, dst, port)).toBe(expected);
  });

  test('a resolver to match without one to go to matches nothing', () => {
    expect(toHost(config({ dnsHost: null }), UDP, '192.0.2.1', 53)).toBe('127.0.0.1 local');
    expect(toHost(config({ dnsHost: null, mapHostLoopback: null }), UDP, '192.0.2.1', 53)).toBe('192.0.2.1');
  });

  test('mappings can be absent', () => {
    expect(toHost(config({ mapHostLoopback: null }), TCP, '192.0.2.1', 80)).toBe('192.0.2.1');
    expect(toHost(config({ mapGuestAddr: null }), TCP, '192.0.2.77', 80)).toBe('192.0.2.77');
    expect(toHost(config({}, { guestAddr: null }), TCP, '2001:db8::77', 80)).toBe('2001:db8::77');
  });

  test('an address given by the user is not taken for the host’s own', () => {
    expect(toHost(config({ addrFixed: true }), TCP, '192.0.2.77', 80)).toBe('192.0.2.10');
  });

  test('a disabled family is dropped', () => {
    const dropped = `drop ${String(dropCode('family_disabled'))}`;
    expect(toHost(config(null), TCP, '192.0.2.1', 80)).toBe(dropped);
    expect(toHost(config({}, null), TCP, '2001:db8::1', 80)).toBe(dropped);
  });
});

describe('host to guest', () => {
  // Source as the guest sees it. "Ours" is the gateway for IPv4, our link-local address for IPv6.
  test.each<[string, string, string]>([
    ['127.0.0.1', '127.0.0.1', '192.0.2.1'],
    ['::1', '::1', 'fe80::1'],
    ['another loopback', '127.0.0.9', '192.0.2.254'],
    ['the assigned address', '192.0.2.10', '192.0.2.77'],
    ['the assigned address, IPv6', '2001:db8::10', '2001:db8::77'],
    ['0.0.0.0', '0.0.0.0', '192.0.2.254'],
    ['::', '::', 'fe80::2'],
    ['anything else', '198.51.100.7', '198.51.100.7'],
    ['anything else, IPv6', '2001:db8:1::7', '2001:db8:1::7'],
    ['the observed address', '192.0.2.44', '192.0.2.254'],
    ['the observed address, IPv6', '2001:db8::44', 'fe80::2'],
    ['the observed link-local address', 'fe80::44', 'fe80::2'],
  ])('source: %s', (_name, peer, seen) => {
    const cfg = config({ gateway: ip('192.0.2.254') }, { ourLinkLocal: ip('fe80::2') });
    const out = new NatResult();
    const p = words(peer);
    const state = link('192.0.2.44', '2001:db8::44', 'fe80::44');
    expect(natSourceToGuest(natTables(cfg), state, p, 0, out)).toBe(0);
    expect(text(out.src)).toBe(seen);
  });

  test('without mappings the guest sees our address', () => {
    const cfg = config({ mapHostLoopback: null, mapGuestAddr: null }, { mapHostLoopback: null, mapGuestAddr: null });
    expect(toGuest(cfg, link(), '127.0.0.1', '127.0.0.1', null)).toBe('192.0.2.1 > 192.0.2.10');
    expect(toGuest(cfg, link(), '192.0.2.10', '192.0.2.10', null)).toBe('192.0.2.1 > 192.0.2.10');
    expect(toGuest(cfg, link(), '2001:db8::10', '2001:db8::10', null)).toBe('fe80::1 > fe80::10');
  });

  test('no gateway and an inaccessible source: refused', () => {
    const cfg = config({ gateway: null, mapHostLoopback: null, mapGuestAddr: null });
    const refused = `drop ${String(dropCode('source_invalid'))}`;
    expect(toGuest(cfg, link(), '127.0.0.1', '127.0.0.1', null)).toBe(refused);
    expect(toGuest(cfg, link(), '192.0.2.10', '192.0.2.10', null)).toBe(refused);
    expect(toGuest(cfg, link(), '198.51.100.7', '192.0.2.10', null)).toBe('198.51.100.7 > 192.0.2.10');
  });

  test('destination: the rule’s target address first', () => {
    expect(toGuest(config(), link(), '198.51.100.7', '192.0.2.10', '192.0.2.99')).toBe('198.51.100.7 > 192.0.2.99');
    expect(toGuest(config(), link(), '198.51.100.7', '224.0.0.251', '192.0.2.99')).toBe('198.51.100.7 > 192.0.2.99');
  });

  test('destination: a target of the other family is refused', () => {
    const refused = `drop ${String(dropCode('destination_invalid'))}`;
    expect(toGuest(config(), link(), '198.51.100.7', '192.0.2.10', '2001:db8::99')).toBe(refused);
    expect(toGuest(config(), link(), '2001:db8:1::7', '2001:db8::10', '192.0.2.99')).toBe(refused);
  });

  test('destination: multicast is unchanged', () => {
    expect(toGuest(config(), link(), '198.51.100.7', '224.0.0.251', null)).toBe('198.51.100.7 > 224.0.0.251');
    expect(toGuest(config(), link(), 'fe80::99', 'ff02::fb', null)).toBe('fe80::99 > ff02::fb');
  });

  test('destination: observed addresses', () => {
    const state = link('192.0.2.44', '2001:db8::44', 'fe80::44');
    expect(toGuest(config(), state, '198.51.100.7', '192.0.2.10', null)).toBe('198.51.100.7 > 192.0.2.44');
    expect(toGuest(config(), state, '2001:db8:1::7', '2001:db8::10', null)).toBe('2001:db8:1::7 > 2001:db8::44');
    expect(toGuest(config(), state, 'fe80::99', 'fe80::5', null)).toBe('fe80::99 > fe80::44');
    // ::1 is shown as our link-local address, so the link-local address of the guest is the one to answer from.
    expect(toGuest(config(), state, '::1', '::1', null)).toBe('fe80::1 > fe80::44');
  });

  test('destination: never the unspecified address', () => {
    const refused = `drop ${String(dropCode('destination_invalid'))}`;
    expect(toGuest(config(), link('0.0.0.0', '::', '::'), '198.51.100.7', '192.0.2.10', null)).toBe(refused);
    expect(toGuest(config(), link('0.0.0.0', '::', '::'), '2001:db8:1::7', '2001:db8::10', null)).toBe(refused);
    const globalOnly = link('0.0.0.0', '2001:db8::44', '::');
    expect(toGuest(config(), globalOnly, '::1', '::1', null)).toBe('fe80::1 > 2001:db8::44');
  });

  test('a disabled family is refused', () => {
    const refused = `drop ${String(dropCode('family_disabled'))}`;
    expect(toGuest(config(null), link(), '198.51.100.7', '192.0.2.10', null)).toBe(refused);
    expect(toGuest(config({}, null), link(), '2001:db8:1::7', '2001:db8::10', null)).toBe(refused);
  });
});
