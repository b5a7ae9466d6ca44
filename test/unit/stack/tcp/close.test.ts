/** The ends of connections. */
import { C_FLOWS_TCP } from '../../../../src/stack/counters';
import { TcpRig, openFromGuest, payloadText } from '../../../support/stack/tcp-rig';
import type { Connection } from '../../../support/stack/tcp-rig';

const empty = (rig: TcpRig): void => {
  expect(rig.tcp.engine.table.count).toBe(0);
  expect(rig.tcp.engine.timers.count).toBe(0);
  expect(rig.counter(C_FLOWS_TCP)).toBe(0);
};

const hostCloses = (c: Connection): void => {
  c.rig.act(() => c.socket.close());
  expect(c.received()).toMatchObject([{ flags: 'F.', seq: 0 }]);
};

describe('half-close', () => {
  test('by the guest: the peer sees the end and goes on sending', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.send('last', 'FP.');
    expect(c.socket.readText()).toBe('last');
    expect(c.socket.writeShut).toBe(true);
    expect(c.received()).toMatchObject([{ flags: '.', ack: 5 }]);
    rig.act(() => c.socket.write('answer'));
    expect(payloadText(rig.one())).toBe('answer');
    c.acknowledge(6);
    hostCloses2(c, 6);
    expect(c.socket.ending).toBe('open');
    c.acknowledge(1);
    expect(c.socket.ending).toBe('closed');
    expect(rig.sent()).toEqual([]);
    empty(rig);
  });

  test('by the host: the guest sees the end and goes on sending', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    hostCloses(c);
    c.acknowledge(1);
    c.send('still here');
    expect(c.socket.readText()).toBe('still here');
    rig.sent();
    c.flags('F.');
    expect(rig.host.count('shutdown')).toBe(0); // closing says as much
    expect(c.socket.ending).toBe('closed');
    expect(c.received()).toMatchObject([{ flags: '.', ack: 11 }]);
    expect(rig.counter(C_FLOWS_TCP)).toBe(0);
  });

  function hostCloses2(c: Connection, seq: number): void {
    c.rig.act(() => c.socket.close());
    expect(c.received()).toMatchObject([{ flags: 'F.', seq }]);
  }

  test('the FIN follows the last byte without waiting, and not before the queue is read', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { ws: 0 });
    c.flags('.', { win: 1460 });
    rig.act(() => {
      c.socket.write(Buffer.alloc(2000));
      c.socket.close();
    });
    expect(c.received().map((s) => s.flags)).toEqual(['P.']);
    c.acknowledge(1460);
    expect(c.received().map((s) => [s.flags, s.seq])).toEqual([['FP.', 1460]]);
  });

  test('the FIN goes by itself where the window ends with the last byte', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { ws: 0 });
    c.flags('.', { win: 1000 });
    rig.act(() => {
      c.socket.write(Buffer.alloc(1000));
      c.socket.close();
    });
    expect(c.received().map((s) => s.flags)).toEqual(['P.']);
    c.acknowledge(1000);
    expect(c.received().map((s) => [s.flags, s.seq])).toEqual([['F.', 1000]]);
    c.acknowledge(1);
    c.flags('F.');
    expect(c.socket.ending).toBe('closed');
  });

  test('the FIN goes by itself behind a frame of several segments', () => {
    const rig = new TcpRig({ port: { gsoTcp4: true } });
    const c = openFromGuest(rig);
    rig.act(() => {
      c.socket.write(Buffer.alloc(4000));
      c.socket.close();
    });
    expect(rig.sent().map((s) => [s.flags, s.payload.length])).toEqual([
      ['P.', 4000],
      ['F.', 0],
    ]);
  });

  test('an urgent mark ends a read, not the stream', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.act(() => {
      c.socket.write('ab');
      c.socket.writeUrgent(0x63);
      c.socket.write('d');
      c.socket.close();
    });
    const sent = rig.sent();
    expect(Buffer.concat(sent.map((s) => s.payload)).toString()).toBe('abcd');
    expect(sent.map((s) => s.flags.includes('F'))).toEqual(sent.map((_, i) => i === sent.length - 1));
  });

  test('by the host, and then by the guest with what acknowledges the last data: an orderly end for the peer', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.act(() => {
      c.socket.write('request');
      c.socket.close();
    });
    expect(c.received().map((s) => s.flags)).toEqual(['FP.']);
    c.ack += 8;
    c.send('answer', 'FP.');
    expect(c.socket.readText()).toBe('answer');
    expect(c.socket.ending).toBe('closed');
    expect(c.received()).toMatchObject([{ flags: '.', ack: 7 }]);
  });

  test('by the guest, which acknowledges the last data and the FIN at once: an orderly end for the peer', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.flags('F.');
    rig.sent();
    rig.act(() => {
      c.socket.write('answer');
      c.socket.close();
    });
    c.acknowledge(7);
    expect(c.socket.ending).toBe('closed');
    empty(rig);
  });

  test('data after the guest’s FIN is not passed on', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.flags('F.');
    rig.sent();
    rig.guest(c.segment({ flags: 'P.', payload: 'more' }));
    expect(c.socket.sent.length).toBe(0);
  });

  test('a FIN out of order waits for what is missing', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.guest(c.segment({ flags: 'F.', seq: c.seq + 3 }));
    expect(c.socket.writeShut).toBe(false);
    expect(c.received()).toMatchObject([{ ack: 0 }]);
    c.send('abc', 'FP.');
    expect(c.socket.writeShut).toBe(true);
  });
});

