/** Sockets at which calls fail for want of memory: they are watched edge-triggered, and no event may follow. */
import { REST_MS } from '../../../../src/stack/kit/resting';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import { ECONNREFUSED, type FakeDatagramSocket } from '../../../support/stack/fake-host-io-udp';
import { datagram } from '../../../support/stack/link-rig';

const ENOMEM = 12;
const ENOSPC = 28;
const EBADF = 9;
const ENOBUFS = 105;
const PORT = { address: '::', port: 9000, dual: true };
const FAMILIES = [
  { guest: '192.0.2.10', remote: '203.0.113.5', host: '198.51.100.99' },
  { guest: '2001:db8::10', remote: '2001:db8:5::5', host: '2001:db8:99::99' },
];

/** The guest is known by an address of the family. */
function known(rig: DatagramRig, { guest, remote }: (typeof FAMILIES)[number]): FakeDatagramSocket {
  const before = new Set(rig.host.sockets.keys());
  rig.guest(datagram(guest, 5000, remote, 7000, ascii('question')));
  rig.seen();
  return [...rig.host.sockets.values()].find((s) => !before.has(s.fd))!;
}

/** Time passes up to the next deadline, which must come soon. */
function restOver(rig: DatagramRig): void {
  const wait = rig.stack.nextDeadline() - rig.clock.nowMs;
  expect(wait).toBeLessThanOrEqual(REST_MS);
  rig.later(wait);
  rig.pump();
}

describe.each(FAMILIES)('between $guest and $remote', (family) => {
  const { guest, remote, host } = family;

  test.each([ENOMEM, ENOBUFS])(
    'a listener that could not be read (errno %i) is read later, without an event',
    (errno) => {
      const rig = new DatagramRig({}, [PORT]);
      known(rig, family);
      rig.host.failing.set('recvMany', -errno);
      rig.host.deliver({ address: remote, port: 1234 }, { address: host, port: 9000 }, ascii('waits'));
      rig.pump();
      restOver(rig); // still short
      expect(rig.seen()).toEqual([]);
      rig.host.failing.clear();
      restOver(rig);
      expect(rig.seen()).toEqual([`${remote}:1234 > ${guest}:9000 waits`]);
      expect(rig.stack.nextDeadline() - rig.clock.nowMs).toBeGreaterThan(REST_MS);
    },
  );

  test('so is a flow, which is not taken for broken', () => {
    const rig = new DatagramRig();
    const socket = known(rig, family);
    rig.host.failing.set('recvMany', -ENOMEM);
    rig.host.queue(socket, { address: remote, port: 7000 }, host, ascii('answer'));
    rig.pump();
    rig.host.failing.clear();
    restOver(rig);
    expect(rig.seen()).toEqual([`${remote}:7000 > ${guest}:5000 answer`]);
  });

  test('so is a datagram whose length was seen, and which could not be taken then', () => {
    const rig = new DatagramRig();
    const socket = known(rig, family);
    rig.host.failing.set('recv', -ENOMEM);
    rig.host.queue(socket, { address: remote, port: 7000 }, host, ascii('answer'));
    rig.pump(); // does not spin
    rig.host.failing.clear();
    restOver(rig);
    expect(rig.seen()).toEqual([`${remote}:7000 > ${guest}:5000 answer`]);
    expect(rig.allDrops()).toEqual({});
  });

  test('and one that is to be dropped', () => {
    const rig = new DatagramRig({}, [PORT]);
    rig.host.failing.set('recv', -ENOMEM);
    rig.host.deliver({ address: remote, port: 0 }, { address: host, port: 9000 }, ascii('from nobody'));
    rig.pump(); // does not spin
    rig.host.failing.clear();
    restOver(rig);
    expect(Object.values(rig.allDrops())).toEqual([1]);
  });

  test('a flow whose socket fails for another reason is closed', () => {
    const rig = new DatagramRig();
    const socket = known(rig, family);
    rig.host.failing.set('recvMany', -EBADF);
    rig.host.queue(socket, { address: remote, port: 7000 }, host, ascii('answer'));
    rig.pump();
    expect(rig.host.sockets.has(socket.fd)).toBe(false);
  });

  test('a flow that rests may end meanwhile', () => {
    const rig = new DatagramRig();
    const socket = known(rig, family);
    rig.host.failing.set('recvMany', -ENOMEM);
    rig.host.queue(socket, { address: remote, port: 7000 }, host, ascii('answer'));
    rig.pump();
    rig.stack.reset();
    expect(rig.host.sockets.size).toBe(0);
    expect(rig.stack.nextDeadline()).toBe(Infinity);
  });

  test('errors that could not be read are told later', () => {
    const rig = new DatagramRig();
    const socket = known(rig, family);
    const v4 = !remote.includes(':');
    rig.host.failing.set('recvError', -ENOMEM);
    rig.host.fail(socket, {
      errno: ECONNREFUSED,
      origin: v4 ? 2 : 3,
      type: v4 ? 3 : 1,
      code: v4 ? 3 : 4,
      offender: remote,
      dest: { address: remote, port: 7000 },
      payload: ascii('question'),
    });
    rig.pump();
    expect(rig.seen()).toEqual([]);
    rig.host.failing.clear();
    restOver(rig);
    expect(rig.seen()).toEqual([`${remote} > ${guest} protocol ${v4 ? '1 type 3' : '58 type 1'}`]);
  });

  test.each([
    ['getsockname', ENOBUFS],
    ['watch', ENOMEM],
    ['watch', ENOSPC],
  ])('a port that could not be listened at (%s, errno %i) is deaf only until it can', (call, errno) => {
    const rig = new DatagramRig({ prepare: ({ failing }) => failing.set(call, -errno) }, [PORT]);
    expect(rig.logged).toEqual([
      `warn: UDP port 9000: the socket cannot be watched (errno ${String(errno)}), trying again`,
    ]);
    rig.host.failing.clear();
    known(rig, family);
    rig.host.deliver({ address: remote, port: 1234 }, { address: host, port: 9000 }, ascii('first'));
    restOver(rig);
    expect(rig.seen()).toEqual([`${remote}:1234 > ${guest}:9000 first`]);
  });
});

test('while a port is deaf nothing is sent from it, and the log says so within its budget', () => {
  const rig = new DatagramRig({ prepare: ({ failing }) => failing.set('watch', -ENOMEM) }, [
    { ...PORT, targetPort: 5000 },
  ]);
  for (let i = 0; i < 100; i++) restOver(rig);
  expect(rig.logged.length).toBeLessThanOrEqual(5 * (2 + (100 * REST_MS) / 1000));
  rig.host.failing.delete('watch');
  restOver(rig);
  known(rig, FAMILIES[0]);
  expect(rig.host.sent.map(({ fd }) => fd)).toEqual([rig.listeners[0].fd]);
});

test('a socket that cannot be watched for another reason is given up', () => {
  const rig = new DatagramRig({ prepare: ({ failing }) => failing.set('watch', -EBADF) }, [PORT]);
  expect(rig.logged).toEqual([
    'warn: UDP port 9000: the socket cannot be watched (errno 9): the port is not forwarded',
  ]);
  expect(rig.stack.nextDeadline()).toBe(Infinity);
});
