import { isLinkLocal6 } from '../../../../src/stack/ip/address';
import { dropCode } from '../../../../src/stack/counters';
import * as arp from '../../../../src/stack/wire/arp';
import * as checksum from '../../../../src/stack/wire/checksum';
import * as ethernet from '../../../../src/stack/wire/ethernet';
import * as icmp from '../../../../src/stack/wire/icmp';
import * as ndp from '../../../../src/stack/wire/icmpv6/ndp';
import * as ipv4 from '../../../../src/stack/wire/ipv4';
import * as ipv6 from '../../../../src/stack/wire/ipv6';
import * as tcp from '../../../../src/stack/wire/tcp';
import * as udp from '../../../../src/stack/wire/udp';
import { ip, ipFields, words } from '../../../support/stack/addresses';
import { bytes, hex, internetChecksum } from '../../../support/stack/link-rig';

function view(...parts: Parameters<typeof bytes>): DataView {
  return new DataView(bytes(...parts).buffer);
}
const text = (dv: DataView): string => hex(new Uint8Array(dv.buffer));

describe('checksum', () => {
  test('the example of RFC 1071 §3', () => {
    const dv = view('0001 f203 f4f5 f6f7');
    expect(checksum.checksumFold(checksum.checksumAdd(dv, 0, 8, 0))).toBe(0xddf2);
    expect(checksum.checksumFinish(checksum.checksumAdd(dv, 0, 8, 0))).toBe(0x220d);
  });

  test('every length and offset agrees with the bytewise sum', () => {
    const data = Uint8Array.from({ length: 41 }, (_, i) => (i * 37 + 11) & 0xff);
    const dv = new DataView(data.buffer);
    for (let off = 0; off < 4; off++) {
      for (let length = 0; length <= 37; length++) {
        const sum = checksum.checksumAdd(dv, off, length, 0);
        expect(checksum.checksumFinish(sum)).toBe(internetChecksum(data.subarray(off, off + length)));
      }
    }
  });

  test('the largest message does not lose carries', () => {
    const dv = new DataView(new ArrayBuffer(65536));
    for (let i = 0; i < 65536; i += 4) dv.setInt32(i, -1);
    expect(checksum.checksumFold(checksum.checksumAdd(dv, 0, 65536, 0xffff))).toBe(0xffff);
    expect(checksum.checksumFold(2 ** 40 + 5)).toBe(0x105);
    expect(checksum.checksumFold(0x1ffff)).toBe(1); // the carry carries
  });

  test('UDP never gets 0', () => {
    expect(checksum.checksumFinish(0xffff)).toBe(0);
    expect(checksum.checksumFinishUdp(0xffff)).toBe(0xffff);
    expect(checksum.checksumFinishUdp(0xfffe)).toBe(1);
  });

  test('pseudo-headers', () => {
    const [s, d] = [words('192.0.2.1'), words('198.51.100.200')];
    const sum4 = checksum.pseudoHeaderSum4(s[3], d[3], 17, 0x1234);
    expect(checksum.checksumFinish(sum4)).toBe(
      internetChecksum(bytes(ip('192.0.2.1'), ip('198.51.100.200'), '0011 1234')),
    );
    const [a, b] = [words('2001:db8:aa:bb:cc:dd:ee:ff'), words('fe80::8000:1')];
    const sum6 = checksum.pseudoHeaderSum6(Int32Array.from([...a, ...b]), 0, 58, 0x12345);
    const bytes6 = bytes(ip('2001:db8:aa:bb:cc:dd:ee:ff'), ip('fe80::8000:1'), '00012345 0000003a');
    expect(checksum.checksumFinish(sum6)).toBe(internetChecksum(bytes6));
  });
});

test('ethernet', () => {
  const dv = view('5254 00123456 9a559a559a55 86dd');
  expect(ethernet.ethernetCheck(dv, 0, 14)).toBe(0);
  expect(ethernet.ethernetCheck(dv, 1, 14)).toBe(dropCode('frame_short'));
  expect([ethernet.ethernetDstHi(dv, 0), ethernet.ethernetDstLo(dv, 0)]).toEqual([0x5254, 0x00123456]);
  expect([ethernet.ethernetSrcHi(dv, 0), ethernet.ethernetSrcLo(dv, 0) >>> 0]).toEqual([0x9a55, 0x9a559a55]);
  expect(ethernet.ethernetType(dv, 0)).toBe(ethernet.ETHERTYPE_IPV6);
  expect(ethernet.ethernetDescribe(dv, 0)).toBe('ethernet 9a:55:9a:55:9a:55 > 52:54:00:12:34:56 type 0x86dd');
  expect([0x0100, 0xffff, 0x5254].map(ethernet.macIsGroup)).toEqual([true, true, false]);
});

