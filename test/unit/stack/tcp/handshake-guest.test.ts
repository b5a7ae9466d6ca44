/** Connections opened by the guest. */
import { C_FLOWS_TCP, C_TCP_RESETS_TO_GUEST } from '../../../../src/stack/counters';
import { CONGESTION_RENO, EACCES, EADDRINUSE, EADDRNOTAVAIL } from '../../../../src/stack/kit/linux';
import { ENETUNREACH, ENOMEM, ETIMEDOUT } from '../../../support/stack/fake-host-io';
import { ip } from '../../../support/stack/addresses';
import { GUEST_ISN, TcpRig, openFromGuest, payloadText } from '../../../support/stack/tcp-rig';

const SYN = { flags: 'S', seq: GUEST_ISN, mss: 1460, ws: 7 };

describe('connection from the guest', () => {
  test('SYN-ACK only after the host connected, with MSS and window scale', () => {
    const rig = new TcpRig();
    rig.guest(SYN);
    expect(rig.sent()).toEqual([]);
    const s = rig.host.last;
    expect(s.remote).toEqual({ address: '198.51.100.7', port: 80, scope: 0 });
    rig.act(() => s.accept());
    expect(rig.one()).toMatchObject({
      flags: 'S.',
      ack: GUEST_ISN + 1,
      mss: 1460,
      ws: 8,
      src: '198.51.100.7',
      dst: '192.0.2.10',
      sport: 80,
      dport: 40000,
      win: 65535,
    });
    expect(rig.counter(C_FLOWS_TCP)).toBe(1);
  });

  test('bytes both ways; what is acknowledged leaves the socket', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.send('hello');
    expect(c.socket.readText()).toBe('hello');
    expect(c.received()).toMatchObject([{ flags: '.', ack: 5, len: 0 }]);
    rig.act(() => c.socket.write('world'));
    const s = rig.one();
    expect(payloadText(s)).toBe('world');
    expect(s.flags).toBe('P.');
    expect(c.socket.receive.length).toBe(5);
    c.acknowledge(5);
    expect(c.socket.receive.length).toBe(0);
    expect(rig.sent()).toEqual([]);
  });

  test('IPv6', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { v6: true });
    expect(c.socket.remote).toEqual({ address: '2001:db8:1::7', port: 80, scope: 0 });
    c.send('six');
    expect(c.socket.readText()).toBe('six');
    rig.sent();
    rig.act(() => c.socket.write('v6'));
    expect(payloadText(rig.one())).toBe('v6');
  });

  test('the gateway is the host: 127.0.0.1, without the outbound address and interface', () => {
    const rig = new TcpRig({ ip4: { outboundAddr: ip('192.0.2.10'), outboundIf: 'eth0' } });
    rig.guest({ ...SYN, dst: '192.0.2.1' });
    expect(rig.host.last.remote).toEqual({ address: '127.0.0.1', port: 80, scope: 0 });
    expect(rig.host.last.local).toBeNull();
    expect(rig.host.last.device).toBeNull();
  });

  test('only a connection that ends on this host is told that there is no path', () => {
    for (const [dst, congestion] of [
      ['192.0.2.1', CONGESTION_RENO],
      ['198.51.100.7', undefined],
    ] as const) {
      const rig = new TcpRig();
      let atConnect: number | undefined = -1;
      rig.host.onConnect = (s): void => void (atConnect = s.options.get('6.13')); // TCP_CONGESTION
      rig.guest({ ...SYN, dst });
      expect(atConnect).toBe(congestion);
    }
  });

  test('outbound address and interface', () => {
    const rig = new TcpRig({ ip4: { outboundAddr: ip('192.0.2.10'), outboundIf: 'eth0' } });
    rig.guest(SYN);
    expect(rig.host.last.local).toEqual({ address: '192.0.2.10', port: 0, scope: 0 });
    expect(rig.host.last.device).toBe('eth0');
  });

  describe('source port', () => {
    const from = (rig: TcpRig, sport: number, dst = '198.51.100.7', dport = 2049): void =>
      rig.guest({ ...SYN, sport, dport, dst });

    test('below 1024: kept, beside other connections from it', () => {
      const rig = new TcpRig();
      from(rig, 800);
      expect(rig.host.last.local).toEqual({ address: '0.0.0.0', port: 800, scope: 0 });
      expect(rig.host.last.options.get('1.2')).toBe(1); // SO_REUSEADDR
      rig.guest({ ...SYN, sport: 801, dport: 2049, src: '2001:db8::10', dst: '2001:db8:1::7' });
      expect(rig.host.last.local).toEqual({ address: '::', port: 801, scope: 0 });
    });

    test('with the outbound address', () => {
      const rig = new TcpRig({ ip4: { outboundAddr: ip('192.0.2.10') } });
      from(rig, 800);
      expect(rig.host.last.local).toEqual({ address: '192.0.2.10', port: 800, scope: 0 });
    });

    test.each([
      ['bind', EACCES],
      ['bind', EADDRINUSE],
      ['connect', EADDRNOTAVAIL],
    ] as const)('if %s refuses with %p: another, and no descriptor is left', (call, errno) => {
      const rig = new TcpRig();
      rig.host.failures.set(call, errno);
      from(rig, 800);
      expect(rig.host.last.local).toBeNull();
      expect(rig.host.openCount).toBe(1);
      rig.act(() => rig.host.last.accept());
      expect(rig.one().flags).toBe('S.');
    });

    test('of ordinary connections: the kernel chooses, at no cost', () => {
      const rig = new TcpRig();
      from(rig, 1024);
      expect(rig.host.last.local).toBeNull();
      expect(rig.host.count('bind')).toBe(0);
      expect(rig.host.count('setsockopt')).toBe(1);
    });

    test('not kept toward the same port of the host: the socket would connect to itself', () => {
      const rig = new TcpRig();
      from(rig, 800, '192.0.2.1', 800);
      expect(rig.host.last.remote).toMatchObject({ address: '127.0.0.1', port: 800 });
      expect(rig.host.last.local).toBeNull();
    });
  });

  test.each([
    ['refused', 111],
    ['timed out', ETIMEDOUT],
  ])('%s later: RST that acknowledges the SYN', (_name, errno) => {
    const rig = new TcpRig();
    rig.guest(SYN);
    rig.act(() => rig.host.last.refuse(errno));
    expect(rig.one()).toMatchObject({ flags: 'R.', seq: 0, ack: GUEST_ISN + 1, win: 0 });
    expect(rig.host.openCount).toBe(0);
    expect(rig.counter(C_FLOWS_TCP)).toBe(0);
    expect(rig.counter(C_TCP_RESETS_TO_GUEST)).toBe(1);
  });

  test('refused at once', () => {
    const rig = new TcpRig();
    rig.host.connectResult = ENETUNREACH;
    rig.guest(SYN);
    expect(rig.one()).toMatchObject({ flags: 'R.', seq: 0, ack: GUEST_ISN + 1 });
    expect(rig.host.openCount).toBe(0);
    expect(rig.tcp.engine.table.count).toBe(0);
  });

  test('refused while the guest has no receive buffer: the RST comes when it has', () => {
    const rig = new TcpRig({ port: { buffers: 0 } });
    rig.guest(SYN);
    rig.act(() => rig.host.last.refuse());
    expect(rig.sent()).toEqual([]);
    expect(rig.host.openCount).toBe(0);
    rig.post(1);
    expect(rig.one()).toMatchObject({ flags: 'R.', ack: GUEST_ISN + 1 });
    expect(rig.tcp.engine.table.count).toBe(0);
  });

  test('a SYN repeated while connecting opens no second socket', () => {
    const rig = new TcpRig();
    rig.guest(SYN);
    rig.guest(SYN);
    expect(rig.host.all).toHaveLength(1);
    expect(rig.sent()).toEqual([]);
  });

  test('another SYN while connecting replaces the first: number and options', () => {
    const rig = new TcpRig();
    rig.guest(SYN);
    rig.guest({ ...SYN, seq: 777, mss: 900 });
    rig.act(() => rig.host.last.accept());
    const synAck = rig.one();
    expect(synAck).toMatchObject({ flags: 'S.', ack: 778 });
    rig.guest({ flags: '.', seq: 778, ack: synAck.seq + 1 });
    rig.act(() => rig.host.last.write(Buffer.alloc(2000)));
    expect(rig.sent().map((s) => s.payload.length)).toEqual([900, 900, 200]);
  });

  test('RST while connecting gives up; one out of place does not', () => {
    const rig = new TcpRig();
    rig.guest(SYN);
    rig.guest({ flags: 'R', seq: GUEST_ISN + 5 });
    expect(rig.host.openCount).toBe(1);
    rig.guest({ flags: 'R', seq: GUEST_ISN + 1 });
    expect(rig.host.last.ending).toBe('aborted');
    expect(rig.sent()).toEqual([]);
  });

  test('the SYN-ACK is repeated unchanged at 1, 2, 3, 4, 5, 7, 11 s, then both sides are reset', () => {
    const rig = new TcpRig();
    rig.guest(SYN);
    rig.act(() => rig.host.last.accept());
    const first = rig.one();
    const times: number[] = [];
    for (let s = 1; s <= 18; s++) {
      rig.wait(1000);
      for (const again of rig.sent()) {
        times.push(s);
        expect(again).toEqual(first);
      }
    }
    expect(times).toEqual([1, 2, 3, 4, 5, 7, 11]);
    rig.wait(1000);
    expect(rig.one()).toMatchObject({ flags: 'R.', seq: first.seq + 1, ack: GUEST_ISN + 1 });
    expect(rig.host.last.ending).toBe('aborted');
    expect(rig.tcp.engine.timers.count).toBe(0);
  });

  test('a repeated SYN gets the SYN-ACK again', () => {
    const rig = new TcpRig();
    rig.guest(SYN);
    rig.act(() => rig.host.last.accept());
    const first = rig.one();
    rig.guest(SYN);
    expect(rig.one()).toEqual(first);
  });

  test('a wrong acknowledgement of the SYN-ACK is answered by RST and changes nothing', () => {
    const rig = new TcpRig();
    rig.guest(SYN);
    rig.act(() => rig.host.last.accept());
    const synAck = rig.one();
    rig.guest({ flags: '.', seq: GUEST_ISN + 1, ack: (synAck.seq + 2) >>> 0 });
    expect(rig.one()).toMatchObject({ flags: 'R', seq: (synAck.seq + 2) >>> 0 });
    expect(rig.host.last.ending).toBe('open');
    rig.guest({ flags: 'P.', seq: GUEST_ISN + 1, ack: synAck.seq + 1, payload: 'late' });
    expect(rig.host.last.readText()).toBe('late');
  });

  test('data and FIN in the completing ACK', () => {
    const rig = new TcpRig();
    rig.guest(SYN);
    rig.act(() => rig.host.last.accept());
    const synAck = rig.one();
    rig.guest({ flags: 'FP.', seq: GUEST_ISN + 1, ack: synAck.seq + 1, payload: 'GET /' });
    expect(rig.host.last.readText()).toBe('GET /');
    expect(rig.host.last.writeShut).toBe(true);
    expect(rig.one()).toMatchObject({ flags: '.', ack: GUEST_ISN + 7 });
  });

  test('data waiting in the socket goes out when the handshake completes', () => {
    const rig = new TcpRig();
    rig.guest(SYN);
    rig.act(() => {
      rig.host.last.accept();
      rig.host.last.write('220 hello');
    });
    const synAck = rig.one();
    expect(synAck.flags).toBe('S.');
    rig.guest({ flags: '.', seq: GUEST_ISN + 1, ack: synAck.seq + 1 });
    expect(payloadText(rig.one())).toBe('220 hello');
  });

  test.each([
    [0, 88],
    [1, 88],
    [87, 88],
    [89, 89],
    [536, 536],
    [1460, 1460],
    [65535, 1460],
    [undefined, 536],
  ])('MSS %p offered: segments of %p', (mss, size) => {
    const rig = new TcpRig();
    rig.guest({ flags: 'S', seq: 1, ...(mss === undefined ? {} : { mss }) });
    rig.act(() => rig.host.last.accept());
    const synAck = rig.one();
    expect(synAck.ws).toBeNull(); // none was offered
    rig.guest({ flags: '.', seq: 2, ack: synAck.seq + 1 });
    rig.act(() => rig.host.last.write(Buffer.alloc(3 * size)));
    expect(rig.sent().map((s) => s.payload.length)).toEqual([size, size, size]);
  });

  test('window scale up to 14 is used, a larger one counts as 14, none means none', () => {
    for (const [ws, bytes] of [
      [0, 10],
      [2, 40],
      [14, 163_840],
      [200, 163_840],
    ] as const) {
      const rig = new TcpRig();
      const c = openFromGuest(rig, { ws });
      c.flags('.', { win: 10 });
      rig.act(() => c.socket.write(Buffer.alloc(300_000)));
      const total = rig.sent().reduce((n, s) => n + s.payload.length, 0);
      expect(total).toBeLessThanOrEqual(bytes);
      expect(total).toBeGreaterThan(bytes - 1460);
    }
    const rig = new TcpRig();
    const c = openFromGuest(rig, { ws: null, win: 1000 });
    rig.act(() => c.socket.write(Buffer.alloc(3000)));
    expect(rig.sent().reduce((n, s) => n + s.payload.length, 0)).toBe(1000);
    c.send('x');
    expect(rig.one().win).toBe(65535); // more is free, but cannot be said
  });

  test('the window of a SYN is not scaled', () => {
    const rig = new TcpRig();
    rig.guest({ ...SYN, win: 500 });
    rig.act(() => {
      rig.host.last.accept();
      rig.host.last.write(Buffer.alloc(5000));
    });
    const synAck = rig.one();
    rig.guest({ flags: '.', seq: GUEST_ISN + 1, ack: synAck.seq + 1, win: 500 });
    // The ACK's is: 500 << 7.
    expect(rig.sent().reduce((n, s) => n + s.payload.length, 0)).toBe(5000);
  });

  test('table full: the SYN is dropped, and taken again when a flow ends', () => {
    const rig = new TcpRig({ config: { maxTcpFlows: 2 } });
    const a = openFromGuest(rig, { sport: 1001 });
    openFromGuest(rig, { sport: 1002 });
    rig.guest({ ...SYN, sport: 1003 });
    expect(rig.sent()).toEqual([]);
    expect(rig.drops('flow_table_full')).toBe(1);
    expect(rig.host.all).toHaveLength(2);
    a.flags('R');
    openFromGuest(rig, { sport: 1003 });
  });

  test('no descriptors: the SYN is dropped and counted', () => {
    const rig = new TcpRig();
    rig.host.maxOpen = 0;
    rig.guest(SYN);
    expect(rig.sent()).toEqual([]);
    expect(rig.drops('no_descriptors')).toBe(1);
    expect(rig.tcp.engine.table.count).toBe(0);
  });

  test('a connection that cannot be watched is none; the SYN that comes again opens it', () => {
    const rig = new TcpRig();
    rig.host.failures.set('watch', ENOMEM);
    rig.guest(SYN);
    expect(rig.sent()).toEqual([]);
    expect(rig.drops('no_descriptors')).toBe(1);
    expect([rig.tcp.engine.table.count, rig.counter(C_FLOWS_TCP), rig.host.openCount]).toEqual([0, 0, 0]);
    rig.guest(SYN);
    rig.act(() => rig.host.last.accept());
    expect(rig.one().flags).toBe('S.');
  });

  test('initial numbers: different for different ports, later for later connections', () => {
    const rig = new TcpRig();
    const a = openFromGuest(rig, { sport: 1 });
    const b = openFromGuest(rig, { sport: 2 });
    expect(Math.abs(a.base - b.base)).toBeGreaterThan(1000);
    a.flags('R');
    rig.wait(100);
    const again = openFromGuest(rig, { sport: 1 });
    expect((again.base - a.base) | 0).toBeGreaterThanOrEqual(25_000); // 4 µs ticks
    expect((again.base - a.base) | 0).toBeLessThan(26_000);
  });

  test('multicast, broadcast and port 0 get nothing', () => {
    const rig = new TcpRig();
    rig.guest(
      { ...SYN, dst: '224.0.0.1' },
      { ...SYN, dst: '255.255.255.255' },
      { ...SYN, dport: 0 },
      { ...SYN, sport: 0 },
    );
    expect(rig.sent()).toEqual([]);
    expect(rig.host.all).toHaveLength(0);
  });
});
