/**
 * Names, labels and help texts of all metrics but the process's own: the one place where an index of stack/counters.ts
 * meets a Prometheus name. docs/metrics.md is made from it. Names are an interface to other people's dashboards: they do
 * not change. No label has values that a guest, or a host that it talks to, can make up.
 */
import * as c from '../stack/counters';

export type MetricKind = 'counter' | 'gauge';

/** One time series: where its value is and what its labels are, in the order of `labels`. */
export interface Series {
  readonly index: number;
  readonly values: readonly string[];
}

export interface MetricSpec {
  readonly name: string;
  readonly kind: MetricKind;
  readonly help: string;
  readonly labels: readonly string[];
  readonly series: readonly Series[];
}

/** A histogram; what is counted is `unit` of its base unit. */
export interface HistogramSpec {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  readonly unit: number;
  readonly series: readonly { readonly histogram: c.Histogram; readonly values: readonly string[] }[];
}

/** What is not, or not only, read from the counters: the control plane knows it. */
export interface OtherSpec {
  readonly name: string;
  readonly kind: MetricKind;
  readonly help: string;
  readonly labels: readonly string[];
}

function single(kind: MetricKind, name: string, help: string, index: number): MetricSpec {
  return { name, kind, help, labels: [], series: [{ index, values: [] }] };
}

const FROM = 'from_guest';
const TO = 'to_guest';

