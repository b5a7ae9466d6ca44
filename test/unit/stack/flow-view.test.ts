/** Flows as others see them, in each state, and their ends. */
import { KEY_KIND_SHIFT, KEY_TCP } from '../../../src/stack/context';
import { F_ENDED } from '../../../src/stack/tcp/flow';
import { ascii, DatagramRig } from '../../support/stack/datagram-rig';
import { EndsTap, flowsOf, listed } from '../../support/stack/flow-list';
import { bytes, datagram, icmpv6, internetChecksum, packet, u16 } from '../../support/stack/link-rig';
import { openFromGuest, openFromHost, pattern, TcpRig } from '../../support/stack/tcp-rig';

const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';

function echo(v6: boolean, id: number, data: string): Uint8Array {
  if (v6) return icmpv6(GUEST6, '2001:db8:5::5', bytes([128, 0, 0, 0], u16(id), u16(1), ascii(data)));
  const m = bytes([8, 0, 0, 0], u16(id), u16(1), ascii(data));
  m.set(u16(internetChecksum(m)), 2);
  return packet(GUEST, '203.0.113.5', 1, m);
}

describe('TCP', () => {
  test.each([false, true])('a connection of the guest, from its SYN to TIME-WAIT (IPv6: %s)', async (v6) => {
    const tap = new EndsTap();
    const rig = new TcpRig({ ends: tap.make });
    const ends = v6
      ? { src: GUEST6, dst: '2001:db8:1::7', sport: 40000, dport: 80 }
      : { src: GUEST, dst: '198.51.100.7', sport: 40000, dport: 80 };
    rig.guest({ ...ends, flags: 'S', seq: 100, win: 65535, mss: 1460 });
    const socket = rig.host.last;
    socket.bytesAcked = 1;
    const [first] = await listed(rig.stack);
    expect(first).toMatchObject({
      id: 'tcp-1-0-1',
      protocol: 'tcp',
      origin: 'guest',
      guest: { address: ends.src, port: 40000 },
      peer: { address: ends.dst, port: 80 },
      name: null,
      state: 'connecting',
      fromGuest: 0,
      toGuest: 0,
      rttUs: 1234,
      rule: null,
    });
    rig.act(() => {
      socket.accept();
    });
    const [synAck] = rig.sent();
    expect((await listed(rig.stack))[0]).toMatchObject({ state: 'syn-received', fromGuest: 0, toGuest: 0 });
    const next = { ...ends, win: 65535, ack: (synAck.seq + 1) >>> 0 };
    rig.guest({ ...next, flags: '.', seq: 101 });
    rig.guest({ ...next, flags: 'P.', seq: 101, payload: 'request' });
    rig.act(() => {
      socket.write('answer');
    });
    // Not acknowledged yet by the guest.
    expect((await listed(rig.stack))[0]).toMatchObject({ state: 'open', fromGuest: 7, toGuest: 0 });
    rig.guest({ ...next, flags: '.', seq: 108, ack: (next.ack + 6) >>> 0 });
    expect((await listed(rig.stack))[0]).toMatchObject({ state: 'open', fromGuest: 7, toGuest: 6 });
    // We close first: TIME-WAIT is ours.
    rig.act(() => {
      socket.close();
    });
    expect((await listed(rig.stack))[0]).toMatchObject({ state: 'closing', fromGuest: 7, toGuest: 6 });
    rig.wait(1000);
    rig.guest({ ...next, flags: 'F.', seq: 108, ack: (next.ack + 7) >>> 0 });
    expect((await listed(rig.stack))[0]).toMatchObject({ state: 'time-wait', fromGuest: 7, toGuest: 6, rttUs: null });
    expect(tap.take()).toMatchObject([{ id: 'tcp-1-0-1', reason: 'closed', fromGuest: 7, toGuest: 6, rttUs: 1234 }]);
    rig.wait(61_000);
    expect(await listed(rig.stack)).toEqual([]);
    expect(tap.take()).toEqual([]);
  });

  test('a connection from the host, with its rule, until the guest resets it', async () => {
    const tap = new EndsTap();
    const rig = new TcpRig({ ends: tap.make, forward: [{ port: 2222, targetPort: 22, rule: 1 }] });
    rig.host.incoming(rig.listeners[0], '203.0.113.5', 51000);
    rig.settle();
    const flow = {
      origin: 'host',
      guest: { address: GUEST, port: 22 },
      peer: { address: '203.0.113.5', port: 51000 },
      rule: '2222:22',
      fromGuest: 0,
      toGuest: 0,
    };
    expect(await listed(rig.stack)).toMatchObject([{ ...flow, state: 'syn-sent' }]);
    const [syn] = rig.sent();
    const back = { src: syn.dst, dst: syn.src, sport: syn.dport, dport: syn.sport, win: 65535 };
    rig.guest({ ...back, flags: 'R.', seq: 0, ack: (syn.seq + 1) >>> 0 });
    expect(await listed(rig.stack)).toEqual([]);
    expect(tap.take()).toMatchObject([{ ...flow, state: 'syn-sent', reason: 'guest-reset' }]);
  });

  test('more bytes than sequence numbers count', async () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.send(pattern(1000));
    const t = rig.tcp.engine;
    // What lies in the send buffer is not acknowledged; a SYN, a FIN and what lies in the receive buffer count there.
    c.socket.bytesAcked = 3 * 2 ** 32 + 1000 - 500;
    c.socket.bytesReceived = 5 * 2 ** 32 + 70_000;
    expect((await listed(rig.stack))[0]).toMatchObject({ fromGuest: 3 * 2 ** 32 + 1000, toGuest: 5 * 2 ** 32 });
    // Just before and behind the turn.
    t.irs[0] = (t.rcvNxt[0] - 1 + 5) | 0;
    c.socket.bytesAcked = 2 ** 32 + 10;
    expect((await listed(rig.stack))[0]).toMatchObject({ fromGuest: 2 ** 32 - 5 });
    // A kernel that does not say.
    c.socket.bytesAcked = -1;
    expect((await listed(rig.stack))[0]).toMatchObject({ fromGuest: 2 ** 32 - 5 });
  });

  test('bytes are known without the socket, too', async () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    c.socket.bytesAcked = 2 ** 32;
    rig.wait(400);
    rig.act(() => {
      c.socket.close();
    });
    c.ack = (c.ack + 1) >>> 0;
    c.flags('F.');
    expect((await listed(rig.stack))[0]).toMatchObject({ state: 'time-wait', fromGuest: 2 ** 32, toGuest: 0 });
  });

  test('one that is to be reset and waits for a receive buffer', async () => {
    const tap = new EndsTap();
    const rig = new TcpRig({ ends: tap.make });
    const c = openFromGuest(rig);
    c.send('hello');
    rig.sent();
    rig.port.freeBuffers = 0;
    expect(await flowsOf(rig.stack).close('tcp-1-0-1')).toBe(true);
    expect(await listed(rig.stack)).toMatchObject([{ state: 'reset', fromGuest: 5, toGuest: 0, rttUs: null }]);
    rig.post(10);
    expect(await listed(rig.stack)).toEqual([]);
    expect(tap.take()).toMatchObject([{ reason: 'operator', fromGuest: 5 }]);
    expect(rig.tcp.engine.flags[0] & F_ENDED).toBe(0);
  });

  test.each<[string, (rig: TcpRig) => void]>([
    ['not-connected', (rig) => rig.act(() => rig.host.last.refuse())],
    [
      'timeout',
      (rig) => {
        rig.act(() => rig.host.last.accept());
        rig.wait(300_000);
      },
    ],
    ['reset', (rig) => rig.stack.reset()],
  ])('an end by %s', (reason, end) => {
    const tap = new EndsTap();
    const rig = new TcpRig({ ends: tap.make });
    rig.guest({ src: GUEST, dst: '198.51.100.7', sport: 1, dport: 80, flags: 'S', seq: 1, win: 1000 });
    end(rig);
    expect(tap.take().map((flow) => flow.reason)).toEqual([reason]);
  });

  test('closing one resets both sides, once; another of its slot is not meant', async () => {
    const tap = new EndsTap();
    const rig = new TcpRig({ ends: tap.make });
    const c = openFromGuest(rig);
    const flows = flowsOf(rig.stack);
    const [{ id }] = (await flows.list({})).flows;
    expect(await flows.close('tcp-1-0-2')).toBe(false);
    expect(await flows.close('tcp-2-0-1')).toBe(false);
    expect(await flows.close('udp-1-0-1')).toBe(false);
    expect(await flows.close('tcp-1-99999999-1')).toBe(false);
    expect(await flows.close('anything')).toBe(false);
    expect(await flows.close(id)).toBe(true);
    rig.settle();
    expect(rig.one().flags).toContain('R');
    expect(c.socket.ending).toBe('aborted');
    expect(await flows.close(id)).toBe(false);
    openFromGuest(rig);
    expect((await flows.list({})).flows.map((flow) => flow.id)).toEqual(['tcp-1-0-2']);
    expect(await flows.close(id)).toBe(false);
    expect(tap.take()).toMatchObject([{ id, reason: 'operator' }]);
    // Events of the socket that was there before mean nothing.
    rig.stack.onSocket(KEY_TCP << KEY_KIND_SHIFT, 1, 1);
  });

  test('of a host that opens and is closed in an orderly way by the guest first', async () => {
    const tap = new EndsTap();
    const rig = new TcpRig({ ends: tap.make, forward: [{ port: 2222 }] });
    const c = openFromHost(rig);
    c.send('bye', 'FP.');
    expect((await listed(rig.stack))[0]).toMatchObject({ state: 'closing', fromGuest: 3, rule: null });
    rig.act(() => {
      c.socket.close();
    });
    c.acknowledge(1);
    expect(await listed(rig.stack)).toEqual([]);
    expect(tap.take()).toMatchObject([{ reason: 'closed', fromGuest: 3, toGuest: 0 }]);
  });
});

