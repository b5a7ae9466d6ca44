/** New flows of datagrams that nobody answers take a sixteenth of the time at the most (src/stack/kit/credit.ts). */
import { Credit } from '../../../../src/stack/kit/credit';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import { bytes, datagram, icmpv6, internetChecksum, packet, u16 } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';

function echo(n: number, to: number): Uint8Array {
  const m = bytes([8, 0, 0, 0], u16(n), u16(1), ascii('ping'));
  m.set(u16(internetChecksum(m)), 2);
  return packet(GUEST, `203.0.113.${String(to)}`, 1, m);
}

/** The nth request of its kind to host `to`, in a flow of its own; type of its answer, null: a datagram. */
const KINDS: readonly (readonly [
  kind: string,
  request: (n: number, to: number) => Uint8Array,
  answer: number | null,
])[] = [
  ['UDP', (n, to) => datagram(GUEST, 1024 + n, `203.0.113.${String(to)}`, 9, ascii('q')), null],
  ['UDP over IPv6', (n, to) => datagram(GUEST6, 1024 + n, `2001:db8:5::${String(to)}`, 9, ascii('q')), null],
  ['echo', echo, 0],
  [
    'echo over IPv6',
    (n, to) => icmpv6(GUEST6, `2001:db8:5::${String(to)}`, bytes([128, 0, 0, 0], u16(n), u16(1), ascii('ping'))),
    129,
  ],
];

describe.each(KINDS)('%s', (_kind, request, answer) => {
  const rigOf = (): DatagramRig => {
    const rig = new DatagramRig({ config: { maxUdpFlows: 100, maxPingFlows: 100 }, port: { memorySize: 1 << 11 } });
    // What a flow costs here: 100 µs.
    rig.host.onConnect = () => {
      rig.clock.advance(0.1);
    };
    return rig;
  };
  /** How many of requests `first … first + count - 1` leave. */
  const send = (rig: DatagramRig, first: number, count: number, to = 5): number => {
    let left = 0;
    for (let n = first; n < first + count; n++) {
      rig.guest(request(n, to));
      left += rig.host.sent.splice(0).length;
    }
    return left;
  };

  test('flows that nobody answers take a sixteenth of the time', () => {
    const rig = rigOf();
    const burst = send(rig, 0, 1000);
    expect(burst).toBeGreaterThanOrEqual(200);
    expect(burst).toBeLessThan(300);
    expect(rig.allDrops()).toEqual({ flow_limit: 1000 - burst });
    let share = 0;
    for (let ms = 0; ms < 1000; ms++) {
      rig.clock.advance(1);
      share += send(rig, 1000 + 3 * ms, 3);
    }
    expect(share).toBeGreaterThan(450);
    expect(share).toBeLessThan(900);
  });

  test('one during which a busy host did not let the service run does not hold up others', () => {
    const rig = rigOf();
    const { onConnect } = rig.host;
    rig.host.onConnect = () => {
      rig.clock.advance(40);
    };
    expect(send(rig, 0, 1)).toBe(1);
    rig.host.onConnect = onConnect;
    expect(send(rig, 1, 50)).toBe(50);
  });

  test('a flow that is there already is not held up', () => {
    const rig = rigOf();
    send(rig, 0, 1000);
    rig.host.sent.splice(0);
    const before = rig.allDrops().flow_limit;
    const kept = rig.host.sockets.size;
    expect(kept).toBeGreaterThan(50);
    expect(send(rig, 199, 1)).toBe(1);
    expect(rig.allDrops().flow_limit).toBe(before);
  });

  /** What left last is answered. */
  const reply = (rig: DatagramRig): void => {
    const [sent] = rig.host.sent.splice(0);
    const data = Uint8Array.from(sent.data);
    if (answer !== null) data[0] = answer;
    rig.host.queue(rig.host.get(sent.fd), sent.to, '', data);
    const { watched } = rig.host.get(sent.fd);
    rig.stack.onSocket(watched?.key ?? 0, watched?.generation ?? 0, 1);
    expect(rig.port.sent()).toHaveLength(1);
  };

  test('what has answered is reached while there is no credit, a few times until its next answer', () => {
    const rig = rigOf();
    rig.guest(request(0, 5));
    reply(rig);
    send(rig, 0, 1000, 6);
    for (let n = 1; n < 30; n++) {
      rig.guest(request(n, 5));
      reply(rig);
    }
    // Some find credit, which grows while the others take their time.
    const unanswered = send(rig, 30, 100, 5);
    expect(unanswered).toBeGreaterThanOrEqual(8);
    expect(unanswered).toBeLessThan(20);
  });

  test('flows that are answered have no limit', () => {
    const rig = rigOf();
    for (let n = 0; n < 1000; n++) {
      rig.guest(request(n, 5));
      reply(rig);
    }
    expect(rig.allDrops()).toEqual({});
  });
});

test('an attempt counts for a millisecond at the most, or for what is said to be the most', () => {
  const ordinary = new Credit(0);
  expect(ordinary.spend(30_000)).toBe(1000);
  expect(ordinary.left(0)).toBe(true);
  const long = new Credit(0, 65_535);
  expect(long.spend(30_000)).toBe(30_000);
  expect(long.left(100)).toBe(false);
  expect(long.left(200)).toBe(true);
});