export const METRICS: readonly MetricSpec[] = [
  {
    name: 'tubetti_bytes_total',
    kind: 'counter',
    help: 'Bytes of Ethernet frames exchanged with the guest, without padding, by direction and transport protocol.',
    labels: ['direction', 'protocol'],
    series: [
      { index: c.C_BYTES_FROM_GUEST_TCP, values: [FROM, 'tcp'] },
      { index: c.C_BYTES_FROM_GUEST_UDP, values: [FROM, 'udp'] },
      { index: c.C_BYTES_FROM_GUEST_ICMP, values: [FROM, 'icmp'] },
      { index: c.C_BYTES_FROM_GUEST_OTHER, values: [FROM, 'other'] },
      { index: c.C_BYTES_TO_GUEST_TCP, values: [TO, 'tcp'] },
      { index: c.C_BYTES_TO_GUEST_UDP, values: [TO, 'udp'] },
      { index: c.C_BYTES_TO_GUEST_ICMP, values: [TO, 'icmp'] },
      { index: c.C_BYTES_TO_GUEST_OTHER, values: [TO, 'other'] },
    ],
  },
  {
    name: 'tubetti_splice_bytes_total',
    kind: 'counter',
    help: "Payload bytes that passed between the host's loopback and a namespace's without the link, by direction and protocol.",
    labels: ['direction', 'protocol'],
    series: [
      { index: c.C_BYTES_FROM_GUEST_TCP_SPLICE, values: [FROM, 'tcp'] },
      { index: c.C_BYTES_FROM_GUEST_UDP_SPLICE, values: [FROM, 'udp'] },
      { index: c.C_BYTES_TO_GUEST_TCP_SPLICE, values: [TO, 'tcp'] },
      { index: c.C_BYTES_TO_GUEST_UDP_SPLICE, values: [TO, 'udp'] },
    ],
  },
  {
    name: 'tubetti_frames_total',
    kind: 'counter',
    help: 'Ethernet frames exchanged with the guest, by direction. A segmentation-offloaded frame counts once.',
    labels: ['direction'],
    series: [
      { index: c.C_FRAMES_FROM_GUEST, values: [FROM] },
      { index: c.C_FRAMES_TO_GUEST, values: [TO] },
    ],
  },
  {
    name: 'tubetti_flows',
    kind: 'gauge',
    help: 'Open flows, by protocol.',
    labels: ['protocol'],
    series: [
      { index: c.C_FLOWS_TCP, values: ['tcp'] },
      { index: c.C_FLOWS_UDP, values: ['udp'] },
      { index: c.C_FLOWS_ICMP, values: ['icmp'] },
      { index: c.C_FLOWS_TCP_SPLICE, values: ['tcp_splice'] },
      { index: c.C_FLOWS_UDP_SPLICE, values: ['udp_splice'] },
    ],
  },
  {
    name: 'tubetti_flows_opened_total',
    kind: 'counter',
    help: 'Flows opened since the start, by protocol.',
    labels: ['protocol'],
    series: [
      { index: c.C_FLOWS_OPENED_TCP, values: ['tcp'] },
      { index: c.C_FLOWS_OPENED_UDP, values: ['udp'] },
      { index: c.C_FLOWS_OPENED_ICMP, values: ['icmp'] },
      { index: c.C_FLOWS_OPENED_TCP_SPLICE, values: ['tcp_splice'] },
      { index: c.C_FLOWS_OPENED_UDP_SPLICE, values: ['udp_splice'] },
    ],
  },
  {
    name: 'tubetti_drops_total',
    kind: 'counter',
    help: 'Frames, datagrams and connections dropped, by reason and by the direction they had.',
    labels: ['reason', 'direction'],
    // Code 0 is "not dropped".
    series: c.DROP_NAMES.slice(1).flatMap((name, i) => [
      { index: c.C_DROPS + i + 1, values: [name, FROM] },
      { index: c.C_DROPS_TO_GUEST + i + 1, values: [name, TO] },
    ]),
  },
  {
    name: 'tubetti_tcp_connects_total',
    kind: 'counter',
    help: "The guest's TCP connections at the host, by what became of them: ok, or the name of the host's errno.",
    labels: ['result'],
    series: c.CONNECT_RESULTS.map((name, i) => ({ index: c.C_CONNECTS + i, values: [name] })),
  },
  single('counter', 'tubetti_tcp_retransmits_total', 'TCP segments retransmitted to the guest.', c.C_TCP_RETRANSMITS),
  {
    name: 'tubetti_tcp_resets_total',
    kind: 'counter',
    help: 'TCP resets, by direction.',
    labels: ['direction'],
    series: [
      { index: c.C_TCP_RESETS_FROM_GUEST, values: [FROM] },
      { index: c.C_TCP_RESETS_TO_GUEST, values: [TO] },
    ],
  },
  {
    name: 'tubetti_tcp_evicted_total',
    kind: 'counter',
    help: 'TCP flows ended to make room for a new one, by the state they were in.',
    labels: ['state'],
    series: [
      { index: c.C_TCP_EVICTED_HALF_OPEN, values: ['half_open'] },
      { index: c.C_TCP_EVICTED_HALF_CLOSED, values: ['half_closed'] },
    ],
  },
  {
    name: 'tubetti_notifications_total',
    kind: 'counter',
    help: 'Virtqueue notifications, by direction: kicks from the guest, interrupts to the guest.',
    labels: ['direction'],
    series: [
      { index: c.C_KICKS_FROM_GUEST, values: [FROM] },
      { index: c.C_CALLS_TO_GUEST, values: [TO] },
    ],
  },
  single(
    'counter',
    'tubetti_ring_faults_total',
    'Virtqueues stopped because the guest violated the specification.',
    c.C_RING_FAULTS,
  ),
  single(
    'counter',
    'tubetti_stream_resets_total',
    'Stream connections closed because a frame length was out of range.',
    c.C_STREAM_RESETS,
  ),
  single(
    'counter',
    'tubetti_stream_blocked_total',
    'Times flows to the guest waited because the socket of a stream connection was full.',
    c.C_STREAM_BLOCKED,
  ),
  single(
    'counter',
    'tubetti_captured_frames_total',
    'Frames written to captures: that of --pcap and those of ctl capture.',
    c.C_CAPTURED,
  ),
  single(
    'counter',
    'tubetti_capture_lost_total',
    'Frames missing from captures because a file, or a client, could not take them.',
    c.C_CAPTURE_LOST,
  ),
  {
    name: 'tubetti_data_plane_restarts_total',
    kind: 'counter',
    help: 'Data planes replaced, by reason: ended by an error (exit), hung (hung), out of JavaScript heap (heap).',
    labels: ['reason'],
    series: [
      { index: c.C_DATA_PLANE_EXITS, values: ['exit'] },
      { index: c.C_DATA_PLANE_HANGS, values: ['hung'] },
      { index: c.C_DATA_PLANE_HEAPS, values: ['heap'] },
    ],
  },
  single(
    'counter',
    'tubetti_front_end_reconnects_total',
    'Front-ends that were served after the first one.',
    c.C_FRONT_END_RECONNECTS,
  ),
  single('counter', 'tubetti_loop_turns_total', "Turns of the data plane's event loop.", c.C_LOOP_TURNS),
];

