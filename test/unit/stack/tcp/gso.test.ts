/** Segmentation offload at MTU 1500, both ways: large frames, marked as the guest's kernel wants them, told apart by bytes. */
import { C_TCP_RETRANSMITS } from '../../../../src/stack/counters';
import { COMMIT_NEEDS_CSUM, GSO_ECN, GSO_TCPV4, GSO_TCPV6 } from '../../../../src/stack/ports';
import { TcpRig, openFromGuest, parseFrame, pattern } from '../../../support/stack/tcp-rig';
import type { Connection, OpenOptions, Segment } from '../../../support/stack/tcp-rig';

const families = [
  { v6: false, mss: 1460, type: GSO_TCPV4, headers: 54 },
  { v6: true, mss: 1440, type: GSO_TCPV6, headers: 74 },
];

const bytes = (s: readonly Segment[]): Buffer => Buffer.concat(s.map((x) => x.payload));
const total = (s: readonly Segment[]): number => s.reduce((n, x) => n + x.payload.length, 0);

function open(o: OpenOptions): { rig: TcpRig; c: Connection } {
  const rig = new TcpRig({ port: { gsoTcp4: true, gsoTcp6: true, memorySize: 32 << 20 } });
  const c = openFromGuest(rig, { ws: 7, ...o });
  // A window that has grown, as it does within the first round trips.
  c.flags('.');
  return { rig, c };
}

describe.each(families)('to the guest, $type', ({ v6, mss, type, headers }) => {
  test('many super-segments in one read; true gso_size; partial checksum; PSH on the last', () => {
    const { rig, c } = open({ v6, mss });
    const data = pattern(1_000_000);
    c.socket.write(data);
    const reads = rig.host.count('recv');
    rig.settle();
    const frames = rig.port.sentFrames();
    const sent = frames.map((f) => parseFrame(f.bytes, f.gsoType, f.gsoSize));
    expect(bytes(sent).equals(data)).toBe(true);
    expect(rig.host.count('recv') - reads).toBeLessThanOrEqual(8);
    const most = Math.floor((14 + 65535 - headers) / mss) * mss;
    let full = 0;
    for (const [i, s] of sent.entries()) {
      expect(s.payload.length).toBeLessThanOrEqual(most);
      expect(frames[i].flags & COMMIT_NEEDS_CSUM).toBe(COMMIT_NEEDS_CSUM);
      expect([frames[i].csumStart, frames[i].csumOffset]).toEqual([headers - 20, 16]);
      if (s.payload.length === most) full++;
      expect([s.gsoType, s.gsoSize]).toEqual(s.payload.length > mss ? [type, mss] : [0, 0]);
      // Whole segments, unless the data ended.
      if (s.flags === '.') expect(s.payload.length % mss).toBe(0);
    }
    // The first kilobytes are a guess at how much there is; the rest goes in frames of the largest kind.
    expect(full).toBeGreaterThanOrEqual(10);
    expect(sent.length).toBeLessThan(40);
    expect(sent.at(-1)?.flags).toBe('P.');
    const sizes = sent.map((s) => s.payload.length);
    expect(sent.filter((s) => s.flags === 'P.').length).toBeLessThanOrEqual(8); // one a read
    expect(Math.max(...sizes)).toBe(most);
  });

  test('gso_size is the guest’s segment size, not the link’s', () => {
    const { rig, c } = open({ v6, mss: 1000 });
    rig.act(() => c.socket.write(pattern(60_000)));
    for (const s of rig.sent()) if (s.payload.length > 1000) expect(s.gsoSize).toBe(1000);
  });

  test('the window counts bytes: never exceeded, used in two halves', () => {
    const { rig, c } = open({ v6, mss, ws: 0, win: 60_000 });
    const data = pattern(400_000);
    rig.act(() => c.socket.write(data));
    let got = rig.sent();
    expect(total(got)).toBeLessThanOrEqual(60_000);
    expect(total(got)).toBeGreaterThan(60_000 - mss);
    expect(Math.max(...got.map((s) => s.payload.length))).toBeLessThanOrEqual(30_000);
    // Acknowledgements in the middle of a super-segment, as a guest sends them for what was segmented.
    for (let acked = 0; acked < data.length;) {
      const n = Math.min(7 * mss, total(got) - acked);
      c.acknowledge(n);
      acked += n;
      got = got.concat(rig.sent());
      expect(total(got) - acked).toBeLessThanOrEqual(60_000);
    }
    expect(bytes(got).equals(data)).toBe(true);
    expect(rig.counter(C_TCP_RETRANSMITS)).toBe(0);
  });

  test('one segment of a super-segment is missing: that one is sent again, alone', () => {
    const { rig, c } = open({ v6, mss });
    const data = pattern(200_000);
    rig.act(() => c.socket.write(data));
    expect(total(rig.sent())).toBe(200_000);
    c.acknowledge(5 * mss);
    rig.guest(...[1, 2, 3].map(() => c.segment({ flags: '.' })));
    const [again] = c.received();
    expect(again).toMatchObject({ seq: 5 * mss, len: mss });
    expect(rig.counter(C_TCP_RETRANSMITS)).toBe(1);
    c.acknowledge(200_000 - 5 * mss);
    expect(rig.sent()).toEqual([]);
  });

  test('after a time-out one segment, then the rest in super-segments', () => {
    const { rig, c } = open({ v6, mss });
    const data = pattern(200_000);
    rig.act(() => c.socket.write(data));
    rig.sent();
    rig.wait(1000);
    expect(c.received()).toMatchObject([{ seq: 0, len: mss }]);
    c.acknowledge(mss);
    const rest = rig.sent();
    expect(bytes(rest).equals(data.subarray(mss))).toBe(true);
    expect(rest.length).toBeLessThan(10);
  });

  test('few receive buffers: what fits goes out, and the rest follows', () => {
    const rig = new TcpRig({ port: { gsoTcp4: true, gsoTcp6: true, bufferSize: 1526, buffers: 100 } });
    const c = openFromGuest(rig, { v6, mss, ws: 7 });
    const data = pattern(300_000);
    rig.act(() => c.socket.write(data));
    const got = rig.sent();
    for (let n = 0; total(got) < data.length && n < 100; n++) {
      rig.post(60);
      got.push(...rig.sent());
    }
    expect(bytes(got).equals(data)).toBe(true);
    expect(rig.counter(C_TCP_RETRANSMITS)).toBe(0);
  });
});

