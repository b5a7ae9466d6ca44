import { text } from '../../../support/stack/addresses';
import {
  BROADCAST_MAC,
  GUEST_MAC,
  OUR_MAC,
  bytes,
  dissect,
  ethernet,
  hex,
  linkRig,
} from '../../../support/stack/link-rig';

const request = (senderIp: string, targetIp: string, op = '00 01'): Uint8Array =>
  ethernet(
    0x0806,
    bytes(`00 01 08 00 06 04 ${op}`, GUEST_MAC, senderIp, '00 00 00 00 00 00', targetIp),
    GUEST_MAC,
    BROADCAST_MAC,
  );

const GUEST = 'c0 00 02 0a'; // 192.0.2.10
const GATEWAY = 'c0 00 02 01';

describe('ARP', () => {
  test('a request for the gateway is answered, byte for byte', () => {
    const rig = linkRig();
    const sent = rig.exchange(request(GUEST, GATEWAY));
    const reply = bytes(
      GUEST_MAC,
      OUR_MAC,
      '08 06',
      '00 01 08 00 06 04 00 02',
      OUR_MAC,
      GATEWAY,
      GUEST_MAC,
      GUEST,
      new Uint8Array(18),
    );
    expect(sent.map(hex)).toEqual([hex(reply)]);
  });

  test('every other address of the world is ours too', () => {
    const rig = linkRig();
    const [reply] = rig.exchange(request(GUEST, '08 08 08 08'));
    expect(hex(dissect(reply).payload)).toBe(
      hex(bytes('00 01 08 00 06 04 00 02', OUR_MAC, '08 08 08 08', GUEST_MAC, GUEST)),
    );
  });

  test.each([
    ['the assigned address', GUEST, GUEST],
    ['the assigned address, asked from elsewhere', '0a 00 00 05', GUEST],
    ['an announcement', '0a 00 00 05', '0a 00 00 05'],
    ['a probe for an address that the guest may take', '00 00 00 00', '0a 00 00 05'],
    ['a probe for the assigned address', '00 00 00 00', GUEST],
  ])('no answer: %s', (_, sender, target) => {
    const rig = linkRig();
    expect(rig.exchange(request(sender, target))).toEqual([]);
    expect(rig.drops('arp_malformed')).toBe(0);
  });

  test('a probe for the address that is our own is answered', () => {
    expect(linkRig().exchange(request('00 00 00 00', GATEWAY))).toHaveLength(1);
  });

  test('no answer for the address the guest was seen to use', () => {
    const rig = linkRig();
    expect(rig.exchange(request(GUEST, '0a 00 00 07'))).toHaveLength(1);
    rig.ctx.link.guest4 = 0x0a000007;
    expect(rig.exchange(request(GUEST, '0a 00 00 07'))).toEqual([]);
  });

  test('replies are ignored, malformed packets are counted', () => {
    const rig = linkRig();
    expect(rig.exchange(request(GUEST, GATEWAY, '00 02'))).toEqual([]);
    expect(rig.drops('arp_malformed')).toBe(0);
    const wrongType = request(GUEST, GATEWAY);
    wrongType[14] = 9;
    expect(rig.exchange(wrongType)).toEqual([]);
    expect(rig.exchange(request(GUEST, GATEWAY).subarray(0, 41))).toEqual([]);
    expect(rig.drops('arp_malformed')).toBe(2);
  });

  test('without IPv4 there is no ARP', () => {
    const rig = linkRig({}, null);
    expect(rig.exchange(request(GUEST, GATEWAY))).toEqual([]);
    expect(rig.drops('family_disabled')).toBe(1);
  });

  test('the probe at link up asks for the assigned address by broadcast', () => {
    const rig = linkRig({}, {}, null);
    rig.stack.onLinkUp();
    const [probe, ...rest] = rig.port.sent();
    expect(rest).toEqual([]);
    const d = dissect(probe);
    expect(d.dstMac).toBe(hex(bytes(BROADCAST_MAC)));
    expect(hex(d.payload)).toBe(hex(bytes('00 01 08 00 06 04 00 01', OUR_MAC, GATEWAY, '00 00 00 00 00 00', GUEST)));
  });

  test('the guest is not identified by ARP contents, only by its frames', () => {
    const rig = linkRig();
    rig.exchange(request('0a 00 00 05', GATEWAY));
    expect(text(Int32Array.of(0, 0, 0xffff, rig.ctx.link.guest4))).toBe('192.0.2.10');
    expect([rig.ctx.link.guestMacHi, rig.ctx.link.guestMacLo]).toEqual([0x5254, 0x00123456]);
  });
});
