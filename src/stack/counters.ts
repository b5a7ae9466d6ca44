/**
 * Counters of the data plane: one Float64Array in a SharedArrayBuffer, written by the data plane and read by the control
 * plane at a scrape. An aligned 8-byte store does not tear on the machines we run on; increments stay exact
 * to 2^53. The names and help texts for Prometheus are in src/metrics/.
 */

// Bytes of whole Ethernet frames (without virtio_net_hdr), by transport protocol and direction.
export const C_BYTES_FROM_GUEST_TCP = 0;
export const C_BYTES_FROM_GUEST_UDP = 1;
export const C_BYTES_FROM_GUEST_ICMP = 2;
export const C_BYTES_FROM_GUEST_OTHER = 3;
export const C_BYTES_TO_GUEST_TCP = 4;
export const C_BYTES_TO_GUEST_UDP = 5;
export const C_BYTES_TO_GUEST_ICMP = 6;
export const C_BYTES_TO_GUEST_OTHER = 7;
export const C_FRAMES_FROM_GUEST = 8;
export const C_FRAMES_TO_GUEST = 9;
/** Gauges: flows open now. */
export const C_FLOWS_TCP = 10;
export const C_FLOWS_UDP = 11;
export const C_FLOWS_ICMP = 12;
/** Flows ever opened. */
export const C_FLOWS_OPENED_TCP = 13;
export const C_FLOWS_OPENED_UDP = 14;
export const C_FLOWS_OPENED_ICMP = 15;
export const C_TCP_RETRANSMITS = 16;
export const C_TCP_RESETS_TO_GUEST = 17;
export const C_TCP_RESETS_FROM_GUEST = 18;
export const C_KICKS_FROM_GUEST = 19;
export const C_CALLS_TO_GUEST = 20;
export const C_RING_FAULTS = 21;
export const C_LOOP_TURNS = 22;
/** Past the link, from socket to socket (splice/bypass.ts): gauges of flows, flows ever opened, payload bytes. */
export const C_FLOWS_TCP_SPLICE = 24;
export const C_FLOWS_UDP_SPLICE = 25;
export const C_FLOWS_OPENED_TCP_SPLICE = 26;
export const C_FLOWS_OPENED_UDP_SPLICE = 27;
export const C_BYTES_FROM_GUEST_TCP_SPLICE = 28;
export const C_BYTES_FROM_GUEST_UDP_SPLICE = 29;
export const C_BYTES_TO_GUEST_TCP_SPLICE = 30;
export const C_BYTES_TO_GUEST_UDP_SPLICE = 31;
/** TCP flows that made room for another while half-open, and closed by the guest only (tcp/admission.ts). */
export const C_TCP_EVICTED_HALF_OPEN = 40;
export const C_TCP_EVICTED_HALF_CLOSED = 41;
/** Stream clients cut off because of a frame length out of range; times a stream's socket was full. */
export const C_STREAM_RESETS = 48;
export const C_STREAM_BLOCKED = 49;
/** Frames written to a capture, and frames it had no room for. */
export const C_CAPTURED = 50;
export const C_CAPTURE_LOST = 51;
/** Data planes that were replaced, by what became of them. Written by the control plane, as are the gauges then. */
export const C_DATA_PLANE_EXITS = 52;
export const C_DATA_PLANE_HANGS = 53;
export const C_DATA_PLANE_HEAPS = 54;
/**
 * How long frames for the guest have waited for receive buffers, µs, without the time since C_STARVED_SINCE
 * (CLOCK_MONOTONIC, µs; 0: none waits).
 */
export const C_STARVED_US = 55;
export const C_STARVED_SINCE = 56;
/** Front-ends after the first one. Written by the control plane. */
export const C_FRONT_END_RECONNECTS = 57;

/** Those of flows that are open now. */
export const FLOW_GAUGES: readonly number[] = [
  C_FLOWS_TCP,
  C_FLOWS_UDP,
  C_FLOWS_ICMP,
  C_FLOWS_TCP_SPLICE,
  C_FLOWS_UDP_SPLICE,
];

