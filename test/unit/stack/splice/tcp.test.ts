/** Connections past the link, on sockets of the kernel: how they begin, move, stop and end. */
import { randomBytes } from 'node:crypto';
import { readdirSync, readlinkSync } from 'node:fs';
import { loadNative } from '../../../../src/native';
import { C_FLOWS_TCP_SPLICE, C_RULES } from '../../../../src/stack/counters';
import { FLOW_STATE, FLOW_STATE_CONNECTING, FLOW_STATE_OPEN, FLOW_WORDS } from '../../../../src/stack/kit/flow-rows';
import { ECONNRESET } from '../../../../src/stack/kit/linux';
import { type Direction, type Loopback, MSG_OOB, SpliceRig } from '../../../support/stack/splice-rig';

const WRITE = 1;
const BOTH: readonly Direction[] = ['in', 'out'];
const LOOPBACKS: readonly Loopback[] = ['127.0.0.1', '::1'];
const BIG = randomBytes(5_000_000);

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

function pipes(): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith('pipe:');
    } catch {
      return false; // the directory's own
    }
  }).length;
}

function flows(): number {
  return rig.counters[C_FLOWS_TCP_SPLICE];
}

/** FLOW_STATE_… of the flows that there are. */
function states(): number[] {
  const view = rig.bypass.views[0];
  const row = new Float64Array(FLOW_WORDS);
  return Array.from({ length: view.capacity }, (_, slot) => slot)
    .filter((slot) => view.view(slot, row, 0))
    .map((slot) => {
      view.view(slot, row, 0);
      return row[FLOW_STATE];
    });
}

/** Bytes came to `fd`. */
function came(fd: number, bytes: number): Buffer {
  rig.until(() => rig.hear(fd).bytes >= bytes, `${String(bytes)} bytes`);
  return rig.hear(fd).data;
}

function isReset(fd: number): void {
  rig.until(() => rig.hear(fd).error !== 0, 'the reset');
  expect(rig.hear(fd).error).toBe(ECONNRESET);
}

