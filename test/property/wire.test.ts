/**
 * Headers: what is written is read back and passes its check; and on random bytes no check, getter, option walk or
 * description throws or reads outside [off, end).
 */
import { ipFields } from '../support/stack/addresses';
import * as fc from 'fast-check';
import * as arp from '../../src/stack/wire/arp';
import * as dhcp from '../../src/stack/wire/dhcp';
import * as dhcpv6 from '../../src/stack/wire/dhcpv6';
import * as ethernet from '../../src/stack/wire/ethernet';
import * as icmp from '../../src/stack/wire/icmp';
import * as ndp from '../../src/stack/wire/icmpv6/ndp';
import * as ipv4 from '../../src/stack/wire/ipv4';
import * as ipv6 from '../../src/stack/wire/ipv6';
import * as tcp from '../../src/stack/wire/tcp';
import * as udp from '../../src/stack/wire/udp';

/** A view that throws if anything outside [start, end) is read. */
class GuardedView extends DataView<ArrayBufferLike> {
  private readonly start: number;
  private readonly end: number;

  constructor(data: Uint8Array, start: number, end: number) {
    super(data.buffer, data.byteOffset, data.byteLength);
    this.start = start;
    this.end = end;
  }
  private guard(at: number, size: number): void {
    if (at < this.start || at + size > this.end) throw new Error(`read of ${String(size)} at ${String(at)}`);
  }
  override getUint8(at: number): number {
    this.guard(at, 1);
    return super.getUint8(at);
  }
  override getUint16(at: number): number {
    this.guard(at, 2);
    return super.getUint16(at);
  }
  override getUint32(at: number): number {
    this.guard(at, 4);
    return super.getUint32(at);
  }
  override getInt32(at: number): number {
    this.guard(at, 4);
    return super.getInt32(at);
  }
}

const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const i32 = fc.integer({ min: -0x80000000, max: 0x7fffffff });
const off = fc.integer({ min: 0, max: 9 });
const room = (): DataView => new DataView(new ArrayBuffer(128));

/** Random bytes somewhere in a larger buffer, as a guarded view. */
function hostile(
  check: (dv: DataView, off: number, end: number) => void,
  seeds: readonly (readonly number[])[] = [[]],
): void {
  fc.assert(
    fc.property(
      fc.constantFrom(...seeds),
      fc.uint8Array({ maxLength: 400 }),
      fc.uint8Array({ maxLength: 12 }),
      fc.uint8Array({ maxLength: 12 }),
      (seed, body, before, after) => {
        const inner = Uint8Array.from(body);
        inner.set(seed.slice(0, inner.length));
        const data = Uint8Array.from([...before, ...inner, ...after]);
        const end = before.length + inner.length;
        check(new GuardedView(data, before.length, end), before.length, end);
      },
    ),
    { numRuns: 400 },
  );
}