test('ARP', () => {
  const dv = view('0001 0800 06 04 0001 525400123456 c000020a 000000000000 c0000201');
  expect(arp.arpCheck(dv, 0, 28)).toBe(0);
  expect(arp.arpDescribe(dv, 0)).toBe('arp request who 192.0.2.1 from 192.0.2.10 at 52:54:00:12:34:56');
  expect([arp.arpTargetMacHi(dv, 0), arp.arpTargetMacLo(dv, 0)]).toEqual([0, 0]);
});

describe('IPv4', () => {
  // A well-known example: 192.168.0.1 to 192.168.0.199, checksum b861.
  const HEADER = '4500 0073 0000 4000 4011 b861 c0a80001 c0a800c7';

  test('reads and writes the same bytes, checksum included', () => {
    const dv = view(HEADER, new Uint8Array(95));
    expect(ipv4.ipv4Check(dv, 0, 115)).toBe(0);
    expect(ipv4.ipv4ChecksumOk(dv, 0)).toBe(true);
    expect(ipv4.ipv4Describe(dv, 0)).toBe('ipv4 192.168.0.1 > 192.168.0.199 protocol 17 length 115 ttl 64 DF');
    const out = new DataView(new ArrayBuffer(20));
    const fields = ipFields(true, words('192.168.0.1'), words('192.168.0.199'), { protocol: 17 });
    ipv4.ipv4Write(out, 0, fields, 115, 0, ipv4.IPV4_DF);
    expect(text(out)).toBe(hex(bytes(HEADER)));
    dv.setUint8(8, 63);
    expect(ipv4.ipv4ChecksumOk(dv, 0)).toBe(false);
  });

  test('classes of addresses', () => {
    const word = (a: string): number => words(a)[3];
    expect(
      ['127.0.0.1', '127.255.255.255', '126.255.255.255', '128.0.0.0'].map((a) => ipv4.ipv4IsLoopback(word(a))),
    ).toEqual([true, true, false, false]);
    expect(
      ['224.0.0.0', '239.255.255.255', '240.0.0.0', '223.255.255.255'].map((a) => ipv4.ipv4IsMulticast(word(a))),
    ).toEqual([true, true, false, false]);
    expect(ipv4.ipv4Text(ipv4.IPV4_BROADCAST)).toBe('255.255.255.255');
  });

  test.each([
    [0x0000, false],
    [0x4000, false],
    [0x8000, false],
    [0x2000, true],
    [0x0001, true],
    [0x1fff, true],
  ])('fragment word %i', (word, fragment) => {
    const dv = view(HEADER);
    dv.setUint16(6, word);
    expect(ipv4.ipv4IsFragment(dv, 0)).toBe(fragment);
  });
});

describe('IPv6', () => {
  test('reads what it says', () => {
    const dv = view('6b8abcde 0008 11 40', ip('2001:db8::1'), ip('ff02::fb'), new Uint8Array(8));
    expect(ipv6.ipv6Check(dv, 0, 48)).toBe(0);
    expect([ipv6.ipv6TrafficClass(dv, 0), ipv6.ipv6FlowLabel(dv, 0)]).toEqual([0xb8, 0xabcde]);
    expect(ipv6.ipv6Describe(dv, 0)).toBe('ipv6 2001:db8::1 > ff02::fb next 17 length 8 hops 64');
  });

  test.each([
    '::',
    '::1',
    '2001:db8::',
    '1:0:0:2::',
    '1:0:2:3:4:5:6:7',
    'fe80::1:0:0:1',
    'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff',
  ])('text of %s', (address) => {
    const w = words(address);
    expect(ipv6.ipv6Text(w, 0)).toBe(address);
  });

  test('classes of addresses', () => {
    expect(['fe80::', 'febf:ffff::', 'fec0::', 'fe7f::'].map((a) => isLinkLocal6(words(a), 0))).toEqual([
      true,
      true,
      false,
      false,
    ]);
    expect(['ff00::', 'ff02::1', 'fe00::'].map((a) => ipv6.ipv6IsMulticast(words(a), 0))).toEqual([true, true, false]);
  });
});

