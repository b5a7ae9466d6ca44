/** What is taken from the kernel's settings. */
import { readEphemeralRange, readHostPorts, readSysctls } from '../../../src/config/sysctl';

describe('kernel settings', () => {
  test('defaults where the kernel does not say, bounds where it says strange things', () => {
    expect(readSysctls(() => null)).toEqual({
      udpTimeoutMs: 180_000,
      udpStreamTimeoutMs: 300_000,
      hostPorts: expect.any(Uint8Array) as unknown,
      tcpSynRetries: 6,
      tcpSynLinearTimeouts: 4,
      tcpRtoMaxMs: 120_000,
      tcpKeepaliveMs: 7_200_000,
    });
    const odd = new Map([
      ['netfilter/nf_conntrack_udp_timeout', '0\n'],
      ['netfilter/nf_conntrack_udp_timeout_stream', '3600\n'],
      ['ipv4/tcp_syn_retries', 'many'],
      ['ipv4/tcp_rto_max_ms', '5\n'],
      ['ipv4/tcp_keepalive_time', '1\n'],
    ]);
    expect(readSysctls((name) => odd.get(name) ?? null)).toMatchObject({
      // Longer than RFC 4787 wants is obeyed, shorter is not.
      udpTimeoutMs: 180_000,
      udpStreamTimeoutMs: 3_600_000,
      hostPorts: expect.any(Uint8Array) as unknown,
      tcpSynRetries: 6,
      tcpRtoMaxMs: 1000,
      tcpKeepaliveMs: 60_000,
    });
  });

  test.each<[string | null, number, number]>([
    ['32768\t60999\n', 32768, 60999],
    [null, 49152, 65535],
    ['5 4', 49152, 65535],
    ['0 70000', 49152, 65535],
  ])('ephemeral range of %j', (text, first, last) => {
    expect(readEphemeralRange(() => text)).toEqual({ first, last });
  });
});

describe('ports of programs of the host', () => {
  test('ordinary ones outside the ephemeral range, and of that those that are known or reserved', () => {
    const sysctl: Record<string, string> = {
      'ipv4/ip_local_port_range': '32768\t60999\n',
      'ipv4/ip_local_reserved_ports': '40000,40002-40003\n',
    };
    const bits = readHostPorts((name) => sysctl[name] ?? null);
    const has = (port: number): boolean => (bits[port >> 3] & (1 << (port & 7))) !== 0;
    expect([1024, 5353, 32767, 61000, 65535, 51820, 40000, 40002, 40003].filter((port) => !has(port))).toEqual([]);
    expect([0, 123, 500, 1023, 32768, 60999, 40001, 40004].filter(has)).toEqual([]);
  });
});
