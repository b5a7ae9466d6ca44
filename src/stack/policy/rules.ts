/**
 * Rules compiled to columns and an index (rule-index.ts), and the first of them that matches a flow.
 *
 * Names are not looked at here: who asks has marked the rules whose name leads to the flow's address.
 */
import { IP_PROTO_TCP, IP_PROTO_UDP } from '../wire/ipv4';
import { CLASS_DNS, CLASS_GROUP, CLASS_HOST, CLASS_LAN, CLASS_METADATA, CLASS_PRIVATE } from './classes';
import { type Fits, type Marks, RuleIndex } from './rule-index';
import type { Policy, PolicyRule } from './types';

const PROTO_TCP = 1;
const PROTO_UDP = 2;
const PROTO_ICMP = 4;

/** Port of a flow that has none (echo). */
export const NO_PORT = -1;

/**
 * A name rule's mark: the flow's address was found under the name, under another name that leads to it, or it is the user who
 * says that the name leads there.
 */
export const MARK_ASKED = 1;
export const MARK_ALIAS = 2;
export const MARK_GIVEN = 4;

const CLASSES: Readonly<Partial<Record<PolicyRule['host']['kind'], number>>> = {
  host: CLASS_HOST,
  lan: CLASS_LAN,
  metadata: CLASS_METADATA,
  dns: CLASS_DNS,
};

const PROTOCOLS = {
  any: PROTO_TCP | PROTO_UDP | PROTO_ICMP,
  tcp: PROTO_TCP,
  udp: PROTO_UDP,
  icmp: PROTO_ICMP,
} as const;

export class CompiledRules {
  readonly count: number;
  /** 1: allow. */
  readonly allows: Uint8Array;
  private readonly protocols: Uint8Array;
  /** Of a name: it may lead to private addresses. */
  private readonly opensPrivate: Uint8Array;
  /** Of addresses, not of names or of everybody. */
  private readonly ofAddresses: Uint8Array;
  private readonly index = new RuleIndex();
  /** First range of ports in `spans`, and their number; none: all ports. */
  private readonly spanAt: Int32Array;
  private readonly spanCount: Int32Array;
  private readonly spans: Int32Array;

  constructor(rules: readonly PolicyRule[]) {
    const n = rules.length;
    this.count = n;
    this.allows = new Uint8Array(n);
    this.protocols = new Uint8Array(n);
    this.opensPrivate = new Uint8Array(n);
    this.ofAddresses = new Uint8Array(n);
    this.spanAt = new Int32Array(n);
    this.spanCount = new Int32Array(n);
    const spans: number[] = [];
    for (const [i, rule] of rules.entries()) {
      this.allows[i] = rule.verdict === 'allow' ? 1 : 0;
      this.opensPrivate[i] = rule.private ? 1 : 0;
      this.spanAt[i] = spans.length;
      this.spanCount[i] = rule.ports.length;
      for (const [first, last] of rule.ports) spans.push(first, last);
      // What has ports is none of echo's.
      this.protocols[i] = PROTOCOLS[rule.protocol] & (rule.ports.length > 0 ? ~PROTO_ICMP : ~0);
      this.place(i, rule);
    }
    this.spans = Int32Array.from(spans);
  }

  private place(i: number, { host, ports, verdict }: PolicyRule): void {
    this.ofAddresses[i] = host.kind === 'any' || host.kind === 'name' ? 0 : 1;
    switch (host.kind) {
      case 'any':
        this.index.addEverybody(i, ports);
        return;
      case 'prefix':
        this.index.addPrefix(i, host, ports);
        return;
      case 'name':
        return;
      default:
        this.index.addClass(i, CLASSES[host.kind] ?? 0, ports);
        // What all on a link hear the host hears: who may not reach it may not that way either.
        if (host.kind === 'host' && verdict === 'deny') this.index.addClass(i, CLASS_GROUP, ports);
    }
  }

  /**
   * The first rule that matches a flow to `addr[at…]` of protocol `protocol` and `port` (NO_PORT: echo), whose address has
   * the class bits `classes`. `marks` says what rules' names have to do with the address. -1: none.
   */
  first(protocol: number, addr: Int32Array, at: number, port: number, classes: number, marks: Marks): number {
    const bit = protocol === IP_PROTO_TCP ? PROTO_TCP : protocol === IP_PROTO_UDP ? PROTO_UDP : PROTO_ICMP;
    let best = this.index.first(addr, at, classes, bit, port, this.count, this.fits);
    for (let k = 0; k < marks.count; k++) {
      const i = marks.marked[k];
      if (i < best && this.nameHolds(i, marks.bits[i], classes) && this.fits(i, bit, port)) best = i;
    }
    return best === this.count ? -1 : best;
  }

  private readonly fits: Fits = (i, bit, port) =>
    (this.protocols[i] & bit) !== 0 && (this.spanCount[i] === 0 || this.hasPort(i, port));

  /**
   * A name opens what the guest asked for by it, and no private address: the name's owner says where it leads (DNS
   * rebinding), unless that is the user. It closes whatever it leads to.
   */
  private nameHolds(i: number, mark: number, classes: number): boolean {
    if (this.allows[i] === 0) return mark !== 0;
    if ((mark & MARK_ASKED) === 0) return false;
    return (classes & CLASS_PRIVATE) === 0 || this.opensPrivate[i] === 1 || (mark & MARK_GIVEN) !== 0;
  }

  private hasPort(i: number, port: number): boolean {
    const end = this.spanAt[i] + 2 * this.spanCount[i];
    for (let s = this.spanAt[i]; s < end; s += 2) if (port >= this.spans[s] && port <= this.spans[s + 1]) return true;
    return false;
  }

  /** Rule i speaks of addresses, not of names or of everybody: a resolver that it allows is believed. */
  trusts(i: number): boolean {
    return this.ofAddresses[i] === 1;
  }
}

const DNS_PORT = [[53, 53]] as const;

/** Rules that hold although nobody gave them: behind those of the user's, in the order of `withImplied`. */
export interface ImpliedRules {
  readonly rules: readonly PolicyRule[];
  /** How many of `rules`, at the front, are ours. */
  readonly before: number;
}

/**
 * The user's rules and the implied ones. Where names matter the guest may ask its resolvers, unless a rule speaks of `dns`;
 * and nobody else, unless a rule allows that: names learnt from elsewhere would mean nothing.
 */
export function withImplied(policy: Policy): ImpliedRules {
  const { rules } = policy;
  const named = rules.some(({ host }) => host.kind === 'name');
  const own = rules.some(({ host }) => host.kind === 'dns');
  const implied = { ports: DNS_PORT, private: false, protocol: 'any' } as const;
  const before: PolicyRule[] =
    !own && (named || policy.otherwise === 'allow')
      ? [{ ...implied, verdict: 'allow', host: { kind: 'dns' }, text: 'dns (implied)' }]
      : [];
  const after: PolicyRule[] = named
    ? [{ ...implied, verdict: 'deny', host: { kind: 'any' }, text: 'any:53 (implied)' }]
    : [];
  return { rules: [...before, ...rules, ...after], before: before.length };
}
