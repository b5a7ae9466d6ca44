/** What leaves for a group or for all, and who may answer; "don't fragment". */
import { IPPROTO_IP, IPPROTO_IPV6 } from '../../../../src/stack/kit/linux';
import { ip } from '../../../support/stack/addresses';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import type { FakeDatagramSocket } from '../../../support/stack/fake-host-io-udp';
import { datagram } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';
const REMOTE = '203.0.113.5';
const REMOTE6 = '2001:db8:5::5';
const HOST = '198.51.100.99';

function onlySocket(rig: DatagramRig): FakeDatagramSocket {
  const all = [...rig.host.sockets.values()];
  expect(all).toHaveLength(1);
  return all[0];
}

describe.each([
  ['multicast', GUEST, '239.255.255.250', REMOTE],
  ['broadcast', GUEST, '255.255.255.255', REMOTE],
  ['broadcast of the network', GUEST, '192.0.2.255', REMOTE],
  ['IPv6 multicast', GUEST6, 'ff02::fb', REMOTE6],
])('%s', (_name, guest, group, remote) => {
  test('anyone’s answers reach the guest, as theirs', () => {
    const rig = new DatagramRig();
    rig.host.broadcast.add('192.0.2.255');
    rig.guest(datagram(guest, 5000, group, 1900, ascii('who?')));
    expect(rig.left().map((s) => s.split('> ')[1])).toEqual([`${group}:1900 who?`]);
    const to = { address: guest === GUEST ? HOST : '2001:db8:99::99', port: 5000 };
    rig.host.deliver({ address: remote, port: 1900 }, to, ascii('me'));
    rig.host.deliver({ address: remote, port: 4321 }, to, ascii('me too'));
    rig.host.deliver({ address: guest === GUEST ? '127.0.0.1' : '::1', port: 9 }, to, ascii('and I'));
    rig.pump();
    const gateway = guest === GUEST ? '192.0.2.1' : 'fe80::1';
    expect(rig.seen()).toEqual([
      `${remote}:1900 > ${guest}:5000 me`,
      `${remote}:4321 > ${guest}:5000 me too`,
      `${gateway}:9 > ${guest}:5000 and I`,
    ]);
    expect(rig.allDrops()).toEqual({});
  });

  test('its socket does not hear what others joined for, nor take a port from a service of the host', () => {
    const rig = new DatagramRig();
    rig.host.broadcast.add('192.0.2.255');
    rig.host.listener(guest === GUEST ? '0.0.0.0' : '::', 1900).options.set('1/2', 1);
    rig.guest(datagram(guest, 1900, group, 1900, ascii('who?')));
    const [service, socket] = [...rig.host.sockets.values()];
    expect(socket.local?.port).not.toBe(1900);
    expect(socket.option(guest === GUEST ? IPPROTO_IP : IPPROTO_IPV6, guest === GUEST ? 49 : 29)).toBe(0);
    const to = { address: guest === GUEST ? HOST : '2001:db8:99::99', port: 1900 };
    expect(rig.host.deliver({ address: remote, port: 5 }, to, ascii('x'))).toBe(service);
  });
});

test('a group’s socket and one to a single peer share the guest’s port', () => {
  const rig = new DatagramRig();
  rig.guest(datagram(GUEST, 5000, '239.1.2.3', 1900, ascii('a')), datagram(GUEST, 5000, REMOTE, 1900, ascii('b')));
  expect([...rig.host.sockets.values()].map((s) => s.local?.port)).toEqual([5000, 5000]);
});

test('multicast leaves by the interface configured', () => {
  const rig = new DatagramRig({ ip4: { outboundAddr: ip('198.51.100.7') }, ip6: { scopeId: 3 } });
  rig.guest(datagram(GUEST, 5000, '239.1.2.3', 1900, ascii('a')));
  // The address's four bytes as they lie in memory, which is what struct in_addr wants.
  expect(onlySocket(rig).option(IPPROTO_IP, 32)).toBe(198 | (51 << 8) | (100 << 16) | (7 << 24));
  rig.stack.reset();
  rig.guest(datagram(GUEST6, 5000, 'ff05::2', 1900, ascii('b')));
  expect(onlySocket(rig).option(IPPROTO_IPV6, 17)).toBe(3);
});

describe('“don’t fragment”', () => {
  const DISCOVER4 = 10;
  const DISCOVER6 = 23;
  const long = 'x'.repeat(3000);

  const DF = { fragment: 0x4000 };

  test('is left to the kernel’s habit for what fits any path, else set as the guest has it', () => {
    const rig = new DatagramRig();
    rig.guest(datagram(GUEST, 5000, REMOTE, 7000, ascii('short'), DF));
    const socket = onlySocket(rig);
    expect(socket.option(IPPROTO_IP, DISCOVER4)).toBeUndefined();
    rig.guest(datagram(GUEST, 5000, REMOTE, 7000, ascii(long), DF));
    expect(socket.option(IPPROTO_IP, DISCOVER4)).toBe(3);
    const before = rig.host.calls.get('setsockopt');
    rig.guest(
      datagram(GUEST, 5000, REMOTE, 7000, ascii(long), DF),
      datagram(GUEST, 5000, REMOTE, 7000, ascii('short'), DF),
    );
    expect(rig.host.calls.get('setsockopt')).toBe(before);
    rig.guest(datagram(GUEST, 5000, REMOTE, 7000, ascii(long)));
    expect(socket.option(IPPROTO_IP, DISCOVER4)).toBe(0);
  });

  test.each([
    [GUEST, REMOTE, IPPROTO_IP, DISCOVER4],
    [GUEST6, REMOTE6, IPPROTO_IPV6, DISCOVER6],
  ])(
    'above the MTU of the host’s interface it leaves in fragments, and the guest at %s, which lost nothing, hears nothing',
    (guest, remote, level, option) => {
      const rig = new DatagramRig();
      rig.host.mtu = 1500;
      rig.guest(
        datagram(guest, 5000, remote, 7000, ascii('a'), DF),
        datagram(guest, 5000, remote, 7000, ascii(long), DF),
      );
      expect(rig.host.sent.map((s) => s.data.length)).toEqual([1, 3000]);
      expect(onlySocket(rig).option(level, option)).toBe(0);
      expect(rig.port.sent()).toEqual([]);
      // The next one costs no further call.
      const before = rig.host.calls.get('setsockopt');
      rig.guest(datagram(guest, 5000, remote, 7000, ascii(long), DF));
      expect(rig.host.sent).toHaveLength(3);
      expect(rig.host.calls.get('setsockopt')).toBe(before);
      expect(rig.port.sent()).toEqual([]);
      // Smaller ones are not fragmented for that.
      rig.guest(datagram(guest, 5000, remote, 7000, ascii('y'.repeat(1400)), DF));
      expect(onlySocket(rig).option(level, option)).toBe(3);
      expect(rig.allDrops()).toEqual({});
    },
  );
});