/** First drop counter: what came from the guest and was dropped for reason r is counted at C_DROPS + r. */
export const C_DROPS = 64;
/** What was meant for the guest. */
export const C_DROPS_TO_GUEST = 128;

/**
 * Reasons for a frame or datagram to be dropped. A code is an index; its name (below) is the Prometheus label. Codes
 * are stable: append only. 0 is "not dropped".
 */
export const DROP_NAMES = [
  'none',
  'frame_short',
  'frame_too_long',
  'vnet_header',
  'ethertype_unsupported',
  'vlan_tagged',
  'family_disabled',
  'ipv4_header',
  'ipv4_length',
  'ipv4_fragment',
  'ipv6_header',
  'ipv6_length',
  'ipv6_extension',
  'ipv6_fragment',
  'ip_protocol_unsupported',
  'loopback_address',
  'source_invalid',
  'destination_invalid',
  'arp_malformed',
  'icmp_malformed',
  'icmp_unsupported',
  'udp_malformed',
  'udp_checksum',
  'tcp_malformed',
  'tcp_no_flow',
  'tcp_out_of_window',
  'tcp_bad_ack',
  'tcp_out_of_order',
  'tcp_socket_full',
  'dhcp_malformed',
  'dhcpv6_malformed',
  'ndp_malformed',
  'no_receive_buffers',
  'guest_down',
  'flow_table_full',
  'no_descriptors',
  'host_socket_error',
  'udp_truncated',
  'protocol_disabled',
  'ring_fault',
  'head_too_short',
  'tcp_checksum',
  'fragment_overlap',
  'fragment_limit',
  'fragment_timeout',
  'tcp_syn_limit',
  'tcp_answer_limit',
  'own_listener',
  'flow_limit',
  'policy_denied',
] as const;

export type DropName = (typeof DROP_NAMES)[number];
/** A drop reason's code; 0 means "not dropped". */
export type DropCode = number;

/** What became of the guest's TCP connections at the host: result r is counted at C_CONNECTS + r. Append only. */
export const C_CONNECTS = 192;
export const CONNECT_RESULTS = [
  'ok',
  'other',
  'ECONNREFUSED',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ECONNRESET',
  'EADDRNOTAVAIL',
  'EADDRINUSE',
  'EACCES',
  'EPERM',
  'EMFILE',
  'ENFILE',
  'ENOBUFS',
  'ENOMEM',
  'EINVAL',
  'ENETDOWN',
  'EHOSTDOWN',
] as const;

/**
 * A histogram with buckets of powers of two: the sum of all values is at `at`; then come the numbers of values in each
 * bucket, of which number i has the values up to 2^(shift + i), and that of the values beyond all `buckets`.
 */
export interface Histogram {
  readonly at: number;
  readonly shift: number;
  readonly buckets: number;
}

/** From the guest's SYN to the host's connection, µs: 64 µs … 134 s. */
export const H_CONNECT_US: Histogram = { at: 224, shift: 6, buckets: 22 };
/** Turns of the loop, from waking up to sleeping or the next turn, µs: 8 µs … 1 s. */
export const H_TURN_US: Histogram = { at: 248, shift: 3, buckets: 18 };
/** Frames in a turn of the loop that has any. */
export const H_BATCH_FROM_GUEST: Histogram = { at: 268, shift: 0, buckets: 11 };
export const H_BATCH_TO_GUEST: Histogram = { at: 281, shift: 0, buckets: 11 };

/**
 * Connections and first datagrams from peers at listeners of the user's forwarding rule i, from 1 on, are at
 * C_RULES + i; there are as many as there are rules (src/metrics). At C_RULES: those of listeners without a rule.
 */
export const C_RULES = 294;

/** Without those of rules. */
export const COUNTERS = C_RULES + 1;

/** How many there are with `rules` forwarding rules. */
export function countersFor(rules: number): number {
  return COUNTERS + rules;
}

/** Code of a drop reason, for module-level constants: `const DROP_FRAME_SHORT = dropCode('frame_short')`. */
export function dropCode(name: DropName): DropCode {
  return DROP_NAMES.indexOf(name);
}

export type Counters = Float64Array;
