import * as fc from 'fast-check';
import { ROWS_PER_FRAME } from '../../../../src/stack/scratch';
import { C_DROPS, dropCode } from '../../../../src/stack/counters';
import { COMMIT_NEEDS_CSUM, GSO_NONE, GSO_TCPV4 } from '../../../../src/stack/ports';
import { PortRig } from '../../../support/dataplane/port-rig';

const VNET = Buffer.alloc(12);
const MRG = 15;
const INDIRECT = 28;
const EVENT_IDX = 29;
const VERSION_1 = 32;
const CSUM = 0;
const GUEST_CSUM = 1;
const GUEST_TSO4 = 7;
const HOST_TSO4 = 11;
const HOST_TSO6 = 12;
const HOST_ECN = 13;
const BASE = [MRG, INDIRECT, EVENT_IDX, VERSION_1];

function bytes(length: number, seed = 1): Buffer {
  const b = Buffer.alloc(length);
  for (let i = 0; i < length; i++) b[i] = (i * 31 + seed * 17 + (i >> 8)) & 0xff;
  return b;
}

/** Cuts `data` at the given lengths; the rest is the last piece. */
function cut(data: Buffer, lengths: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  let at = 0;
  for (const n of lengths) {
    if (at + n >= data.length) break;
    pieces.push(data.subarray(at, at + n));
    at += n;
  }
  pieces.push(data.subarray(at));
  return pieces;
}

function drops(rig: PortRig, name: Parameters<typeof dropCode>[0]): number {
  return rig.counters[C_DROPS + dropCode(name)];
}

/** Sends one frame to the guest as the stack would. */
function send(rig: PortRig, header: Buffer, payload: Buffer, room = payload.length): number {
  const { port } = rig;
  const rows = port.reserve(header.length, room, 2048);
  if (rows < 0) return rows;
  expect(rig.scatter(2048, rows, payload)).toBe(payload.length);
  port.front();
  for (let i = 0; i < header.length; i++) port.out.setUint8(port.outOff + i, header[i]);
  port.commit(payload.length, 0, 0, 0, GSO_NONE, 0);
  return rows;
}