describe('write, check, read', () => {
  test('ethernet', () => {
    fc.assert(
      fc.property(off, u16, i32, u16, i32, u16, (o, dh, dl, sh, sl, type) => {
        const dv = room();
        ethernet.ethernetWrite(dv, o, dh, dl, sh, sl, type);
        expect(ethernet.ethernetCheck(dv, o, o + 14)).toBe(0);
        expect([
          ethernet.ethernetDstHi(dv, o),
          ethernet.ethernetDstLo(dv, o),
          ethernet.ethernetSrcHi(dv, o),
          ethernet.ethernetSrcLo(dv, o),
          ethernet.ethernetType(dv, o),
        ]).toEqual([dh, dl, sh, sl, type]);
      }),
    );
  });

  test('ARP', () => {
    fc.assert(
      fc.property(off, u16, u16, i32, i32, u16, i32, i32, (o, op, sh, sl, sip, th, tl, tip) => {
        const dv = room();
        arp.arpWrite(dv, o, op, { hi: sh, lo: sl }, sip, { hi: th, lo: tl }, tip);
        expect(arp.arpCheck(dv, o, o + arp.ARP_LEN)).toBe(0);
        expect([
          arp.arpOperation(dv, o),
          arp.arpSenderMacHi(dv, o),
          arp.arpSenderMacLo(dv, o),
          arp.arpSenderIp(dv, o),
          arp.arpTargetMacHi(dv, o),
          arp.arpTargetMacLo(dv, o),
          arp.arpTargetIp(dv, o),
        ]).toEqual([op, sh, sl, sip, th, tl, tip]);
      }),
    );
  });

  test('IPv4', () => {
    const totalLen = fc.integer({ min: 20, max: 0xffff });
    fc.assert(
      fc.property(off, totalLen, u8, u16, u16, u8, u8, i32, i32, (o, len, tos, id, frag, ttl, protocol, src, dst) => {
        const dv = room();
        const fields = ipFields(true, [0, 0, 0xffff, src], [0, 0, 0xffff, dst], { protocol, ttl, tos });
        ipv4.ipv4Write(dv, o, fields, len, id, frag);
        expect(ipv4.ipv4Check(dv, o, o + len)).toBe(0);
        expect(ipv4.ipv4Check(dv, o, o + len - 1)).not.toBe(0);
        expect(ipv4.ipv4ChecksumOk(dv, o)).toBe(true);
        expect([
          ipv4.ipv4HeaderLen(dv, o),
          ipv4.ipv4TotalLen(dv, o),
          ipv4.ipv4Tos(dv, o),
          ipv4.ipv4Id(dv, o),
          ipv4.ipv4FlagsFragment(dv, o),
          ipv4.ipv4Ttl(dv, o),
          ipv4.ipv4Protocol(dv, o),
          ipv4.ipv4Src(dv, o),
          ipv4.ipv4Dst(dv, o),
        ]).toEqual([20, len, tos, id, frag, ttl, protocol, src, dst]);
        // One flipped bit anywhere shows in the checksum.
        dv.setUint8(o + (id % 20), dv.getUint8(o + (id % 20)) ^ 1);
        if (id % 20 !== 0) expect(ipv4.ipv4ChecksumOk(dv, o)).toBe(false);
      }),
    );
  });

  test('IPv6', () => {
    const label = fc.integer({ min: 0, max: 0xfffff });
    const address = fc.tuple(i32, i32, i32, i32);
    fc.assert(
      fc.property(off, u16, u8, u8, u8, label, address, address, (o, len, next, hops, tc, flow, s, d) => {
        const dv = room();
        ipv6.ipv6Write(dv, o, ipFields(false, s, d, { ttl: hops, tos: tc, flowLabel: flow }), next, len);
        expect(ipv6.ipv6Check(dv, o, o + 40 + len)).toBe(0);
        expect(ipv6.ipv6Check(dv, o, o + 40 + len - 1)).not.toBe(0);
        expect([0, 1, 2, 3].map((i) => ipv6.ipv6SrcWord(dv, o, i))).toEqual(s);
        expect([0, 1, 2, 3].map((i) => ipv6.ipv6DstWord(dv, o, i))).toEqual(d);
        expect([
          ipv6.ipv6PayloadLen(dv, o),
          ipv6.ipv6NextHeader(dv, o),
          ipv6.ipv6HopLimit(dv, o),
          ipv6.ipv6TrafficClass(dv, o),
          ipv6.ipv6FlowLabel(dv, o),
        ]).toEqual([len, next, hops, tc, flow]);
      }),
    );
  });

  test('TCP', () => {
    const headerLen = fc.integer({ min: 5, max: 15 }).map((n) => n * 4);
    fc.assert(
      fc.property(
        off,
        u16,
        u16,
        i32,
        i32,
        headerLen,
        u8,
        u16,
        u16,
        u16,
        (o, sp, dp, seq, ack, len, flags, win, sum, urg) => {
          const dv = room();
          tcp.tcpWrite(dv, o, (dp << 16) | sp, seq, ack, len, flags, win);
          expect(tcp.tcpUrgent(dv, o)).toBe(0);
          tcp.tcpSetChecksum(dv, o, sum);
          dv.setUint16(o + 18, urg);
          expect(tcp.tcpCheck(dv, o, o + len)).toBe(0);
          expect(tcp.tcpCheck(dv, o, o + len - 1)).not.toBe(0);
          expect([
            tcp.tcpSrcPort(dv, o),
            tcp.tcpDstPort(dv, o),
            tcp.tcpSeq(dv, o),
            tcp.tcpAck(dv, o),
            tcp.tcpDataOffset(dv, o),
            tcp.tcpFlags(dv, o),
            tcp.tcpWindow(dv, o),
            tcp.tcpChecksum(dv, o),
            tcp.tcpUrgent(dv, o),
          ]).toEqual([sp, dp, seq, ack, len, flags, win, sum, urg]);
        },
      ),
    );
  });

  test('UDP', () => {
    fc.assert(
      fc.property(off, u16, u16, fc.integer({ min: 8, max: 0xffff }), u16, (o, sp, dp, len, sum) => {
        const dv = room();
        udp.udpWrite(dv, o, sp, dp, len, sum);
        expect(udp.udpCheck(dv, o, o + len)).toBe(0);
        expect(udp.udpCheck(dv, o, o + len - 1)).not.toBe(0);
        expect([udp.udpSrcPort(dv, o), udp.udpDstPort(dv, o), udp.udpLength(dv, o), udp.udpChecksum(dv, o)]).toEqual([
          sp,
          dp,
          len,
          sum,
        ]);
      }),
    );
  });

  test('ICMP', () => {
    fc.assert(
      fc.property(off, u8, u8, u16, i32, (o, type, code, sum, rest) => {
        const dv = room();
        icmp.icmpWrite(dv, o, type, code, sum, rest);
        expect(icmp.icmpCheck(dv, o, o + 8)).toBe(0);
        expect([
          icmp.icmpType(dv, o),
          icmp.icmpCode(dv, o),
          icmp.icmpChecksum(dv, o),
          (icmp.icmpId(dv, o) << 16) | icmp.icmpSeq(dv, o),
        ]).toEqual([type, code, sum, rest]);
      }),
    );
  });

  test('ND', () => {
    fc.assert(
      fc.property(off, u8, fc.tuple(i32, i32, i32, i32), u16, i32, (o, flags, target, hi, lo) => {
        const dv = room();
        ndp.ndpWriteNa(dv, o, flags, Int32Array.from(target), 0);
        const end = ndp.ndpWriteLinkLayer(dv, o + ndp.NDP_NA_LEN, ndp.NDP_OPTION_TARGET_LL, hi, lo);
        expect(ndp.ndpCheck(dv, o, end)).toBe(0);
        const read = new Int32Array(4);
        ndp.ndpTarget(dv, o, read, 0);
        expect([...read]).toEqual(target);
        expect(ndp.ndpNaFlags(dv, o)).toBe(flags);
        ndp.ndpWriteNs(dv, o, Int32Array.from(target), 0);
        expect([ndp.ndpCheck(dv, o, end), icmp.icmpType(dv, o)]).toEqual([0, ndp.NDP_NEIGHBOR_SOLICITATION]);
      }),
    );
  });

  test('ND options of every length tile the message', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 300 }), fc.integer({ min: 0, max: 3 }), (names, servers) => {
        const dv = new DataView(new ArrayBuffer(1024));
        ndp.ndpWriteRa(dv, 0, 255, 0, 1);
        let at = ndp.ndpWritePrefix64(dv, ndp.NDP_RA_LEN, 0xc0, Int32Array.of(1, 2, 0, 0), -1, 0);
        at = ndp.ndpWriteMtu(dv, at, 1500);
        at = ndp.ndpWriteRdnss(dv, at, -1, Array<Uint8Array>(servers).fill(new Uint8Array(16)));
        const dnssl = at;
        at = ndp.ndpWriteDnssl(dv, at, -1, names);
        expect(ndp.ndpCheck(dv, 0, at)).toBe(0);
        expect(ndp.ndpFindOption(dv, ndp.NDP_RA_LEN, at, ndp.NDP_OPTION_DNSSL)).toBe(dnssl);
        expect(at - dnssl - 8 - names.length).toBeLessThan(8);
      }),
    );
  });

  test('DHCP options are found where they are', () => {
    const option = fc.tuple(fc.integer({ min: 1, max: 254 }), fc.uint8Array({ maxLength: 20 }));
    fc.assert(
      fc.property(off, fc.array(option, { maxLength: 8 }), u8, (o, options, wanted) => {
        const data = new Uint8Array(o + 600);
        const dv = new DataView(data.buffer);
        data[o] = 1;
        dv.setInt32(o + 236, dhcp.DHCP_MAGIC);
        let at = o + 240;
        let first: Uint8Array | undefined;
        const parts: number[] = [];
        for (const [code, body] of options.filter(([c]) => c !== dhcp.DHCP_OPT_OVERLOAD)) {
          data[at++] = 0; // a pad in front of each
          if (code === wanted) {
            first ??= body;
            parts.push(...body);
          }
          data.set([code, body.length, ...body], at);
          at += 2 + body.length;
        }
        data[at++] = 255;
        expect(dhcp.dhcpCheck(dv, o, at)).toBe(0);
        if (wanted === 0 || wanted === 255 || wanted === dhcp.DHCP_OPT_OVERLOAD) return;
        const found = dhcp.dhcpOptions(dv, o, at)?.get(wanted);
        // Of options of one length the first, of others all parts (RFC 3396 §7).
        const whole = [50, 51, 53, 54, 57, 80].includes(wanted) ? [...(first ?? [])] : parts;
        expect(found === undefined ? undefined : [...found]).toEqual(first === undefined ? undefined : whole);
      }),
    );
  });
});

