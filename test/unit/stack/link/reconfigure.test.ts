/** The host's network changes at run time: what the services say, what the guest is told, and what stays. */
import type { Ip4Config, Ip6Config, StackConfig } from '../../../../src/stack/config';
import { NatResult, natToHost } from '../../../../src/stack/ip/nat';
import { ip, text, words } from '../../../support/stack/addresses';
import {
  GUEST_MAC,
  OUR_MAC,
  bytes,
  datagram,
  dissect,
  ethernet,
  hex,
  icmpv6,
  linkRig,
  type LinkRig,
} from '../../../support/stack/link-rig';
import { stackConfig } from '../../../support/stack/stack-config';

const GUEST_LL = 'fe80::5054:ff:fe12:3456';
const SOURCE = `0101${hex(bytes(OUR_MAC))}`;

/** A network the host moves to: other addresses, gateways and resolvers. */
const ELSEWHERE4: Partial<Ip4Config> = {
  guestAddr: ip('10.0.0.7'),
  prefixLen: 8,
  gateway: ip('10.0.0.1'),
  mapHostLoopback: ip('10.0.0.1'),
  dns: [ip('10.0.0.53')],
};
const ELSEWHERE6: Partial<Ip6Config> = {
  guestAddr: ip('2001:db8:7::10'),
  gateway: ip('fe80::2'),
  ourLinkLocal: ip('fe80::2'),
  mapHostLoopback: ip('fe80::2'),
  dns: [ip('2001:db8:7::53')],
};
const elsewhere = (over: Partial<StackConfig> = {}): StackConfig => stackConfig(over, ELSEWHERE4, ELSEWHERE6);

const prefix = (network: string, validPreferred: string): string =>
  hex(bytes('03 04 40 c0', validPreferred, '00000000', ip(network)));
/** Valid for two hours, preferred for one. */
const LASTING = '00001c20 00000e10';
const rdnss = (lifetime: string, ...servers: string[]): string =>
  hex(bytes('19', [1 + 2 * servers.length], '0000', lifetime, ...servers.map(ip)));

interface Advertisement {
  readonly from: string;
  readonly to: string;
  readonly lifetime: number;
  readonly options: string[];
}

function advertisements(sent: readonly Uint8Array[]): Advertisement[] {
  return sent.map(dissect).flatMap((d) => {
    if (d.type !== 0x86dd || d.payload[0] !== 134) return [];
    const options: string[] = [];
    for (let at = 16; at < d.payload.length; at += d.payload[at + 1] * 8) {
      expect(d.payload[at + 1]).toBeGreaterThan(0);
      options.push(hex(d.payload.subarray(at, at + d.payload[at + 1] * 8)));
    }
    const address = (b: Uint8Array): string => {
      const view = new DataView(b.buffer, b.byteOffset, 16);
      return text(Int32Array.from([0, 4, 8, 12], (at) => view.getInt32(at)));
    };
    const lifetime = (d.payload[6] << 8) | d.payload[7];
    return [{ from: address(d.src), to: address(d.dst), lifetime, options }];
  });
}

function dhcp(rig: LinkRig, options: string): { yiaddr: string; router: string; type: number } | null {
  const fixed = bytes('01 01 06 00 deadbeef', new Uint8Array(20), GUEST_MAC, new Uint8Array(202), '63825363');
  rig.port.sent(); // advertisements
  const sent = rig.exchange(datagram('0.0.0.0', 68, '255.255.255.255', 67, bytes(fixed, options, 'ff')));
  if (sent.length === 0) return null;
  const { payload } = dissect(sent[0]);
  const found = new Map<number, Uint8Array>();
  for (let at = 240; payload[at] !== 255; at += 2 + payload[at + 1]) {
    expect(at).toBeLessThan(payload.length);
    found.set(payload[at], payload.subarray(at + 2, at + 2 + payload[at + 1]));
  }
  return {
    yiaddr: payload.subarray(16, 20).join('.'),
    router: (found.get(3) ?? []).join('.'),
    type: found.get(53)![0],
  };
}