describe('UDP', () => {
  test('unanswered, answered, idle', async () => {
    const tap = new EndsTap();
    const rig = new DatagramRig({ ends: tap.make });
    rig.guest(datagram(GUEST, 5000, '203.0.113.5', 7000, ascii('four')));
    rig.guest(datagram(GUEST6, 5000, '2001:db8:5::5', 7000, ascii('six')));
    const flow = { protocol: 'udp', origin: 'guest', rttUs: null, rule: null };
    const four = { ...flow, guest: { address: GUEST, port: 5000 }, peer: { address: '203.0.113.5', port: 7000 } };
    const six = { ...flow, guest: { address: GUEST6, port: 5000 }, peer: { address: '2001:db8:5::5', port: 7000 } };
    expect(await listed(rig.stack)).toMatchObject([
      { ...four, id: 'udp-1-0-1', state: 'unanswered', fromGuest: 4, toGuest: 0 },
      { ...six, id: 'udp-1-1-1', state: 'unanswered', fromGuest: 3, toGuest: 0 },
    ]);
    const [sent] = rig.host.sent;
    for (const answer of ['one', 'two!', 'and three'])
      rig.host.queue(rig.host.get(sent.fd), { address: '203.0.113.5', port: 7000 }, GUEST, ascii(answer));
    rig.pump();
    expect(await listed(rig.stack)).toMatchObject([
      { ...four, state: 'answered', fromGuest: 4, toGuest: 16 },
      { ...six, state: 'unanswered' },
    ]);
    rig.later(3_600_000);
    expect(await listed(rig.stack)).toEqual([]);
    expect(tap.take()).toMatchObject([
      { ...six, reason: 'idle' },
      { ...four, reason: 'idle', fromGuest: 4, toGuest: 16 },
    ]);
  });

  test('a peer of a forwarded port, and a guest’s service that sends first', async () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000, targetPort: 80, rule: 2 }]);
    rig.host.deliver({ address: '203.0.113.5', port: 7000 }, { address: '192.0.2.200', port: 8000 }, ascii('hello'));
    rig.pump();
    rig.guest(datagram(GUEST, 80, '203.0.113.6', 9, ascii('first')));
    expect(await listed(rig.stack)).toMatchObject([
      { origin: 'host', rule: '8000', state: 'unanswered', fromGuest: 0, toGuest: 5, guest: { port: 80 } },
      { origin: 'guest', rule: null, fromGuest: 5, toGuest: 0, peer: { address: '203.0.113.6', port: 9 } },
    ]);
    // The slot's next flow is another's.
    expect(await flowsOf(rig.stack).close('udp-1-0-1')).toBe(true);
    expect(await flowsOf(rig.stack).close('udp-1-0-1')).toBe(false);
    rig.guest(datagram(GUEST, 5001, '203.0.113.7', 9, ascii('again')));
    expect((await listed(rig.stack)).map(({ id, origin }) => `${id} ${origin}`)).toEqual([
      'udp-1-0-2 guest',
      'udp-1-1-1 guest',
    ]);
  });
});

