/**
 * The stack's configuration: given at start, and replaced as a whole when the host's network changed. Immutable;
 * addresses in network byte order.
 */

/** An IPv6 (16 bytes) or IPv4 (4 bytes) address in network byte order. */
export type AddressBytes = Uint8Array;

/** MTU of the link that is assumed where none is advertised. */
export const DEFAULT_MTU = 65520;

/** Resolvers of one family that are advertised at the most: the C library's resolver uses no more. */
export const MAX_DNS = 3;

/** A lifetime that never ends, in DHCP and DHCPv6 alike (RFC 2131 §3.3, RFC 8415 §7.7). */
export const INFINITE_SEC = 0xffffffff;

export interface Ip4Config {
  /** Assigned to the guest by DHCP; the host's own address unless the user chose otherwise. */
  readonly guestAddr: AddressBytes;
  readonly prefixLen: number;
  /** The guest's default gateway; null: none known, then no DHCP. Also our own address on the link. */
  readonly gateway: AddressBytes | null;
  /** Resolvers to advertise, at most MAX_DNS, already remapped (passt-style: loopback resolvers become the gateway). */
  readonly dns: readonly AddressBytes[];
  /** Guest-side address that stands for 127.0.0.1; null: none. Default: the gateway. */
  readonly mapHostLoopback: AddressBytes | null;
  /** Guest-side address that stands for the host's own address; null: none. */
  readonly mapGuestAddr: AddressBytes | null;
  /** Guest-side resolver address whose ports 53 and 853 are redirected to `dnsHost`; null: none. */
  readonly dnsMatch: AddressBytes | null;
  /** Of either family: the guest's resolver may be one of IPv4, the host's one of IPv6. */
  readonly dnsHost: AddressBytes | null;
  /** Interface index for a link-local `dnsHost`; 0: none. */
  readonly dnsHostScope: number;
  /** Source address bound on outbound sockets (`-o`); null: kernel's choice. */
  readonly outboundAddr: AddressBytes | null;
  /** SO_BINDTODEVICE on outbound sockets; null: none. Never applied to loopback targets. */
  readonly outboundIf: string | null;
  /** `-a` given: the guest's address is not learnt from its frames. */
  readonly addrFixed: boolean;
  /** How long a DHCP lease holds, seconds, unless the client wishes a shorter one. */
  readonly leaseSec: number;
}

export interface Ip6Config {
  /** Global address assigned to the guest; null in local mode. */
  readonly guestAddr: AddressBytes | null;
  /** Gateway: link-local as a rule. */
  readonly gateway: AddressBytes | null;
  /** Our own link-local address on the link: source of RA, NA, DHCPv6. */
  readonly ourLinkLocal: AddressBytes;
  readonly dns: readonly AddressBytes[];
  readonly mapHostLoopback: AddressBytes | null;
  readonly mapGuestAddr: AddressBytes | null;
  readonly dnsMatch: AddressBytes | null;
  /** Of either family: the guest's resolver may be one of IPv4, the host's one of IPv6. */
  readonly dnsHost: AddressBytes | null;
  /** Interface index for a link-local `dnsHost`; 0: none. */
  readonly dnsHostScope: number;
  readonly outboundAddr: AddressBytes | null;
  readonly outboundIf: string | null;
  readonly addrFixed: boolean;
  /** Interface index that link-local host destinations are scoped to; 0: none. */
  readonly scopeId: number;
  /**
   * The host has lost the network that these addresses are of: advertisements say that there is no router, not to use
   * the prefix for anything new, and no resolvers.
   */
  readonly withdrawn: boolean;
  /** Preferred lifetime in DHCPv6 leases, seconds; router advertisements follow suit (ndp.ts). */
  readonly leaseSec: number;
}