/** Where the guest's datagrams to `address` go. */
function toHost(rig: LinkRig, address: string, port: number): string {
  const out = new NatResult();
  expect(natToHost(rig.ctx.link.nat, 17, words(address), 0, port, out)).toBe(0);
  return text(out.dst);
}

const DISCOVER = '350101';
const OLD = '32 04 c000020a';
const NEW = '32 04 0a000007';

describe('after a change of configuration', () => {
  test('DHCP offers the new address, and refuses the old one', () => {
    const rig = linkRig();
    rig.stack.reconfigure(elsewhere());
    expect(dhcp(rig, DISCOVER)).toEqual({ yiaddr: '10.0.0.7', router: '10.0.0.1', type: 2 });
    expect(dhcp(rig, `350103 ${OLD}`)?.type).toBe(6);
    expect(dhcp(rig, `350103 ${NEW}`)).toEqual({ yiaddr: '10.0.0.7', router: '10.0.0.1', type: 5 });
  });

  test('DHCPv6 gives the new address, and ends the old one', () => {
    const rig = linkRig();
    rig.stack.reconfigure(elsewhere());
    rig.port.sent();
    const id = bytes('0001 000a 00030001', GUEST_MAC, '0002 000a 00030001', OUR_MAC);
    const renew = bytes('05 abcdef', id, '0003 0028 00000001 00000000 00000000 0005 0018', ip('2001:db8::10'));
    const [reply] = rig.exchange(datagram(GUEST_LL, 546, 'ff02::1:2', 547, bytes(renew, '00000e10 00000e10')));
    const d = dissect(reply);
    expect(hex(d.src)).toBe(hex(ip('fe80::2')));
    expect(hex(d.payload)).toContain(`00050018${hex(ip('2001:db8:7::10'))}00000e1000001c20`);
    expect(hex(d.payload)).toContain(`00050018${hex(ip('2001:db8::10'))}0000000000000000`);
  });

  test('ARP answers for the address that was assigned, and not for the one that is', () => {
    const rig = linkRig();
    const asks = (target: string): number =>
      rig.exchange(
        ethernet(0x0806, bytes('0001 0800 06 04 0001', GUEST_MAC, ip('10.0.0.7'), '000000000000', ip(target))),
      ).length;
    rig.stack.reconfigure(elsewhere());
    rig.port.sent();
    rig.ctx.link.guest4 = words('10.0.0.7')[3];
    expect([asks('192.0.2.10'), asks('10.0.0.7')]).toEqual([1, 0]);
  });

  test('the guest keeps the address that it uses until it asks for the new one', () => {
    const rig = linkRig();
    const guest4 = (): string => text(Int32Array.of(0, 0, 0xffff, rig.ctx.link.guest4));
    rig.stack.reconfigure(elsewhere());
    expect(guest4()).toBe('192.0.2.10');
    dhcp(rig, `350103 ${NEW}`);
    expect(guest4()).toBe('10.0.0.7');
  });

  test('a family that had no address to give gives one', () => {
    const rig = linkRig({}, {}, { guestAddr: null });
    expect(text(rig.ctx.link.guest6)).toBe('::');
    rig.stack.reconfigure(stackConfig());
    expect(text(rig.ctx.link.guest6)).toBe('2001:db8::10');
  });

  test('flows are told, and not reset', () => {
    const rig = linkRig();
    const told: string[] = [];
    for (const name of ['tcp', 'udp', 'icmp'] as const) {
      Object.assign(rig[name], {
        reconfigure: () => told.push(`${name} ${text(words(rig.ctx.config.ip4!.guestAddr.join('.')))}`),
      });
    }
    rig.stack.reconfigure(elsewhere());
    expect(told).toEqual(['tcp 10.0.0.7', 'udp 10.0.0.7', 'icmp 10.0.0.7']);
    expect([...rig.tcp.calls, ...rig.udp.calls, ...rig.icmp.calls]).toEqual([]);
  });
});

