/** TFTP (RFC 1350 §4): the request goes to port 69, and the server answers from a port that it chose for the transfer. */
import { C_FLOWS_UDP } from '../../../../src/stack/counters';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import { datagram } from '../../../support/stack/link-rig';

const FAMILIES: [string, string, string][] = [
  ['192.0.2.10', '203.0.113.5', '198.51.100.99'],
  ['2001:db8::10', '2001:db8:5::5', '2001:db8:99::99'],
];

describe.each(FAMILIES)('a transfer of %s', (guest, server, host) => {
  const request = datagram(guest, 5000, server, 69, ascii('RRQ'));

  test('goes on at the port that the server answers from, over the same socket', () => {
    const rig = new DatagramRig();
    rig.guest(request);
    expect(rig.left()[0]).toMatch(/:5000 > .*:69 RRQ$/);
    rig.host.deliver({ address: server, port: 4321 }, { address: host, port: 5000 }, ascii('DATA'));
    rig.pump();
    rig.guest(datagram(guest, 5000, server, 4321, ascii('ACK')));
    rig.host.deliver({ address: server, port: 4321 }, { address: host, port: 5000 }, ascii('DATA2'));
    rig.pump();
    expect(rig.seen()).toEqual([`${server}:4321 > ${guest}:5000 DATA`, `${server}:4321 > ${guest}:5000 DATA2`]);
    expect(rig.left()).toEqual([`${host}:5000 > ${server}:4321 ACK`]);
    expect(rig.counter(C_FLOWS_UDP)).toBe(1);
    expect(rig.host.sockets.size).toBe(1);
    expect(rig.allDrops()).toEqual({});
    // Connected, as any flow to one peer.
    const [socket] = [...rig.host.sockets.values()];
    expect(socket.peer).toEqual({ address: server, port: 4321 });
    // And the next transfer, from the same port of the guest, begins at port 69.
    rig.guest(request);
    expect(rig.left()[0]).toContain(`> ${server}:69 RRQ`);
    expect(rig.counter(C_FLOWS_UDP)).toBe(2);
  });

  test('a refusal may come from port 69 itself', () => {
    const rig = new DatagramRig();
    rig.guest(request);
    rig.host.deliver({ address: server, port: 69 }, { address: host, port: 5000 }, ascii('ERROR'));
    rig.pump();
    expect(rig.seen()).toEqual([`${server}:69 > ${guest}:5000 ERROR`]);
  });

  test('others do not get in, before and after the answer', () => {
    const rig = new DatagramRig();
    rig.guest(request);
    const [socket] = [...rig.host.sockets.values()];
    const other = guest.includes(':') ? '2001:db8:6::6' : '203.0.113.6';
    rig.host.queue(socket, { address: other, port: 4321 }, host, ascii('not you'));
    rig.host.queue(socket, { address: server, port: 4321 }, host, ascii('DATA'));
    rig.host.queue(socket, { address: server, port: 4322 }, host, ascii('from another transfer'));
    rig.host.queue(socket, { address: server, port: 4321 }, host, ascii('more'));
    rig.pump();
    expect(rig.seen()).toEqual([`${server}:4321 > ${guest}:5000 DATA`, `${server}:4321 > ${guest}:5000 more`]);
    expect(rig.allDrops()).toEqual({ source_invalid: 2 });
  });

  test('a flow that the guest has with that port already is left alone', () => {
    const rig = new DatagramRig();
    rig.guest(request, datagram(guest, 5000, server, 4321, ascii('before')));
    const [first] = [...rig.host.sockets.values()];
    rig.host.queue(first, { address: server, port: 4321 }, host, ascii('DATA'));
    rig.pump();
    expect(rig.seen()).toEqual([`${server}:4321 > ${guest}:5000 DATA`]);
    expect(rig.counter(C_FLOWS_UDP)).toBe(2);
    rig.later(600_000);
    expect(rig.counter(C_FLOWS_UDP)).toBe(0);
    expect(rig.host.sockets.size).toBe(0);
  });

  test('its socket takes no port from a service of the host', () => {
    const rig = new DatagramRig();
    rig.host.listener(guest.includes(':') ? '::' : '0.0.0.0', 5000).options.set('1/2', 1);
    rig.guest(request);
    const socket = [...rig.host.sockets.values()][1];
    expect(socket.local?.port).not.toBe(5000);
  });
});
