/**
 * Whom the guest may talk to: the rules as the control plane hands them to the data plane. Immutable; docs/policy.md says
 * what they mean, src/config/policy.ts reads them from options and files.
 */
import type { AddressBytes } from '../config';

export type PolicyVerdict = 'allow' | 'deny';

/** What a rule is about, on the far side. */
export type PolicyHost =
  | { readonly kind: 'any' }
  /** The host itself: its loopback and its own addresses, by whatever address the guest reaches them. */
  | { readonly kind: 'host' }
  /** Private, link-local and unique local addresses, and what the host has on its links. */
  | { readonly kind: 'lan' }
  /** Where clouds serve instance metadata. */
  | { readonly kind: 'metadata' }
  /** The resolvers that the guest was given, port 53. */
  | { readonly kind: 'dns' }
  | { readonly kind: 'prefix'; readonly address: AddressBytes; readonly length: number }
  /** A domain name in lower case, without a final dot. `below`: `*.name`, all names under it and not itself. */
  | { readonly kind: 'name'; readonly name: string; readonly below: boolean };

export interface PolicyRule {
  readonly verdict: PolicyVerdict;
  readonly protocol: 'any' | 'tcp' | 'udp' | 'icmp';
  readonly host: PolicyHost;
  /** First and last port of each range; empty: all ports, and ICMP echo. */
  readonly ports: readonly (readonly [number, number])[];
  /** A name may point at private addresses and at the host. */
  readonly private: boolean;
  /** As the user gave it, `tcp/github.com:443`: names the rule in the log and in metrics. */
  readonly text: string;
}

export interface Policy {
  /** In order: the first that matches decides. */
  readonly rules: readonly PolicyRule[];
  /** Where none does. */
  readonly otherwise: PolicyVerdict;
  /** Say what would be refused, and let it pass. */
  readonly audit: boolean;
  /** How a query for a name that may not be looked up is answered. */
  readonly deniedNames: 'refused' | 'nxdomain';
  /** `require`: a flow to port 443, of TCP or UDP, must name an allowed server in its ClientHello. */
  readonly sni: 'off' | 'require';
}

export interface Prefix {
  readonly address: AddressBytes;
  /** Bits. */
  readonly length: number;
}

/** What of the host's network the rules `host` and `lan` mean. */
export interface HostReach {
  /** The host's own addresses. */
  readonly own: readonly AddressBytes[];
  /** What is on the host's links: reached without a router. */
  readonly onLink: readonly Prefix[];
}

export const NO_REACH: HostReach = { own: [], onLink: [] };

/** What the data plane is given. */
export interface PolicySetup {
  /** Null: the guest may talk to everybody. */
  readonly policy: Policy | null;
  readonly reach: HostReach;
  /**
   * Float64 elements: flows judged by each rule, and behind those by `otherwise`. Written by the data plane. An empty
   * buffer: nobody counts.
   */
  readonly verdicts: SharedArrayBuffer;
}