describe('router advertisements', () => {
  test('the new prefix and resolvers at once, the old ones taken back', () => {
    const rig = linkRig({ search: ['old.test', 'both.test'] }, {}, { dns: [ip('2001:db8::53'), ip('2001:db8:7::53')] });
    rig.stack.reconfigure(elsewhere({ search: ['both.test', 'new.test'] }));
    const [last, now, ...more] = advertisements(rig.port.sent());
    expect(more).toEqual([]);
    // Under the old link-local address we are no router any more.
    expect(last).toEqual({ from: 'fe80::1', to: 'ff02::1', lifetime: 0, options: [] });
    const name = (text: string): Uint8Array => bytes([text.length], Buffer.from(text), '04', Buffer.from('test'), '00');
    expect(now).toEqual({
      from: 'fe80::2',
      to: 'ff02::1',
      lifetime: 3600,
      options: [
        prefix('2001:db8:7::', LASTING),
        prefix('2001:db8::', '00000000 00000000'),
        SOURCE,
        '050100000000fff0',
        rdnss('00000e10', '2001:db8:7::53'),
        rdnss('00000000', '2001:db8::53'),
        hex(bytes('1f 04 0000 00000e10', name('both'), name('new'), '00 00 00')),
        hex(bytes('1f 03 0000 00000000', name('old'), '00 00 00 00 00 00')),
      ],
    });
  });

  test('what was taken back stays so, until it is true again', () => {
    const rig = linkRig();
    rig.stack.reconfigure(elsewhere());
    rig.port.sent();
    const [answer] = advertisements(rig.exchange(icmpv6(GUEST_LL, 'ff02::2', bytes('85 00 0000 00000000'))));
    expect(answer.options.slice(0, 2)).toEqual([
      prefix('2001:db8:7::', LASTING),
      prefix('2001:db8::', '00000000 00000000'),
    ]);
    rig.stack.reconfigure(stackConfig());
    const [, back] = advertisements(rig.port.sent());
    expect(back.options.slice(0, 2)).toEqual([
      prefix('2001:db8::', LASTING),
      prefix('2001:db8:7::', '00000000 00000000'),
    ]);
    expect(back.options.at(-1)).toBe(rdnss('00000000', '2001:db8:7::53'));
  });

  test('of many former prefixes the last four are remembered, and the message stays within the smallest MTU', () => {
    const rig = linkRig({ mtu: 1280 });
    for (let i = 1; i <= 20; i++) {
      const network = `2001:db8:${i.toString(16)}`;
      const dns = [1, 2, 3].map((n) => ip(`${network}::${n}`));
      const search = Array.from({ length: 6 }, (_, n) => `${'x'.repeat(60)}.n${n}.${i}.test`);
      rig.stack.reconfigure(stackConfig({ mtu: 1280, search }, {}, { guestAddr: ip(`${network}::10`), dns }));
      for (const frame of rig.port.sent()) expect(frame.length).toBeLessThanOrEqual(1294);
    }
    rig.stack.reconfigure(stackConfig({ mtu: 1280 }));
    const [{ options }] = advertisements(rig.port.sent());
    const prefixes = options.filter((option) => option.startsWith('03'));
    expect(prefixes.slice(1)).toEqual(
      ['11', '12', '13', '14'].map((n) => prefix(`2001:db8:${n}::`, '00000000 00000000')),
    );
    const resolvers = options.filter((option) => option.startsWith('19'));
    expect(resolvers).toHaveLength(1);
    expect(resolvers[0].length / 2).toBe(8 + 6 * 16);
  });

  test('a network that the host has lost: no router, prefix deprecated, no resolvers', () => {
    const before: Partial<Ip6Config> = { dns: [ip('2001:db8::53')] };
    const rig = linkRig({ search: ['example.com'] }, {}, before);
    rig.stack.reconfigure(stackConfig({ search: ['example.com'] }, {}, { ...before, withdrawn: true }));
    const [lost, ...more] = advertisements(rig.port.sent());
    expect(more).toEqual([]);
    expect(lost.lifetime).toBe(0);
    expect(lost.options[0]).toBe(prefix('2001:db8::', '00001c20 00000000'));
    expect(lost.options[3]).toBe(rdnss('00000000', '2001:db8::53'));
    expect(lost.options[4].slice(0, 16)).toBe('1f03000000000000');
    expect(lost.options).toHaveLength(5);
    rig.stack.reconfigure(stackConfig({ search: ['example.com'] }, {}, before));
    const [back] = advertisements(rig.port.sent());
    expect(back.lifetime).toBe(3600);
    expect(back.options.slice(0, 4)).toEqual([
      prefix('2001:db8::', LASTING),
      SOURCE,
      '050100000000fff0',
      rdnss('00000e10', '2001:db8::53'),
    ]);
  });

  test('wait for a receive buffer, and for the link', () => {
    const rig = linkRig({}, {}, {}, { buffers: 0 });
    rig.stack.reconfigure(stackConfig({}, {}, { guestAddr: ip('2001:db8:7::10') }));
    expect(rig.port.sent()).toEqual([]);
    rig.port.post(4);
    rig.stack.onGuestReady();
    expect(advertisements(rig.port.sent())).toHaveLength(1);

    const down = linkRig();
    down.port.up = false;
    down.stack.reconfigure(elsewhere());
    expect(down.stack.nextDeadline()).toBe(Infinity);
    down.port.up = true;
    down.stack.onLinkUp();
    const [only] = advertisements(down.port.sent());
    expect(only.options[0]).toBe(prefix('2001:db8:7::', LASTING));
  });

  test('go on to come by themselves, with what is true then', () => {
    const rig = linkRig();
    rig.stack.onLinkUp();
    rig.stack.reconfigure(elsewhere());
    rig.port.sent();
    // Others have timers of their own.
    let sent = advertisements(rig.port.sent());
    for (let timers = 0; timers < 4 && sent.length === 0; timers++) {
      rig.clock.nowMs = rig.stack.nextDeadline();
      rig.stack.onTimer();
      sent = advertisements(rig.port.sent());
    }
    expect(sent[0].options[0]).toBe(prefix('2001:db8:7::', LASTING));
  });

  test('are not sent with RA off', () => {
    const rig = linkRig({ ra: false });
    rig.stack.reconfigure(elsewhere({ ra: false }));
    expect(rig.port.sent()).toEqual([]);
    expect(rig.stack.nextDeadline()).toBe(Infinity);
  });

  test('a guest that boots anew is not bothered with the past, and its advertisements go on', () => {
    const rig = linkRig();
    rig.stack.onLinkUp();
    rig.stack.reconfigure(elsewhere());
    rig.port.sent();
    rig.stack.reset();
    expect(rig.stack.nextDeadline()).toBeLessThan(Infinity);
    const [answer] = advertisements(rig.exchange(icmpv6(GUEST_LL, 'ff02::2', bytes('85 00 0000 00000000'))));
    expect(answer.options.filter((option) => option.startsWith('03'))).toEqual([prefix('2001:db8:7::', LASTING)]);
  });
});