const MICROSECOND = 1e-6;

export const HISTOGRAMS: readonly HistogramSpec[] = [
  {
    name: 'tubetti_tcp_connect_seconds',
    help: "From the guest's SYN to the host's connection: what the way to the peer and the peer add.",
    labels: [],
    unit: MICROSECOND,
    series: [{ histogram: c.H_CONNECT_US, values: [] }],
  },
  {
    name: 'tubetti_loop_turn_seconds',
    help: "Turns of the data plane's event loop without the wait: an event that comes in a turn may wait as long as that.",
    labels: [],
    unit: MICROSECOND,
    series: [{ histogram: c.H_TURN_US, values: [] }],
  },
  {
    name: 'tubetti_batch_frames',
    help: 'Frames in a turn of the event loop that moved any, by direction.',
    labels: ['direction'],
    unit: 1,
    series: [
      { histogram: c.H_BATCH_FROM_GUEST, values: [FROM] },
      { histogram: c.H_BATCH_TO_GUEST, values: [TO] },
    ],
  },
];

function other(kind: MetricKind, name: string, help: string, ...labels: string[]): OtherSpec {
  return { kind, name, help, labels };
}

export const OTHERS = {
  starved: other(
    'counter',
    'tubetti_receive_starved_seconds_total',
    'Time for which frames waited because the guest had given no receive buffers.',
  ),
  listeners: other(
    'gauge',
    'tubetti_forward_listeners',
    'Sockets that listen for a forwarding rule, by protocol and rule as it was given (-t, -u).',
    'protocol',
    'rule',
  ),
  forwarded: other(
    'counter',
    'tubetti_forward_connections_total',
    'Connections and, with UDP, flows that peers opened at the listeners of a forwarding rule.',
    'protocol',
    'rule',
  ),
  outwardListeners: other(
    'gauge',
    'tubetti_outward_listeners',
    'Sockets in the namespace that listen for a rule that leads to the host, by protocol and rule as it was given (-T, -U).',
    'protocol',
    'rule',
  ),
  outward: other(
    'counter',
    'tubetti_outward_connections_total',
    'Connections and, with UDP, flows that processes in the namespace opened at the listeners of a rule that leads to the host.',
    'protocol',
    'rule',
  ),
  verdicts: other(
    'counter',
    'tubetti_policy_verdicts_total',
    'Flows of the guest by the rule of the policy that decided (rule "default": none) and its verdict: allow, deny, or audit for what --policy-audit lets pass.',
    'rule',
    'verdict',
  ),
  connected: other('gauge', 'tubetti_guest_connected', 'Whether a front-end is connected (1) or not (0).'),
  layers: other(
    'gauge',
    'tubetti_sandbox_layer',
    'Whether a layer of the sandbox is in force (1) or not (0).',
    'layer',
  ),
  build: other('gauge', 'tubetti_build_info', 'Always 1; the labels name the running version.', 'version', 'node'),
  info: other('gauge', 'tubetti_info', 'Always 1; the labels are those of --label, to join others with.', '(--label)'),
} as const;

/** The process's own, under the names that client libraries share. */
export const PROCESS = {
  cpu: other('counter', 'process_cpu_seconds_total', 'User and system CPU time spent, all threads, in seconds.'),
  resident: other(
    'gauge',
    'process_resident_memory_bytes',
    'Resident memory in bytes, including guest memory that was touched.',
  ),
  descriptors: other('gauge', 'process_open_fds', 'Open file descriptors.'),
  started: other('gauge', 'process_start_time_seconds', 'Start of the process, in seconds since the epoch.'),
} as const;