/** One listening socket, bound and (TCP) listening, opened by the control plane. */
export interface ForwardListener {
  readonly fd: number;
  readonly protocol: 'tcp' | 'udp';
  /**
   * A UNIX stream socket, which the control plane accepts from: the data plane adopts its connections, which come to it from
   * 127.0.0.1, and does not know of the socket.
   */
  readonly path?: string;
  /** Somebody else has opened it, and passed it to the service. */
  readonly passed?: boolean;
  /** AF_INET, AF_INET6; 'dual' for a [::] socket with IPV6_V6ONLY off. */
  readonly family: 'v4' | 'v6' | 'dual';
  /** Port bound on the host and the guest's port it is forwarded to. */
  readonly port: number;
  readonly targetPort: number;
  /** Fixed guest-side target address; null: the guest's observed address. */
  readonly targetAddr: AddressBytes | null;
  /** The socket is bound to one interface (SO_BINDTODEVICE). */
  readonly onDevice?: boolean;
  /** Index of that interface, where the socket was opened for a rule that names it: for the control plane. */
  readonly ifIndex?: number;
  /** Number of the user's rule, from 1 on: its connections are counted there (C_RULES). */
  readonly rule?: number;
  /** It listens in the guest's namespace, and `targetPort` is one of the host's. */
  readonly inside?: boolean;
}

/** How the host's loopback and that of a namespace are joined without the link. */
export interface BypassSetup {
  /** What comes from the host's loopback takes it; else only what comes from the namespace's does. */
  readonly inward: boolean;
  /** Connections to the host's loopback keep their destination. */
  readonly keepsLoopback: boolean;
  /** There is no link: what does not come from the loopback is refused. */
  readonly only: boolean;
  readonly v4: boolean;
  readonly v6: boolean;
  /** Socket to the process that makes sockets in the namespace; -1: it is said later. */
  readonly channel: number;
}

/** What is forwarded from now on, and what is no more. A descriptor may be in both: its listener gets another target. */
export interface ForwardChange {
  /** Descriptors of listeners; those that there are not are passed over. They may be closed when this was done. */
  readonly remove: readonly number[];
  /** After that. Those that there are already are passed over. */
  readonly add: readonly ForwardListener[];
  /** Connections that came by removed listeners are reset; else they live on. Exchanges of datagrams end with theirs. */
  readonly closeFlows: boolean;
}

/** A connection of the service's own that the guest shall get, as if it had come by a forwarded port. */
export interface Adoption {
  /** A TCP listener in whose backlog it waits, and the port of 127.0.0.1 that it comes from. */
  readonly fd: number;
  readonly peerPort: number;
  /** Port of the guest, and its address; null: where the guest was seen. */
  readonly targetPort: number;
  readonly targetAddr: AddressBytes | null;
  /** Number of the user's rule, as of a ForwardListener; 0: none. */
  readonly rule: number;
}

/** One `-t` or `-u` of the user's, as the metrics name it. Its number is its place among all, from 1 on. */
export interface ForwardRule {
  readonly protocol: 'tcp' | 'udp';
  /** As it was given: `2222:22`. */
  readonly spec: string;
  /** Sockets that listen for it. */
  readonly listeners: number;
}

/** A rule, and where its connections are counted: at C_RULES + `number`. */
export interface NumberedRule {
  readonly number: number;
  readonly rule: ForwardRule;
}

/** What may pass on the guest's link, bits of frames in a second; 0: no limit. */
export interface LinkRates {
  /** To the guest. */
  readonly in: number;
  /** From the guest. */
  readonly out: number;
}

export const NO_RATES: LinkRates = { in: 0, out: 0 };

/** A TCP listener of the service itself. */
export interface OwnListener {
  /** Unspecified: on all addresses; `::` also of IPv4. */
  readonly address: AddressBytes;
  readonly port: number;
}

/** An option of DHCP or DHCPv6 that the user gave. */
export interface ExtraOption {
  readonly code: number;
  /** Null: it is not to be sent, though it is one of ours. */
  readonly data: Uint8Array | null;
}

