/** One address goes to one client (RFC 2131 §3.1), in both families. */
import { ASKS_IN_VAIN, GONE_MS, OFFER_MS } from '../../../../src/stack/link/lease-holder';
import { ip } from '../../../support/stack/addresses';
import {
  OUR_MAC,
  bytes,
  datagram,
  dissect,
  ethernet,
  icmpv6,
  linkRig,
  packet,
  u16,
} from '../../../support/stack/link-rig';
import type { LinkRig } from '../../../support/stack/link-rig';

const MAC_A = '52 54 00 00 00 0a';
const MAC_B = '52 54 00 00 00 0b';
const TCP = bytes('04 00 00 50 00000001 00000000 50 10 ff ff 0000 0000');

/** What a client of either family does, and what it gets. */
interface Client {
  /** 'offer', 'ack', 'nak' or 'none'. */
  ask(rig: LinkRig): string;
  request(rig: LinkRig): string;
  renew(rig: LinkRig): string;
  release(rig: LinkRig): void;
  decline(rig: LinkRig): void;
}

class Client4 implements Client {
  constructor(
    private readonly mac: string,
    private readonly id = '',
  ) {}

  ask(rig: LinkRig): string {
    return this.say(rig, '35 01 01');
  }
  request(rig: LinkRig): string {
    return this.say(rig, '35 01 03 36 04 c0000201 32 04 c000020a');
  }
  renew(rig: LinkRig): string {
    return this.say(rig, '35 01 03', '192.0.2.10');
  }
  release(rig: LinkRig): void {
    this.say(rig, '35 01 07 36 04 c0000201', '192.0.2.10');
  }
  decline(rig: LinkRig): void {
    this.say(rig, '35 01 04 36 04 c0000201 32 04 c000020a');
  }

  say(rig: LinkRig, options: string, ciaddr = '0.0.0.0'): string {
    const id = this.id === '' ? new Uint8Array(0) : bytes([61, bytes(this.id).length], this.id);
    const fixed = bytes('01 01 06 00 deadbeef 00000000', ip(ciaddr), new Uint8Array(12), this.mac, new Uint8Array(202));
    const request = bytes(fixed, '63825363', options, id, 'ff');
    const frame = datagram(ciaddr, 68, ciaddr === '0.0.0.0' ? '255.255.255.255' : '192.0.2.1', 67, request, {
      srcMac: this.mac,
    });
    rig.port.sent();
    const [answer] = rig.exchange(frame);
    if (answer === undefined) return 'none';
    const d = dissect(answer);
    expect(d.dstMac).toBe(this.mac.replace(/ /g, ''));
    const at = Buffer.from(d.payload).indexOf(Buffer.from([53, 1]), 240);
    return ({ 2: 'offer', 5: 'ack', 6: 'nak' } as Record<number, string>)[d.payload[at + 2]] ?? 'bootp';
  }
}

class Client6 implements Client {
  constructor(
    private readonly mac: string,
    private readonly duid: string,
    private readonly iaid = '00000001',
  ) {}

  ask(rig: LinkRig): string {
    return this.say(rig, 1);
  }
  request(rig: LinkRig): string {
    return this.say(rig, 3, true);
  }
  renew(rig: LinkRig): string {
    return this.say(rig, 5, true);
  }
  confirm(rig: LinkRig): string {
    return this.say(rig, 4);
  }
  release(rig: LinkRig): void {
    this.say(rig, 8, true);
  }
  decline(rig: LinkRig): void {
    this.say(rig, 9, true);
  }

  private say(rig: LinkRig, type: number, toUs = false): string {
    const duid = bytes(this.duid);
    const ia = bytes('0003 0028', this.iaid, '00000000 00000000 0005 0018', ip('2001:db8::10'), '00000e10 00001c20');
    const server = toUs ? bytes('0002 000a 00030001', OUR_MAC) : bytes('');
    const message = bytes([type], 'abcdef 0001', u16(duid.length), duid, server, ia);
    const last = this.mac.slice(-2);
    rig.port.sent();
    const [answer] = rig.exchange(datagram(`fe80::${last}`, 546, 'ff02::1:2', 547, message, { srcMac: this.mac }));
    const d = dissect(answer);
    expect(d.dstMac).toBe(this.mac.replace(/ /g, ''));
    const reply = Buffer.from(d.payload);
    if (reply.includes(Buffer.from(ip('2001:db8::10')))) return reply[0] === 2 ? 'offer' : 'ack';
    const at = reply.indexOf(Buffer.from([0, 13]));
    return ['success', '', 'none', 'nak', 'elsewhere'][reply.readUInt16BE(at + 4)];
  }
}

