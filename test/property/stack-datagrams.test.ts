/**
 * Whatever a guest sends and whatever the host's sockets give: UDP and ICMP never throw, leak or spin, and every frame to
 * the guest is whole, every ICMP error one that a strict host takes.
 */
import fc from 'fast-check';
import { GSO_NONE, GSO_UDP_L4 } from '../../src/stack/ports';
import { ascii, DatagramRig } from '../support/stack/datagram-rig';
import { ECONNREFUSED, EINVAL } from '../support/stack/fake-host-io-udp';
import { joinAll, piece } from '../support/stack/fragments';
import { bytes, datagram, dissect, icmpv6, packet, u16 } from '../support/stack/link-rig';
import { strictIcmpError } from '../support/stack/strict/icmp-error';

const ADDRESSES4 = ['192.0.2.10', '192.0.2.1', '203.0.113.5', '127.0.0.1', '0.0.0.0', '255.255.255.255', '224.0.0.1'];
const ADDRESSES6 = [
  '2001:db8::10',
  'fe80::1',
  'fe80::99',
  '2001:db8:5::5',
  '::1',
  '::',
  'ff02::fb',
  '::ffff:127.0.0.1',
];
const WORDS6 = ADDRESSES6.map((a) => (a.includes('.') ? '::ffff:7f00:1' : a));

const port = fc.constantFrom(0, 1, 53, 67, 123, 5000, 8000, 65535);
const body = fc.uint8Array({ maxLength: 300 });
const address4 = fc.constantFrom(...ADDRESSES4);
const address6 = fc.constantFrom(...WORDS6);

const frame = fc.oneof(
  fc.uint8Array({ minLength: 14, maxLength: 200 }),
  fc
    .tuple(address4, port, address4, port, body, fc.integer({ min: 0, max: 255 }))
    .map(([s, sp, d, dp, data, ttl]) => datagram(s, sp, d, dp, data, { ttl })),
  fc.tuple(address6, port, address6, port, body).map(([s, sp, d, dp, data]) => datagram(s, sp, d, dp, data)),
  fc.tuple(address4, address4, fc.constantFrom(1, 17), body).map(([s, d, p, data]) => packet(s, d, p, data)),
  fc.tuple(address6, address6, fc.constantFrom(58, 17), body).map(([s, d, p, data]) => packet(s, d, p, data)),
  fc
    .tuple(address6, address6, fc.nat(3), body)
    .map(([s, d, id, data]) => icmpv6(s, d, bytes([128, 0, 0, 0], u16(id), u16(1), data))),
  fc
    .tuple(fc.boolean(), fc.constantFrom(0, 8, 65_528), fc.uint8Array({ maxLength: 48 }), fc.boolean(), fc.nat(5))
    .map(([v6, at, data, more, next]) => {
      const whole = v6
        ? packet('2001:db8::10', '2001:db8:5::5', [17, 6, 58, 60, 43, 59][next], data)
        : packet('192.0.2.10', '203.0.113.5', [17, 6, 1][next % 3], data);
      return piece(whole, at, data, more);
    }),
);

const sent = fc.record({
  frame,
  flip: fc.option(fc.nat(400), { nil: -1 }),
  gsoSize: fc.constantFrom(0, 1, 7, 100),
  partial: fc.boolean(),
});

const step = fc.oneof(
  fc.record({ kind: fc.constant('guest' as const), frames: fc.array(sent, { maxLength: 12 }) }),
  fc.record({ kind: fc.constant('host' as const), pick: fc.nat(20), size: fc.nat(3000), count: fc.nat(12) }),
  fc.record({ kind: fc.constant('peer' as const), from: port, size: fc.nat(100) }),
  fc.record({
    kind: fc.constant('error' as const),
    pick: fc.nat(20),
    type: fc.nat(15),
    code: fc.nat(5),
    payload: body,
  }),
  fc.record({ kind: fc.constant('fail' as const), errno: fc.constantFrom(EINVAL, ECONNREFUSED, 1, 11, 90, 105) }),
  fc.record({ kind: fc.constant('time' as const), ms: fc.nat(70_000) }),
  fc.record({ kind: fc.constant('buffers' as const), n: fc.nat(5) }),
  fc.record({ kind: fc.constant('reset' as const) }),
);

