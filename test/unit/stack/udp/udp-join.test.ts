/** Datagrams of a flow that leave as one message, cut by the kernel (UDP_SEGMENT). */
import { GSO_UDP_L4 } from '../../../../src/stack/ports';
import { DatagramRig } from '../../../support/stack/datagram-rig';
import { EAGAIN, ECONNREFUSED, EINVAL, EMSGSIZE, type Address } from '../../../support/stack/fake-host-io-udp';
import { datagram } from '../../../support/stack/link-rig';

const EIO = 5;
const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';
const REMOTE = '203.0.113.5';
const REMOTE6 = '2001:db8:5::5';

interface Message {
  readonly length: number;
  readonly segment: number;
  readonly ttl: number;
  readonly tos: number;
}

/** A rig, and every message that its sends named, with the result of the call that it was first of. */
class JoinRig extends DatagramRig {
  readonly messages: Message[] = [];

  constructor(...args: ConstructorParameters<typeof DatagramRig>) {
    super(...args);
    const { host } = this;
    const send = host.sendMany.bind(host);
    host.sendMany = (fd, first, count): number => {
      for (let i = first; i < first + count; i++) {
        const end = host.msgRow[i] + host.msgRows[i];
        let length = 0;
        for (let r = host.msgRow[i]; r < end; r++) length += host.rows.length[r];
        this.messages.push({
          length,
          segment: host.msgSegment[i],
          ttl: host.msgTtl[i],
          tos: host.msgTos[i],
        });
      }
      return send(fd, first, count);
    };
  }

  /** Lengths and segment sizes of the messages since the last look. */
  shapes(): [length: number, segment: number][] {
    return this.messages.splice(0).map((m) => [m.length, m.segment]);
  }

  /** What left, checked to be `sent` in order and whole. */
  expectLeft(sent: readonly Uint8Array[]): void {
    const left = this.host.sent.splice(0).map((s) => Buffer.from(s.data).toString('latin1'));
    expect(left).toEqual(sent.map((data) => Buffer.from(data).toString('latin1')));
  }
}

function payloads(...lengths: number[]): Uint8Array[] {
  return lengths.map((length, n) => Uint8Array.from({ length }, (_, i) => (i * 5 + n * 31) & 0xff));
}

function frames(data: readonly Uint8Array[], v6 = false, more: { ttl?: number } = {}): Uint8Array[] {
  return data.map((d) => datagram(v6 ? GUEST6 : GUEST, 5000, v6 ? REMOTE6 : REMOTE, 7000, d, more));
}

const repeat = (n: number, length: number): number[] => Array<number>(n).fill(length);

describe('what becomes one message', () => {
  test.each<[string, number[], [number, number][]]>([
    ['all of one length', [200, 200, 200], [[600, 200]]],
    ['the last one shorter', [200, 200, 7], [[407, 200]]],
    [
      'nothing behind a shorter one',
      [200, 200, 7, 7, 200],
      [
        [407, 200],
        [7, 0],
        [200, 0],
      ],
    ],
    ['the second one shorter', [200, 199], [[399, 200]]],
    [
      'a longer one begins the next',
      [200, 201, 201],
      [
        [200, 0],
        [402, 201],
      ],
    ],
    [
      'an empty one stands alone',
      [200, 200, 0, 200, 0, 0],
      [
        [400, 200],
        [0, 0],
        [200, 0],
        [0, 0],
        [0, 0],
      ],
    ],
    [
      'no more than 64',
      repeat(130, 10),
      [
        [640, 10],
        [640, 10],
        [20, 10],
      ],
    ],
    [
      'no more than a packet holds',
      repeat(6, 20_000),
      [
        [60_000, 20_000],
        [60_000, 20_000],
      ],
    ],
    [
      'also by what the last one adds',
      [32_000, 32_000, 1487, 32_000, 32_000, 1488],
      [
        [65_487, 32_000],
        [64_000, 32_000],
        [1488, 0],
      ],
    ],
  ])('%s', (_name, lengths, want) => {
    for (const v6 of [false, true]) {
      for (const rowSize of [50, 1500, 1 << 16]) {
        if (lengths[0] >= 20_000 && rowSize === 50) continue;
        const rig = new JoinRig({ port: { rowSize } });
        const sent = payloads(...lengths);
        rig.guest(...frames(sent, v6));
        rig.expectLeft(sent);
        expect(rig.shapes()).toEqual(want);
        expect(rig.host.calls.get('sendMany')).toBe(1);
      }
    }
  });

  test('no more rows than a system call takes', () => {
    const rig = new JoinRig({ port: { rowSize: 4 } });
    const sent = payloads(...repeat(30, 200));
    rig.guest(...frames(sent));
    rig.expectLeft(sent);
    for (const [length] of rig.shapes()) expect(length).toBeLessThanOrEqual(1024 * 4);
  });

  test('not across a change of hop limit, nor of flow', () => {
    const rig = new JoinRig();
    const sent = payloads(...repeat(8, 100));
    const other = datagram(GUEST, 5001, REMOTE, 7000, sent[6]);
    rig.guest(
      ...frames(sent.slice(0, 2), false, { ttl: 9 }),
      ...frames(sent.slice(2, 4)),
      ...frames(sent.slice(4, 6)),
      other,
      ...frames([sent[7]]),
    );
    rig.expectLeft(sent);
    expect(rig.shapes()).toEqual([
      [200, 100],
      [400, 100],
      [100, 0],
      [100, 0],
    ]);
  });

  test('answers of a listener: only with the same hop limit and class', () => {
    const rig = new JoinRig({}, [{ address: '0.0.0.0', port: 8000 }]);
    const peer: Address = { address: REMOTE, port: 7000 };
    rig.host.deliver(peer, { address: '198.51.100.99', port: 8000 }, payloads(1)[0]);
    rig.pump();
    const sent = payloads(...repeat(5, 100));
    rig.guest(...sent.map((d, i) => datagram(GUEST, 8000, REMOTE, 7000, d, { ttl: i < 3 ? 60 : 61 })));
    expect(rig.messages.map((m) => [m.length, m.segment, m.ttl])).toEqual([
      [300, 100, 60],
      [200, 100, 61],
    ]);
    rig.expectLeft(sent);
    expect(rig.host.calls.get('sendMany')).toBe(1);
  });

  test('not to a group', () => {
    const rig = new JoinRig();
    const sent = payloads(100, 100);
    rig.guest(...sent.map((d) => datagram(GUEST, 5000, '239.1.2.3', 1900, d)));
    rig.expectLeft(sent);
    expect(rig.shapes()).toEqual([
      [100, 0],
      [100, 0],
    ]);
  });

  test('not with a frame that the guest left to cut', () => {
    const rig = new JoinRig();
    const [whole, next] = payloads(250, 100);
    rig.port.inject(frames([whole])[0], { csumPartial: true, gsoType: GSO_UDP_L4, gsoSize: 100 });
    rig.guest(...frames([next, next]));
    rig.expectLeft([whole.slice(0, 100), whole.slice(100, 200), whole.slice(200), next, next]);
    expect(rig.shapes()).toEqual([
      [250, 100],
      [200, 100],
    ]);
  });
});