/** A who-has or a solicitation for the address given is answered by whoever has the Ethernet address. */
function answerFor(rig: LinkRig, mac: string): boolean {
  rig.stack.onTimer();
  const asked = rig.port.sent().length > 0;
  if (asked) {
    rig.exchange(icmpv6('fe80::9', 'fe80::1', bytes('88 00 0000 60000000', ip('2001:db8::10')), { srcMac: mac }));
    const arp = bytes('0001 0800 06 04 0002', mac, 'c000020a', OUR_MAC, 'c0000201');
    rig.exchange(ethernet(0x0806, arp, mac));
  }
  return asked;
}

const FAMILIES: [string, () => Client, () => Client][] = [
  ['DHCP', () => new Client4(MAC_A), () => new Client4(MAC_B)],
  ['DHCP, with identifiers', () => new Client4(MAC_A, '01 aa'), () => new Client4(MAC_B, '01 bb')],
  ['DHCPv6', () => new Client6(MAC_A, '00030001 0a'), () => new Client6(MAC_B, '00030001 0b')],
  ['DHCPv6, one DUID', () => new Client6(MAC_A, '00030001 0a', '0000000a'), () => new Client6(MAC_B, '00030001 0a')],
];

describe.each(FAMILIES)('%s', (family, one, other) => {
  const a = one();
  const b = other();
  const v6 = family.startsWith('DHCPv6');
  const refused = v6 ? 'none' : 'nak';
  let rig: LinkRig;
  beforeEach(() => {
    rig = linkRig();
  });
  const lines = (): string[] => rig.logged.filter((line) => line.includes('one address for one client'));
  test('the second client gets none, and the log says so once', () => {
    expect([a.ask(rig), b.ask(rig), b.request(rig), a.request(rig)]).toEqual(['offer', 'none', refused, 'ack']);
    for (let i = 0; i < 20; i++) {
      expect([b.ask(rig), b.request(rig), b.renew(rig)]).toEqual(['none', refused, 'nak']);
    }
    expect(a.renew(rig)).toBe('ack');
    expect(lines()).toHaveLength(1);
    expect(lines()[0]).toMatch(/is leased to 52:54:00:00:00:0a, so 52:54:00:00:00:0b gets none/);
  });

  test('an offer that is not taken is free again', () => {
    a.ask(rig);
    rig.clock.advance(OFFER_MS - 1);
    expect(b.ask(rig)).toBe('none');
    rig.clock.advance(1);
    expect(b.ask(rig)).toBe('offer');
    // Another offer to the one that has it takes nothing away.
    b.request(rig);
    b.ask(rig);
    rig.clock.advance(OFFER_MS);
    expect(a.ask(rig)).toBe('none');
  });

  test.each(['release', 'decline'] as const)('%s of the holder frees it, another client cannot', (how) => {
    a.request(rig);
    b[how](rig);
    expect(b.ask(rig)).toBe('none');
    a[how](rig);
    expect([b.ask(rig), b.request(rig), a.request(rig)]).toEqual(['offer', 'ack', refused]);
  });

  test.each<[string, () => void]>([
    ['the guest was reset', () => rig.stack.reset()],
    ['the front-end came back', () => rig.stack.onLinkUp()],
  ])('%s: whoever comes is served', (_, happens) => {
    a.request(rig);
    happens();
    expect(b.ask(rig)).toBe('offer');
  });

  test('after the front-end came back the holder keeps it by saying a word', () => {
    a.request(rig);
    rig.stack.onLinkUp();
    rig.clock.advance(1);
    const [from, to] = v6 ? ['2001:db8::10', '2001:db8:9::9'] : ['192.0.2.10', '9.9.9.9'];
    rig.exchange(packet(from, to, 6, TCP, { srcMac: MAC_A }));
    expect(b.ask(rig)).toBe('none');
  });

  test('a holder that is gone (another interface, another Ethernet address) loses it when it was asked in vain', () => {
    a.request(rig);
    // Whatever else is said from its Ethernet address.
    const others = (): void => void rig.exchange(packet('198.51.100.7', '9.9.9.9', 6, TCP, { srcMac: MAC_A }));
    const tries: string[] = [];
    for (let t = 0; t < GONE_MS; t += 2500) {
      rig.clock.advance(2500);
      others();
      tries.push(b.ask(rig));
      rig.stack.onTimer();
      expect(rig.port.sent()).toHaveLength(1);
    }
    expect(tries.length).toBeGreaterThanOrEqual(ASKS_IN_VAIN);
    expect(new Set(tries)).toEqual(new Set(['none']));
    rig.clock.advance(2500);
    expect([b.ask(rig), b.request(rig), a.ask(rig)]).toEqual(['offer', 'ack', 'none']);
  });

  test('tries in a row are no time to answer', () => {
    a.request(rig);
    rig.clock.advance(1);
    for (let i = 0; i < 10; i++) expect(b.ask(rig)).toBe('none');
    rig.clock.advance(GONE_MS);
    expect([b.ask(rig), b.ask(rig)]).toEqual(['none', 'offer']);
  });

  test('a holder that is silent, but there, keeps it', () => {
    a.request(rig);
    let questions = 0;
    for (let i = 0; i < 60; i++) {
      rig.clock.advance(4000);
      expect(b.ask(rig)).toBe('none');
      if (answerFor(rig, MAC_A)) questions++;
    }
    expect(questions).toBeGreaterThan(0);
    expect(a.renew(rig)).toBe('ack');
  });

  test('a lease that ran out is free, one that was renewed is not', () => {
    const leaseMs = (v6 ? 2 : 1) * 3600 * 1000;
    a.request(rig);
    rig.clock.advance(leaseMs - 1);
    a.renew(rig);
    rig.clock.advance(leaseMs - 1);
    expect(b.ask(rig)).toBe('none');
    rig.clock.advance(1);
    expect(b.ask(rig)).toBe('offer');
  });

  test('a new configuration does not forget who has it', () => {
    a.request(rig);
    rig.stack.reconfigure({ ...rig.ctx.config, hostname: 'other' });
    expect(b.ask(rig)).toBe('none');
  });
});

