/**
 * The link's MTU, and how much of it the guest uses.
 *
 * Offered, in DHCP and router advertisements alike, is the smaller of `--mtu` and what the front-end configured
 * (vhost-user NET_SET_MTU). What the guest made of it shows in what it says: the segment size in its SYNs, the length
 * of its packets, and whether its DHCP client takes option 26 at all. Datagrams to the guest are cut to that.
 *
 * The segment size may be small for one peer alone (a route's MTU, a router that clamps it), so the largest of the last
 * one to two windows of WINDOW_MS counts. It is not offered: a guest that has not taken the larger MTU yet (its TCP
 * over IPv6 is often older than its DHCP lease) would never be able to take it.
 */
import type { StackConfig } from '../config';
import { IPV6_MIN_MTU } from '../wire/ipv6';

const WINDOW_MS = 60_000;
/** What may be any IPv4 host's (RFC 1122 §3.3.3): nothing smaller is believed, and in IPv6 no less than IPV6_MIN_MTU. */
const LEAST4 = 576;
/** Ethernet's default, of an interface that learnt of no other MTU. */
const ETHERNET_MTU = 1500;
const MOST = 0xffff;
/** Time for the guest to apply an advertised MTU before the log says that it did not. */
const SETTLE_MS = 10_000;

export class GuestMtu {
  /** Largest IP packet that the link takes as far as is known, before what the guest shows; never less than 68. */
  private offeredMtu: number;
  /** Told to the guest; 0: nothing. */
  private toldMtu: number;
  private frontEnd: number;
  private config: StackConfig;
  /** The DHCP client did not ask for option 26. */
  private ignored: boolean;
  /** Largest that the guest has shown in this window and in the one before; 0: nothing. */
  private current: number;
  private previous: number;
  private windowMs: number;
  /** What `bound` returns, kept. */
  private limit: number;
  /** Since when the guest knows what is offered; Infinity: it does not. And what was said about it last. */
  private toldSinceMs: number;
  private saidMtu: number;
  /** Since when a larger MTU than the one told was seen; Infinity: it was not. And whether that was said. */
  private largerSinceMs: number;
  private saidLarger: boolean;

  constructor(config: StackConfig) {
    this.config = config;
    this.offeredMtu = MOST;
    this.toldMtu = 0;
    this.frontEnd = 0;
    this.ignored = false;
    this.current = 0;
    this.previous = 0;
    this.windowMs = 0;
    this.limit = MOST;
    this.toldSinceMs = Infinity;
    this.saidMtu = 0;
    this.largerSinceMs = Infinity;
    this.saidLarger = false;
    this.configure(config);
  }

  /** For DHCP option 26 and router advertisements; 0: none is to be advertised. */
  get told(): number {
    return this.toldMtu;
  }

  /** Largest IPv4 or IPv6 packet to the guest. */
  bound(v4: boolean): number {
    return v4 || this.limit > IPV6_MIN_MTU ? this.limit : IPV6_MIN_MTU;
  }

  configure(config: StackConfig): void {
    this.config = config;
    const own = config.mtu === 0 ? MOST : config.mtu;
    this.offeredMtu = this.frontEnd === 0 ? own : Math.min(own, this.frontEnd);
    this.toldMtu = config.mtu === 0 ? 0 : this.offeredMtu;
    this.derive();
  }

  /** NET_SET_MTU; 0: the front-end left. True if the advertised MTU changes. */
  setFrontEnd(mtu: number): boolean {
    const before = this.toldMtu;
    this.frontEnd = mtu;
    this.configure(this.config);
    return this.toldMtu !== before;
  }

  /** A DHCP client got its lease; `takes`: it requested the MTU, or no particular options. */
  leased(takes: boolean, nowMs: number): void {
    this.ignored = !takes;
    this.toldSinceMs = this.toldMtu === 0 ? Infinity : nowMs;
    this.derive();
  }

  /** A router advertisement went out. */
  advertised(nowMs: number): void {
    if (this.toldSinceMs === Infinity && this.toldMtu >= IPV6_MIN_MTU) this.toldSinceMs = nowMs;
  }

  /** The guest showed an MTU: by the segment size of a SYN, or by a packet of that length. */
  shown(mtu: number, nowMs: number): void {
    if (nowMs - this.windowMs >= WINDOW_MS) {
      // One window without a word does not make the last one worthless.
      if (this.current > 0) this.previous = this.current;
      this.current = 0;
      this.windowMs = nowMs;
    }
    if (mtu <= this.current) return;
    this.current = mtu;
    this.derive();
  }

  /** Is it to be said now that the guest uses less than it was offered? Once for each MTU. */
  isNews(nowMs: number): boolean {
    const { limit } = this;
    if (limit >= this.toldMtu || limit === this.saidMtu || nowMs - this.toldSinceMs < SETTLE_MS) return false;
    this.saidMtu = limit;
    return true;
  }

  /** Is it to be said now that the guest uses `mtu`, more than it was offered? Once, if it does not change its mind. */
  isTooLarge(mtu: number, nowMs: number): boolean {
    if (this.saidLarger || this.toldMtu === 0 || mtu <= this.toldMtu) return false;
    if (this.largerSinceMs === Infinity) this.largerSinceMs = nowMs;
    this.saidLarger = nowMs - this.largerSinceMs >= SETTLE_MS;
    return this.saidLarger;
  }

  /** Does the front-end allow less than `--mtu`? */
  get frontEndLimits(): boolean {
    return this.frontEnd !== 0 && this.frontEnd < this.config.mtu;
  }

  /** The guest was reset: what it showed is forgotten. */
  reset(): void {
    this.ignored = false;
    this.current = 0;
    this.previous = 0;
    this.toldSinceMs = Infinity;
    this.largerSinceMs = Infinity;
    this.saidLarger = false;
    this.derive();
  }

  private derive(): void {
    let seen = Math.max(this.current, this.previous);
    if (seen === 0) seen = this.ignored && this.frontEnd === 0 ? ETHERNET_MTU : MOST;
    else if (seen < LEAST4) seen = LEAST4;
    this.limit = Math.min(this.offeredMtu, seen);
  }
}
