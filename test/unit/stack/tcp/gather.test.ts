/** Payload from the guest: one send per flow and batch, one acknowledgement. */
import { TcpRig, openFromGuest, pattern } from '../../../support/stack/tcp-rig';
import type { Connection } from '../../../support/stack/tcp-rig';

function inSegments(c: Connection, data: Uint8Array, size: number) {
  const out = [];
  for (let at = 0; at < data.length; at += size) {
    out.push(c.segment({ flags: '.', seq: (c.seq + at) >>> 0, payload: data.subarray(at, at + size) }));
  }
  return out;
}

describe('gathering', () => {
  test.each([70_000, 100, 7])('consecutive segments: one send, one ACK (rows of %i bytes)', (rowSize) => {
    const rig = new TcpRig({ port: { rowSize } });
    const c = openFromGuest(rig);
    const data = pattern(5000);
    rig.guest(...inSegments(c, data, 1000));
    expect(c.socket.sends).toBe(1);
    expect(Buffer.compare(c.socket.read(), data)).toBe(0);
    expect(c.received()).toMatchObject([{ flags: '.', ack: 5000 }]);
  });

  test('with checksums left to us the rows are the same', () => {
    const rig = new TcpRig({ port: { rowSize: 33 } });
    const c = openFromGuest(rig);
    const data = pattern(3000);
    rig.guest(...inSegments(c, data, 500).map((s) => ({ ...s, vnet: { csumPartial: true } })));
    expect(rig.host.count('checksum')).toBe(0);
    expect(Buffer.compare(c.socket.read(), data)).toBe(0);
  });

  test('overlapping and repeated segments in one batch', () => {
    const rig = new TcpRig({ port: { rowSize: 64 } });
    const c = openFromGuest(rig);
    const data = pattern(900);
    const [a, b, d] = inSegments(c, data, 300);
    const both = c.segment({ flags: '.', seq: c.seq + 200, payload: data.subarray(200, 700) });
    rig.guest(a, a, both, b, d, d);
    expect(Buffer.compare(c.socket.read(), data)).toBe(0);
    expect(c.received().at(-1)).toMatchObject({ ack: 900 });
  });

  test('flows that take turns keep their bytes apart', () => {
    const rig = new TcpRig({ port: { rowSize: 50 } });
    const a = openFromGuest(rig, { sport: 1 });
    const b = openFromGuest(rig, { sport: 2 });
    const da = pattern(1200, 0);
    const db = pattern(1200, 9999);
    const sa = inSegments(a, da, 200);
    const sb = inSegments(b, db, 200);
    rig.guest(...sa.flatMap((s, i) => [s, sb[i]]));
    expect(Buffer.compare(a.socket.read(), da)).toBe(0);
    expect(Buffer.compare(b.socket.read(), db)).toBe(0);
    expect(rig.sent().map((s) => s.flags)).toEqual(['.', '.']);
  });

  test('more rows than one call takes', () => {
    const rig = new TcpRig({ port: { rowSize: 3 } });
    const c = openFromGuest(rig);
    const data = pattern(9000);
    rig.guest(...inSegments(c, data, 1000));
    expect(c.socket.sends).toBeGreaterThan(1);
    expect(Buffer.compare(c.socket.read(), data)).toBe(0);
    expect(c.received().at(-1)).toMatchObject({ ack: 9000 });
  });

  test('one frame in more rows than one call takes is not lost for good', () => {
    const rig = new TcpRig({ port: { rowSize: 1 } });
    const c = openFromGuest(rig);
    rig.guest(c.segment({ flags: '.', payload: pattern(1100) }));
    expect(c.received()).toMatchObject([{ ack: 0 }]);
    rig.port.rowSize = 100;
    c.send(pattern(1100));
    expect(c.socket.sent.length).toBe(1100);
  });

  test('a FIN behind gathered data closes after it', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.guest(c.segment({ flags: '.', payload: 'abc' }), c.segment({ flags: 'F.', seq: c.seq + 3, payload: 'def' }));
    expect(c.socket.readText()).toBe('abcdef');
    expect(c.socket.writeShut).toBe(true);
    expect(c.received()).toMatchObject([{ ack: 7 }]);
  });

  test('an RST behind gathered data drops it', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.guest(c.segment({ flags: '.', payload: 'abc' }), c.segment({ flags: 'R', seq: c.seq + 3 }));
    expect(c.socket.ending).toBe('aborted');
    expect(c.socket.sends).toBe(0);
  });

  test('another connection from the same batch as the end of one', () => {
    const rig = new TcpRig();
    const a = openFromGuest(rig, { sport: 1 });
    const b = openFromGuest(rig, { sport: 2 });
    rig.guest(
      a.segment({ flags: '.', payload: 'aaa' }),
      a.segment({ flags: 'R', seq: a.seq + 3 }),
      b.segment({ flags: '.', payload: 'bbb' }),
    );
    expect(b.socket.readText()).toBe('bbb');
  });

  test('the socket broke: the guest is reset', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.socket.error = 32;
    c.send('abc');
    expect(c.received()).toMatchObject([{ flags: 'R.', seq: 0, ack: 0 }]);
    expect(c.socket.ending).toBe('aborted');
  });
});
