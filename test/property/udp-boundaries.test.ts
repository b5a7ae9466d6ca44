/**
 * Whatever is joined and cut on the way: the datagrams that one side sends are those that the other gets, with the same
 * boundaries, in the same order, whatever the guest negotiated, its buffers and the host's interface are like.
 */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { GSO_NONE, GSO_UDP_L4 } from '../../src/stack/ports';
import type { SentFrame } from '../support/stack/fake-guest-port';
import { DatagramRig } from '../support/stack/datagram-rig';
import { datagram, dissect } from '../support/stack/link-rig';
import { join } from '../support/stack/fragments';

const ENDS = [
  { guest: '192.0.2.10', peer: { address: '203.0.113.5', port: 7000 }, host: '198.51.100.99' },
  { guest: '2001:db8::10', peer: { address: '2001:db8:5::5', port: 7000 }, host: '2001:db8:99::99' },
];

/** Runs of datagrams of one length, as programs send them, and others. */
const lengths = fc
  .array(
    fc.tuple(
      fc.integer({ min: 1, max: 30 }),
      fc.oneof(
        fc.constantFrom(0, 1, 100, 200, 1400, 1472),
        fc.nat(3000),
        fc.integer({ min: 0, max: 9 }).map((n) => 30_000 + n),
      ),
    ),
    { minLength: 1, maxLength: 8 },
  )
  .map((runs) =>
    runs.flatMap(([count, length]) => Array<number>(length > 20_000 ? Math.min(count, 4) : count).fill(length)),
  );

function numbered(all: readonly number[]): Uint8Array[] {
  return all.map((length, n) => Uint8Array.from({ length }, (_, i) => (i * 3 + n * 101 + (n >> 8)) & 0xff));
}

/** Short text that differs where the datagrams do. */
const text = (data: readonly Uint8Array[]): string[] =>
  data.map((d) => `${d.length} ${createHash('sha256').update(d).digest('hex').slice(0, 12)}`);

/** What a guest makes of frames: fragments put together, joined datagrams cut. */
function datagrams(frames: readonly SentFrame[], v6: boolean): Uint8Array[] {
  const found: Uint8Array[] = [];
  let fragments: Uint8Array[] = [];
  for (const { bytes, gsoType, gsoSize } of frames) {
    const fragment = v6 ? bytes[20] === 44 : (((bytes[20] << 8) | bytes[21]) & 0x3fff) !== 0;
    if (fragment) {
      fragments.push(bytes);
      const more = v6 ? (bytes[57] & 1) !== 0 : (bytes[20] & 0x20) !== 0;
      if (more) continue;
    }
    const { payload } = dissect(fragment ? join(fragments) : bytes);
    fragments = [];
    if (gsoType === GSO_NONE) found.push(payload);
    else for (let at = 0; at < payload.length; at += gsoSize) found.push(payload.slice(at, at + gsoSize));
  }
  return found;
}

const world = fc.record({
  v6: fc.boolean(),
  gsoUdp4: fc.boolean(),
  gsoUdp6: fc.boolean(),
  joins: fc.boolean(),
  refused: fc.boolean(),
  mtu: fc.constantFrom(65_520, 9000, 1500),
  hostMtu: fc.constantFrom(65_536, 1500, 1280),
  rowSize: fc.constantFrom(60, 500, 1536, 65_536),
  bufferSize: fc.constantFrom(1536, 4096, 65_562),
});

test('to the guest', () => {
  fc.assert(
    fc.property(world, lengths, fc.integer({ min: 1, max: 40 }), (w, all, batch) => {
      const ends = ENDS[w.v6 ? 1 : 0];
      const rig = new DatagramRig({
        config: { mtu: w.mtu },
        port: {
          gsoUdp4: w.gsoUdp4,
          gsoUdp6: w.gsoUdp6,
          rowSize: w.rowSize,
          bufferSize: w.bufferSize,
          memorySize: 32 << 20,
        },
      });
      rig.host.joins = w.joins;
      rig.guest(datagram(ends.guest, 5000, ends.peer.address, ends.peer.port, new Uint8Array(1)));
      const [socket] = [...rig.host.sockets.values()];
      const sent = numbered(all);
      const got: Uint8Array[] = [];
      for (let i = 0; i < sent.length; i += batch) {
        for (const data of sent.slice(i, i + batch)) rig.host.queue(socket, ends.peer, ends.host, data);
        rig.pump();
        const frames = rig.port.sentFrames();
        for (const f of frames) if (f.gsoType === GSO_NONE) expect(f.length).toBeLessThanOrEqual(14 + w.mtu);
        got.push(...datagrams(frames, w.v6));
      }
      expect(text(got)).toEqual(text(sent));
      expect(rig.host.cut).toBe(0);
      expect(rig.allDrops()).toEqual({});
    }),
    { numRuns: 150, interruptAfterTimeLimit: 2500, markInterruptAsFailure: false },
  );
}, 15_000);

test('from the guest', () => {
  fc.assert(
    fc.property(world, lengths, fc.integer({ min: 1, max: 40 }), fc.boolean(), (w, all, batch, uso) => {
      const ends = ENDS[w.v6 ? 1 : 0];
      const rig = new DatagramRig({ port: { rowSize: w.rowSize, memorySize: 32 << 20 } });
      rig.host.mtu = w.hostMtu;
      rig.host.segmentRefused = w.refused;
      const sent = numbered(all);
      for (let i = 0; i < sent.length;) {
        const frames: Uint8Array[] = [];
        for (let n = 0; n < batch && i < sent.length; n++) {
          const data = sent[i++];
          // A guest that cuts by USO puts what follows of the same length into the frame, and one that is shorter.
          const parts = [data];
          let bytes = data.length;
          while (uso && i < sent.length && data.length > 0 && parts.length < 64) {
            const next = sent[i];
            if (next.length === 0 || next.length > data.length || bytes + next.length > 65_487) break;
            parts.push(next);
            bytes += next.length;
            i++;
            if (next.length < data.length) break;
          }
          const frame = datagram(ends.guest, 5000, ends.peer.address, ends.peer.port, Buffer.concat(parts));
          if (parts.length === 1) rig.port.inject(frame);
          else rig.port.inject(frame, { csumPartial: true, gsoType: GSO_UDP_L4, gsoSize: data.length });
          frames.push(frame);
        }
        rig.stack.fromGuest(frames.length);
      }
      rig.stack.fromGuest(1000);
      expect(text(rig.host.sent.map((s) => s.data))).toEqual(text(sent));
      expect(rig.allDrops()).toEqual({});
    }),
    { numRuns: 150, interruptAfterTimeLimit: 2500, markInterruptAsFailure: false },
  );
}, 15_000);
