/** A StackConfig for tests: 192.0.2.10/24 and 2001:db8::10, gateways 192.0.2.1 and fe80::1. */
import type { Ip4Config, Ip6Config, StackConfig } from '../../../src/stack/config';
import { NO_EXTRAS } from '../../../src/stack/config';
import { ip } from './addresses';

export function stackConfig(
  over: Partial<StackConfig> = {},
  ip4: Partial<Ip4Config> | null = {},
  ip6: Partial<Ip6Config> | null = {},
): StackConfig {
  return {
    ourMac: Uint8Array.from([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]),
    ip4:
      ip4 === null
        ? null
        : {
            guestAddr: ip('192.0.2.10'),
            prefixLen: 24,
            gateway: ip('192.0.2.1'),
            dns: [],
            mapHostLoopback: ip('192.0.2.1'),
            mapGuestAddr: null,
            dnsMatch: null,
            dnsHost: null,
            dnsHostScope: 0,
            outboundAddr: null,
            outboundIf: null,
            addrFixed: false,
            leaseSec: 3600,
            ...ip4,
          },
    ip6:
      ip6 === null
        ? null
        : {
            guestAddr: ip('2001:db8::10'),
            gateway: ip('fe80::1'),
            ourLinkLocal: ip('fe80::1'),
            dns: [],
            mapHostLoopback: ip('fe80::1'),
            mapGuestAddr: null,
            dnsMatch: null,
            dnsHost: null,
            dnsHostScope: 0,
            outboundAddr: null,
            outboundIf: null,
            addrFixed: false,
            scopeId: 3,
            withdrawn: false,
            leaseSec: 3600,
            ...ip6,
          },
    mtu: 65520,
    search: [],
    hostname: null,
    fqdn: null,
    tcp: true,
    udp: true,
    icmp: true,
    keepDf: false,
    dhcp: true,
    dhcpv6: true,
    ndp: true,
    ra: true,
    advertiseDns: true,
    advertiseSearch: true,
    udpTimeoutMs: 30_000,
    udpStreamTimeoutMs: 120_000,
    hostPorts: new Uint8Array(0),
    maxTcpFlows: 64,
    maxUdpFlows: 64,
    maxPingFlows: 16,
    tcpSynRetries: 6,
    tcpSynLinearTimeouts: 4,
    tcpRtoMaxMs: 120_000,
    tcpKeepaliveMs: 7_200_000,
    tcpPeekOff: true,
    ownListeners: [],
    extras: NO_EXTRAS,
    ...over,
  };
}
