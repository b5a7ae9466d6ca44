/** A host that moves while flows are open, and which ports of the host flows take. */
import { C_FLOWS_UDP } from '../../../../src/stack/counters';
import { GSO_UDP_L4 } from '../../../../src/stack/ports';
import { ip } from '../../../support/stack/addresses';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import { ENETUNREACH } from '../../../support/stack/fake-host-io-udp';
import { datagram } from '../../../support/stack/link-rig';
import { stackConfig } from '../../../support/stack/stack-config';

const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';
const REMOTE = '203.0.113.5';
const REMOTE6 = '2001:db8:5::5';

const ask = (payload: string, srcPort = 5000, port = 7000): Uint8Array =>
  datagram(GUEST, srcPort, REMOTE, port, ascii(payload));
const ask6 = (payload: string): Uint8Array => datagram(GUEST6, 5000, REMOTE6, 7000, ascii(payload));

function move(rig: DatagramRig): void {
  rig.host.gone.add(rig.host.source.v4);
  rig.host.source = { v4: '198.51.100.7', v6: '2001:db8:77::7' };
}

describe('the host has another address', () => {
  test('IPv4: the error of a send is enough; nothing is lost, the port stays, answers come', () => {
    const rig = new DatagramRig();
    rig.guest(ask('one'));
    move(rig);
    rig.guest(ask('two'), ask('three, longer'), ask('four'));
    expect(rig.left()).toEqual([
      '198.51.100.99:5000 > 203.0.113.5:7000 one',
      ...['two', 'three, longer', 'four'].map((text) => `198.51.100.7:5000 > 203.0.113.5:7000 ${text}`),
    ]);
    rig.host.deliver({ address: REMOTE, port: 7000 }, { address: '198.51.100.7', port: 5000 }, ascii('answer'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:7000 > 192.0.2.10:5000 answer']);
    expect([rig.host.sockets.size, rig.counter(C_FLOWS_UDP)]).toEqual([1, 1]);
    expect(rig.allDrops()).toEqual({});
  });

  test('datagrams that were joined, or came as one frame, are sent again too', () => {
    const rig = new DatagramRig();
    rig.guest(ask('one'));
    move(rig);
    rig.guest(ask('two'), ask('six'));
    rig.host.gone.add(rig.host.source.v4);
    rig.host.source = { v4: '198.51.100.8', v6: '2001:db8:77::8' };
    rig.guestVnet(ask('aaaabbbbcc'), { gsoType: GSO_UDP_L4, gsoSize: 4, csumPartial: true });
    expect(rig.left().map((line) => [line.split(':')[0], line.split(' ')[3]])).toEqual([
      ['198.51.100.99', 'one'],
      ['198.51.100.7', 'two'],
      ['198.51.100.7', 'six'],
      ['198.51.100.8', 'aaaa'],
      ['198.51.100.8', 'bbbb'],
      ['198.51.100.8', 'cc'],
    ]);
    expect(rig.allDrops()).toEqual({});
  });

  test('what the socket was set to, the new one is set to', () => {
    const rig = new DatagramRig();
    rig.guest(ask('x'.repeat(600)));
    const [before] = rig.host.sockets.values();
    move(rig);
    rig.guest(ask('y'.repeat(600)));
    const [after] = rig.host.sockets.values();
    expect(after.fd).not.toBe(before.fd);
    expect(after.options).toEqual(before.options);
  });

  test.each([
    ['an address that is configured anew', (rig: DatagramRig): void => rig.stack.reconfigure(stackConfig())],
    ['one that the guest is not told of', (rig: DatagramRig): void => rig.stack.moved()],
  ])('IPv6 says no error, the flow is looked at when the guest sends: %s', (_, changed) => {
    const rig = new DatagramRig();
    rig.guest(ask6('one'), ask('one'));
    move(rig);
    changed(rig);
    const sockets = rig.host.calls.get('socket') ?? 0;
    rig.guest(ask6('two'), ask('two'));
    rig.guest(ask6('three'), ask('three'));
    expect(rig.left().slice(2)).toEqual([
      '2001:db8:77::7:5000 > 2001:db8:5::5:7000 two',
      '198.51.100.7:5000 > 203.0.113.5:7000 two',
      '2001:db8:77::7:5000 > 2001:db8:5::5:7000 three',
      '198.51.100.7:5000 > 203.0.113.5:7000 three',
    ]);
    // One to look and one to use, for each: once for a change.
    expect(rig.host.calls.get('socket')).toBe(sockets + 4);
    expect(rig.host.sockets.size).toBe(2);
  });

  test('a change that does not concern a flow leaves it its socket', () => {
    const rig = new DatagramRig();
    rig.guest(ask('one'));
    const [before] = rig.host.sockets.values();
    rig.stack.moved();
    rig.guest(ask('two'));
    expect([...rig.host.sockets.values()]).toEqual([before]);
  });

  test('no way out: one try for each batch, the datagrams are counted, and the flow comes back', () => {
    const rig = new DatagramRig();
    rig.guest(ask('one'));
    move(rig);
    rig.host.unreachable.set(REMOTE, -ENETUNREACH);
    const sockets = rig.host.calls.get('socket') ?? 0;
    rig.guest(...Array.from({ length: 20 }, (_, i) => ask('x'.repeat(i + 1))));
    expect(rig.host.calls.get('socket')).toBe(sockets + 1);
    expect(rig.allDrops()).toEqual({ host_socket_error: 20 });
    rig.host.unreachable.clear();
    rig.guest(ask('back'));
    expect(rig.left().at(-1)).toBe('198.51.100.7:5000 > 203.0.113.5:7000 back');
    expect(rig.host.sockets.size).toBe(1);
  });

  test('an answer of a forwarded port leaves from an address that there is', () => {
    const rig = new DatagramRig({}, [{ address: '0.0.0.0', port: 8000 }]);
    rig.host.deliver({ address: REMOTE, port: 9 }, { address: '198.51.100.99', port: 8000 }, ascii('hello'));
    rig.pump();
    move(rig);
    rig.guest(datagram(GUEST, 8000, REMOTE, 9, ascii('answer')), datagram(GUEST, 8000, REMOTE, 9, ascii('and more')));
    expect(rig.left().map((line) => line.split(' ').slice(2))).toEqual([
      ['203.0.113.5:9', 'answer'],
      ['203.0.113.5:9', 'and', 'more'],
    ]);
  });

  test('a query from the same port goes to the resolver of now', () => {
    const rig = new DatagramRig({ ip4: { dns: [ip(REMOTE)] } });
    rig.guest(ask('one', 5000, 53));
    rig.stack.reconfigure(stackConfig({}, { dns: [ip('198.51.100.53')] }));
    rig.guest(ask('two', 5000, 53));
    expect(rig.left().at(-1)).toBe('198.51.100.99:5000 > 198.51.100.53:53 two');
    rig.seen(); // the advertisement that comes with another configuration
    rig.host.deliver({ address: '198.51.100.53', port: 53 }, { address: '198.51.100.99', port: 5000 }, ascii('answer'));
    rig.pump();
    expect(rig.seen()).toEqual(['203.0.113.5:53 > 192.0.2.10:5000 answer']);
    expect(rig.host.sockets.size).toBe(1);
  });
});

describe('ports of the host', () => {
  const hostPorts = new Uint8Array(8192);
  for (const port of [1024, 5353, 51820]) hostPorts[port >> 3] |= 1 << (port & 7);
  const ports = (rig: DatagramRig): number[] => rig.left().map((line) => Number(line.split(' ')[0].split(':')[1]));

  test('one that is left to programs of the host is not taken; flows from it share another', () => {
    const rig = new DatagramRig({ config: { hostPorts } });
    rig.guest(ask('a', 5353), ask('b', 5353, 7001), ask('c', 1024), ask('d', 5000), ask('e', 5353, 7002));
    const [a, b, c, d, e] = ports(rig);
    expect(new Set([a, b, e]).size).toBe(1);
    expect([5353, 1024, 5000]).not.toContain(a);
    expect([a, 1024]).not.toContain(c);
    expect(d).toBe(5000);
  });

  test('one that is forwarded to the guest is its own, also where another port of it is meant', () => {
    const rig = new DatagramRig({ config: { hostPorts } }, [{ address: '0.0.0.0', port: 5353, targetPort: 53 }]);
    rig.guest(ask('a', 5353), ask('b', 5353, 7001));
    expect(ports(rig)).toEqual([5353, 5353]);
    // The listener shares with nobody else.
    expect(rig.listeners[0].option(1, 2)).toBe(0);
  });

  test('none is shared with a program that would share it', () => {
    const rig = new DatagramRig();
    const program = rig.host.listener('0.0.0.0', 5000);
    program.options.set('1/2', 1);
    rig.guest(ask('a'), ask('b', 5000, 7001));
    const [a, b] = ports(rig);
    expect(a).not.toBe(5000);
    expect(b).toBe(a);
  });

  test('another is kept while one of its flows lives, and asked for again later', () => {
    const rig = new DatagramRig({ config: { hostPorts } });
    rig.guest(ask('a', 5353));
    rig.later(60_000);
    expect(rig.counter(C_FLOWS_UDP)).toBe(0);
    rig.guest(ask('b', 5353));
    const [a, b] = ports(rig);
    expect(b).toBe(a);
    rig.later(60_000);
    rig.host.takenPorts.add(a);
    rig.guest(ask('c', 5353), ask('d', 5353, 7001));
    const [c, d] = ports(rig);
    expect([c, d]).not.toContain(a);
    expect(d).toBe(c);
  });
});
