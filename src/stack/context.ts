/** What every protocol handler of the stack shares: fields updated in place, never reallocated. */
import type { Adoption, ForwardChange, ForwardListener, StackConfig } from './config';
import type { Counters } from './counters';
import type { GuestMtu } from './link/guest-mtu';
import type { LeaseHolder } from './link/lease-holder';
import type { NatTables } from './ip/nat';
import type { NeighbourTable } from './link/neighbours';
import type { PathMtus } from './ip/path-mtus';
import type { PolicyGate } from './policy/gate';
import type { DeriveKeys } from './policy/quic-client';
import type { Clock, GuestPort, HostIo, Random } from './ports';
import type { FlowEnds } from './kit/flow-ends';
import type { FlowView } from './kit/flow-rows';
import type { Rates } from './kit/rate';
import type { SiteLog } from './kit/site-log';
import type { StationTable } from './link/stations';
import type { FileSource } from './link/tftp';
import type { Traffic } from './ip/guest-hints';

/** Addresses are four int32 words (big-endian words of the 16 bytes); IPv4 is v4-mapped: 0, 0, 0xffff, a.b.c.d. */
export interface StackContext {
  /** Replaced as a whole by `Stack.reconfigure`: read it when it is needed, do not keep parts of it. */
  config: StackConfig;
  /** Another one while frames are captured (`Stack.usePort`): read it when it is needed. */
  port: GuestPort;
  readonly io: HostIo;
  readonly clock: Clock;
  readonly random: Random;
  readonly counters: Counters;
  readonly link: LinkState;
  readonly traffic: Traffic;
  /** Lines for the log, a few a second at each site. On the path of a frame: `take` first, then build the line. */
  readonly log: SiteLog;
  /** Reads files of the host's for the guest's firmware; absent: there are none. */
  readonly files?: FileSource;
  /** Derives keys of QUIC's Initial packets; absent: they cannot be read. */
  readonly quicKeys?: DeriveKeys;
  /** Where ends of flows go; null: no flow log is kept. */
  readonly ends: FlowEnds | null;
  /** What does not pass the link; absent: everything does. Set before the stack is made. */
  bypass?: Bypass;
}

/** What has been learnt about the guest's end of the link (passt-compatible "observed" addresses). */
export interface LinkState {
  /**
   * Ethernet source of the guest's latest frame as two numbers: high 16 bits, low 32 bits (int32). Broadcast until a
   * frame was seen. Where an address of the guest's is found `stations` says.
   */
  guestMacHi: number;
  guestMacLo: number;
  ourMacHi: number;
  ourMacLo: number;
  /** Assigned to the guest, and our own on the link, as configured; 0, all zero: none. */
  assigned4: number;
  readonly assigned6: Int32Array;
  ours4: number;
  readonly ours6: Int32Array;
  /** Observed IPv4 address of the guest (int32, network order value); 0: none. */
  guest4: number;
  /** Observed global and link-local IPv6 addresses, four words each; all zero: none. */
  readonly guest6: Int32Array;
  readonly guest6LinkLocal: Int32Array;
  /** Families that the guest was heard to speak, neighbour discovery and DHCP included: SEEN_* bits. */
  seen: number;
  /** Ethernet addresses of the guest that the log has named. */
  readonly saidMacs: Float64Array;
  /** Ethernet addresses of the guest's addresses. */
  readonly stations: StationTable;
  readonly mtu: GuestMtu;
  /** Who has the address that DHCP and DHCPv6 give. */
  readonly lease4: LeaseHolder;
  readonly lease6: LeaseHolder;
  /** Ethernet addresses of the host's neighbours. */
  readonly neighbours: NeighbourTable;
  /** Address translation; follows the configuration. */
  readonly nat: NatTables;
  /** Whom the guest may talk to. */
  readonly policy: PolicyGate;
  /** How much may pass in a second. */
  readonly rates: Rates;
  /** MTUs of paths behind the guest. */
  readonly paths: PathMtus;
  /** For `words4` (link/guest-state.ts). */
  readonly words4: Int32Array;
}

export const SEEN_V4 = 1;
export const SEEN_V6 = 2;

/**
 * A packet of ours that an ICMP error from the guest's side quotes. Reused; numbers are checked against the message:
 * [l4Off, l4Off + l4Len) of `head` is there, but may be less than the packet had. What it says need not be true.
 */
export interface QuotedPacket {
  head: DataView;
  /** 4 or 6. */
  version: number;
  protocol: number;
  l4Off: number;
  l4Len: number;
  /** Source (the guest's peer) and destination (the guest) as four int32 words each. */
  readonly addr: Int32Array;
}

/**
 * The frame being handled, parsed once by from-guest.ts before it calls a handler. All numbers are checked against the
 * frame's length: [l4Off, l4Off + l4Len) lies inside the frame; l4Len excludes Ethernet padding.
 * `port.head` holds at least min(frame, HEAD_FIRST) bytes; handlers `port.pull()` what they need beyond.
 */