describe('TIME-WAIT', () => {
  const reach = (rig: TcpRig): Connection => {
    const c = openFromGuest(rig);
    hostCloses(c);
    c.acknowledge(1);
    c.flags('F.');
    rig.sent();
    return c;
  };

  test('the last FIN repeated is acknowledged again', () => {
    const rig = new TcpRig();
    const c = reach(rig);
    c.flags('F.', { seq: c.seq - 1 });
    expect(c.received()).toMatchObject([{ flags: '.', seq: 1, ack: 1 }]);
    expect(rig.host.openCount).toBe(0);
  });

  test('ends after a minute', () => {
    const rig = new TcpRig();
    const c = reach(rig);
    rig.wait(59_000);
    expect(rig.tcp.engine.table.count).toBe(1);
    rig.wait(2000);
    empty(rig);
    c.flags('.');
    expect(rig.one().flags).toBe('R');
  });

  test('makes room for a new connection from the same port, and for any if the table is full', () => {
    const rig = new TcpRig({ config: { maxTcpFlows: 1 } });
    const c = reach(rig);
    const again = openFromGuest(rig, { isn: c.seq + 1000 });
    expect(again.socket).not.toBe(c.socket);
    again.flags('R');
    reach(rig);
    openFromGuest(rig, { sport: 7 });
  });

  test('an older SYN is challenged; the guest’s RST clears the way', () => {
    const rig = new TcpRig();
    const c = reach(rig);
    c.flags('S', { seq: c.seq - 50_000, ack: 0 });
    expect(rig.one().flags).toBe('.');
    c.flags('R');
    empty(rig);
  });
});

describe('both close at once', () => {
  test('FINs cross; each is acknowledged', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    hostCloses(c);
    c.flags('F.'); // does not acknowledge ours
    expect(c.received()).toMatchObject([{ flags: '.', seq: 1, ack: 1 }]);
    expect(c.socket.ending).toBe('open');
    c.acknowledge(1);
    expect(c.socket.ending).toBe('closed');
    expect(rig.host.openCount).toBe(0);
  });
});

describe('reset by the host', () => {
  test('what was received goes first, then the RST, in sequence', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.act(() => {
      c.socket.write('last words');
      c.socket.reset();
    });
    expect(c.received()).toMatchObject([
      { flags: 'P.', text: 'last words' },
      { flags: 'R.', seq: 10, ack: 0 },
    ]);
    empty(rig);
  });

  test('with the guest’s window closed the RST does not wait', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.flags('.', { win: 0 });
    rig.act(() => {
      c.socket.write('x');
      c.socket.reset();
    });
    expect(c.received()).toMatchObject([{ flags: 'R.', seq: 0 }]);
  });

  test('the guest finds out by its next segment if the RST was lost', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.act(() => c.socket.reset());
    rig.sent();
    c.send('hello?');
    expect(rig.one()).toMatchObject({ flags: 'R', seq: c.ack });
  });

  test('while no receive buffer is there the slot waits, then everything is gone', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.port.freeBuffers = 0;
    rig.act(() => c.socket.reset());
    c.send('ignored');
    expect(rig.sent()).toEqual([]);
    rig.post(5);
    expect(rig.sent().map((s) => s.flags)).toEqual(['R.']);
    empty(rig);
  });
});

describe('stale events', () => {
  test('of a descriptor or generation that is gone are ignored', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    const generation = rig.tcp.engine.table.generation[0];
    c.flags('R');
    rig.tcp.onSocket(1, 0, generation, 0x2019);
    const d = openFromGuest(rig);
    rig.tcp.onSocket(1, 0, generation, 0x2019);
    rig.tcp.onSocket(1, 9999, 1, 1);
    rig.tcp.onSocket(2, 9999, 1, 1);
    d.send('fine');
    expect(d.socket.readText()).toBe('fine');
    expect(d.socket.ending).toBe('open');
  });
});

describe('keep-alive', () => {
  test('the guest’s keep-alive is answered and passed on', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.send('x');
    rig.sent();
    expect(c.socket.options.has('1.9')).toBe(false);
    c.flags('.', { seq: c.seq - 1 });
    expect(c.received()).toMatchObject([{ flags: '.', ack: 1 }]);
    expect(c.socket.options.get('1.9')).toBe(1);
    rig.guest(c.segment({ flags: '.', seq: c.seq - 1, payload: 'g' })); // with a garbage byte
    expect(c.received()).toMatchObject([{ flags: '.', ack: 1 }]);
    expect(c.socket.readText()).toBe('x');
  });
});