describe.each(BOTH)('a connection %s', (direction) => {
  // Of the two ends the namespace's, and the other.
  const guestReset = direction === 'in' ? 'peer' : 'guest';

  test.each(LOOPBACKS)('%s: bytes both ways, and the end of each stream when all before it has come', (address) => {
    const { client, accepted, forward } = rig.pair(direction, address);
    expect(rig.counters[C_RULES + (forward.rule ?? 0)]).toBe(1);
    for (const [from, to] of [
      [client, accepted],
      [accepted, client],
    ]) {
      let before = rig.hear(to).data.length;
      for (const bytes of [1, 3000, 8192, 8193, BIG.length]) {
        const data = BIG.subarray(0, bytes);
        let sent = 0;
        rig.until(() => {
          if (sent < bytes) sent += Math.max(0, rig.send(from, data.subarray(sent)));
          return rig.hear(to).bytes >= before + bytes;
        }, 'the bytes');
        expect(rig.hear(to).data.subarray(before).equals(data)).toBe(true);
        before += bytes;
      }
    }
    rig.native.shutdown(client, WRITE);
    rig.until(() => rig.hear(accepted).ended, 'the half-close');
    expect(rig.hear(client).ended).toBe(false);
    rig.sendAll(accepted, Buffer.from('still'));
    rig.until(() => rig.hear(client).data.subarray(-5).toString() === 'still', 'the answer');
    expect(flows()).toBe(1);
    rig.native.shutdown(accepted, WRITE);
    rig.until(() => rig.hear(client).ended && flows() === 0, 'the end');
    expect(rig.ended()).toMatchObject([{ reason: 'closed', kind: 'splice' }]);
  });

  test('the side that was connected to may close first', () => {
    const { client, accepted } = rig.pair(direction);
    rig.native.shutdown(accepted, WRITE);
    rig.until(() => rig.hear(client).ended, 'the half-close');
    rig.sendAll(client, BIG.subarray(0, 100_000));
    expect(came(accepted, 100_000).equals(BIG.subarray(0, 100_000))).toBe(true);
    rig.close(client);
    rig.until(() => rig.hear(accepted).ended && flows() === 0, 'the end');
    expect(rig.endings()).toEqual(['closed']);
  });

  test('a reset of either side is the other side’s', () => {
    const one = rig.pair(direction);
    rig.sendAll(one.client, Buffer.from('x'));
    came(one.accepted, 1);
    rig.abort(one.client);
    isReset(one.accepted);
    const two = rig.pair(direction);
    rig.sendAll(two.client, Buffer.from('x'));
    came(two.accepted, 1);
    rig.abort(two.accepted);
    isReset(two.client);
    expect(flows()).toBe(0);
    const other = guestReset === 'guest' ? 'peer' : 'guest';
    expect(rig.endings()).toEqual([`${guestReset}-reset`, `${other}-reset`]);
  });

  test('a side that reads nothing stops the other; what was taken comes once it reads, a close behind it', () => {
    rig.tight = true;
    const { client, accepted } = rig.pair(direction, '127.0.0.1', true);
    const sent = rig.fill(client, BIG);
    expect(sent).toBeGreaterThan(50_000);
    // Buffers of three sockets and a pipe: no more is held.
    expect(sent).toBeLessThan(BIG.length * 4);
    // The other direction is not stopped.
    rig.sendAll(accepted, Buffer.from('back'));
    expect(came(client, 4).toString()).toBe('back');
    rig.close(client);
    rig.settle();
    expect(flows()).toBe(1);
    rig.until(() => rig.hear(accepted, 100_000).ended, 'the end');
    const { data, error } = rig.hear(accepted);
    expect({ error, bytes: data.length }).toEqual({ error: 0, bytes: sent });
    for (let at = 0; at < sent; at += BIG.length) {
      expect(data.subarray(at, at + BIG.length).equals(BIG.subarray(0, Math.min(BIG.length, sent - at)))).toBe(true);
    }
    rig.close(accepted);
    rig.until(() => flows() === 0, 'the end of the flow');
    rig.settle();
  });

  test('a reset behind a full pipe: nothing more has to come, and the pipe goes with what is in it', () => {
    const before = pipes();
    rig.tight = true;
    const { client, accepted } = rig.pair(direction, '127.0.0.1', true);
    rig.fill(client, BIG);
    rig.abort(client);
    rig.until(() => flows() === 0, 'the end of the flow');
    rig.until(() => rig.hear(accepted).error !== 0 || rig.hear(accepted).ended, 'the end');
    expect(rig.hear(accepted).error).toBe(ECONNRESET);
    const again = rig.pair(direction, '127.0.0.1', true);
    rig.fill(again.client, BIG);
    rig.abort(again.accepted);
    rig.until(() => flows() === 0, 'the end of the flow');
    rig.until(() => rig.send(again.client, BIG.subarray(0, 1)) < 0, 'the reset');
    // A pipe that was emptied may be kept.
    expect(pipes() - before).toBeLessThanOrEqual(2);
  });

  test('urgent data is urgent on the other side, at its place in the stream', () => {
    const { client, accepted } = rig.pair(direction);
    for (const [from, to] of [
      [client, accepted],
      [accepted, client],
    ]) {
      rig.native.setsockopt(to, 1, 10, 0);
      rig.sendAll(from, Buffer.from('before'));
      expect(came(to, 6).toString()).toBe('before');
      expect(rig.send(from, Buffer.from('!'), MSG_OOB)).toBe(1);
      rig.sendAll(from, Buffer.from('after'));
      let urgent = '';
      rig.until(() => {
        urgent ||= rig.urgent(to);
        return urgent !== '';
      }, 'the urgent byte');
      expect(urgent).toBe('!');
      expect(came(to, 11).toString()).toBe('beforeafter');
    }
  });

  test('a port that nobody listens on: who connects is reset', () => {
    const { port } = rig.forward(direction, 'tcp', rig.unused('127.0.0.1'), '127.0.0.1');
    const client = rig.connect('127.0.0.1', port);
    isReset(client);
    expect(rig.endings()).toEqual(['not-connected']);
    expect(flows()).toBe(0);
  });

  test('a listener that goes leaves its connections, or resets them if that is wanted', () => {
    const one = rig.pair(direction);
    rig.bypass.makeForwards({ remove: [one.forward.fd], add: [], closeFlows: false });
    rig.sendAll(one.client, Buffer.from('alive'));
    expect(came(one.accepted, 5).toString()).toBe('alive');
    const two = rig.pair(direction);
    rig.bypass.makeForwards({ remove: [two.forward.fd], add: [], closeFlows: true });
    isReset(two.client);
    isReset(two.accepted);
    expect(flows()).toBe(1);
    expect(rig.endings()).toEqual(['unforwarded']);
  });

  test('an operator and the end of the guest reset both ends; a flow of before is not there', () => {
    const view = rig.bypass.views[0];
    const one = rig.pair(direction);
    const row = new Float64Array(FLOW_WORDS);
    expect(view.view(0, row, 0)).toBe(true);
    expect(view.close(0, row[2] + 1)).toBe(false);
    expect(view.close(view.capacity, 0)).toBe(false);
    expect(view.close(0, row[2])).toBe(true);
    expect(view.close(0, row[2])).toBe(false);
    isReset(one.client);
    isReset(one.accepted);
    const two = rig.pair(direction);
    rig.bypass.reset();
    isReset(two.client);
    isReset(two.accepted);
    expect(rig.endings()).toEqual(['operator', 'reset']);
  });
});

