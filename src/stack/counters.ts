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

/** First drop counter: drop reason r is counted at C_DROPS + r. */
export const C_DROPS = 64;

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
] as const;

export type DropName = (typeof DROP_NAMES)[number];
/** A drop reason's code; 0 means "not dropped". */
export type DropCode = number;

export const COUNTERS = C_DROPS + 64;

/** Code of a drop reason, for module-level constants: `const DROP_FRAME_SHORT = dropCode('frame_short')`. */
export function dropCode(name: DropName): DropCode {
  return DROP_NAMES.indexOf(name);
}

export type Counters = Float64Array;