describe('TCP', () => {
  // A Linux client's SYN: MSS 1460, SACK permitted, time stamps, NOP, window scale 7.
  const SYN = 'd431 0050 f0f1f2f3 00000000 a0 02 faf0 1234 0000 020405b4 0402 080a 11223344 00000000 01 030307';

  test('reads a SYN', () => {
    const dv = view(SYN);
    expect(tcp.tcpCheck(dv, 0, 40)).toBe(0);
    expect(tcp.tcpDescribe(dv, 0)).toBe('tcp 54321 > 80 SYN seq 4042388211 ack 0 window 64240');
    expect(tcp.tcpSeq(dv, 0)).toBe(0xf0f1f2f3 | 0);
    expect([tcp.tcpDataOffset(dv, 0), tcp.tcpFlags(dv, 0), tcp.tcpChecksum(dv, 0), tcp.tcpUrgent(dv, 0)]).toEqual([
      40,
      tcp.TCP_SYN,
      0x1234,
      0,
    ]);
    expect([tcp.tcpOptionMss(dv, 0), tcp.tcpOptionWindowScale(dv, 0)]).toEqual([1460, 7]);
  });

  test('writes options as it reads them', () => {
    const dv = new DataView(new ArrayBuffer(28));
    tcp.tcpWrite(dv, 0, (54321 << 16) | 80, -1, 0x01020304, 28, tcp.TCP_SYN | tcp.TCP_ACK, 0xffff);
    tcp.tcpSetChecksum(dv, 0, 0xabcd);
    tcp.tcpWriteMss(dv, 20, 65460);
    tcp.tcpWriteWindowScale(dv, 24, 8);
    expect(text(dv)).toBe(hex(bytes('0050 d431 ffffffff 01020304 70 12 ffff abcd 0000 0204ffb4 01030308')));
    expect([tcp.tcpOptionMss(dv, 0), tcp.tcpOptionWindowScale(dv, 0)]).toEqual([65460, 8]);
  });

  test.each([
    ['none', '', -1, -1],
    ['behind END', '00 020405b4 000000', -1, -1],
    ['of wrong length', '02 03 05 01 03 04 07 07', -1, -1],
    ['cut by the header', '01 01 01 01 01 01 02 04', -1, -1],
    ['behind an option of length 0', '05 00 020405b4 0000', -1, -1],
    ['scale above 14', '03 03 ff 00', -1, 14],
    ['zero', '02040000 03030001', 0, 0],
  ])('options: %s', (_, options, mss, scale) => {
    const data = bytes(options);
    // Valid options follow the header: whoever reads past its end finds them.
    const dv = view(
      'd431 0050 f0f1f2f3 00000000',
      [(20 + data.length) << 2, 2],
      'faf0 1234 0000',
      data,
      '020405b4 030307 00',
    );
    expect([tcp.tcpOptionMss(dv, 0), tcp.tcpOptionWindowScale(dv, 0)]).toEqual([mss, scale]);
  });

  test.each([
    ['data offset below 5', 0x40, 40],
    ['data offset past the end', 0xb0, 40],
    ['cut', 0x50, 19],
  ])('malformed: %s', (_, offset, end) => {
    const dv = view(SYN);
    dv.setUint8(12, offset);
    expect(tcp.tcpCheck(dv, 0, end)).toBe(dropCode('tcp_malformed'));
  });
});

test('UDP', () => {
  const dv = view('0035 ff00 000a beef 0102 ee');
  expect([8, 9].map((end) => udp.udpCheck(dv, 0, end))).toEqual([dropCode('udp_malformed'), dropCode('udp_malformed')]);
  expect([10, 11].map((end) => udp.udpCheck(dv, 0, end))).toEqual([0, 0]);
  expect(udp.udpDescribe(dv, 0)).toBe('udp 53 > 65280 length 10');
  expect(udp.udpChecksum(dv, 0)).toBe(0xbeef);
  dv.setUint16(4, 7);
  expect(udp.udpCheck(dv, 0, 11)).toBe(dropCode('udp_malformed'));
});

test('ICMP', () => {
  const dv = view('08 00 f7fd 0001 0001');
  expect([icmp.icmpCheck(dv, 0, 8), icmp.icmpCheck(dv, 0, 7)]).toEqual([0, dropCode('icmp_malformed')]);
  expect(icmp.icmpDescribe(dv, 0)).toBe('icmp type 8 code 0 id 1 seq 1');
  expect(icmp.icmpChecksum(dv, 0)).toBe(0xf7fd);
});

test('ND', () => {
  const dv = view('88 00 0000 e0000000', ip('2001:db8::99'), '02 01 9a559a559a55');
  expect(ndp.ndpCheck(dv, 0, 32)).toBe(0);
  expect(ndp.ndpDescribe(dv, 0)).toBe('ndp na 2001:db8::99 flags 0xe0');
  expect(ndp.ndpFindOption(dv, 24, 32, ndp.NDP_OPTION_TARGET_LL)).toBe(24);
  expect(ndp.ndpFindOption(dv, 24, 32, ndp.NDP_OPTION_SOURCE_LL)).toBe(-1);
  for (const end of [4, 23, 25, 31]) expect(ndp.ndpCheck(dv, 0, end)).toBe(dropCode('ndp_malformed'));
});