describe('from guest', () => {
  it('gives head and rows of a frame whatever its cuts, and returns the chains together', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 14, max: 3000 }),
        fc.array(fc.integer({ min: 1, max: 200 }), { maxLength: 12 }),
        fc.boolean(),
        (length, cuts, indirect) => {
          const rig = new PortRig();
          const frame = bytes(length);
          rig.transmit(cut(Buffer.concat([VNET, frame]), cuts), indirect);
          rig.transmit([VNET, bytes(60, 2)]);
          expect(rig.port.receive(5)).toBe(length);
          expect(rig.gather(5, rig.port.rowCount).equals(frame)).toBe(true);
          const { headLen } = rig.port;
          expect(headLen).toBe(Math.min(96, length));
          expect(Buffer.from(rig.port.head.buffer, 0, headLen).equals(frame.subarray(0, headLen))).toBe(true);
          expect(rig.port.pull(200)).toBe(Math.min(200, length));
          const pulled = Math.min(200, length);
          expect(Buffer.from(rig.port.head.buffer, 0, pulled).equals(frame.subarray(0, pulled))).toBe(true);
          expect(rig.port.receive(1000)).toBe(60);
          expect(rig.port.receive(1500)).toBe(0);
          expect(rig.tx.pollUsed()).toBe(0);
          rig.port.releaseReceived();
          expect(rig.tx.pollUsed()).toBe(1);
          expect(rig.tx.usedLen).toBe(0);
          expect(rig.tx.pollUsed()).toBe(1);
          expect(rig.tx.pollUsed()).toBe(0);
          rig.port.endDelays();
          expect(rig.signals).toEqual([101]);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('does not fetch bytes again that were copied before', () => {
    const rig = new PortRig();
    const frame = bytes(150);
    rig.transmit([Buffer.concat([VNET, frame])]);
    rig.port.receive(0);
    rig.bytes.fill(0x55, 0x100000, 0x100000 + 400); // the guest rewrites its buffer meanwhile
    rig.port.pull(150);
    expect(Buffer.from(rig.port.head.buffer, 0, 96).equals(frame.subarray(0, 96))).toBe(true);
    expect(rig.port.head.getUint8(100)).toBe(0x55);
  });

  it.each([
    ['shorter than an Ethernet header', Buffer.concat([VNET, bytes(13)]), 'frame_short'],
    ['shorter than the net header', Buffer.alloc(5), 'frame_short'],
    ['longer than any frame', Buffer.concat([VNET, Buffer.alloc(14 + 65536)]), 'frame_too_long'],
    [
      'a checksum to finish that was not negotiated',
      Buffer.concat([Buffer.from([1]), VNET.subarray(1), bytes(60)]),
      'vnet_header',
    ],
    [
      'segmentation that was not negotiated',
      Buffer.concat([Buffer.from([0, 1, 0, 0, 100]), VNET.subarray(5), bytes(60)]),
      'vnet_header',
    ],
  ] as const)('drops a frame %s, with a count', (_, data, reason) => {
    const rig = new PortRig();
    rig.transmit([data]);
    rig.transmit([VNET, bytes(64)]);
    expect(rig.port.receive(0)).toBe(64);
    expect(drops(rig, reason)).toBe(1);
    rig.port.releaseReceived();
    expect([rig.tx.pollUsed(), rig.tx.pollUsed(), rig.tx.pollUsed()]).toEqual([1, 1, 0]);
  });

  it('checks the marks of a segmentation offload', () => {
    const marks = (flags: number, type: number, size: number, start: number, offset: number): Buffer => {
      const h = Buffer.alloc(12);
      h[0] = flags;
      h[1] = type;
      h.writeUInt16LE(size, 4);
      h.writeUInt16LE(start, 6);
      h.writeUInt16LE(offset, 8);
      return h;
    };
    const rig = new PortRig({ features: [...BASE, CSUM, HOST_TSO4, HOST_ECN] });
    const bad = [
      marks(1, 1, 0, 34, 16), // no size
      marks(0, 1, 1460, 34, 16), // without a partial checksum
      marks(1, 4, 1460, 34, 16), // IPv6 was not negotiated
      marks(1, 0x84, 1460, 34, 16),
      marks(1, 3, 1460, 34, 16), // UFO never is
      marks(1, 5, 1460, 34, 6), // USO was not
      marks(1, 0x85, 1460, 34, 6),
      marks(1, 0x80, 1460, 34, 16), // ECN of nothing
      marks(1, 0x21, 1460, 34, 16), // tunnels never are
      marks(1, 0xff, 1460, 34, 16),
      marks(1, 0, 0, 90, 16), // checksum beyond the frame
      marks(1, 0, 0, 65535, 65535),
    ];
    for (const h of bad) rig.transmit([h, bytes(100)]);
    rig.transmit([marks(1, 0x81, 1460, 34, 16), bytes(100)]);
    expect(rig.port.receive(0)).toBe(100);
    expect(drops(rig, 'vnet_header')).toBe(bad.length);
    expect([rig.port.csumPartial, rig.port.gsoType, rig.port.gsoSize]).toEqual([true, 0x81, 1460]);
    rig.transmit([marks(0, 0, 0, 0, 0), bytes(70)]);
    expect(rig.port.receive(0)).toBe(70);
    expect([rig.port.csumPartial, rig.port.gsoType, rig.port.gsoSize]).toEqual([false, 0, 0]);
    // Unknown flags are not looked at (virtio 1.2 §5.1.6.2.2), nor is hdr_len.
    const lies = marks(0xf1, 1, 1460, 34, 16);
    lies.writeUInt16LE(65535, 2);
    rig.transmit([lies, bytes(3000)]);
    expect(rig.port.receive(0)).toBe(3000);
    expect([rig.port.csumPartial, rig.port.gsoType, rig.port.gsoSize]).toEqual([true, 1, 1460]);
  });

  it('takes ECN marks only where they were negotiated', () => {
    const rig = new PortRig({ features: [...BASE, CSUM, HOST_TSO4, HOST_TSO6] });
    for (const type of [0x81, 0x84]) {
      const h = Buffer.alloc(12);
      h[0] = 1;
      h[1] = type;
      h.writeUInt16LE(1000, 4);
      rig.transmit([h, bytes(100)]);
    }
    expect(rig.port.receive(0)).toBe(0);
    expect(drops(rig, 'vnet_header')).toBe(2);
  });

  it('drains a disabled ring without effect', () => {
    const rig = new PortRig();
    rig.port.tx.enabled = false;
    rig.transmit([VNET, bytes(60)]);
    expect(rig.port.receive(0)).toBe(0);
    rig.port.releaseReceived();
    expect(rig.tx.pollUsed()).toBe(1);
  });

  it('stops at a ring fault and says which', () => {
    const rig = new PortRig();
    rig.transmit([VNET, bytes(60)]);
    rig.view.setUint16(0x10000 + 0x4000 + 4, 999, true); // head beyond the ring
    expect(rig.port.receive(0)).toBe(0);
    expect(rig.port.tx.fault).toBeLessThan(0);
    expect(rig.port.receive(0)).toBe(0);
  });
});

