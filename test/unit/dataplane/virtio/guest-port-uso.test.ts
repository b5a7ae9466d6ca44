/** Frames that hold several datagrams (virtio 1.2 §5.1.6: VIRTIO_NET_HDR_GSO_UDP_L4), both ways. */
import { C_DROPS, dropCode } from '../../../../src/stack/counters';
import { PortRig } from '../../../support/dataplane/port-rig';

const CSUM = 0;
const GUEST_CSUM = 1;
const GUEST_USO4 = 54;
const HOST_USO = 56;
const MRG = 15;
const INDIRECT = 28;
const EVENT_IDX = 29;
const VERSION_1 = 32;
const BASE = [MRG, INDIRECT, EVENT_IDX, VERSION_1];

function drops(rig: PortRig, name: Parameters<typeof dropCode>[0]): number {
  return rig.counters[C_DROPS + dropCode(name)];
}

describe('datagrams in one frame', () => {
  const USO = [...BASE, CSUM, HOST_USO];

  function marks(start: number, offset: number, flags = 1, size = 1000): Buffer {
    const h = Buffer.alloc(12);
    h[0] = flags;
    h[1] = 5;
    h.writeUInt16LE(size, 4);
    h.writeUInt16LE(start, 6);
    h.writeUInt16LE(offset, 8);
    return h;
  }

  /** Zeros but for the fields that are looked at. */
  function frame(ethertype: number, at: Record<number, number>, length = 3000): Buffer {
    const f = Buffer.alloc(length);
    f.writeUInt16BE(ethertype, 12);
    for (const [offset, value] of Object.entries(at)) f[Number(offset)] = value;
    return f;
  }

  const V4 = { 14: 0x45, 23: 17 };
  const V6 = { 14: 0x60, 20: 17 };

  it.each<[string, Buffer, Buffer]>([
    ['IPv4', marks(34, 6), frame(0x0800, V4)],
    ['IPv4 with options', marks(38, 6), frame(0x0800, { ...V4, 14: 0x46 })],
    ['IPv6', marks(54, 6), frame(0x86dd, V6)],
    ['IPv6 with an extension header', marks(62, 6), frame(0x86dd, { ...V6, 20: 60 })],
    ['no payload', marks(34, 6), frame(0x0800, V4, 42)],
    // A priority tag counts in the marks, as in all that the guest says of a frame.
    ['IPv4 with a priority tag', marks(38, 6), frame(0x8100, { 14: 0xe0, 16: 0x08, 18: 0x45, 27: 17 })],
    ['IPv6 with a priority tag', marks(58, 6), frame(0x8100, { 16: 0x86, 17: 0xdd, 18: 0x60, 24: 17 })],
  ])('%s: passed on with the marks', (_, header, data) => {
    const rig = new PortRig({ features: USO });
    rig.transmit([header, data]);
    expect(rig.port.receive(0)).toBe(data.length);
    expect([rig.port.csumPartial, rig.port.gsoType, rig.port.gsoSize]).toEqual([true, 5, 1000]);
  });

  it.each<[string, Buffer, Buffer]>([
    ['no size', marks(34, 6, 1, 0), frame(0x0800, V4)],
    ['a checksum that is not left to us', marks(34, 6, 0), frame(0x0800, V4)],
    ['the checksum of TCP', marks(34, 16), frame(0x0800, V4)],
    ['a checksum in the payload', marks(50, 6), frame(0x0800, V4)],
    ['a checksum in the IP header', marks(30, 6), frame(0x0800, V4)],
    ['a TCP segment', marks(34, 6), frame(0x0800, { ...V4, 23: 6 })],
    ['no room for a UDP header', marks(34, 6), frame(0x0800, V4, 41)],
    ['IPv4 behind the options', marks(34, 6), frame(0x0800, { ...V4, 14: 0x46 })],
    ['IPv6 before the transport header', marks(34, 6), frame(0x86dd, V6)],
    ['IPv6 with an extension header, before it', marks(54, 6), frame(0x86dd, { ...V6, 20: 60 })],
    ['ARP', marks(34, 6), frame(0x0806, {})],
    ['a VLAN tag', marks(38, 6), frame(0x8100, {})],
    ['a tag that the marks do not count', marks(34, 6), frame(0x8100, { 16: 0x08, 18: 0x45, 27: 17 })],
    ['two tags', marks(42, 6), frame(0x8100, { 16: 0x81, 20: 0x08, 22: 0x45, 31: 17 })],
    ['a tag that is cut', marks(0, 6), frame(0x8100, {}, 16)],
    ['an IPv6 header that is cut', marks(34, 6), frame(0x86dd, V6, 50)],
  ])('%s: dropped', (_, header, data) => {
    const rig = new PortRig({ features: USO });
    rig.transmit([header, data]);
    expect(rig.port.receive(0)).toBe(0);
    expect(drops(rig, 'vnet_header')).toBe(1);
  });

  it('to the guest: the header that Linux cuts by', () => {
    const rig = new PortRig({ features: [...BASE, GUEST_CSUM, GUEST_USO4] });
    expect([rig.port.gsoUdp4, rig.port.gsoUdp6]).toEqual([true, false]);
    rig.post([[4096]]);
    expect(rig.port.reserve(42, 300, 0)).toBe(1);
    rig.port.front();
    for (let i = 0; i < 42; i++) rig.port.out.setUint8(rig.port.outOff + i, i);
    rig.port.commit(300, 1, 34, 6, 5, 100);
    rig.port.flush();
    const frame = rig.received();
    expect(frame).toHaveLength(12 + 342);
    // flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
    expect([...(frame ?? [])].slice(0, 14)).toEqual([1, 5, 42, 0, 100, 0, 34, 0, 6, 0, 1, 0, 0, 1]);
  });
});
