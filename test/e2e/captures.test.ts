/**
 * What Wireshark says of our frames. First whether it would say it at all: a judge that finds nothing wrong proves
 * nothing until it has been seen to find something. Then every answer of the services on the link.
 */
import { expertItems, fieldsOf, frameCount, problemsIn, whyNoTshark, writePcap } from '../support/tshark';
import { scratchDirectory } from '../support/world/paths';
import { ip } from '../support/stack/addresses';
import {
  GUEST_MAC,
  OUR_MAC,
  bytes,
  datagram,
  ethernet,
  icmpv6,
  linkRig,
  packet,
  type LinkRig,
} from '../support/stack/link-rig';
import { describeWith } from './support';

jest.setTimeout(60_000);

const LL = 'fe80::5054:ff:fe12:3456';
const DHCP_FIXED = bytes(
  '01 01 06 00 deadbeef 0000 0000 00000000 00000000 00000000 00000000',
  GUEST_MAC,
  new Uint8Array(202),
  '63825363',
);
const dhcp = (options: string): Uint8Array =>
  datagram('0.0.0.0', 68, '255.255.255.255', 67, bytes(DHCP_FIXED, options, 'ff'));

const CLIENT_DUID = bytes('0001 000a 00030001', GUEST_MAC);
const SERVER_DUID = bytes('0002 000a 00030001', OUR_MAC);
const IA_NA = bytes('0003 0028 00000001 00000000 00000000 0005 0018', ip('2001:db8::10'), '00000e10 00000e10');
const FOREIGN = bytes('0003 0028 00000001 00000000 00000000 0005 0018', ip('2001:db8:9::1'), '00000e10 00000e10');
const IA_PD = bytes('0019 000c 00000002 00000000 00000000');
const IA_TA = bytes('0004 0004 00000003');
const dhcpv6 = (type: number, ...options: (string | Uint8Array)[]): Uint8Array =>
  datagram(LL, 546, 'ff02::1:2', 547, bytes([type], 'abcdef', ...options));

const ns = (target: string): Uint8Array => bytes('87 00 0000 00000000', ip(target), '01 01', GUEST_MAC);
const RS = bytes('85 00 0000 00000000');