export interface FrameInfo {
  /** Length of the whole Ethernet frame. */
  frameLen: number;
  /** First row of the frame and number of rows (rows start at the Ethernet header). */
  row: number;
  rowCount: number;
  /** 4 or 6. */
  version: number;
  l3Off: number;
  /** IP protocol after extension headers; offset of its header; bytes of header and payload. */
  protocol: number;
  l4Off: number;
  l4Len: number;
  ttl: number;
  tos: number;
  /** Must not be fragmented on its way: DF in IPv4; in IPv6, a packet that came without a fragment header. */
  df: boolean;
  /** Source and destination as four int32 words each: src at 0…3, dst at 4…7. */
  readonly addr: Int32Array;
}

/** Keys given to HostIo.watch: kind in the high byte, index (flow number, listener number) in the low 24 bits. */
export const KEY_KIND_SHIFT = 24;
export const KEY_INDEX_MASK = 0xffffff;
export const KEY_TCP = 1;
export const KEY_TCP_LISTENER = 2;
export const KEY_UDP = 3;
export const KEY_UDP_LISTENER = 4;
export const KEY_PING = 5;
/** Of the bypass: both sockets of a TCP connection (twice its slot, plus the side), UDP flows, listeners inside, the stock. */
export const KEY_BYPASS_TCP = 6;
export const KEY_BYPASS_UDP = 7;
export const KEY_BYPASS_LISTENER = 8;
export const KEY_BYPASS_STOCK = 9;
/** Kinds 64 … 127 belong to the data plane (kick descriptors, command wake-up). */
export const KEY_DATAPLANE = 64;

/** A transport: TCP, UDP or ICMP flows behind one interface, so that stack.ts only dispatches. */
export interface FlowHandler {
  /** Its flows, for who looks at them or closes one. */
  readonly view: FlowView;
  /** Called once by `Stack.start`, on the thread that runs the stack, when descriptors can be watched (listeners). */
  start?(): void;
  /**
   * One frame of this protocol from the guest. Payload rows may be kept until `endOfBatch`, in which case the number
   * of the first free row is returned and the next frame is received from there; else returns `frame.row`.
   */
  fromGuest(frame: FrameInfo): number;
  /** All frames of this turn were seen: send what was gathered. Called before `releaseReceived`. */
  endOfBatch(): void;
  /** A watched descriptor of ours is ready. Stale generations are ignored. */
  onSocket(kind: number, index: number, generation: number, events: number): void;
  /** The guest posted receive buffers: resume flows that waited, in turn. */
  onGuestReady(): void;
  /** Runs timers due at `clock.nowMs`. */
  onTimer(): void;
  /** Milliseconds (clock.nowMs scale) of the earliest timer, or Infinity. */
  nextDeadline(): number;
  /** True if flows wait for another turn without any event to come (fairness budget used up). */
  readonly busy: boolean;
  /** The guest was reset or rebooted: close all host sockets, forget all flows. */
  reset(): void;
  /** The link came up, or the guest starts to configure itself: it may know nothing of its flows. */
  onGuestStart?(): void;
  /**
   * A router on the way to the guest cannot pass the quoted packet on: packets of that flow must not be longer than
   * `mtu` (any uint32: not checked). Returns false if there is no such flow, or the quote cannot be true.
   */
  pathMtu?(quote: QuotedPacket, mtu: number): boolean;
  /** The quoted packet cannot be delivered. Returns false as `pathMtu`. */
  unreachable?(quote: QuotedPacket): boolean;
  /**
   * `StackContext.config` was replaced: everything derived from it is computed again. Flows stay. May allocate. The
   * host's network may have changed as well, see `moved`.
   */
  reconfigure?(): void;
  /** The policy changed (`LinkState.policy`): flows of the guest's own that it forbids are closed. */
  enforce?(): void;
  /** `StackContext.port` is another one. */
  portChanged?(): void;
  /** Ports that are forwarded from now on, or no more. May allocate. */
  makeForwards?(change: ForwardChange): void;
  /** Takes a connection as if it had come by a forwarded port. False: there is no room for it, or it is not there. */
  adopt?(adoption: Adoption): boolean;
  /** The host's addresses or routes changed: sockets may have an address that does not lead anywhere any more. */
  moved?(): void;
}

/** What passes between the host's loopback and a namespace's from socket to socket (splice/bypass.ts). */
export interface Bypass {
  /** Of FLOW_TCP_SPLICE and FLOW_UDP_SPLICE. */
  readonly views: readonly FlowView[];
  readonly busy: boolean;
  /** `takeTcp` and `takeUdp` are to be asked. */
  readonly inward: boolean;
  start(): void;
  /** Where sockets of the namespace are to be had from now on. */
  setChannel(fd: number): void;
  /**
   * The connection `fd` came by the host's listener `config`, its peer is in ADDR_SLOT_TCP. True: it was taken, or refused;
   * false: it goes over the link.
   */
  takeTcp(fd: number, config: ForwardListener, rule: number): boolean;
  /**
   * Messages `first … end - 1` of MSG_IN came to the host's listener `fd` of port `port`: those that were taken have length
   * -1 afterwards.
   */
  takeUdp(fd: number, port: number, targetPort: number, rule: number, first: number, end: number): void;
  onSocket(kind: number, index: number, generation: number, events: number): void;
  /** Called every turn. */
  onTimer(): void;
  nextDeadline(): number;
  makeForwards(change: ForwardChange): void;
  enforce(): void;
  reset(): void;
}

/** The transports' flow handlers. */
export interface StackHandlers {
  readonly tcp: FlowHandler;
  readonly udp: FlowHandler;
  readonly icmp: FlowHandler;
}