/** What a guest boots by network, and from where. */
export interface Boot {
  /** A path on the server, or a URL. */
  readonly file: string;
  /** Servers of each family; null: none. */
  readonly server4: AddressBytes | null;
  readonly server6: AddressBytes | null;
}

/** One address of a name that the guest's queries are answered with. */
export interface StaticName {
  /** In lower case, without a dot at its end. */
  readonly name: string;
  readonly addr: AddressBytes;
}

/** What the user wants of the services on the link besides what the host has. The same for the life of the process. */
export interface LinkExtras {
  readonly options4: readonly ExtraOption[];
  readonly options6: readonly ExtraOption[];
  readonly boot: Boot | null;
  readonly names: readonly StaticName[];
  /** We are the guest's TFTP server. */
  readonly tftp: boolean;
}

/** A piece of a file that the stack wants. `id` names the transfer, and no other one after it. */
export interface FileRequest {
  readonly slot: number;
  readonly id: number;
  readonly name: string;
  readonly offset: number;
  readonly length: number;
}

export const FILE_OK = 0;
export const FILE_ABSENT = 1;
export const FILE_REFUSED = 2;

export interface FileAnswer {
  readonly slot: number;
  readonly id: number;
  readonly offset: number;
  /** FILE_*. */
  readonly status: number;
  /** Of the whole file, bytes. And what changes with its content. */
  readonly size: number;
  readonly stamp: number;
  /** Shorter than what was asked for only at the file's end. */
  readonly data: Uint8Array;
}

/** The last word of our address for TFTP in IPv6: the port's number (link/tftp.ts). */
export const TFTP_IID = 0x69;

export const NO_EXTRAS: LinkExtras = { options4: [], options6: [], boot: null, names: [], tftp: false };

export interface StackConfig {
  /** Our (the gateway's) Ethernet address, 6 bytes. */
  readonly ourMac: Uint8Array;
  readonly ip4: Ip4Config | null;
  readonly ip6: Ip6Config | null;
  /** Link MTU advertised (DHCP option 26, RA, TCP MSS); 0: not advertised, DEFAULT_MTU assumed. */
  readonly mtu: number;
  readonly search: readonly string[];
  readonly hostname: string | null;
  readonly fqdn: string | null;
  readonly tcp: boolean;
  readonly udp: boolean;
  readonly icmp: boolean;
  readonly dhcp: boolean;
  readonly dhcpv6: boolean;
  readonly ndp: boolean;
  readonly ra: boolean;
  /** Advertise resolvers / search list. */
  readonly advertiseDns: boolean;
  readonly advertiseSearch: boolean;
  /** A datagram with DF that the host's interface is too small for is refused, and the guest told, not fragmented. */
  readonly keepDf: boolean;
  /** UDP flow timeouts in ms: without an answer, and with one. */
  readonly udpTimeoutMs: number;
  readonly udpStreamTimeoutMs: number;
  /**
   * A bit for each UDP port (bit `port & 7` of byte `port >> 3`): set, it is left to programs of the host, and a guest
   * that sends from it gets another. Empty: there is none.
   */
  readonly hostPorts: Uint8Array;
  /** Most flows of each kind, from RLIMIT_NOFILE. */
  readonly maxTcpFlows: number;
  readonly maxUdpFlows: number;
  readonly maxPingFlows: number;
  /** net.ipv4.tcp_syn_retries, tcp_syn_linear_timeouts, tcp_rto_max_ms of the host. */
  readonly tcpSynRetries: number;
  readonly tcpSynLinearTimeouts: number;
  readonly tcpRtoMaxMs: number;
  /** net.ipv4.tcp_keepalive_time of the host, ms. */
  readonly tcpKeepaliveMs: number;
  /** True if MSG_PEEK with SO_PEEK_OFF works on TCP for the families in use (probed at start). */
  readonly tcpPeekOff: boolean;
  /** What the guest must not connect to. The same for the life of the process. */
  readonly ownListeners: readonly OwnListener[];
  readonly extras: LinkExtras;
}
