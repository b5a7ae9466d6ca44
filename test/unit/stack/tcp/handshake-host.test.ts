/** Connections accepted on forwarded ports. */
import { CONGESTION_RENO } from '../../../../src/stack/kit/linux';
import { REST_MS } from '../../../../src/stack/kit/resting';
import { ECONNRESET, EMFILE, ENOMEM } from '../../../support/stack/fake-host-io';
import { GUEST_ISN, TcpRig, openFromHost, payloadText } from '../../../support/stack/tcp-rig';

const FORWARD = { forward: [{ port: 8080, targetPort: 80 }] };

describe('connection from the host', () => {
  test('SYN to the guest at once, from the peer, to the observed address and the target port', () => {
    const rig = new TcpRig(FORWARD);
    const peer = rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    const syn = rig.one();
    expect(syn).toMatchObject({
      flags: 'S',
      ack: 0,
      src: '203.0.113.5',
      sport: 51000,
      dst: '192.0.2.10',
      dport: 80,
      mss: 1460,
      ws: 8,
    });
    rig.guest({
      src: '192.0.2.10',
      dst: '203.0.113.5',
      sport: 80,
      dport: 51000,
      flags: 'S.',
      seq: 9,
      ack: syn.seq + 1,
      mss: 1000,
      ws: 3,
    });
    expect(rig.one()).toMatchObject({ flags: '.', seq: syn.seq + 1, ack: 10 });
    rig.act(() => peer.write(Buffer.alloc(1500)));
    expect(rig.sent().map((s) => s.payload.length)).toEqual([1000, 500]);
  });

  test('data that came before the guest answered follows the handshake', () => {
    const rig = new TcpRig(FORWARD);
    const peer = rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    peer.write('GET /');
    rig.settle();
    const syn = rig.one();
    rig.guest({ dst: '203.0.113.5', sport: 80, dport: 51000, flags: 'S.', seq: 9, ack: syn.seq + 1, mss: 1000 });
    const sent = rig.sent();
    expect(sent.map(payloadText).join('')).toBe('GET /');
    expect(sent.at(-1)).toMatchObject({ ack: 10 });
  });

  test('from loopback the peer is the gateway; v6 likewise', () => {
    const rig = new TcpRig(FORWARD);
    rig.host.incoming(rig.listeners[0], '127.0.0.1', 1234);
    rig.settle();
    expect(rig.one()).toMatchObject({ src: '192.0.2.1', sport: 1234 });
    rig.host.incoming(rig.listeners[0], '2001:db8:5::1', 1234);
    rig.settle();
    expect(rig.one().mss).toBe(1440);
  });

  test('only a connection that begins on this host is told that there is no path', () => {
    for (const [from, congestion] of [
      ['127.0.0.1', CONGESTION_RENO],
      ['::1', CONGESTION_RENO],
      ['203.0.113.5', undefined],
    ] as const) {
      const rig = new TcpRig(FORWARD);
      rig.host.incoming(rig.listeners[0], from, 1234);
      rig.settle();
      expect(rig.host.last.options.get('6.13')).toBe(congestion); // TCP_CONGESTION
    }
  });

  test('two peers that look the same to the guest get different ports', () => {
    const rig = new TcpRig(FORWARD);
    rig.host.incoming(rig.listeners[0], '127.0.0.2', 1234);
    rig.host.incoming(rig.listeners[0], '127.0.0.3', 1234);
    rig.settle();
    const [a, b] = rig.sent();
    expect(a).toMatchObject({ src: '192.0.2.1', sport: 1234 });
    expect(b.src).toBe('192.0.2.1');
    expect(b.sport).toBeGreaterThanOrEqual(49152);
  });

  test('a fixed target of the other family is refused', () => {
    const rig = new TcpRig({ forward: [{ port: 1, targetAddr: '2001:db8::99' }] });
    const peer = rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    expect(peer.ending).toBe('aborted');
    expect(rig.sent()).toEqual([]);
  });

  test('the SYN is repeated with the same number, then both sides are reset', () => {
    const rig = new TcpRig(FORWARD);
    const peer = rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    const first = rig.one();
    rig.wait(18_900);
    const again = rig.sent();
    expect(again).toHaveLength(7);
    for (const s of again) expect(s).toEqual(first);
    expect(peer.ending).toBe('open');
    rig.wait(200);
    expect(rig.one()).toMatchObject({ flags: 'R', seq: first.seq + 1 });
    expect(peer.ending).toBe('aborted');
    expect(rig.tcp.engine.table.count).toBe(0);
  });

  test('refused by the guest: the peer is reset; a stray RST is not believed', () => {
    const rig = new TcpRig(FORWARD);
    const peer = rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    const syn = rig.one();
    const to = { dst: '203.0.113.5', sport: 80, dport: 51000 };
    rig.guest({ ...to, flags: 'R.', seq: 0, ack: syn.seq });
    rig.guest({ ...to, flags: 'R', seq: 0 });
    expect(peer.ending).toBe('open');
    rig.guest({ ...to, flags: 'R.', seq: 0, ack: syn.seq + 1 });
    expect(peer.ending).toBe('aborted');
  });

  test('an old SYN-ACK is answered by RST', () => {
    const rig = new TcpRig(FORWARD);
    rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    const syn = rig.one();
    rig.guest({ dst: '203.0.113.5', sport: 80, dport: 51000, flags: 'S.', seq: 5, ack: (syn.seq + 9) >>> 0 });
    expect(rig.one()).toMatchObject({ flags: 'R', seq: (syn.seq + 9) >>> 0 });
  });

  test('both open at once', () => {
    const rig = new TcpRig(FORWARD);
    const peer = rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    const syn = rig.one();
    const to = { dst: '203.0.113.5', sport: 80, dport: 51000 };
    rig.guest({ ...to, flags: 'S', seq: 99, mss: 1460, ws: 7 });
    expect(rig.one()).toMatchObject({ flags: 'S.', seq: syn.seq, ack: 100, ws: 8 });
    rig.guest({ ...to, flags: 'S.', seq: 99, ack: syn.seq + 1, mss: 1460, ws: 7 });
    rig.sent();
    rig.guest({ ...to, flags: 'P.', seq: 100, ack: syn.seq + 1, payload: 'both' });
    expect(peer.readText()).toBe('both');
  });

  test('the peer gives up before the guest answers', () => {
    const rig = new TcpRig(FORWARD);
    const peer = rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    const syn = rig.one();
    rig.act(() => peer.reset(ECONNRESET));
    expect(rig.one()).toMatchObject({ flags: 'R', seq: syn.seq + 1 });
    expect(rig.tcp.engine.table.count).toBe(0);
  });

  test('the SYN waits for a receive buffer', () => {
    const rig = new TcpRig({ ...FORWARD, port: { buffers: 0 } });
    rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    expect(rig.sent()).toEqual([]);
    rig.post(3);
    expect(rig.one().flags).toBe('S');
  });

  test('no guest at all: the peer is reset in the end and nothing is left', () => {
    const rig = new TcpRig(FORWARD);
    rig.port.up = false;
    const peer = rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.wait(19_100);
    expect(peer.ending).toBe('aborted');
    expect(rig.tcp.engine.table.count).toBe(0);
  });

  test('table full: connections stay in the backlog, nothing spins, and are taken when a flow ends', () => {
    const rig = new TcpRig({ ...FORWARD, config: { maxTcpFlows: 1 } });
    const c = openFromHost(rig);
    rig.host.incoming(rig.listeners[0], '203.0.113.6', 1);
    rig.settle();
    expect(rig.stack.busy).toBe(false);
    expect(rig.listeners[0].backlog).toHaveLength(1);
    c.flags('R');
    expect(rig.one()).toMatchObject({ flags: 'S', src: '203.0.113.6' });
  });

  test('no descriptors: tried again after a pause, without spinning', () => {
    const rig = new TcpRig(FORWARD);
    rig.host.maxOpen = 1; // the listener itself
    rig.host.incoming(rig.listeners[0], '203.0.113.6', 1);
    rig.settle();
    const tries = rig.host.count('accept');
    expect(tries).toBe(1);
    rig.wait(1000);
    expect(rig.host.count('accept') - tries).toBeLessThanOrEqual(6);
    expect(rig.drops('no_descriptors')).toBeGreaterThan(1);
    rig.host.maxOpen = 10;
    rig.wait(300);
    expect(rig.one().flags).toBe('S');
    expect(EMFILE).toBe(24);
  });

  test('a connection that cannot be watched is reset, and costs nothing', () => {
    const rig = new TcpRig(FORWARD);
    const before = rig.host.openCount;
    const peer = rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.host.failures.set('watch', ENOMEM);
    rig.settle();
    expect(peer.ending).toBe('aborted');
    expect(rig.sent()).toEqual([]);
    expect(rig.drops('no_descriptors')).toBe(1);
    expect([rig.tcp.engine.table.count, rig.host.openCount]).toEqual([0, before]);
    openFromHost(rig, { port: 51001 });
  });

  test('a burst beyond one turn is accepted wholly', () => {
    const rig = new TcpRig({ ...FORWARD, config: { maxTcpFlows: 1000 } });
    for (let i = 0; i < 300; i++) rig.host.incoming(rig.listeners[0], '203.0.113.6', 1000 + i);
    rig.settle();
    expect(rig.sent().filter((s) => s.flags === 'S')).toHaveLength(300);
  });

  test('the guest was reset: its flows are gone, the listeners stay', () => {
    const rig = new TcpRig(FORWARD);
    const c = openFromHost(rig, { isn: GUEST_ISN });
    rig.stack.reset();
    expect(c.socket.ending).toBe('aborted');
    expect(rig.tcp.engine.table.count).toBe(0);
    expect(rig.tcp.engine.timers.count).toBe(0);
    openFromHost(rig, { port: 51001 });
  });
});