describe('what the kernel refuses', () => {
  test.each([
    [-EINVAL, 0],
    [-EIO, 0],
    [-EMSGSIZE, 300],
  ])('%i: sent one by one, in order, and remembered for the flow', (errno, stillJoined) => {
    const rig = new JoinRig({ port: { rowSize: 70 } });
    const sent = payloads(300, 300, 300, 20);
    rig.host.sendErrors.push(errno);
    rig.guest(...frames(sent));
    rig.expectLeft(sent);
    expect(rig.shapes().slice(-4)).toEqual([
      [300, 0],
      [300, 0],
      [300, 0],
      [20, 0],
    ]);
    rig.guest(...frames(sent));
    rig.expectLeft(sent);
    expect(rig.shapes()).toEqual([
      [300, 0],
      [300, 0],
      [300, 0],
      [20, 0],
    ]);
    // What is shorter than what was too long may still be joined; where the kernel cannot cut at all, nothing is.
    const short = payloads(200, 200);
    rig.guest(...frames(short));
    rig.expectLeft(short);
    expect(rig.shapes()).toHaveLength(stillJoined > 0 ? 1 : 2);
    expect(rig.allDrops()).toEqual({});
  });

  test('the error of an earlier datagram costs none of them', () => {
    const rig = new JoinRig();
    const sent = payloads(...repeat(5, 100));
    rig.guest(...frames(sent.slice(0, 1)));
    const [socket] = [...rig.host.sockets.values()];
    socket.pendingError = ECONNREFUSED;
    rig.guest(...frames(sent.slice(1)));
    rig.expectLeft(sent);
    expect(rig.shapes().at(-1)).toEqual([400, 100]);
  });

  test('nor does one that comes while they leave one by one', () => {
    const rig = new JoinRig();
    const sent = payloads(...repeat(5, 100));
    rig.host.sendErrors.push(-EINVAL, -ECONNREFUSED);
    rig.guest(...frames(sent));
    rig.expectLeft(sent);
    expect(rig.allDrops()).toEqual({});
  });

  test('in more pieces of memory than one call takes', () => {
    const rig = new JoinRig({ port: { rowSize: 60 } });
    const sent = payloads(...repeat(3, 20_400));
    rig.host.sendErrors.push(-EINVAL);
    rig.guest(...frames(sent));
    rig.expectLeft(sent);
    expect(rig.shapes()[0]).toEqual([61_200, 20_400]);
    expect(rig.allDrops()).toEqual({});
  });

  test('no room: each that finds none is counted', () => {
    const rig = new JoinRig();
    const sent = payloads(...repeat(5, 100));
    rig.host.sendErrors.push(-EAGAIN, -EAGAIN, -EAGAIN);
    rig.guest(...frames(sent));
    rig.expectLeft(sent.slice(2));
    expect(rig.allDrops()).toEqual({ host_socket_error: 2 });
    // That says nothing of the path.
    rig.guest(...frames(sent));
    expect(rig.shapes().at(-1)).toEqual([500, 100]);
  });

  test('longer than the host’s interface takes: in fragments, one by one', () => {
    const rig = new JoinRig({ port: { rowSize: 900 } });
    rig.host.mtu = 1500;
    const sent = payloads(3000, 3000, 3000, 100);
    rig.guest(...frames(sent));
    rig.expectLeft(sent);
    rig.guest(...frames(sent));
    rig.expectLeft(sent);
    expect(rig.allDrops()).toEqual({});
    expect(
      rig
        .shapes()
        .slice(-4)
        .map(([, segment]) => segment),
    ).toEqual([0, 0, 0, 0]);
  });
});
