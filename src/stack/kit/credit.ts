/**
 * A credit of time for attempts that may fail: connections, and flows of datagrams that stay unanswered.
 *
 * It grows by one part in CREDIT_PART of the time that passes, and gets back what an attempt cost when it succeeds. So
 * failed attempts take at most a sixteenth of the data plane's time, and successful ones have no limit. Where there is no
 * credit, remote ends that have answered before can still be reached.
 */

import type { Clock, Random } from '../ports';
import { halfSipHash } from './siphash';

/** The credit's growth: one part in this many of the time that passes. */
const CREDIT_PART = 16;
/** The most there can be, µs. */
const CREDIT_MOST_US = 20_000;
/**
 * The most that one attempt counts for, µs. Attempts take some ten; one that takes longer than this was interrupted: on a
 * busy host this thread may have to wait for 30 ms, which would use up all of the credit and keep others out that the guest
 * opens meanwhile.
 */
const COST_MOST_US = 1000;

export class Credit {
  private us: number;
  private atMs: number;
  private readonly costMostUs: number;

  /** `costMostUs`: another bound of what one attempt counts for, where attempts may take longer by themselves. */
  constructor(nowMs: number, costMostUs = COST_MOST_US) {
    this.us = CREDIT_MOST_US;
    this.atMs = nowMs;
    this.costMostUs = costMostUs;
  }

  /** May an attempt be made now? */
  left(nowMs: number): boolean {
    const passed = nowMs - this.atMs;
    if (passed > 0) {
      this.atMs = nowMs;
      this.us = Math.min(CREDIT_MOST_US, this.us + (passed * 1000) / CREDIT_PART);
    }
    return this.us > 0;
  }

  /** An attempt took `us`, by the clock. Returns what `giveBack` is to get if it succeeds. */
  spend(us: number): number {
    const cost = Math.max(0, Math.min(this.costMostUs, us));
    this.us -= cost;
    return cost;
  }

  giveBack(us: number): void {
    this.us = Math.min(CREDIT_MOST_US, this.us + us);
  }
}

/** Attempts on trust from one answer of a remote end to its next. */
const TRUSTED = 8;
const TRUST_BUCKETS = 1024;
const TRUST_KEY_WORDS = 5;

/**
 * Remote ends that have answered. A few attempts to reach them need no credit, so that a scan of other hosts does not
 * keep the guest from those that it uses. Ends may share a bucket, and then these attempts.
 */
class Trust {
  /** Attempts left, by bucket. */
  private readonly attempts: Uint8Array;
  private readonly key: Int32Array;
  private readonly k0: number;
  private readonly k1: number;

  constructor(random: Random) {
    this.attempts = new Uint8Array(TRUST_BUCKETS);
    this.key = new Int32Array(TRUST_KEY_WORDS);
    this.k0 = random.u32();
    this.k1 = random.u32();
  }

  /** The bucket of the end at address `words[at … at + 3]` and `port`. */
  bucketOf(words: Int32Array, at: number, port: number): number {
    const { key } = this;
    key[0] = words[at];
    key[1] = words[at + 1];
    key[2] = words[at + 2];
    key[3] = words[at + 3];
    key[4] = port;
    return halfSipHash(key, 0, TRUST_KEY_WORDS, this.k0, this.k1) & (TRUST_BUCKETS - 1);
  }

  /** May an attempt be made without credit? */
  take(bucket: number): boolean {
    if (this.attempts[bucket] === 0) return false;
    this.attempts[bucket]--;
    return true;
  }

  answered(bucket: number): void {
    this.attempts[bucket] = TRUSTED;
  }
}

/** The credit that flows of the guest's are opened on, with what each of them cost until it is answered. */
export class FlowCredit {
  private readonly clock: Clock;
  private readonly credit: Credit;
  private readonly trust: Trust;
  /** By flow number: µs, and the bucket of the remote end. */
  private readonly cost: Uint16Array;
  private readonly bucket: Uint16Array;
  // Of the attempt that is being made.
  private fromUs: number;
  private toBucket: number;
  private onTrust: boolean;

  constructor(capacity: number, clock: Clock, random: Random) {
    this.clock = clock;
    this.credit = new Credit(clock.nowMs);
    this.trust = new Trust(random);
    this.cost = new Uint16Array(capacity);
    this.bucket = new Uint16Array(capacity);
    this.fromUs = 0;
    this.toBucket = 0;
    this.onTrust = false;
  }

  /**
   * The guest wants a flow to address `words[at … at + 3]` and `port`. False: there is no credit for it; else `opened`
   * follows.
   */
  take(words: Int32Array, at: number, port: number): boolean {
    this.toBucket = this.trust.bucketOf(words, at, port);
    this.onTrust = !this.credit.left(this.clock.nowMs);
    if (this.onTrust && !this.trust.take(this.toBucket)) return false;
    this.fromUs = this.clock.nowUs();
    return true;
  }

  /** The attempt is over: `slot` is the flow's number, or negative. Returns it. */
  opened(slot: number): number {
    const cost = this.onTrust ? 0 : this.credit.spend(this.clock.nowUs() - this.fromUs);
    if (slot >= 0) {
      this.cost[slot] = cost;
      this.bucket[slot] = this.toBucket;
    }
    return slot;
  }

  /** The flow is answered: what it cost is given back, once. */
  answered(slot: number): void {
    this.credit.giveBack(this.cost[slot]);
    this.cost[slot] = 0;
    this.trust.answered(this.bucket[slot]);
  }

  /** The number belongs to no flow any more. */
  free(slot: number): void {
    this.cost[slot] = 0;
  }
}
