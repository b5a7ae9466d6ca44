/** Kernel settings of the host that shape our defaults. A setting that the kernel lacks has the kernel's own default. */
import { readFileSync } from 'node:fs';
import type { PortRange } from './port-spec';

export interface HostSysctls {
  /** net.netfilter.nf_conntrack_udp_timeout and …_stream, ms, but not less than RFC 4787 §4.3 asks for. */
  readonly udpTimeoutMs: number;
  readonly udpStreamTimeoutMs: number;
  /** UDP ports that are left to programs of the host (`StackConfig.hostPorts`). */
  readonly hostPorts: Uint8Array;
  readonly tcpSynRetries: number;
  readonly tcpSynLinearTimeouts: number;
  readonly tcpRtoMaxMs: number;
  readonly tcpKeepaliveMs: number;
}

/** RFC 4787 §4.3, REQ-5: two minutes at least, five or more recommended (docs/adr/0010-udp-lifetimes.md). */
const UDP_TIMEOUT_MS = 180_000;
const UDP_STREAM_TIMEOUT_MS = 300_000;

/** Reads a file under /proc/sys/net; null if it is not there. */
export type SysctlReader = (name: string) => string | null;

export const readSysctl: SysctlReader = (name) => {
  try {
    return readFileSync(`/proc/sys/net/${name}`, 'latin1');
  } catch {
    return null;
  }
};

function numberOr(text: string | null, fallback: number, min: number, max: number): number {
  const trimmed = text?.trim() ?? '';
  if (!/^[0-9]{1,10}$/.test(trimmed)) return fallback;
  return Math.min(max, Math.max(min, Number(trimmed)));
}

/**
 * Ports of the ephemeral range that well-known programs listen on all the same: BACnet, Tailscale, Transmission,
 * WireGuard. More are named in net.ipv4.ip_local_reserved_ports.
 */
const SERVICES_AMONG_EPHEMERAL: readonly number[] = [47808, 41641, 51413, 51820];

/** Ports below are the kernel's to refuse (net.ipv4.ip_unprivileged_port_start): who may bind them was given the right. */
const FIRST_ORDINARY_PORT = 1024;

/**
 * Ports on which a program of the host may want to listen: ordinary ones outside the ephemeral range, and of that those
 * that are reserved, or known.
 */
export function readHostPorts(read: SysctlReader = readSysctl): Uint8Array {
  const bits = new Uint8Array(8192);
  const set = (first: number, last: number): void => {
    for (let port = Math.max(first, FIRST_ORDINARY_PORT); port <= Math.min(last, 65535); port++) {
      bits[port >> 3] |= 1 << (port & 7);
    }
  };
  const ephemeral = readEphemeralRange(read);
  set(0, ephemeral.first - 1);
  set(ephemeral.last + 1, 65535);
  for (const port of SERVICES_AMONG_EPHEMERAL) set(port, port);
  for (const range of (read('ipv4/ip_local_reserved_ports') ?? '').trim().split(',')) {
    const match = /^([0-9]{1,5})(?:-([0-9]{1,5}))?$/.exec(range) as (string | undefined)[] | null;
    if (match !== null) set(Number(match[1]), Number(match[2] ?? match[1]));
  }
  return bits;
}

export function readSysctls(read: SysctlReader = readSysctl): HostSysctls {
  // Bounds keep a strange value from turning into a busy loop or an overflow of timer arithmetic.
  const seconds = (name: string, fallback: number): number => 1000 * numberOr(read(name), fallback, 1, 86400);
  return {
    udpTimeoutMs: Math.max(UDP_TIMEOUT_MS, seconds('netfilter/nf_conntrack_udp_timeout', 30)),
    udpStreamTimeoutMs: Math.max(UDP_STREAM_TIMEOUT_MS, seconds('netfilter/nf_conntrack_udp_timeout_stream', 120)),
    hostPorts: readHostPorts(read),
    tcpSynRetries: numberOr(read('ipv4/tcp_syn_retries'), 6, 1, 127),
    tcpSynLinearTimeouts: numberOr(read('ipv4/tcp_syn_linear_timeouts'), 4, 0, 127),
    tcpRtoMaxMs: numberOr(read('ipv4/tcp_rto_max_ms'), 120_000, 1000, 120_000),
    tcpKeepaliveMs: 1000 * numberOr(read('ipv4/tcp_keepalive_time'), 7200, 60, 1_000_000),
  };
}

/** Ports that the host hands out to outgoing connections; the dynamic ports of RFC 6335 §6 if it does not say. */
export function readEphemeralRange(read: SysctlReader = readSysctl): PortRange {
  const match = /^\s*([0-9]{1,5})\s+([0-9]{1,5})\s*$/.exec(read('ipv4/ip_local_port_range') ?? '');
  const first = Number(match?.[1]);
  const last = Number(match?.[2]);
  if (match === null || first < 1 || last > 65535 || last < first) return { first: 49152, last: 65535 };
  return { first, last };
}