describeWith('captures', whyNoTshark(), () => {
  const scratch = scratchDirectory();
  afterAll(scratch.remove);
  let captures = 0;
  const capture = (frames: readonly Uint8Array[]): string => {
    const file = `${scratch.path}/${String(captures++)}.pcap`;
    writePcap(file, frames);
    return file;
  };

  describe('the judge', () => {
    const good = datagram('192.0.2.10', 1234, '192.0.2.1', 9, bytes('01 02 03'));
    /** The frame with one byte changed. */
    const spoilt = (frame: Uint8Array, at: number): Uint8Array => {
      const copy = Uint8Array.from(frame);
      copy[at] ^= 0x11;
      return copy;
    };

    it('finds nothing in a good datagram', () => {
      const file = capture([good, good]);
      expect(problemsIn(file)).toEqual([]);
      expect(frameCount(file)).toBe(2);
    });

    it.each([
      ['IPv4 header checksum', spoilt(good, 24), 'ip'],
      ['UDP checksum', spoilt(good, 40), 'udp'],
      [
        'TCP checksum',
        packet('192.0.2.10', '192.0.2.1', 6, bytes('0001 0002', '00000001 00000000 50 02 ffff 1234 0000')),
        'tcp',
      ],
      ['ICMPv6 checksum', spoilt(icmpv6(LL, 'fe80::1', ns('fe80::1')), 56), 'icmpv6'],
    ])('finds a wrong %s', (_, frame, protocol) => {
      const problems = problemsIn(capture([good, frame]));
      expect(problems).toEqual([expect.objectContaining({ frame: 2, group: 'checksum' })]);
      expect(problems[0].protocols.split(':')).toContain(protocol);
    });

    it('finds a malformed option', () => {
      // A DHCP option longer than its message, and an ND option of length zero.
      const zero = icmpv6(LL, 'ff02::2', bytes(RS, '00 00 00 00 00 00 00 00'));
      for (const frame of [dhcp('35 01 01 37 fa 01'), zero]) {
        expect(problemsIn(capture([frame]))).toContainEqual(expect.objectContaining({ frame: 1, severity: 'error' }));
      }
    });

    it('tells the fields of every frame, and what has no fault but deserves a note', () => {
      const file = capture([good, dhcp('35 01 01 50 00')]);
      expect(fieldsOf(file, 'udp', ['frame.number', 'udp.dstport', 'dhcp.option.type'])).toEqual([
        [['1'], ['9'], []],
        [['2'], ['67'], ['53', '80', '0']],
      ]);
      expect(expertItems(file).filter(({ severity }) => severity === 'error')).toEqual([]);
    });

    it('does not take a capture that is cut short for a good one', () => {
      expect(() => fieldsOf('/dev/null', '', ['frame.number'])).toThrow(/./);
    });
  });

  describe('of the services on the link', () => {
    const LONG_NAMES = [
      'example.com',
      'lab.example.com',
      'abcde.exampleq',
      'x.test',
      'very-long-label-of-a-domain.test',
    ];
    /** Every kind of configuration that changes what options are sent. */
    const RIGS: readonly (() => LinkRig)[] = [
      () => linkRig(),
      () =>
        linkRig(
          { hostname: 'guest', fqdn: 'guest.example.com', search: LONG_NAMES, mtu: 1500 },
          { dns: [ip('192.0.2.53'), ip('9.9.9.9')], gateway: ip('198.51.100.1'), prefixLen: 32 },
          { dns: [ip('2001:db8::53'), ip('fe80::1')] },
        ),
      // Search lists of every length modulo 8, with and without resolvers.
      ...Array.from({ length: 8 }, (_, i) => () => linkRig({ search: [`${'a'.repeat(i + 1)}.example.com`], mtu: 0 })),
    ];

    const QUESTIONS: readonly (readonly [string, string, readonly Uint8Array[]])[] = [
      [
        'ARP',
        'arp',
        ['c0000201', 'c0000263', '08080808'].map((target) =>
          ethernet(0x0806, bytes('0001 0800 06 04 0001', GUEST_MAC, 'c000020a 000000000000', target)),
        ),
      ],
      [
        'DHCP',
        'dhcp',
        [
          dhcp('35 01 01'),
          dhcp('35 01 01 50 00 3d 03 010203'),
          dhcp('35 01 01 37 08 79 77 51 0c 1a 06 03 01'),
          dhcp('35 01 03 32 04 c000020a 39 02 05dc'),
          dhcp('35 01 03 32 04 0a000001'),
          datagram(
            '192.0.2.10',
            68,
            '192.0.2.1',
            67,
            bytes(DHCP_FIXED.subarray(0, 12), ip('192.0.2.10'), DHCP_FIXED.subarray(16), '35 01 08 ff'),
          ),
          dhcp(''),
        ],
      ],
      [
        'DHCPv6',
        'dhcpv6',
        [
          dhcpv6(1, CLIENT_DUID, IA_NA, IA_TA, IA_PD),
          dhcpv6(1, CLIENT_DUID, '000e 0000', IA_NA, '0027 0003 01 01 61'),
          dhcpv6(3, CLIENT_DUID, SERVER_DUID, IA_NA),
          dhcpv6(3, CLIENT_DUID, SERVER_DUID, FOREIGN),
          dhcpv6(4, CLIENT_DUID, IA_NA),
          dhcpv6(4, CLIENT_DUID, FOREIGN),
          dhcpv6(5, CLIENT_DUID, SERVER_DUID, FOREIGN),
          dhcpv6(6, CLIENT_DUID, IA_NA),
          dhcpv6(8, CLIENT_DUID, SERVER_DUID, IA_NA),
          dhcpv6(9, CLIENT_DUID, SERVER_DUID, IA_NA),
          dhcpv6(11, CLIENT_DUID),
          dhcpv6(11),
        ],
      ],
      [
        'ND',
        'icmpv6',
        [
          icmpv6(LL, 'ff02::1:ff00:1', ns('fe80::1')),
          icmpv6('2001:db8::10', 'ff02::1:ff00:99', ns('2001:db8:1::99')),
          icmpv6(LL, 'ff02::2', RS),
          icmpv6('::', 'ff02::2', RS),
        ],
      ],
    ];

    it.each(QUESTIONS)('%s: every answer is faultless', (_, protocol, questions) => {
      const frames: Uint8Array[] = [];
      for (const make of RIGS) {
        const rig = make();
        for (const question of questions) {
          const answers = rig.exchange(question);
          expect(answers).toHaveLength(1);
          frames.push(...answers);
        }
      }
      const file = capture(frames);
      expect(problemsIn(file)).toEqual([]);
      expect(fieldsOf(file, protocol, ['frame.number'])).toHaveLength(frames.length);
    });

    it('what is sent when the link comes up and later is faultless', () => {
      const frames = RIGS.flatMap((make) => {
        const rig = make();
        rig.stack.onLinkUp();
        const sent = rig.port.sent();
        // Others have timers of their own.
        for (let timers = 0, first = sent.length; timers < 4 && sent.length === first; timers++) {
          rig.clock.nowMs = rig.stack.nextDeadline();
          rig.stack.onTimer();
          sent.push(...rig.port.sent());
        }
        return sent;
      });
      const file = capture(frames);
      expect(problemsIn(file)).toEqual([]);
      expect(fieldsOf(file, 'icmpv6.type == 134 && ipv6.dst == ff02::1', ['frame.number'])).toHaveLength(
        2 * RIGS.length,
      );
    });

    it('Wireshark reads what we meant', () => {
      const rig = RIGS[1]();
      const file = capture([
        ...rig.exchange(dhcp('35 01 01')),
        ...rig.exchange(icmpv6(LL, 'ff02::2', RS)),
        ...rig.exchange(dhcpv6(1, CLIENT_DUID, IA_NA)),
      ]);
      const options = ['hostname', 'interface_mtu', 'domain_name_server'].map((o) => `dhcp.option.${o}`);
      const search = 'dhcp.option.dhcp_dns_domain_search_list_fqdn';
      expect(fieldsOf(file, 'dhcp', [...options, 'dhcp.fqdn.name', search])).toEqual([
        [['guest'], ['1500'], ['192.0.2.53', '9.9.9.9'], ['guest.example.com'], LONG_NAMES],
      ]);
      expect(
        fieldsOf(file, 'icmpv6', ['icmpv6.opt.dnssl', 'icmpv6.opt.rdnss', 'icmpv6.opt.mtu', 'icmpv6.opt.prefix']),
      ).toEqual([[LONG_NAMES, ['2001:db8::53', 'fe80::1'], ['1500'], ['2001:db8::']]]);
      expect(fieldsOf(file, 'dhcpv6', ['dhcpv6.iaaddr.ip', 'dhcpv6.dns_server', 'dhcpv6.search_list_entry'])).toEqual([
        [['2001:db8::10'], ['2001:db8::53', 'fe80::1'], LONG_NAMES.map((name) => `${name}.`)],
      ]);
    });
  });
});
