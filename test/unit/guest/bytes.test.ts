import {
  eui64,
  finish,
  formatAddr,
  formatMac,
  multicastMac,
  parseAddr,
  parseMac,
  samePrefix,
  solicitedNode,
  sum,
} from '../../support/guest/bytes';
import { ipHeader, transportChecksum, udp } from '../../support/guest/packets';
import { noise } from '../../support/guest/noise';

describe('addresses', () => {
  it.each([
    '10.0.2.15',
    '255.255.255.255',
    '::',
    '::1',
    'fe80::5054:ff:fe12:3456',
    '2001:db8:0:1::',
    '1:2:3:4:5:6:7:8',
  ])('%s to bytes and back', (text) => {
    expect(formatAddr(parseAddr(text))).toBe(text);
  });

  it('reads other spellings', () => {
    expect(formatAddr(parseAddr('2001:0db8:0000:0000:0001:0000:0000:0001'))).toBe('2001:db8::1:0:0:1');
    expect(formatAddr(parseAddr('::ffff:10.1.2.3'))).toBe('::ffff:a01:203');
  });

  it.each(['1.2.3', '1.2.3.256', '1:2', '1:2:3:4:5:6:7:8:9', 'g::'])('refuses %s', (text) => {
    expect(() => parseAddr(text)).toThrow();
  });

  it('derives what neighbour discovery needs', () => {
    const mac = parseMac('52:54:00:12:34:56');
    expect(formatMac(mac)).toBe('52:54:00:12:34:56');
    expect(formatAddr(eui64(parseAddr('fe80::'), mac))).toBe('fe80::5054:ff:fe12:3456');
    expect(formatAddr(solicitedNode(parseAddr('2001:db8::12:3456')))).toBe('ff02::1:ff12:3456');
    expect(formatMac(multicastMac(parseAddr('ff02::1:ff12:3456')))).toBe('33:33:ff:12:34:56');
    expect(samePrefix(parseAddr('10.1.2.3'), parseAddr('10.1.3.4'), 23)).toBe(true);
    expect(samePrefix(parseAddr('10.1.2.3'), parseAddr('10.1.3.4'), 24)).toBe(false);
  });
});

describe('checksums', () => {
  it('the example of RFC 1071 §3', () => {
    const bytes = Uint8Array.of(0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7);
    expect(sum(bytes)).toBe(0xddf2);
    expect(finish(sum(bytes))).toBe(0x220d);
  });

  it('the words of aligned memory and single bytes give the same', () => {
    const bytes = noise(5001);
    for (const [from, to] of [
      [0, 5001],
      [1, 5001],
      [2, 4999],
      [0, 63],
      [3, 3],
    ]) {
      let expected = 0;
      for (let i = from; i < to; i++) expected += (i - from) % 2 === 0 ? bytes[i] << 8 : bytes[i];
      while (expected > 0xffff) expected = (expected >>> 16) + (expected & 0xffff);
      expect(sum(bytes, from, to)).toBe(expected);
    }
  });

  it('a captured IPv4 header and UDP datagram', () => {
    // 192.168.0.1 → 192.168.0.199, UDP, 115 bytes in all (a header often quoted): checksum 0xb861.
    const header = ipHeader(parseAddr('192.168.0.1'), parseAddr('192.168.0.199'), 17, 95);
    expect((header[10] << 8) | header[11]).toBe(0xb861);
    const [src, dst] = [parseAddr('10.0.0.1'), parseAddr('10.0.0.2')];
    const datagram = udp(src, dst, 1000, 2000, Buffer.from('odd'));
    const copy = datagram.slice();
    copy.fill(0, 6, 8);
    expect((datagram[6] << 8) | datagram[7]).toBe(transportChecksum(src, dst, 17, copy));
    expect(transportChecksum(src, dst, 17, datagram)).toBe(0xffff); // verifies: the sum is zero
  });
});
