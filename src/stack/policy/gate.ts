/**
 * Whether the guest may open a flow.
 *
 * Theory of operation. Each handler asks here once for each flow that the guest opens (a TCP SYN, the first datagram of
 * a UDP flow, the first echo request of an identifier), with whole packets and after translation: rules speak of the
 * address that the guest uses, and `host` of what that leads to. Flows that come in by forwarded ports are never asked
 * about. Where no policy is set, `on` is false and nobody asks.
 *
 * A verdict is the number of the rule that matched first. Those that no name had a part in are kept in a small cache,
 * which is emptied with each change of what it depends on: the policy, the host's addresses, the guest's configuration,
 * the names.
 *
 * Names come from the answers of resolvers (dns.ts). With `sni` a flow to port 443 of TCP or UDP is judged a second time, by
 * the name in its ClientHello instead of those of its address (../tcp/first-bytes.ts, ../udp/server-names.ts).
 */
import type { StackConfig } from '../config';
import type { StackContext } from '../context';
import type { NatResult } from '../ip/nat';
import { SITE_POLICY } from '../kit/site-log';
import { IP_PROTO_TCP, IP_PROTO_UDP } from '../wire/ipv4';
import { endText } from './address-text';
import { AddressClasses } from './classes';
import { NameRules, NameTable } from './names';
import { Marks } from './rule-index';
import { CompiledRules, MARK_ASKED, MARK_GIVEN, withImplied } from './rules';
import type { Policy, PolicyRule, PolicySetup } from './types';
import { NO_REACH } from './types';

export { NO_PORT } from './rules';

const PORT_DNS = 53;
const PORT_TLS = 443;

/** Cached verdicts: a power of two. */
const CACHE = 256;
const CACHE_EMPTY = -2;

const NO_POLICY: Policy = { rules: [], otherwise: 'allow', audit: false, deniedNames: 'refused', sni: 'off' };

export class PolicyGate {
  /** A policy is set: ask. */
  on = false;
  /** Answers of resolvers are read. */
  readsNames = false;
  /** Flows to port 443 have to name their server. */
  checksHello = false;
  /** The guest's names for addresses. */
  readonly names = new NameTable();
  /** The rule that decided last, among all; the number of rules: none did. */
  decided = 0;
  /** The same as the number of the user's rule, from 1 on; one more than there are: none did. */
  verdict = 0;

  policy: Policy = NO_POLICY;
  private all: readonly PolicyRule[] = [];
  private compiled = new CompiledRules([]);
  private nameRules = new NameRules([]);
  private classes = new AddressClasses(NO_REACH);
  /** Implied rules in front of the user's. */
  private before = 0;
  private verdicts: Float64Array = new Float64Array(0);
  private marks = new Marks(0);
  private config: StackConfig | null = null;
  private readonly cacheWords = new Int32Array(4 * CACHE);
  private readonly cacheFlow = new Int32Array(CACHE);
  private readonly cacheRule = new Int32Array(CACHE).fill(CACHE_EMPTY);

  /** Replaces the policy as a whole. Allocates. Names that were learnt stay. */
  set({ policy, reach, verdicts }: PolicySetup): void {
    this.on = policy !== null;
    this.policy = policy ?? NO_POLICY;
    const { rules, before } = withImplied(this.policy);
    this.all = this.on ? rules : [];
    this.before = before;
    this.compiled = new CompiledRules(this.all);
    this.nameRules = new NameRules(this.all);
    this.classes = new AddressClasses(reach);
    this.readsNames = this.on && this.nameRules.any;
    this.checksHello = this.readsNames && this.policy.sni === 'require';
    this.marks = new Marks(this.all.length);
    this.verdicts = new Float64Array(verdicts);
    this.forgetVerdicts();
    if (!this.readsNames) this.names.clear();
  }

  /** The guest was reset: a new one has asked for nothing yet. */
  reset(): void {
    this.names.clear();
    this.forgetVerdicts();
  }

  /**
   * May the guest open a flow of `protocol` (the number in IPv4, also for ICMPv6) to `addr[at…]`, port `port` (NO_PORT:
   * echo), which leads to `to`? Counts and logs. `decided` says by which rule.
   */
  admits(ctx: StackContext, protocol: number, addr: Int32Array, at: number, port: number, to: NatResult): boolean {
    const rule = this.find(ctx, protocol, addr, at, port, to);
    return this.conclude(ctx, rule, protocol, addr, at, port, null);
  }

  /** The same without counting or logging, for a flow that lives: names count whose time is over. */
  keeps(ctx: StackContext, protocol: number, addr: Int32Array, at: number, port: number, to: NatResult): boolean {
    if (this.policy.audit) return true;
    this.marks.clear();
    // A flow that named its server was judged by that, which is not known any more.
    this.names.mark(addr, at, -Infinity, this.nameRules, this.marks);
    return this.allowsBy(this.first(ctx, protocol, addr, at, port, to));
  }

  /**
   * A flow of `protocol` to port 443 that the address alone would admit has named `name` in its ClientHello (lower case;
   * null: it named none, or was neither TLS nor QUIC): may it go on?
   */
  admitsName(
    ctx: StackContext,
    protocol: number,
    addr: Int32Array,
    at: number,
    port: number,
    to: NatResult,
    name: string | null,
  ): boolean {
    this.marks.clear();
    if (name !== null) this.nameRules.mark(name, MARK_ASKED, this.marks);
    const rule = this.first(ctx, protocol, addr, at, port, to);
    return this.conclude(ctx, rule, protocol, addr, at, port, name ?? '');
  }

  /** Does a flow to this port have to name its server? */
  wantsHello(port: number): boolean {
    return this.checksHello && port === PORT_TLS;
  }

