/** Segments that are not the next plain one: RFC 9293 §3.10.7, RFC 5961. */
import { C_TCP_RESETS_FROM_GUEST } from '../../../../src/stack/counters';
import { GUEST_ISN, TcpRig, openFromGuest } from '../../../support/stack/tcp-rig';

describe('without a flow', () => {
  test('a segment with ACK is answered by RST at that number', () => {
    const rig = new TcpRig();
    rig.guest({ flags: 'P.', seq: 5, ack: 1234567, payload: 'abc' });
    expect(rig.one()).toMatchObject({ flags: 'R', seq: 1234567, win: 0, src: '198.51.100.7', dport: 40000 });
    expect(rig.drops('tcp_no_flow')).toBe(1);
  });

  test.each([
    ['P', 3],
    ['F', 4],
    ['SF', 0],
  ])('without ACK (%s) the RST acknowledges all of it', (flags, length) => {
    const rig = new TcpRig();
    rig.guest({ flags, seq: 100, payload: 'abc' });
    if (flags === 'SF') {
      // An extra FIN does not keep a SYN from opening.
      expect(rig.host.all).toHaveLength(1);
      return;
    }
    expect(rig.one()).toMatchObject({ flags: 'R.', seq: 0, ack: 100 + length });
  });

  test('an RST is never answered', () => {
    const rig = new TcpRig();
    rig.guest({ flags: 'R', seq: 1 }, { flags: 'R.', seq: 1, ack: 7 });
    expect(rig.sent()).toEqual([]);
  });

  test('malformed: header length, checksum', () => {
    const rig = new TcpRig();
    rig.guest({ flags: 'S', dataOffset: 4 }, { flags: 'S', dataOffset: 15 });
    expect(rig.drops('tcp_malformed')).toBe(2);
    rig.guest({ flags: 'S', badChecksum: true }, { flags: '.', payload: 'odd', badChecksum: true });
    expect(rig.drops('tcp_checksum')).toBe(2);
    expect(rig.sent()).toEqual([]);
    // Left to us by the guest: nothing to verify.
    rig.guest({ flags: '.', ack: 3, badChecksum: true, vnet: { csumPartial: true } });
    expect(rig.one().flags).toBe('R');
  });

  test('malformed options are passed over', () => {
    const rig = new TcpRig();
    rig.guest({ flags: 'S', seq: 1, options: Uint8Array.from([2, 0, 0, 0]) });
    rig.guest({ flags: 'S', sport: 2, seq: 1, options: Uint8Array.from([3, 40, 7, 1]) });
    expect(rig.host.all).toHaveLength(2);
  });
});

describe('RST (RFC 5961 §3.2)', () => {
  test('exactly in sequence resets the peer', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.flags('R');
    expect(c.socket.ending).toBe('aborted');
    expect(rig.sent()).toEqual([]);
    expect(rig.counter(C_TCP_RESETS_FROM_GUEST)).toBe(1);
    expect(rig.tcp.engine.timers.count).toBe(0);
  });

  test('elsewhere in the window is challenged, outside is dropped', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.flags('R', { seq: c.seq + 1 });
    expect(c.received()).toMatchObject([{ flags: '.', seq: 0, ack: 0 }]);
    c.flags('R', { seq: c.seq - 1 });
    c.flags('R', { seq: (c.seq + 20_000_000) >>> 0 });
    expect(rig.sent()).toEqual([]);
    expect(c.socket.ending).toBe('open');
  });
});

describe('SYN in a connection (RFC 5961 §4.2)', () => {
  test('is challenged, wherever it is', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    for (const seq of [c.seq, c.seq + 100, 5, GUEST_ISN]) {
      c.flags('S', { seq, ack: 0 });
      expect(c.received()).toMatchObject([{ flags: '.', seq: 0, ack: 0 }]);
      rig.wait(500); // the next challenge may come
    }
    // A guest that forgot the connection answers so, and may open it anew.
    c.flags('R');
    expect(c.socket.ending).toBe('aborted');
    openFromGuest(rig);
  });
});

