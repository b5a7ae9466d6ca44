/**
 * Which client has the single address of DHCP (or DHCPv6): one address goes to one client (RFC 2131 §3.1).
 *
 * A client is known by its hardware address or by its identifier; either is enough. Firmware and the system it boots
 * have different identifiers and the same hardware address, and a client that comes back on another interface has
 * another hardware address and (where it was told to) the same identifier: both are the same client, served at once.
 *
 * Anyone else gets nothing while the holder is there. It is not when it gave the address back, its lease ran out, it
 * never took what it was offered, or did not use the address since the front-end connected last; and when it does not
 * answer for the address (RFC 2131 §2.2 has a server ask before it gives one again), which is how a changed hardware
 * address or interface looks: another client is refused, the holder is asked, and a later try of the client is
 * answered.
 */

/** How long an offer is kept for the client that it was made to, ms. */
export const OFFER_MS = 10_000;
/**
 * How often, ASK_MS apart at least, and for how long a holder is asked in vain before another client may have it, ms.
 */
export const ASKS_IN_VAIN = 2;
export const GONE_MS = 5_000;
const ASK_MS = 1_000;

export class LeaseHolder {
  private held: boolean;
  private macHi: number;
  private macLo: number;
  /** Client identifier, or DUID and IAID; empty: none. */
  private id: Uint8Array;
  private endsMs: number;
  /** When it last took the address; -Infinity: not since the link came up. And when that did. */
  private heardMs: number;
  private upMs: number;
  /** Since when, when last and how often it was asked without an answer. */
  private firstAskMs: number;
  private lastAskMs: number;
  private asks: number;
  private refusalSaid: boolean;

  constructor() {
    this.held = false;
    this.macHi = 0;
    this.macLo = 0;
    this.id = new Uint8Array(0);
    this.endsMs = 0;
    this.heardMs = -Infinity;
    this.upMs = -Infinity;
    this.firstAskMs = -Infinity;
    this.lastAskMs = -Infinity;
    this.asks = 0;
    this.refusalSaid = false;
  }

  /** High 16 and low 32 bits of the holder's hardware address. */
  get holderHi(): number {
    return this.macHi;
  }

  get holderLo(): number {
    return this.macLo;
  }

  /** Is that the client that has the address, or was offered it? */
  isHolder(macHi: number, macLo: number, id: Uint8Array): boolean {
    if (!this.held) return false;
    if (macHi === this.macHi && macLo === this.macLo) return true;
    return id.length > 0 && id.length === this.id.length && id.every((byte, i) => byte === this.id[i]);
  }

  /**
   * May that client have the address? If not, the caller should now check whether the holder still uses it. `usedMs`:
   * when the address was last heard of at the holder's hardware address; -Infinity: never.
   */
  admits(macHi: number, macLo: number, id: Uint8Array, usedMs: number, nowMs: number): boolean {
    if (!this.held || nowMs >= this.endsMs || this.isHolder(macHi, macLo, id)) return true;
    const lastMs = usedMs > this.upMs ? Math.max(usedMs, this.heardMs) : this.heardMs;
    if (lastMs === -Infinity) return true;
    if (this.firstAskMs <= lastMs) {
      this.firstAskMs = this.lastAskMs = nowMs;
      this.asks = 1;
      return false;
    }
    if (this.asks >= ASKS_IN_VAIN && nowMs - this.firstAskMs >= GONE_MS) return true;
    if (nowMs - this.lastAskMs >= ASK_MS) {
      this.lastAskMs = nowMs;
      this.asks++;
    }
    return false;
  }

  /** That client has the address for `ms` (Infinity: until it gives it back). */
  take(macHi: number, macLo: number, id: Uint8Array, nowMs: number, ms: number): void {
    if (!this.isHolder(macHi, macLo, id)) this.refusalSaid = false;
    this.held = true;
    this.macHi = macHi;
    this.macLo = macLo;
    this.id = Uint8Array.from(id);
    this.heardMs = nowMs;
    this.endsMs = nowMs + ms;
  }

  /**
   * As `take`, for an offer: it is kept for OFFER_MS. What the client has already it keeps for as long as it had it.
   */
  offer(macHi: number, macLo: number, id: Uint8Array, nowMs: number): void {
    const endsMs = this.isHolder(macHi, macLo, id) ? this.endsMs : 0;
    this.take(macHi, macLo, id, nowMs, OFFER_MS);
    if (endsMs > this.endsMs) this.endsMs = endsMs;
  }

  /** Nobody has the address. */
  free(): void {
    this.held = false;
  }

  /** The front-end connected again, or the rings started: whether the holder is still there is not known. */
  linkUp(nowMs: number): void {
    this.heardMs = -Infinity;
    this.upMs = nowMs;
  }

  /** Is it to be said that another client is refused? Once for each holder. */
  isNews(): boolean {
    const news = !this.refusalSaid;
    this.refusalSaid = true;
    return news;
  }
}
