/**
 * What the service shows and lets itself be told while it runs. These are the types that all faces share: the HTTP API
 * (`--control`), `tubetti ctl`, `tubetti top`, `tubetti flows`, the page of `--metrics`, the flow log and the typed API
 * for Node programs. Addresses are text here (RFC 5952, dotted quads), times are milliseconds since the epoch.
 */
export type FlowProtocol = 'tcp' | 'udp' | 'icmp';

export interface FlowEnd {
  readonly address: string;
  /** Port; of ICMP echo the identifier. */
  readonly port: number;
}

/** One flow between the guest and a host, as the data plane holds it at this moment. */
export interface FlowInfo {
  /** Names the flow as long as it lives, and no other one after it: `tcp-1-17-3` (data plane, slot, generation). */
  readonly id: string;
  readonly protocol: FlowProtocol;
  /** Over the guest's link, or past it: from socket to socket between the two loopbacks (pasta). */
  readonly kind: 'link' | 'splice';
  /** Who began it. */
  readonly origin: 'guest' | 'host';
  readonly guest: FlowEnd;
  /** The other end as the guest sees it. */
  readonly peer: FlowEnd;
  /** The name by which the guest looked the peer up, if that is known. */
  readonly name: string | null;
  /** Of TCP: connecting, syn-sent, syn-received, open, closing, time-wait, reset. Of others: unanswered, answered. */
  readonly state: string;
  readonly startedAt: number;
  /** Payload bytes (of TCP: acknowledged ones). */
  readonly fromGuest: number;
  readonly toGuest: number;
  /** Smoothed round-trip time between host and peer, µs; null: not known. */
  readonly rttUs: number | null;
  /** The forwarding rule that it came by, as the user gave it; null: none. */
  readonly rule: string | null;
}

export interface FlowQuery {
  readonly protocol?: FlowProtocol;
  /** Where the page before this one ended (FlowPage.next). */
  readonly from?: string;
  /** At most this many, and never more than FLOWS_A_PAGE. */
  readonly most?: number;
}

export const FLOWS_A_PAGE = 1000;

export interface FlowPage {
  readonly flows: readonly FlowInfo[];
  /** For `FlowQuery.from`; null: that was the last page. */
  readonly next: string | null;
}

/** A forwarded port, as `-t` and `-u` have it. */
export interface Forward {
  readonly protocol: 'tcp' | 'udp';
  /** `8080:80` */
  readonly spec: string;
}

export interface ForwardInfo {
  readonly protocol: 'tcp' | 'udp';
  /** As it was given: `2222:22`. */
  readonly spec: string;
  readonly listeners: number;
  readonly connections: number;
  /** Of `auto` in a namespace (`outward`): the ports that are forwarded at the moment. */
  readonly ports?: readonly number[];
}

export interface ForwardList {
  /** Higher after each change. */
  readonly version: number;
  readonly forwards: readonly ForwardInfo[];
  readonly outward: readonly ForwardInfo[];
}

/** Either `allow` or `deny`: a rule like `github.com:443`, or a list of them. */
export interface PolicyItem {
  readonly allow?: string | readonly string[];
  readonly deny?: string | readonly string[];
  /** The name may lead to addresses of private networks. */
  readonly private?: boolean;
}

/** What a policy file has (docs/policy.md). */
export interface PolicyFile {
  /** The first that matches decides. */
  readonly rules?: readonly PolicyItem[];
  /** Where none does. Default: `deny` if any rule allows. */
  readonly default?: 'allow' | 'deny';
  /** Log what would be refused, and let it pass. */
  readonly audit?: boolean;
  readonly 'denied-names'?: 'refused' | 'nxdomain';
  readonly sni?: 'off' | 'require';
}

export interface PolicyState {
  /** Another after each change. */
  readonly version: number;
  /** Null: the guest may talk to everybody. */
  readonly policy: PolicyFile | null;
}

/** Limits in bit/s of what goes to the guest and comes from it; 0: none. */
export interface Rates {
  readonly in: number;
  readonly out: number;
}

export interface ServiceStatus {
  readonly version: string;
  readonly node: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly startedAt: number;
  readonly frontEnd: 'vhost-user' | 'stream' | 'tap';
  /** Where front-ends connect: a path, or a descriptor. */
  readonly endpoint: string;
  readonly guest: {
    readonly connected: boolean;
    /** Ethernet address; null: no frame was seen. */
    readonly mac: string | null;
    /** Addresses that the guest was seen to use. */
    readonly addresses: readonly string[];
    /** Negotiated virtio features, by the names that TUBETTI_FEATURES takes (docs/testing.md). */
    readonly features: readonly string[];
    /** 0: not said. */
    readonly mtu: number;
  };
  readonly forwards: readonly ForwardInfo[];
  /** Ports of the guest's loopback that lead to the host's (`-T`, `-U` of pasta). */
  readonly outward: readonly ForwardInfo[];
  readonly sandbox: readonly { readonly layer: string; readonly state: 'on' | 'off' | 'missing' }[];
}

/** An address of the host's, and the interface that has it. */
export interface HostAddress {
  readonly interface: string;
  readonly address: string;
  /** Length of the prefix. */
  readonly prefix: number;
}

export interface Addresses {
  /** All that can be used, but those of the loopback. */
  readonly host: readonly HostAddress[];
  /** What the guest is given by DHCP, DHCPv6 and router advertisements at the start. */
  readonly assigned: readonly string[];
  /** What it was seen to use. */
  readonly guest: readonly string[];
}

/** How much a capture takes. */
export interface CaptureQuery {
  /** Bytes that are kept of a packet. Default: all of it. */
  readonly snap?: number;
  /** The limits at which it ends: packets, bytes of the file, seconds. Default: none, it is stopped. */
  readonly packets?: number;
  readonly bytes?: number;
  readonly seconds?: number;
}

/** Why a capture is over: a limit or its time was reached, an order, its client left, an error, the data plane was replaced, the service ended. */
export type CaptureReason = 'limit' | 'time' | 'order' | 'client' | 'error' | 'data-plane' | 'end';

/** A capture that a client has begun. */
export interface CaptureInfo {
  readonly id: string;
  readonly startedAt: number;
  /** Null: it runs. */
  readonly endedAt: number | null;
  readonly reason: CaptureReason | null;
  readonly snap: number;
  /** What its client was given: packets, and bytes of the file without its header. */
  readonly packets: number;
  readonly bytes: number;
  /** Packets that were left out because the client did not read fast enough, or had left. */
  readonly lost: number;
}

/** A flow that is over: a line of the flow log. */
export interface EndedFlow extends FlowInfo {
  readonly endedAt: number;
  /** closed, guest-reset, peer-reset, not-connected, timeout, idle, evicted, unreachable, operator, reset, moved, error, denied, unforwarded. */
  readonly reason: string;
  /** What a policy made of it; left out where none was asked. */
  readonly verdict?: string;
}

/** Flows of the running data plane. Costs the data plane one bounded look a page, and nothing when nobody looks. */
export interface Flows {
  /** Rejects with Refused (problem.ts): 400 for a nonsensical query, 503 where too many ask. */
  list(query: FlowQuery): Promise<FlowPage>;
  /** Closes a flow (TCP: a RST to both ends). False: there is none of that id any more. */
  close(id: string): Promise<boolean>;
}

/** What a refused operation answers, one for each item that is wrong. Nothing was changed then. */
export interface ItemError {
  /** Place of the item in the request: `forwards/2/port`. */
  readonly at: string;
  readonly code: string;
  readonly message: string;
}
