/** Kernel settings of the host that shape our defaults. A setting that the kernel lacks has the kernel's own default. */
import { readFileSync } from 'node:fs';
import type { PortRange } from './port-spec';

export interface HostSysctls {
  /** net.netfilter.nf_conntrack_udp_timeout and …_stream, ms (RFC 4787 §4.3 asks for the latter to be 120 s or more). */
  readonly udpTimeoutMs: number;
  readonly udpStreamTimeoutMs: number;
  readonly tcpSynRetries: number;
  readonly tcpSynLinearTimeouts: number;
  readonly tcpRtoMaxMs: number;
  readonly tcpKeepaliveMs: number;
}

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

export function readSysctls(read: SysctlReader = readSysctl): HostSysctls {
  // Bounds keep a strange value from turning into a busy loop or an overflow of timer arithmetic.
  const seconds = (name: string, fallback: number): number => 1000 * numberOr(read(name), fallback, 1, 86400);
  return {
    udpTimeoutMs: seconds('netfilter/nf_conntrack_udp_timeout', 30),
    udpStreamTimeoutMs: seconds('netfilter/nf_conntrack_udp_timeout_stream', 120),
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