  /** The flow that was admitted last asks a resolver whose answers are believed. */
  trustsResolver(port: number): boolean {
    return this.readsNames && port === PORT_DNS && this.decided < this.all.length && this.compiled.trusts(this.decided);
  }

  /**
   * May the guest look up `name` (lower case)? Yes, if a rule allows flows to it, or TCP to everybody, or if no rule speaks
   * of names. (Pings and the time from everybody are no reason to look up any name: a query says something to everybody who
   * serves the name.)
   */
  maySeek(name: string): boolean {
    if (this.policy.audit || !this.nameRules.any) return true;
    this.marks.clear();
    this.nameRules.mark(name, MARK_ASKED, this.marks);
    for (let i = this.before; i < this.before + this.policy.rules.length; i++) {
      const { host, verdict, protocol, ports } = this.all[i];
      const everybody = host.kind === 'any' && (protocol === 'any' || protocol === 'tcp');
      if (!everybody && this.marks.bits[i] === 0) continue;
      if (verdict === 'allow') return true;
      if (protocol === 'any' && ports.length === 0) return false;
    }
    return this.policy.otherwise === 'allow';
  }

  /** The guest has asked for `name`, and the user said that it leads to `words[at…]`, for `ttlMs`. Allocates. */
  given(ctx: StackContext, name: string, words: Int32Array, at: number, ttlMs: number): void {
    if (!this.readsNames) return;
    this.names.learn(name, MARK_ASKED | MARK_GIVEN, words, at, ctx.clock.nowMs, ttlMs);
    this.learnt();
  }

  /** A name has got another address. */
  learnt(): void {
    this.forgetVerdicts();
  }

  private forgetVerdicts(): void {
    this.cacheRule.fill(CACHE_EMPTY);
  }

  private find(ctx: StackContext, protocol: number, addr: Int32Array, at: number, port: number, to: NatResult): number {
    if (ctx.config !== this.config) {
      this.config = ctx.config;
      this.forgetVerdicts();
    }
    const flow = (protocol << 16) | (port & 0xffff);
    const mixed = Math.imul(
      addr[at + 3] ^ Math.imul(addr[at] ^ addr[at + 1] ^ addr[at + 2], 0x9e3779b1) ^ flow,
      0x85ebca6b,
    );
    const slot = (mixed >>> 24) & (CACHE - 1);
    if (this.cacheRule[slot] !== CACHE_EMPTY && this.cacheFlow[slot] === flow && this.isCached(slot, addr, at)) {
      return this.cacheRule[slot];
    }
    let named = false;
    if (this.readsNames) {
      this.marks.clear();
      named = this.names.mark(addr, at, ctx.clock.nowMs, this.nameRules, this.marks);
    }
    const rule = this.first(ctx, protocol, addr, at, port, to);
    if (!named) {
      for (let i = 0; i < 4; i++) this.cacheWords[4 * slot + i] = addr[at + i];
      this.cacheFlow[slot] = flow;
      this.cacheRule[slot] = rule;
    }
    return rule;
  }

  private isCached(slot: number, addr: Int32Array, at: number): boolean {
    const { cacheWords } = this;
    for (let i = 0; i < 4; i++) if (cacheWords[4 * slot + i] !== addr[at + i]) return false;
    return true;
  }

  private first(
    ctx: StackContext,
    protocol: number,
    addr: Int32Array,
    at: number,
    port: number,
    to: NatResult,
  ): number {
    const classes = this.classes.of(ctx.config, ctx.link, addr, at, port, to);
    return this.compiled.first(protocol, addr, at, port, classes, this.marks);
  }

  private allowsBy(rule: number): boolean {
    return rule < 0 ? this.policy.otherwise === 'allow' : this.compiled.allows[rule] === 1;
  }

  /** `hello`: the name in a ClientHello; null: the flow has just begun. */
  private conclude(
    ctx: StackContext,
    rule: number,
    protocol: number,
    addr: Int32Array,
    at: number,
    port: number,
    hello: string | null,
  ): boolean {
    this.decided = rule < 0 ? this.all.length : rule;
    const allowed = this.allowsBy(rule);
    this.verdict = this.userRule(rule) + 1;
    // A flow is counted once: with its beginning, or where its ClientHello is what it fails by.
    if ((hello === null || !allowed) && this.verdict <= this.verdicts.length) this.verdicts[this.verdict - 1]++;
    if (allowed) return true;
    if (ctx.log.take(SITE_POLICY)) {
      ctx.log.say(SITE_POLICY, 'info', this.refusalText(rule, protocol, addr, at, port, hello));
    }
    return this.policy.audit;
  }

  /** What an implied rule refuses is refused for want of one that allows it. */
  private userRule(rule: number): number {
    const { length } = this.policy.rules;
    const own = rule - this.before;
    return rule < 0 || own < 0 || own >= length ? length : own;
  }

  private refusalText(
    rule: number,
    protocol: number,
    addr: Int32Array,
    at: number,
    port: number,
    hello: string | null,
  ): string {
    const what = protocol === IP_PROTO_TCP ? 'tcp' : protocol === IP_PROTO_UDP ? 'udp' : 'icmp';
    const name = hello ?? this.names.nameOf(addr, at);
    const where = `${what} ${endText(addr, at, port)}`;
    const as = hello === '' ? ' (names no server)' : name === null ? '' : ` (${name})`;
    const why = rule < 0 ? 'no rule allows it' : `rule "${this.all[rule].text}"`;
    return `policy ${this.policy.audit ? 'would refuse' : 'refused'} ${where}${as}: ${why}`;
  }
}