test('one hardware address is one client: firmware, and the system that it boots', () => {
  const rig = linkRig();
  expect(new Client4(MAC_A, '00 aabbccdd').request(rig)).toBe('ack');
  expect(new Client4(MAC_A, 'ff 11223344 0002').ask(rig)).toBe('offer');
  expect(new Client4(MAC_A).request(rig)).toBe('ack');
  expect(new Client6(MAC_A, '0004 aabb').request(rig)).toBe('ack');
  expect(new Client6(MAC_A, '00030001 0a', '00000077').ask(rig)).toBe('offer');
});

test('so is one identifier: a client that comes back by another interface', () => {
  const rig = linkRig();
  expect(new Client4(MAC_A, 'ff 11223344').request(rig)).toBe('ack');
  expect(new Client4(MAC_B, 'ff 11223344').ask(rig)).toBe('offer');
  expect(new Client6(MAC_A, '0004 aabb').request(rig)).toBe('ack');
  expect(new Client6(MAC_B, '0004 aabb').ask(rig)).toBe('offer');
});

test('INFORM and information requests are everyones, BOOTP is not', () => {
  const rig = linkRig();
  new Client4(MAC_A).request(rig);
  expect(new Client4(MAC_B).say(rig, '35 01 08', '192.0.2.77')).toBe('ack');
  expect(new Client4(MAC_B).say(rig, '')).toBe('none');
  rig.stack.reset();
  expect(new Client4(MAC_A).say(rig, '')).toBe('bootp');
  expect(new Client4(MAC_B).ask(rig)).toBe('none');
});

test('who chose another server declines what was offered here', () => {
  const rig = linkRig();
  new Client4(MAC_A).ask(rig);
  expect(new Client4(MAC_A).say(rig, '35 01 03 36 04 c0000299 32 04 c000020a')).toBe('none');
  expect(new Client4(MAC_B).ask(rig)).toBe('offer');
});

test('CONFIRM of a client that does not have the address: not on this link', () => {
  const rig = linkRig();
  new Client6(MAC_A, '00030001 0a').request(rig);
  expect(new Client6(MAC_A, '00030001 0a').confirm(rig)).toBe('success');
  expect(new Client6(MAC_B, '00030001 0b').confirm(rig)).toBe('elsewhere');
});

test('a flood of clients: one line, one question at a time', () => {
  const rig = linkRig();
  new Client4(MAC_A).request(rig);
  for (let i = 0; i < 2000; i++) {
    const mac = `52 54 00 01 ${(i >> 8).toString(16).padStart(2, '0')} ${(i & 255).toString(16).padStart(2, '0')}`;
    expect(new Client4(mac).ask(rig)).toBe('none');
  }
  rig.stack.onTimer();
  expect(rig.port.sent()).toHaveLength(1);
  expect(rig.logged.filter((line) => line.includes('one client'))).toHaveLength(1);
});
