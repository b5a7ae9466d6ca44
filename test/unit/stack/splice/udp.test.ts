/** Datagrams past the link, on sockets of the kernel: whom they reach, how long their flows live, and what is refused. */
import { randomBytes } from 'node:crypto';
import { loadNative } from '../../../../src/native';
import { C_FLOWS_UDP_SPLICE } from '../../../../src/stack/counters';
import {
  FLOW_FROM_GUEST,
  FLOW_GENERATION,
  FLOW_STATE,
  FLOW_STATE_ANSWERED,
  FLOW_STATE_UNANSWERED,
  FLOW_TO_GUEST,
  FLOW_WORDS,
} from '../../../../src/stack/kit/flow-rows';
import { type Direction, type Loopback, SpliceRig } from '../../../support/stack/splice-rig';

const BOTH: readonly Direction[] = ['in', 'out'];
const LOOPBACKS: readonly Loopback[] = ['127.0.0.1', '::1'];
const LOCAL: Loopback = '127.0.0.1';

beforeAll(() => {
  loadNative().epollInit();
});

let rig: SpliceRig;
beforeEach(() => {
  rig = new SpliceRig();
});
afterEach(() => {
  rig.stop();
});

function flows(): number {
  return rig.counters[C_FLOWS_UDP_SPLICE];
}

/** The flow in `slot`. */
function flow(slot: number): Float64Array {
  const row = new Float64Array(FLOW_WORDS);
  expect(rig.bypass.views[1].view(slot, row, 0)).toBe(true);
  return row;
}

/** A forwarded port, who it leads to, and a client of it. */
function pair(
  direction: Direction,
  address: Loopback = LOCAL,
): { client: number; server: number; port: number; fd: number } {
  const server = rig.datagramSocket(address);
  const { port, fd } = rig.forward(direction, 'udp', rig.portOf(server), address);
  return { client: rig.connect(address, port, 'udp'), server, port, fd };
}

/** A datagram from the client to the server, and where it came from. */
function reaches(client: number, server: number, data: Uint8Array = Buffer.from('x')): number {
  expect(rig.sendDatagram(client, data)).toBe(1);
  const got = rig.receiveDatagram(server);
  expect(got.data.equals(data)).toBe(true);
  return got.port;
}

describe.each(BOTH)('%s', (direction) => {
  test.each(LOOPBACKS)('%s: datagrams of all sizes both ways, many at once; one flow, which counts them', (address) => {
    const { client, server } = pair(direction, address);
    const sizes = [0, 1, 1472, 9000, 65_507];
    for (const size of sizes) {
      const data = randomBytes(size);
      const from = reaches(client, server, data);
      expect(rig.sendDatagram(server, data, { address, port: from })).toBe(1);
      expect(rig.receiveDatagram(client).data.equals(data)).toBe(true);
    }
    for (let i = 0; i < 100; i++) expect(rig.sendDatagram(client, Buffer.of(i))).toBe(1);
    for (let i = 0; i < 100; i++) expect(rig.receiveDatagram(server).data[0]).toBe(i);
    expect(flows()).toBe(1);
    const total = sizes.reduce((sum, size) => sum + size, 0);
    const row = flow(0);
    expect(row[FLOW_STATE]).toBe(FLOW_STATE_ANSWERED);
    expect([row[FLOW_FROM_GUEST], row[FLOW_TO_GUEST]]).toEqual(
      direction === 'out' ? [total + 100, total] : [total, total + 100],
    );
    expect(rig.drops()).toEqual({});
  });

  test('a port that nobody listens on costs the datagram, and the flow lives', () => {
    const { client, server } = pair(direction);
    const to = rig.portOf(server);
    reaches(client, server);
    rig.close(server);
    for (let i = 0; i < 5; i++) {
      rig.sendDatagram(client, Buffer.from('lost'));
      rig.settle();
    }
    const again = rig.datagramSocket(LOCAL, to);
    let sent = 0;
    rig.until(() => {
      if (sent++ < 5) rig.sendDatagram(client, Buffer.from('back'));
      return rig.tryReceiveDatagram(again)?.data.toString() === 'back';
    }, 'a datagram');
    expect(flows()).toBe(1);
  });

  test('a flow without an answer ends sooner than one with', () => {
    const one = pair(direction);
    const two = pair(direction);
    reaches(one.client, one.server);
    const from = reaches(two.client, two.server);
    rig.sendDatagram(two.server, Buffer.from('answer'), { address: LOCAL, port: from });
    rig.receiveDatagram(two.client);
    expect(flow(0)[FLOW_STATE]).toBe(FLOW_STATE_UNANSWERED);
    const { udpTimeoutMs, udpStreamTimeoutMs } = rig.ctx.config;
    expect(rig.bypass.nextDeadline()).toBeLessThanOrEqual(rig.clock.nowMs + 1000);
    rig.clock.advance(udpTimeoutMs - 1);
    rig.turn();
    expect(flows()).toBe(2);
    rig.clock.advance(1001);
    rig.turn();
    expect(flows()).toBe(1);
    rig.clock.advance(udpStreamTimeoutMs - udpTimeoutMs);
    rig.turn();
    expect(flows()).toBe(0);
    expect(rig.bypass.nextDeadline()).toBe(Infinity);
    expect(rig.endings()).toEqual(['idle', 'idle']);
  });

  test('a full table: the oldest without an answer makes room', () => {
    const server = rig.datagramSocket(LOCAL);
    const { port } = rig.forward(direction, 'udp', rig.portOf(server), LOCAL);
    const { capacity } = rig.bypass.views[1];
    const share = direction === 'out' ? (capacity * 3) / 4 : capacity;
    const clients = Array.from({ length: share }, () => rig.connect(LOCAL, port, 'udp'));
    const first = reaches(clients[0], server);
    rig.sendDatagram(server, Buffer.from('answer'), { address: LOCAL, port: first });
    rig.receiveDatagram(clients[0]);
    for (const client of clients.slice(1)) reaches(client, server);
    expect(flows()).toBe(share);
    reaches(rig.connect(LOCAL, port, 'udp'), server);
    expect(flows()).toBe(share);
    expect(rig.ended()).toMatchObject([{ reason: 'evicted', state: 'unanswered' }]);
    // The one that was answered is there still.
    rig.sendDatagram(server, Buffer.from('again'), { address: LOCAL, port: first });
    expect(rig.receiveDatagram(clients[0]).data.toString()).toBe('again');
  });

  test('flows end with their listener, by an operator, and with the guest', () => {
    const view = rig.bypass.views[1];
    const one = pair(direction);
    reaches(one.client, one.server);
    rig.bypass.makeForwards({ remove: [one.fd], add: [], closeFlows: false });
    expect(flows()).toBe(0);
    const two = pair(direction);
    reaches(two.client, two.server);
    const generation = flow(0)[FLOW_GENERATION];
    expect(view.close(0, generation + 1)).toBe(false);
    expect(view.close(0, generation)).toBe(true);
    expect(view.close(0, generation)).toBe(false);
    const three = pair(direction);
    reaches(three.client, three.server);
    rig.bypass.reset();
    expect(flows()).toBe(0);
    expect(rig.endings()).toEqual(['unforwarded', 'operator', 'reset']);
  });
});

