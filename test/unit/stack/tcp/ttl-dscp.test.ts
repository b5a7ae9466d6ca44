/** TTL or hop limit and DSCP of the guest's segments, on the host's socket. */
import { TcpRig, openFromGuest, openFromHost } from '../../../support/stack/tcp-rig';

const IP_TOS = '0.1';
const IP_TTL = '0.2';
const IPV6_UNICAST_HOPS = '41.16';
const IPV6_TCLASS = '41.67';

const families: readonly (readonly [boolean, string, string])[] = [
  [false, IP_TTL, IP_TOS],
  [true, IPV6_UNICAST_HOPS, IPV6_TCLASS],
];

describe.each(families)('IPv6 %s', (v6, ttlOption, tosOption) => {
  test('those of a SYN are on the socket when it connects', () => {
    const rig = new TcpRig();
    let atConnect = new Map<string, number>();
    rig.host.onConnect = (s): void => void (atConnect = new Map(s.options));
    const [src, dst] = v6 ? ['2001:db8::10', '2001:db8:1::7'] : ['192.0.2.10', '198.51.100.7'];
    rig.guest({ src, dst, flags: 'S', seq: 1, ttl: 7, tos: 0xb8 });
    expect(atConnect.get(ttlOption)).toBe(7);
    expect(atConnect.get(tosOption)).toBe(0xb8);
  });

  test('a change is followed once; the usual ones cost no call; ECN bits are the kernel’s', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { v6 });
    c.send('usual');
    expect(c.socket.options.has(ttlOption) || c.socket.options.has(tosOption)).toBe(false);
    const before = rig.host.count('setsockopt');
    for (let n = 0; n < 3; n++) {
      rig.guest(c.segment({ flags: 'P.', payload: 'x', ttl: 33, tos: 0x2b }));
      c.seq = (c.seq + 1) >>> 0;
    }
    expect(c.socket.options.get(ttlOption)).toBe(33);
    expect(c.socket.options.get(tosOption)).toBe(0x28);
    expect(rig.host.count('setsockopt') - before).toBe(2);
    c.send('usual');
    expect(c.socket.options.get(ttlOption)).toBe(64);
    expect(c.socket.options.get(tosOption)).toBe(0);
    expect(rig.host.count('setsockopt') - before).toBe(4);
  });

  test('a segment that is not acceptable changes nothing', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { v6 });
    rig.guest(c.segment({ flags: 'P.', seq: c.seq - 100_000, payload: 'x', ttl: 3, tos: 0x20 }));
    expect(c.socket.options.has(ttlOption) || c.socket.options.has(tosOption)).toBe(false);
  });
});

test('on a connection from the host as well', () => {
  const rig = new TcpRig({ forward: [{ port: 80 }] });
  const c = openFromHost(rig);
  rig.guest(c.segment({ flags: 'P.', payload: 'x', ttl: 128, tos: 0x48 }));
  expect(c.socket.options.get(IP_TTL)).toBe(128);
  expect(c.socket.options.get(IP_TOS)).toBe(0x48);
});