test.each([false, true])('echo (IPv6: %s)', async (v6) => {
  const tap = new EndsTap();
  const rig = new DatagramRig({ ends: tap.make });
  rig.guest(echo(v6, 77, 'data'));
  const flow = {
    id: 'icmp-1-0-1',
    protocol: 'icmp',
    origin: 'guest',
    guest: { address: v6 ? GUEST6 : GUEST, port: 77 },
    peer: { address: v6 ? '2001:db8:5::5' : '203.0.113.5', port: 77 },
    fromGuest: 4,
  };
  expect(await listed(rig.stack)).toMatchObject([{ ...flow, state: 'unanswered', toGuest: 0 }]);
  const [s] = rig.host.sent;
  const reply = Uint8Array.from(s.data);
  reply[0] = v6 ? 129 : 0;
  rig.host.queue(rig.host.get(s.fd), { address: s.to.address, port: 0 }, '', reply);
  rig.pump();
  expect(await listed(rig.stack)).toMatchObject([{ ...flow, state: 'answered', toGuest: 4 }]);
  expect(await flowsOf(rig.stack).close('icmp-1-0-1')).toBe(true);
  expect(await listed(rig.stack)).toEqual([]);
  expect(tap.take()).toMatchObject([{ ...flow, reason: 'operator' }]);
});