describe('ACK', () => {
  test('of something never sent: challenged and dropped with its payload', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.guest(c.segment({ flags: 'P.', ack: c.ack + 1, payload: 'evil' }));
    expect(c.received()).toMatchObject([{ flags: '.', seq: 0, ack: 0 }]);
    expect(c.socket.sent.length).toBe(0);
    expect(rig.drops('tcp_bad_ack')).toBe(1);
  });

  test('implausibly old: the same; merely old: the payload counts', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.guest(c.segment({ flags: 'P.', ack: (c.ack - 100_000_000) >>> 0, payload: 'evil' }));
    expect(c.socket.sent.length).toBe(0);
    expect(c.received()).toMatchObject([{ ack: 0 }]);
    rig.act(() => c.socket.write('abc'));
    c.acknowledge(3);
    rig.sent();
    rig.guest(c.segment({ flags: 'P.', ack: c.ack - 3, payload: 'fine' }));
    expect(c.socket.readText()).toBe('fine');
  });

  test('missing: the segment is dropped', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.flags('P', { payload: 'x' });
    expect(c.socket.sent.length).toBe(0);
    expect(rig.sent()).toEqual([]);
  });
});

describe('sequence numbers', () => {
  test('what was received before is trimmed, a whole repeat only acknowledged', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.send('abcdef');
    rig.sent();
    rig.guest(c.segment({ flags: 'P.', seq: c.seq - 3, payload: 'defghi' }));
    expect(c.socket.readText()).toBe('abcdefghi');
    expect(c.received()).toMatchObject([{ ack: 9 }]);
    rig.guest(c.segment({ flags: 'P.', seq: c.seq - 6, payload: 'abcdef' }));
    expect(c.received()).toMatchObject([{ ack: 9 }]);
    expect(c.socket.sent.length).toBe(0);
    expect(rig.drops('tcp_out_of_window')).toBe(1);
  });

  test('out of order: one duplicate acknowledgement for each, up to what a retransmission needs', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.guest(c.segment({ flags: 'P.', seq: c.seq + 10, payload: 'later' }));
    expect(c.received()).toMatchObject([{ flags: '.', ack: 0 }]);
    rig.guest(...[10, 20, 30].map((n) => c.segment({ flags: 'P.', seq: c.seq + n, payload: 'later' })));
    expect(c.received()).toMatchObject([{ ack: 0 }, { ack: 0 }, { ack: 0 }]);
    expect(rig.drops('tcp_out_of_order')).toBe(4);
    expect(c.socket.sent.length).toBe(0);
  });

  test('beyond the window is cut off, with its FIN', () => {
    const rig = new TcpRig();
    rig.host.sndbuf = 4000;
    const c = openFromGuest(rig);
    const edge = (rig.tcp.engine.rcvAdv[0] - rig.tcp.engine.rcvNxt[0]) | 0;
    expect(edge).toBe(3500);
    rig.guest(c.segment({ flags: 'FP.', payload: Buffer.alloc(3600, 'a') }));
    expect(c.socket.sent.length).toBe(3500);
    expect(c.socket.writeShut).toBe(false);
    expect(c.received()).toMatchObject([{ ack: 3500, win: 0 }]);
  });

  test('numbers wrap in both directions', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { isn: 0xfffffffd });
    for (const word of ['ab', 'cd', 'ef', 'gh']) c.send(word);
    expect(c.socket.readText()).toBe('abcdefgh');
    expect(rig.sent().at(-1)?.ack).toBe(6);
  });

  test('urgent data stays in line, from the guest and from the host', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.guest(c.segment({ flags: 'PU.', payload: 'urgent', urgent: 3 }));
    expect(c.socket.readText()).toBe('urgent');
    c.seq += 6;
    expect(c.socket.options.get('1.10')).toBe(1); // SO_OOBINLINE
    rig.sent();
    rig.act(() => {
      c.socket.write('abc');
      c.socket.writeUrgent(33);
      c.socket.write('def');
    });
    // Reads stop at the mark; nothing may be left behind it.
    expect(
      rig
        .sent()
        .map((s) => Buffer.from(s.payload).toString())
        .join(''),
    ).toBe('abc!def');
    c.acknowledge(7);
    expect(c.socket.receive.length).toBe(0);
  });
});