describe('a forwarded port whose socket could not be watched', () => {
  test.each([ENOMEM, 28])('for want of memory or watches (errno %i): it is deaf only until it can be', (errno) => {
    const rig = new TcpRig({ ...FORWARD, prepare: ({ failures }) => failures.set('watch', errno) });
    expect(rig.logs).toEqual([
      `warn TCP port 8080: the socket cannot be watched (errno ${String(errno)}), trying again`,
    ]);
    rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    expect(rig.sent()).toEqual([]);
    rig.host.failures.set('watch', errno);
    rig.wait(REST_MS);
    expect(rig.sent()).toEqual([]);
    rig.wait(REST_MS);
    expect(rig.one()).toMatchObject({ flags: 'S', src: '203.0.113.5', sport: 51000, dport: 80 });
    expect(rig.stack.nextDeadline() - rig.clock.nowMs).toBeGreaterThan(REST_MS);
  });

  test('for another reason: it is given up, and the log says so', () => {
    const rig = new TcpRig({ ...FORWARD, prepare: ({ failures }) => failures.set('watch', 9) });
    expect(rig.logs).toEqual(['warn TCP port 8080: the socket cannot be watched (errno 9): the port is not forwarded']);
    expect(rig.stack.nextDeadline()).toBe(Infinity);
  });
});