describe('random bytes: nothing throws, nothing outside is read', () => {
  test('ethernet', () => {
    hostile((dv, o, end) => {
      if (ethernet.ethernetCheck(dv, o, end) === 0) ethernet.ethernetDescribe(dv, o);
    });
  });
  test('ARP', () => {
    hostile(
      (dv, o, end) => {
        if (arp.arpCheck(dv, o, end) === 0) arp.arpDescribe(dv, o);
      },
      [[], [0, 1, 8, 0, 6, 4]],
    );
  });
  test('IPv4', () => {
    hostile(
      (dv, o, end) => {
        if (ipv4.ipv4Check(dv, o, end) !== 0) return;
        ipv4.ipv4Describe(dv, o);
        ipv4.ipv4ChecksumOk(dv, o);
        expect(ipv4.ipv4HeaderLen(dv, o)).toBeLessThanOrEqual(ipv4.ipv4TotalLen(dv, o));
        expect(ipv4.ipv4TotalLen(dv, o)).toBeLessThanOrEqual(end - o);
      },
      [[], [0x45, 0, 0, 40], [0x4f, 0, 0, 90]],
    );
  });
  test('IPv6 and its extension headers', () => {
    hostile(
      (dv, o, end) => {
        if (ipv6.ipv6Check(dv, o, end) !== 0) return;
        ipv6.ipv6Describe(dv, o);
        const packetEnd = o + 40 + ipv6.ipv6PayloadLen(dv, o);
        for (const limit of [packetEnd, Math.min(packetEnd, o + 96)]) {
          const copied = new GuardedView(new Uint8Array(dv.buffer), o, limit);
          const found = ipv6.ipv6Walk(copied, o, packetEnd, limit);
          expect(found).not.toBe(0);
          if (found > 0) expect(o + (found & 0xffff)).toBeLessThanOrEqual(packetEnd);
        }
      },
      [[], [0x60, 0, 0, 0, 0, 80, 0], [0x60, 0, 0, 0, 0, 120, 60], [0x60, 0, 0, 0, 0, 100, 44]],
    );
  });
  test('TCP and its options', () => {
    hostile(
      (dv, o, end) => {
        if (tcp.tcpCheck(dv, o, end) !== 0) return;
        tcp.tcpDescribe(dv, o);
        expect(tcp.tcpOptionMss(dv, o)).toBeGreaterThanOrEqual(-1);
        expect(tcp.tcpOptionWindowScale(dv, o)).toBeLessThanOrEqual(14);
      },
      [
        [],
        [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0],
        [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 2, 0, 0, 0, 0, 0, 0, 2, 4],
      ],
    );
  });
  test('UDP', () => {
    hostile(
      (dv, o, end) => {
        if (udp.udpCheck(dv, o, end) === 0) udp.udpDescribe(dv, o);
      },
      [[], [0, 1, 0, 2, 0, 20]],
    );
  });
  test('ICMP', () => {
    hostile((dv, o, end) => {
      if (icmp.icmpCheck(dv, o, end) === 0) icmp.icmpDescribe(dv, o);
    });
  });
  test('ND', () => {
    hostile(
      (dv, o, end) => {
        if (ndp.ndpCheck(dv, o, end) !== 0) return;
        ndp.ndpDescribe(dv, o);
        for (let kind = 0; kind < 32; kind++) ndp.ndpFindOption(dv, o + 8, end, kind);
      },
      [[], [133, 0], [135, 0], [136, 0]],
    );
  });
  test('DHCP', () => {
    const request = new Array<number>(240).fill(0);
    request.splice(0, 3, 1, 1, 6);
    request.splice(236, 4, 0x63, 0x82, 0x53, 0x63);
    hostile(
      (dv, o, end) => {
        if (dhcp.dhcpCheck(dv, o, end) !== 0) return;
        dhcp.dhcpDescribe(dv, o, end);
        const total = [...(dhcp.dhcpOptions(dv, o, end) ?? [])].reduce((sum, [, data]) => sum + data.length, 0);
        expect(total).toBeLessThanOrEqual(end - o);
      },
      [[], request, [...request, 52, 1, 3]],
    );
  });
  test('DHCP, an option cut after its code', () => {
    const data = new Uint8Array(260);
    data.set([1, 1, 6]);
    data.set([0x63, 0x82, 0x53, 0x63, 0, 0, 12], 236);
    const dv = new GuardedView(data, 0, 243);
    expect([dhcp.dhcpCheck(dv, 0, 243), dhcp.dhcpOptions(dv, 0, 243)]).toEqual([0, null]);
  });
  test('DHCPv6', () => {
    hostile(
      (dv, o, end) => {
        if (dhcpv6.dhcpv6Check(dv, o, end) !== 0) return;
        dhcpv6.dhcpv6Describe(dv, o, end);
        for (let code = 0; code < 40; code++) dhcpv6.dhcpv6FindOption(dv, o + 4, end, code);
      },
      [[], [1, 0, 0, 0, 0, 1, 0, 4], [1, 0, 0, 0, 0, 3, 0, 0]],
    );
  });
});