describe('pages', () => {
  function crowd(count: number): DatagramRig {
    const rig = new DatagramRig({ config: { maxUdpFlows: 2000, maxPingFlows: 100 } });
    for (let i = 0; i < count; i++) {
      rig.later(20); // a new flow takes credit
      rig.guest(datagram(GUEST, 1000 + i, '203.0.113.5', 7000, ascii('x')));
    }
    rig.guest(echo(false, 1, 'x'));
    return rig;
  }

  test('each flow is on one of them', async () => {
    const rig = crowd(600);
    const flows = flowsOf(rig.stack);
    const sizes: number[] = [];
    const ids = new Set<string>();
    for (let from: string | undefined; ;) {
      const page = await flows.list({ most: 299, ...(from !== undefined && { from }) });
      sizes.push(page.flows.length);
      for (const { id } of page.flows) ids.add(id);
      if (page.next === null) break;
      from = page.next;
    }
    expect(sizes).toEqual([299, 299, 3]);
    expect(ids.size).toBe(601);
    expect((await flows.list({})).flows).toHaveLength(601);
    expect((await flows.list({ protocol: 'icmp' })).flows.map(({ id }) => id)).toEqual(['icmp-1-0-1']);
    expect((await flows.list({ protocol: 'tcp' })).flows).toEqual([]);
    expect(await flows.list({ from: '1.999999999' })).toEqual({ flows: [], next: null });
    await expect(flows.list({ from: 'x' })).rejects.toThrow('query/from: not what');
    await expect(flows.list({ protocol: 'sctp' as 'tcp' })).rejects.toThrow('tcp, udp, icmp');
  });
});