test('any sequence of frames, datagrams, errors, shortages and resets', () => {
  let errors = 0;
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 40 }),
      fc.boolean(),
      fc.integer({ min: 1, max: 64 }),
      (steps, ping, rowSize) => {
        const rig = new DatagramRig(
          {
            config: { maxUdpFlows: 4, maxPingFlows: 3 },
            port: {
              buffers: 20,
              bufferSize: 1600,
              rowSize,
              memorySize: 4 << 20,
              gsoUdp4: rowSize % 2 === 0,
              gsoUdp6: rowSize % 3 > 0,
            },
          },
          [{ address: '::', port: 8000, dual: true }],
        );
        rig.host.pingRefused = ping ? 0 : -13;
        rig.host.maxSockets = 6;
        rig.host.joins = rowSize % 5 > 0;
        rig.host.segmentRefused = steps.length % 2 === 0;
        rig.host.broadcast.add('192.0.2.255');
        for (const s of steps) {
          const open = [...rig.host.sockets.values()];
          switch (s.kind) {
            case 'guest':
              for (const f of s.frames) {
                const data = Uint8Array.from(f.frame);
                if (f.flip >= 0 && f.flip < data.length) data[f.flip] ^= 0x41;
                const gso = f.gsoSize > 0 && f.partial;
                rig.port.inject(data, {
                  csumPartial: f.partial,
                  gsoType: gso ? GSO_UDP_L4 : GSO_NONE,
                  gsoSize: gso ? f.gsoSize : 0,
                });
              }
              rig.stack.fromGuest(100);
              expect(rig.port.held).toBe(0);
              break;
            case 'host': {
              const socket = open[s.pick % open.length];
              const peer = socket.peer ?? { address: '203.0.113.9', port: 9 };
              for (let i = 0; i <= s.count; i++) {
                rig.host.queue(socket, peer, socket.local?.address ?? '::', new Uint8Array(s.size));
              }
              break;
            }
            case 'peer':
              rig.host.deliver(
                { address: '203.0.113.7', port: s.from },
                { address: '192.0.2.10', port: 8000 },
                new Uint8Array(s.size),
              );
              break;
            case 'error': {
              const socket = open[s.pick % open.length];
              const dest = socket.peer ?? { address: '203.0.113.7', port: 9 };
              rig.host.fail(socket, {
                errno: ECONNREFUSED,
                origin: s.code % 4,
                type: s.type,
                code: s.code,
                info: 1400,
                offender: s.type % 2 === 0 ? dest.address : '127.0.0.1',
                dest,
                payload: s.payload,
              });
              break;
            }
            case 'fail':
              rig.host.sendErrors.push(-s.errno);
              break;
            case 'time':
              rig.later(s.ms);
              break;
            case 'buffers':
              rig.port.post(s.n);
              rig.stack.onGuestReady();
              break;
            case 'reset':
              rig.stack.reset();
              break;
          }
          rig.pump();
          for (const f of joinAll(rig.port.sent())) if (strictIcmpError(dissect(f))) errors++;
          expect(rig.host.sockets.size).toBeLessThanOrEqual(6);
        }
        // Nothing is left behind, and the guest can still talk.
        rig.stack.reset();
        expect([...rig.host.sockets.values()]).toEqual(rig.listeners);
        rig.host.sendErrors.length = 0;
        rig.host.sent.length = 0;
        rig.guest(datagram('192.0.2.10', 5000, '203.0.113.5', 7000, ascii('still there')));
        expect(rig.host.sent).toHaveLength(1);
      },
    ),
    { numRuns: 300, interruptAfterTimeLimit: 10_000, markInterruptAsFailure: false },
  );
  expect(errors).toBeGreaterThan(10);
}, 30_000);