describe.each(families)('from the guest, $type', ({ v6, mss, type }) => {
  const vnet = { gsoType: type, gsoSize: mss, csumPartial: true };

  test.each([0, GSO_ECN])('frames of 64 KiB go to the socket whole, one send a batch (ECN bit %i)', (ecn) => {
    const { rig, c } = open({ v6, mss });
    const data = pattern(3 * 64_000);
    const marks = { ...vnet, gsoType: type | ecn };
    rig.guest(
      ...[0, 1, 2].map((n) =>
        c.segment({
          flags: '.',
          seq: (c.seq + n * 64_000) >>> 0,
          payload: data.subarray(n * 64_000, (n + 1) * 64_000),
          vnet: marks,
        }),
      ),
    );
    expect(c.socket.sends).toBe(1);
    expect(rig.host.count('checksum')).toBe(0); // the guest left it to us: nothing to verify
    expect(Buffer.compare(c.socket.read(), data)).toBe(0);
    expect(c.received()).toMatchObject([{ flags: '.', ack: data.length }]);
  });

  test('a super-segment that overlaps what came, and one out of order', () => {
    const { rig, c } = open({ v6, mss });
    const data = pattern(100_000);
    rig.guest(c.segment({ flags: '.', payload: data.subarray(0, 30_000), vnet }));
    rig.guest(c.segment({ flags: '.', seq: (c.seq + 60_000) >>> 0, payload: data.subarray(60_000), vnet }));
    expect(c.received().at(-1)).toMatchObject({ ack: 30_000, len: 0 });
    rig.guest(c.segment({ flags: '.', seq: (c.seq + 20_000) >>> 0, payload: data.subarray(20_000, 80_000), vnet }));
    rig.guest(c.segment({ flags: '.', seq: (c.seq + 60_000) >>> 0, payload: data.subarray(60_000), vnet }));
    expect(Buffer.compare(c.socket.read(), data)).toBe(0);
    expect(c.received().at(-1)).toMatchObject({ ack: 100_000 });
  });
});