test('small messages take no pipe', () => {
  const { client, accepted } = rig.pair('in');
  const before = pipes();
  for (let i = 0; i < 20; i++) {
    rig.sendAll(client, BIG.subarray(0, 100));
    came(accepted, 100 * (i + 1));
    expect(pipes()).toBe(before);
  }
});

test('more streams at a standstill than there are pipes: the rest are copied, and all arrive', () => {
  rig = new SpliceRig({}, { maxTcpFlows: 2400 });
  rig.tight = true;
  const server = rig.listen('127.0.0.1', true);
  const { port } = rig.forward('in', 'tcp', rig.portOf(server), '127.0.0.1');
  const data = BIG.subarray(0, 1 << 16);
  const before = pipes();
  const open = Array.from({ length: 270 }, () => {
    const client = rig.connect('127.0.0.1', port, 'tcp', true);
    return { client, accepted: rig.accept(server), sent: 0 };
  });
  for (let idle = 0; idle < 3;) {
    let taken = 0;
    for (const one of open) {
      const n = one.sent < 4e5 ? rig.send(one.client, data) : 0;
      if (n > 0) one.sent += taken = n;
    }
    idle = rig.turn() === 0 && taken === 0 ? idle + 1 : 0;
  }
  expect(pipes() - before).toBeGreaterThan(0);
  expect(pipes() - before).toBeLessThanOrEqual(512);
  for (const { client } of open) rig.close(client);
  // All of them are read, a little of each in turn.
  rig.until(() => open.filter(({ accepted }) => !rig.hear(accepted, 1 << 16).ended).length === 0, 'the ends');
  for (const { accepted, sent } of open) {
    const { bytes, error } = rig.hear(accepted);
    expect({ error, bytes }).toEqual({ error: 0, bytes: sent });
  }
  // Few are kept: the user's other programs need some.
  expect(pipes() - before).toBeLessThanOrEqual(16);
});

