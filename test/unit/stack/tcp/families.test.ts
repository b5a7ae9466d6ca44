/** A forwarded port reached in a family that the guest does not speak: `ssh localhost` tries ::1 first. */
import { ip } from '../../../support/stack/addresses';
import { GUEST_MAC, bytes, datagram, ethernet, packet } from '../../../support/stack/link-rig';
import { TcpRig, guestFrame } from '../../../support/stack/tcp-rig';
import type { FakeSocket } from '../../../support/stack/fake-host-io';

// What is used once in a frame of the guest is shown by this name.
guestFrame({ flags: 'S', src: '2001:db8::10', dst: 'fe80::1' });
guestFrame({ flags: 'S', src: '2001:db8:7::5', dst: '2001:db8::10' });

const FORWARD = [{ port: 2222, targetPort: 22 }];

/** The guest is heard with an address of the family. */
function heard(rig: TcpRig, v6: boolean): void {
  const frame = v6
    ? packet('2001:db8::10', '2001:db8:1::7', 17, new Uint8Array(8))
    : packet('192.0.2.10', '198.51.100.7', 17, new Uint8Array(8));
  rig.port.inject(frame);
  rig.settle();
}

function from(rig: TcpRig, address: string): FakeSocket {
  const peer = rig.host.incoming(rig.listeners[0], address, 40001);
  rig.settle();
  return peer;
}

describe.each([
  ['IPv4', false, '::1', '192.0.2.1', '192.0.2.10', '203.0.113.5', '2001:db8:7::5'],
  ['IPv6', true, '127.0.0.1', 'fe80::1', '2001:db8::10', '2001:db8:7::5', '203.0.113.5'],
] as const)('a guest with %s only', (_name, v6, otherLoopback, gateway, guest, remote, otherRemote) => {
  test('the host connects to its loopback of the other family: the guest sees the gateway in its own', () => {
    const rig = new TcpRig({ forward: FORWARD });
    heard(rig, v6);
    const peer = from(rig, otherLoopback);
    const syn = rig.one();
    expect(syn).toMatchObject({ flags: 'S', src: gateway, sport: 40001, dst: guest, dport: 22 });
    const ends = { src: guest, dst: gateway, sport: 22, dport: 40001 };
    rig.guest({ ...ends, flags: 'S.', seq: 1, ack: syn.seq + 1, mss: 1460 });
    rig.sent();
    rig.guest({ ...ends, flags: 'P.', seq: 2, ack: syn.seq + 1, payload: 'SSH-2.0' });
    expect(peer.readText()).toBe('SSH-2.0');
  });

  test('both loopbacks from one port: two connections', () => {
    const rig = new TcpRig({ forward: FORWARD });
    heard(rig, v6);
    from(rig, '::1');
    from(rig, '127.0.0.1');
    const ports = rig.sent().map((s) => s.sport);
    expect(new Set(ports).size).toBe(2);
  });

  test('a remote host in the other family: asked once, then reset', () => {
    const rig = new TcpRig({ forward: FORWARD });
    heard(rig, v6);
    const peer = from(rig, otherRemote);
    expect(rig.one()).toMatchObject({ flags: 'S', src: otherRemote });
    rig.wait(1010);
    expect(peer.ending).toBe('aborted');
    expect(from(rig, remote).ending).toBe('open');
  });

  test('a guest that turns out to speak both is waited for', () => {
    const rig = new TcpRig({ forward: FORWARD });
    heard(rig, v6);
    const peer = from(rig, otherRemote);
    heard(rig, !v6);
    rig.wait(1010);
    expect(peer.ending).toBe('open');
  });

  test('a guest that is silent as yet is waited for; heard in one family only, the other is given up', () => {
    const rig = new TcpRig({ forward: FORWARD });
    const peer = from(rig, otherLoopback);
    rig.wait(3500);
    expect(peer.ending).toBe('open');
    heard(rig, v6);
    rig.wait(1010);
    expect(peer.ending).toBe('aborted');
  });

  test('a rule with a target: the host’s loopback reaches it in its family, a remote host of the other is refused', () => {
    const rig = new TcpRig({ forward: [{ port: 2222, targetPort: 22, targetAddr: guest }] });
    from(rig, otherLoopback);
    expect(rig.one()).toMatchObject({ flags: 'S', src: gateway, dst: guest });
    expect(from(rig, otherRemote).ending).toBe('aborted');
  });
});

test('a guest that speaks both is reached as it is called', () => {
  const rig = new TcpRig({ forward: FORWARD, ip4: { mapHostLoopback: ip('192.0.2.1') } });
  heard(rig, false);
  heard(rig, true);
  from(rig, '::1');
  from(rig, '127.0.0.1');
  expect(rig.sent().map((s) => s.dst)).toEqual(['2001:db8::10', '192.0.2.10']);
});

test.each([
  ['ARP', packetOfArp()],
  ['DHCP', datagram('0.0.0.0', 68, '255.255.255.255', 67, new Uint8Array(300))],
])('a guest that has shown by %s alone that it speaks IPv4, and said more in IPv6', (_how, frame) => {
  const rig = new TcpRig({ forward: FORWARD });
  heard(rig, true);
  rig.port.inject(frame);
  rig.settle();
  rig.port.sentFrames();
  from(rig, '127.0.0.1');
  expect(rig.one()).toMatchObject({ dst: '192.0.2.10' });
});

/** A request for the gateway. */
function packetOfArp(): Uint8Array {
  const zero = '00 00 00 00 00 00';
  return ethernet(0x0806, bytes('00 01 08 00 06 04 00 01', GUEST_MAC, ip('192.0.2.10'), zero, ip('192.0.2.1')));
}