test('the source port is kept where it is free', () => {
  // As the namespace has a loopback of its own, it is free there; here the client has it, so the kernel chooses.
  const { client, server } = pair('in');
  const seen = reaches(client, server);
  expect(seen).toBeGreaterThan(0);
  expect(seen).not.toBe(rig.portOf(client));
});

test('no socket of the namespace: the datagram is dropped, the next finds one', () => {
  rig.stocked = false;
  const server = rig.datagramSocket(LOCAL);
  const { port } = rig.forward('in', 'udp', rig.portOf(server), LOCAL);
  const clients = Array.from({ length: 4 }, () => rig.connect(LOCAL, port, 'udp'));
  for (const client of clients) {
    rig.sendDatagram(client, Buffer.from('x'));
    rig.settle();
  }
  const lost = rig.drops().no_descriptors;
  expect(lost).toBeGreaterThan(0);
  expect(flows()).toBe(4 - lost);
  rig.stocked = true;
  // The process inside is asked again after a second.
  rig.clock.advance(1001);
  rig.sendDatagram(clients[3], Buffer.from('x'));
  rig.settle();
  while (rig.tryReceiveDatagram(server) !== null);
  reaches(clients[3], server);
});

test('a policy: what it forbids is dropped and reported, what it comes to forbid is ended', () => {
  const { client, server } = pair('out');
  const to = rig.portOf(server);
  rig.setPolicy(`allow udp/host:${String(to)}`);
  reaches(client, server);
  const inward = pair('in');
  reaches(inward.client, inward.server);
  rig.setPolicy(`deny udp/host:${String(to)}`, 'allow any');
  expect(flows()).toBe(1);
  rig.sendDatagram(client, Buffer.from('x'));
  rig.settle();
  expect(rig.tryReceiveDatagram(server)).toBeNull();
  expect(rig.drops()).toEqual({ policy_denied: 1 });
  expect(rig.ended().map(({ reason, verdict }) => [reason, verdict !== undefined])).toEqual([
    ['denied', false],
    ['denied', true],
  ]);
  reaches(inward.client, inward.server);
});

test('what is forwarded to the namespace is not reached from there', () => {
  const inward = pair('in');
  const { port } = rig.forward('out', 'udp', inward.port, LOCAL);
  rig.sendDatagram(rig.connect(LOCAL, port, 'udp'), Buffer.from('round'));
  rig.settle();
  expect(rig.drops()).toEqual({ own_listener: 1 });
  expect(flows()).toBe(0);
});
