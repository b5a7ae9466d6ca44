import { C_BYTES_TO_GUEST_ICMP, C_BYTES_TO_GUEST_TCP, C_FRAMES_TO_GUEST } from '../../../../src/stack/counters';
import {
  CLASS_ICMP,
  CLASS_TCP,
  OUTPUT_HEADER_LEN4,
  OUTPUT_HEADER_LEN6,
  OUTPUT_TTL,
  countToGuest,
  outputHeaders,
  sendSmall,
} from '../../../../src/stack/ip/to-guest';
import { COMMIT_NEEDS_CSUM, GSO_NONE } from '../../../../src/stack/ports';
import { pseudoHeaderSum4, checksumFold } from '../../../../src/stack/wire/checksum';
import { udpWrite } from '../../../../src/stack/wire/udp';
import { ipFields, words } from '../../../support/stack/addresses';
import { BROADCAST_MAC, OUR_MAC, bytes, dissect, hex, linkRig } from '../../../support/stack/link-rig';

describe('output', () => {
  test('IPv4 headers, with payload by rows and the checksum left to the port', () => {
    const rig = linkRig({}, {}, {}, { rowSize: 3 });
    const { ctx, port } = rig;
    const rows = port.reserve(OUTPUT_HEADER_LEN4 + 8, 10, 100);
    expect(rows).toBe(4);
    port.memory.scatter(100, rows, bytes('01 02 03 04 05 06 07'));
    port.front();
    const [s, d] = [words('198.51.100.7'), words('192.0.2.10')];
    const l4 = outputHeaders(ctx, ipFields(true, s, d, { protocol: 17, ttl: 63, tos: 0x2e }), 15);
    expect(l4).toBe(port.outOff + OUTPUT_HEADER_LEN4);
    udpWrite(port.out, l4, 1000, 2000, 15, checksumFold(pseudoHeaderSum4(s[3], d[3], 17, 15)));
    port.commit(7, COMMIT_NEEDS_CSUM, OUTPUT_HEADER_LEN4, 6, GSO_NONE, 0);
    countToGuest(ctx, CLASS_TCP, OUTPUT_HEADER_LEN4 + 15);
    const [frame] = port.sent();
    expect(hex(frame.subarray(0, 34))).toBe(
      hex(
        bytes(
          BROADCAST_MAC,
          OUR_MAC,
          '0800',
          '45 2e 00 23 00 00 40 00 3f 11',
          frame.subarray(24, 26),
          'c6336407 c000020a',
        ),
      ),
    );
    expect(dissect(frame)).toMatchObject({
      srcPort: 1000,
      dstPort: 2000,
      ttl: 63,
      payload: bytes('01 02 03 04 05 06 07'),
    });
    expect([ctx.counters[C_BYTES_TO_GUEST_TCP], ctx.counters[C_FRAMES_TO_GUEST]]).toEqual([49, 1]);
  });

  test('IPv6 headers, to the learnt Ethernet address', () => {
    const rig = linkRig();
    const { ctx, port } = rig;
    ctx.link.guestMacHi = 0x0200;
    ctx.link.guestMacLo = 0x5e1000ff;
    port.reserve(OUTPUT_HEADER_LEN6, 0, 0);
    port.front();
    const [s, d] = [words('2001:db8:1:2:3:4:5:6'), words('fe80::9')];
    const l4 = outputHeaders(
      ctx,
      ipFields(false, s, d, { protocol: 6, ttl: OUTPUT_TTL, tos: 0xb8, flowLabel: 0xfabcde }),
      0,
    );
    expect(l4).toBe(port.outOff + OUTPUT_HEADER_LEN6);
    port.commit(0, 0, 0, 0, GSO_NONE, 0);
    expect(hex(port.sent()[0].subarray(0, 54))).toBe(
      hex(
        bytes(
          '0200 5e1000ff',
          OUR_MAC,
          '86dd 6b8abcde 0000 06 ff',
          '20010db8 00010002 00030004 00050006 fe800000 00000000 00000000 00000009',
        ),
      ),
    );
  });

  test('small frames are copied whole, padded by the port, and counted', () => {
    const rig = linkRig();
    const frame = bytes(BROADCAST_MAC, OUR_MAC, '86dd', '01 02 03 04 05');
    expect(sendSmall(rig.ctx, new DataView(frame.buffer), frame.length, CLASS_ICMP)).toBe(true);
    const [sent] = rig.port.sent();
    expect(hex(sent)).toBe(hex(bytes(frame, new Uint8Array(60 - frame.length))));
    expect([rig.ctx.counters[C_BYTES_TO_GUEST_ICMP], rig.ctx.counters[C_FRAMES_TO_GUEST]]).toEqual([19, 1]);
  });

  test('a small frame that cannot be sent is a drop, with its reason', () => {
    const rig = linkRig({}, {}, {}, { buffers: 0 });
    const frame = new DataView(new ArrayBuffer(60));
    expect(sendSmall(rig.ctx, frame, 60, CLASS_ICMP)).toBe(false);
    rig.port.up = false;
    expect(sendSmall(rig.ctx, frame, 60, CLASS_ICMP)).toBe(false);
    expect([rig.drops('no_receive_buffers'), rig.drops('guest_down')]).toEqual([1, 1]);
    expect(rig.ctx.counters[C_FRAMES_TO_GUEST]).toBe(0);
    expect(rig.port.starved).toBe(true);
  });
});