describe('to guest', () => {
  it('fills merged buffers of any shape; what the guest reads is what was sent', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 14, max: 120 }),
        fc.integer({ min: 0, max: 9000 }),
        fc.integer({ min: 0, max: 4000 }),
        fc.array(fc.array(fc.integer({ min: 13, max: 2000 }), { minLength: 1, maxLength: 3 }), {
          minLength: 1,
          maxLength: 60,
        }),
        (headerLen, payloadLen, slack, chains) => {
          const rig = new PortRig({ ringSize: 512 });
          rig.post(chains);
          const header = bytes(headerLen, 3);
          const payload = bytes(payloadLen, 4);
          const n = send(rig, header, payload, payloadLen + slack);
          rig.port.flush();
          const room = chains.flat().reduce((a, b) => a + b, 0);
          if (n < 0) {
            expect(room).toBeLessThan(12 + headerLen + payloadLen + slack);
            expect(rig.port.rx.wanted).toBe(true);
            expect(rig.received()).toBeNull();
            return;
          }
          const got = rig.received();
          if (got === null) throw new Error('nothing received');
          const frame = got.subarray(12);
          expect(frame.subarray(0, headerLen).equals(header)).toBe(true);
          expect(frame.subarray(headerLen, headerLen + payloadLen).equals(payload)).toBe(true);
          expect(frame.subarray(headerLen + payloadLen).every((b) => b === 0)).toBe(true);
          // Padded as far as the buffers go that were taken for what it might have been.
          let taken = 0;
          for (const chain of chains) {
            if (taken >= 12 + headerLen + payloadLen + slack) break;
            taken += chain.reduce((a, b) => a + b, 0);
          }
          expect(frame.length).toBe(Math.max(Math.min(60, taken - 12), headerLen + payloadLen));
          expect(rig.received()).toBeNull();
          expect(rig.signals).toEqual([100]);
          // Chains that were not needed are still the guest's to be filled.
          expect(rig.rxQueue.outstanding).toBe(0);
          expect(rig.rxQueue.lastAvail).toBe(rig.rxQueue.usedIdx);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('gives no frame whose pieces are more than one frame may have', () => {
    const rig = new PortRig({ ringSize: 1024 });
    rig.post([[66], ...Array.from({ length: 1023 }, () => [40])]);
    expect(rig.port.reserve(54, 40 * 1023, 2048)).toBe(-1);
    expect(rig.port.maxFrame).toBe(54 + 40 * ROWS_PER_FRAME);
    expect(rig.port.rx.retry).toBe(true);
    const data = bytes(40 * ROWS_PER_FRAME);
    expect(send(rig, bytes(54), data)).toBe(ROWS_PER_FRAME);
    rig.port.flush();
    expect(rig.received()?.subarray(66).equals(data)).toBe(true);
  });

  it('does not wait for a frame of more buffers than it ever takes', () => {
    const rig = new PortRig({ ringSize: 8192 });
    rig.post(Array.from({ length: 8000 }, () => [13]));
    expect(rig.port.reserve(54, 65_000, 2048)).toBe(-1);
    expect(rig.port.rx.retry).toBe(true);
    expect(rig.port.maxFrame).toBe(13 * 4096 - 12);
    expect(rig.port.reserve(54, 65_000, 2048)).toBe(-1);
    expect(send(rig, bytes(54), bytes(1000))).toBeGreaterThan(0);
  });

  it('takes several reservations, commits in order, gives the rest back', () => {
    const rig = new PortRig();
    rig.post(Array.from({ length: 40 }, () => [1526]));
    let row = 2048;
    for (let i = 0; i < 5; i++) row += rig.port.reserve(54, 3000, row);
    const data = bytes(7000);
    rig.scatter(2048, row - 2048, data);
    for (const n of [3000, 3000, 1000]) {
      rig.port.front();
      for (let i = 0; i < 54; i++) rig.port.out.setUint8(rig.port.outOff + i, 0x40 + i);
      rig.port.commit(n, 0, 0, 0, GSO_NONE, 0);
    }
    rig.port.cancel();
    expect(rig.received()).toBeNull(); // not before the flush
    rig.port.flush();
    const frames = [rig.received(), rig.received(), rig.received()];
    expect(rig.received()).toBeNull();
    expect(Buffer.concat(frames.map((f) => f?.subarray(12 + 54) ?? Buffer.alloc(0))).equals(data)).toBe(true);
    expect(frames.map((f) => f?.readUInt16LE(10))).toEqual([3, 3, 1]);
    expect(rig.rxQueue.outstanding).toBe(0);
    expect(rig.rxQueue.lastAvail).toBe(7);
    expect(rig.port.rx.spoiled).toBe(0);
  });

  it('hands chains back empty when a younger frame makes them unreachable', () => {
    const rig = new PortRig();
    rig.post(Array.from({ length: 6 }, () => [1526]));
    for (let i = 0, row = 2048; i < 2; i++) row += rig.port.reserve(54, 3000, row);
    for (const n of [100, 200]) {
      rig.port.front();
      rig.port.commit(n, 0, 0, 0, GSO_NONE, 0);
    }
    rig.port.flush();
    expect(rig.port.rx.spoiled).toBe(2);
    expect(rig.takeUsed()?.length).toBe(12 + 154);
    expect(rig.takeUsed()?.length).toBe(0);
    expect(rig.takeUsed()?.length).toBe(0);
    expect(rig.takeUsed()?.length).toBe(12 + 254);
    expect(rig.takeUsed()).toBeNull();
    expect(rig.rxQueue.lastAvail).toBe(4); // the second frame's own two spare chains went back
  });

  it('completes checksums for a guest that did not negotiate to, over odd cuts', () => {
    for (const chain of [[2000], [20, 47, 1901], [13, 1, 1, 3, 900, 501, 600]]) {
      const rig = new PortRig();
      rig.post([chain]);
      const header = bytes(54, 5);
      header.writeUInt16BE(0x1234, 34 + 16); // the pseudo-header sum
      const payload = bytes(777, 6);
      const rows = rig.port.reserve(54, 777, 2048);
      rig.scatter(2048, rows, payload);
      rig.port.front();
      for (let i = 0; i < 54; i++) rig.port.out.setUint8(rig.port.outOff + i, header[i]);
      rig.port.commit(777, COMMIT_NEEDS_CSUM, 34, 16, GSO_NONE, 0);
      rig.port.flush();
      const got = rig.received();
      if (got === null) throw new Error('nothing received');
      expect(got[0]).toBe(0);
      const frame = Buffer.from(got.subarray(12));
      const field = frame.readUInt16BE(50);
      frame.writeUInt16BE(0x1234, 50);
      let sum = 0;
      for (let i = 34; i < frame.length; i++) sum += (i - 34) % 2 === 0 ? frame[i] << 8 : frame[i];
      while (sum > 0xffff) sum = (sum >>> 16) + (sum & 0xffff);
      expect(field).toBe(~sum & 0xffff);
    }
  });

  it('leaves checksum and segmentation to a guest that negotiated them', () => {
    const rig = new PortRig({ features: [...BASE, GUEST_CSUM, GUEST_TSO4] });
    expect(rig.port.gsoTcp4).toBe(true);
    expect(rig.port.gsoTcp6).toBe(false);
    rig.post([[70000]]);
    rig.port.reserve(54, 5000, 2048);
    rig.port.front();
    rig.port.out.setUint16(rig.port.outOff + 50, 0x4321);
    rig.port.commit(5000, COMMIT_NEEDS_CSUM, 34, 16, GSO_TCPV4, 1460);
    rig.port.flush();
    const got = rig.received();
    if (got === null) throw new Error('nothing received');
    expect([got[0], got[1]]).toEqual([1, 1]);
    expect([2, 4, 6, 8, 10].map((o) => got.readUInt16LE(o))).toEqual([54, 1460, 34, 16, 1]);
    expect(got.readUInt16BE(12 + 50)).toBe(0x4321);
  });

  it('without merged buffers learns how large a frame may be', () => {
    const rig = new PortRig({ features: [VERSION_1] });
    rig.post([[1530], [1530]]);
    expect(rig.port.reserve(54, 9000, 2048)).toBe(-1);
    expect(rig.port.maxFrame).toBe(1518);
    expect(rig.port.rx.retry).toBe(true);
    expect(send(rig, bytes(54), bytes(1464))).toBe(1);
    rig.port.flush();
    expect(rig.received()?.length).toBe(12 + 1518);
  });

  it('learns that a whole ring may be too small for a frame', () => {
    const rig = new PortRig({ ringSize: 4 });
    rig.post([[1526], [1526], [1526]]);
    expect(rig.port.reserve(54, 9000, 2048)).toBe(-1);
    expect(rig.port.rx.wanted).toBe(true); // a fourth may come
    rig.post([[1526]]);
    expect(rig.port.reserve(54, 9000, 2048)).toBe(-1);
    expect(rig.port.maxFrame).toBe(4 * 1526 - 12);
    expect(send(rig, bytes(54), bytes(4 * 1526 - 12 - 54))).toBe(4);
    rig.port.flush();
    expect(rig.received()?.length).toBe(4 * 1526);
  });

  it('writes a 10-byte header for a legacy guest', () => {
    const rig = new PortRig({ features: [] });
    rig.post([[1524]]);
    const frame = bytes(60);
    send(rig, frame, Buffer.alloc(0));
    rig.port.flush();
    const got = rig.received(10);
    expect(got?.length).toBe(70);
    expect(got?.subarray(10).equals(frame)).toBe(true);
  });

  it('stops at a receive chain that it may not write', () => {
    const rig = new PortRig();
    rig.rx.addChain([{ gpa: 0x10100000, length: 100 }], [{ gpa: 0x10200000, length: 1500 }]);
    rig.rx.publish();
    expect(rig.port.reserve(54, 0, 2048)).toBe(-1);
    expect(rig.port.rx.fault).toBeLessThan(0);
  });

  it('says no when the link is down', () => {
    const rig = new PortRig();
    rig.post([[1526]]);
    rig.port.rx.enabled = false;
    expect(rig.port.up).toBe(false);
    expect(rig.port.reserve(54, 0, 2048)).toBe(-1);
    rig.port.rx.enabled = true;
    rig.port.rx.stop();
    expect(rig.port.reserve(54, 0, 2048)).toBe(-1);
  });
});