describe('addresses that stand for the host', () => {
  const resolver = { dns: [ip('192.0.2.1')], dnsMatch: ip('192.0.2.1'), dnsHost: ip('127.0.0.53') };

  test('change, and the former ones stay until the guest has asked DHCP', () => {
    const rig = linkRig({}, resolver);
    rig.stack.reconfigure(
      stackConfig({}, { ...ELSEWHERE4, dns: [ip('10.0.0.1')], dnsMatch: ip('10.0.0.1'), dnsHost: ip('10.9.9.9') }),
    );
    expect(['10.0.0.1', '192.0.2.1'].map((a) => toHost(rig, a, 80))).toEqual(['127.0.0.1', '127.0.0.1']);
    // Queries go to the host's resolver of now, whichever address the guest has for it.
    expect(['10.0.0.1', '192.0.2.1'].map((a) => toHost(rig, a, 53))).toEqual(['10.9.9.9', '10.9.9.9']);
    dhcp(rig, DISCOVER);
    expect(toHost(rig, '192.0.2.1', 80)).toBe('127.0.0.1');
    dhcp(rig, `350103 ${NEW}`);
    expect(['10.0.0.1', '192.0.2.1'].map((a) => toHost(rig, a, 80))).toEqual(['127.0.0.1', '192.0.2.1']);
    // But for queries: programs go on to use a resolver for long.
    expect(toHost(rig, '192.0.2.1', 53)).toBe('10.9.9.9');
  });

  test('resolvers of the past are the present one, the last eight of them, until the guest boots anew', () => {
    const dns = (n: number): Uint8Array[] => [ip(`198.51.100.${String(n)}`)];
    const rig = linkRig({}, { dns: dns(0) });
    const at = (n: number, port = 53): string => toHost(rig, `198.51.100.${String(n)}`, port);
    for (let n = 1; n <= 9; n++) rig.stack.reconfigure(stackConfig({}, { dns: dns(n) }));
    dhcp(rig, `350103 ${OLD}`);
    expect([0, 1, 8, 9].map((n) => at(n))).toEqual(['198.51.100.0', ...Array<string>(3).fill('198.51.100.9')]);
    expect([at(1, 853), at(1, 80)]).toEqual(['198.51.100.9', '198.51.100.1']);
    // TCP as UDP; the other family's where there is none left.
    rig.stack.reconfigure(stackConfig({}, { dns: [] }, { dns: [ip('fe80::53')] }));
    expect(at(9)).toBe('fe80::53');
    const out = new NatResult();
    natToHost(rig.ctx.link.nat, 6, words('198.51.100.9'), 0, 53, out);
    expect([text(out.dst), out.scope]).toEqual(['fe80::53', 3]);
    // One that comes back is itself again.
    rig.stack.reconfigure(stackConfig({}, { dns: dns(5) }));
    expect([at(5), at(4)]).toEqual(['198.51.100.5', '198.51.100.5']);
    rig.stack.reset();
    expect(at(4)).toBe('198.51.100.4');
  });

  test('a resolver that was intercepted and is not any more: its address leads to the new one', () => {
    const rig = linkRig({}, resolver);
    rig.stack.reconfigure(stackConfig({}, ELSEWHERE4));
    expect([toHost(rig, '192.0.2.1', 53), toHost(rig, '192.0.2.1', 853)]).toEqual(['10.0.0.53', '10.0.0.53']);
    dhcp(rig, `350103 ${NEW}`);
    expect(toHost(rig, '192.0.2.1', 53)).toBe('10.0.0.53');
  });

  test('of several changes the guest knows the first, which is the one that stays', () => {
    const rig = linkRig({}, resolver);
    const third = { gateway: ip('172.16.0.1'), mapHostLoopback: ip('172.16.0.1') };
    rig.stack.reconfigure(stackConfig({}, ELSEWHERE4));
    rig.stack.reconfigure(stackConfig({}, third));
    expect(['192.0.2.1', '10.0.0.1', '172.16.0.1'].map((a) => toHost(rig, a, 80))).toEqual([
      '127.0.0.1',
      '10.0.0.1',
      '127.0.0.1',
    ]);
  });

  test('a former one that is a resolver now is that', () => {
    const rig = linkRig({}, resolver);
    rig.stack.reconfigure(stackConfig({}, { ...ELSEWHERE4, dns: [ip('192.0.2.1')] }));
    expect([toHost(rig, '192.0.2.1', 80), toHost(rig, '192.0.2.1', 53)]).toEqual(['192.0.2.1', '192.0.2.1']);
  });

  test('IPv6: until DHCPv6 has given an address, or the guest boots anew', () => {
    for (const ends of ['dhcpv6', 'reset'] as const) {
      const rig = linkRig();
      rig.stack.reconfigure(elsewhere());
      expect(['fe80::1', 'fe80::2'].map((a) => toHost(rig, a, 80))).toEqual(['::1', '::1']);
      if (ends === 'reset') rig.stack.reset();
      else {
        const request = bytes('03 abcdef 0001 000a 00030001', GUEST_MAC, '0002 000a 00030001', OUR_MAC);
        const ia = bytes('0003 000c 00000001 00000000 00000000');
        rig.exchange(datagram(GUEST_LL, 546, 'ff02::1:2', 547, bytes(request, ia)));
      }
      expect(['fe80::1', 'fe80::2'].map((a) => toHost(rig, a, 80))).toEqual(['fe80::1', '::1']);
    }
  });
});
