/** What a flow costs in memory of ours, and the largest table there can be. */
import type { StackContext } from '../../../../src/stack/context';
import { COUNTERS } from '../../../../src/stack/counters';
import { createLinkState } from '../../../../src/stack/link/guest-state';
import { ST_OPEN } from '../../../../src/stack/tcp/flow';
import { TcpHandler } from '../../../../src/stack/tcp/handler';
import { Traffic } from '../../../../src/stack/ip/guest-hints';
import { FakeClock } from '../../../support/stack/fake-clock';
import { FakeGuestPort, FakeMemory } from '../../../support/stack/fake-guest-port';
import { FakeHostIo } from '../../../support/stack/fake-host-io';
import { FakeRandom } from '../../../support/stack/fake-random';
import { stackConfig } from '../../../support/stack/stack-config';
import { TcpRig, openFromGuest } from '../../../support/stack/tcp-rig';
import { SiteLog } from '../../../../src/stack/kit/site-log';

/** passt's flow table. */
const MOST = 131_072;
/** A flow's key, of which the test changes the fourth word and the last. */
const KEY = [0, 0, 0xffff, 0x0a000001, 0, 0, 0xffff, 0x0a000002, 0];

/** Bytes of all typed arrays that can be reached from `value`: the engine keeps its flows in nothing else. */
function typedBytes(value: unknown, seen = new Set<unknown>()): number {
  if (typeof value !== 'object' || value === null || seen.has(value)) return 0;
  seen.add(value);
  if (ArrayBuffer.isView(value)) return value.byteLength;
  return Object.values(value).reduce<number>((sum, field) => sum + typedBytes(field, seen), 0);
}

function handler(maxTcpFlows: number): TcpHandler {
  const memory = new FakeMemory();
  const config = stackConfig({ maxTcpFlows });
  const ctx: StackContext = {
    config,
    port: new FakeGuestPort({ memory, memorySize: 1 << 20 }),
    io: new FakeHostIo(memory),
    clock: new FakeClock(),
    random: new FakeRandom(1),
    counters: new Float64Array(COUNTERS),
    link: createLinkState(config),
    traffic: new Traffic(),
    log: new SiteLog(new FakeClock(), () => undefined),
    ends: null,
  };
  return new TcpHandler(ctx, []);
}

test('less than 512 bytes a flow, taken at the start', () => {
  const one = typedBytes(handler(1 << 14).engine);
  const two = typedBytes(handler(1 << 15).engine);
  const each = (two - one) / (1 << 14);
  expect(each).toBeGreaterThan(100); // else the measure misses something
  expect(each).toBeLessThanOrEqual(512);
});

test('131 072 flows: all of them open, one more is refused with a count, all found again', () => {
  const rig = new TcpRig({ config: { maxTcpFlows: MOST } });
  rig.host.connectResult = 0;
  const t = rig.tcp.engine;
  const before = typedBytes(t.table) + typedBytes(t.timers);
  const first = openFromGuest(rig, { sport: 1 });
  // The handshake of each would take a minute: the table is what is asked here.
  t.table.probe.set(KEY);
  while (t.table.count < MOST) {
    const flow = t.table.alloc();
    t.table.probe[3] = 0x0a000000 | (flow >>> 16);
    t.table.probe[8] = flow & 0xffff;
    t.table.insert(flow);
    t.state[flow] = ST_OPEN;
  }
  rig.guest({ sport: 2, flags: 'S', seq: 1 });
  expect(rig.sent()).toEqual([]);
  expect(rig.drops('flow_table_full')).toBe(1);
  t.table.probe.set(KEY);
  for (let flow = 1; flow < MOST; flow += 997) {
    t.table.probe[3] = 0x0a000000 | (flow >>> 16);
    t.table.probe[8] = flow & 0xffff;
    expect(t.table.lookup()).toBe(flow);
  }
  // The flow that was there is served as ever, and nothing has grown.
  first.send('still');
  expect(first.socket.readText()).toBe('still');
  expect(typedBytes(t.table) + typedBytes(t.timers)).toBe(before);
});