describe('where there is no room', () => {
  test('a full table resets what comes from the host', () => {
    const server = rig.listen('127.0.0.1');
    const { port } = rig.forward('in', 'tcp', rig.portOf(server), '127.0.0.1');
    const { capacity } = rig.bypass.views[0];
    const clients = Array.from({ length: capacity + 1 }, () => rig.connect('127.0.0.1', port));
    isReset(clients[capacity]);
    rig.until(() => states().filter((state) => state === FLOW_STATE_OPEN).length === capacity, 'the connections');
    expect(rig.drops()).toEqual({ flow_table_full: 1 });
    rig.abort(clients[0]);
    rig.until(() => flows() === capacity - 1, 'room');
    expect(rig.connect('127.0.0.1', port)).toBeGreaterThan(0);
    rig.until(() => flows() === capacity, 'the next');
  });

  test('the namespace has three quarters; its further connections wait, and are taken when others end', () => {
    const server = rig.listen('127.0.0.1');
    const { port } = rig.forward('out', 'tcp', rig.portOf(server), '127.0.0.1');
    const share = (rig.bypass.views[0].capacity * 3) / 4;
    const clients = Array.from({ length: share + 2 }, () => rig.connect('127.0.0.1', port));
    const accepted = clients.slice(0, share).map(() => rig.accept(server));
    rig.settle();
    expect(flows()).toBe(share);
    // The host's are not kept out.
    const inward = rig.pair('in');
    rig.sendAll(inward.client, Buffer.from('host'));
    came(inward.accepted, 4);
    rig.close(clients[0]);
    rig.close(accepted[0]);
    rig.accept(server);
    rig.settle();
    expect(flows()).toBe(share + 1);
    expect(rig.drops()).toEqual({});
  });

  test('no socket of the namespace in stock: the connection waits for one', () => {
    rig.stocked = false;
    const server = rig.listen('127.0.0.1');
    const { port } = rig.forward('in', 'tcp', rig.portOf(server), '127.0.0.1');
    const clients = Array.from({ length: 5 }, () => rig.connect('127.0.0.1', port));
    for (const client of clients) rig.sendAll(client, Buffer.from('early'));
    rig.until(() => flows() === 5, 'the connections');
    expect(states()).toContain(FLOW_STATE_CONNECTING);
    // One does not wait for it.
    rig.abort(clients[4]);
    rig.settle();
    rig.stocked = true;
    for (let i = 0; i < 4; i++) expect(came(rig.accept(server), 5).toString()).toBe('early');
    rig.until(() => flows() === 4, 'the end of who did not wait');
  });
});

describe('what the namespace may reach', () => {
  test('a policy: what it forbids is reset and reported, what it comes to forbid is ended', () => {
    const server = rig.listen('127.0.0.1');
    const to = rig.portOf(server);
    const { port } = rig.forward('out', 'tcp', to, '127.0.0.1');
    rig.setPolicy(`allow tcp/host:${String(to)}`);
    const client = rig.connect('127.0.0.1', port);
    const accepted = rig.accept(server);
    rig.sendAll(client, Buffer.from('in time'));
    came(accepted, 7);
    const inward = rig.pair('in');
    rig.setPolicy(`deny tcp/host:${String(to)}`, 'allow any');
    isReset(client);
    isReset(accepted);
    isReset(rig.connect('127.0.0.1', port));
    expect(rig.ended().map(({ reason, verdict }) => [reason, verdict !== undefined])).toEqual([
      ['denied', false],
      ['denied', true],
    ]);
    expect(rig.drops()).toEqual({ policy_denied: 1 });
    // What comes from the host is not asked about.
    rig.sendAll(inward.client, Buffer.from('host'));
    came(inward.accepted, 4);
  });

  test('neither a port that is forwarded to it, nor one of the service', () => {
    const inward = rig.pair('in');
    const back = rig.forward('out', 'tcp', inward.forward.port, '127.0.0.1');
    isReset(rig.connect('127.0.0.1', back.port));
    expect(rig.drops()).toEqual({ own_listener: 1 });
    expect(rig.endings()).toEqual([]);
  });
});
