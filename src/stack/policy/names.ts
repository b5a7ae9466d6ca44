/**
 * Names by which the guest found addresses, as its resolvers' answers said (dns.ts reads them), and the rules that
 * speak of names. Allocates: only answers to queries, and flows to addresses that are not in the cache, come here.
 */
import type { PolicyRule } from './types';
import type { Marks } from './rule-index';
import { MARK_ASKED } from './rules';

/** Most addresses and names that are remembered; what was learnt longest ago is forgotten. */
const ADDRESSES = 4096;
const NAMES = 8192;
const NAMES_PER_ADDRESS = 16;

/**
 * How long after its time to live a name still opens its addresses, ms. Programs keep addresses for longer than they may
 * (browsers: a minute), and try one after the other. A flow that lives is never closed because time went by.
 */
const GRACE_MS = 60_000;

interface Known {
  /** When it ends to open the address, milliseconds of the clock. */
  untilMs: number;
  /**
   * MARK_ASKED: the guest asked for this name; else MARK_ALIAS: it is what one that it asked for stands for (CNAME). MARK_GIVEN
   * besides: the user says where it leads.
   */
  marks: number;
}

const keyOf = (words: Int32Array, at: number): string =>
  String.fromCharCode(
    words[at] >>> 16,
    words[at] & 0xffff,
    words[at + 1] >>> 16,
    words[at + 1] & 0xffff,
    words[at + 2] >>> 16,
    words[at + 2] & 0xffff,
    words[at + 3] >>> 16,
    words[at + 3] & 0xffff,
  );

export class NameTable {
  /** Hears of the name by which the guest found `words[at…]` last, where that is another one than before. */
  onFound: ((name: string, words: Int32Array, at: number) => void) | null = null;
  /** Names of each address; the address learnt longest ago first. */
  private readonly addresses = new Map<string, Map<string, Known>>();
  private names = 0;

  /** Addresses that have a name, and names, all of them. */
  get size(): number {
    return this.addresses.size;
  }

  clear(): void {
    this.addresses.clear();
    this.names = 0;
  }

  /** An answer says that `name` leads to `words[at…]` for `ttlMs` from `nowMs` on. `marks`: how it is known, MARK_…. */
  learn(name: string, marks: number, words: Int32Array, at: number, nowMs: number, ttlMs: number): void {
    const key = keyOf(words, at);
    const { onFound } = this;
    if ((marks & MARK_ASKED) !== 0 && onFound !== null && this.nameOf(words, at) !== name) onFound(name, words, at);
    const names = this.addresses.get(key) ?? new Map<string, Known>();
    this.addresses.delete(key);
    this.addresses.set(key, names);
    const untilMs = nowMs + ttlMs + GRACE_MS;
    const known = names.get(name);
    if (known === undefined) {
      if (names.size === NAMES_PER_ADDRESS) this.forgetOneOf(names);
      names.set(name, { untilMs, marks });
      this.names++;
    } else {
      // The latest stands last: that is how the guest found it.
      names.delete(name);
      names.set(name, { untilMs: Math.max(known.untilMs, untilMs), marks: known.marks | marks });
    }
    while (this.addresses.size > ADDRESSES || this.names > NAMES) this.forgetOldest();
  }

  private forgetOneOf(names: Map<string, Known>): void {
    const [first] = names.keys();
    names.delete(first);
    this.names--;
  }

  private forgetOldest(): void {
    for (const [key, names] of this.addresses) {
      this.names -= names.size;
      this.addresses.delete(key);
      return;
    }
  }

  /** The name by which the guest found the address last, however long ago; null: none is known. */
  nameOf(words: Int32Array, at: number): string | null {
    let last: string | null = null;
    for (const [name, { marks }] of this.addresses.get(keyOf(words, at)) ?? []) {
      if ((marks & MARK_ASKED) !== 0) last = name;
    }
    return last;
  }

  /**
   * Marks the rules that speak of a name of the address. `nowMs`: names whose time is over do not count; -Infinity: all do.
   * Returns true if there is any name.
   */
  mark(words: Int32Array, at: number, nowMs: number, rules: NameRules, marks: Marks): boolean {
    const names = this.addresses.get(keyOf(words, at));
    if (names === undefined) return false;
    for (const [name, known] of names) if (known.untilMs >= nowMs) rules.mark(name, known.marks, marks);
    return true;
  }
}

/** Which rules speak of a name. */
export class NameRules {
  private readonly exact = new Map<string, number[]>();
  private readonly below = new Map<string, number[]>();

  constructor(rules: readonly PolicyRule[]) {
    for (const [i, { host }] of rules.entries()) {
      if (host.kind !== 'name') continue;
      const map = host.below ? this.below : this.exact;
      const list = map.get(host.name);
      if (list === undefined) map.set(host.name, [i]);
      else list.push(i);
    }
  }

  get any(): boolean {
    return this.exact.size + this.below.size > 0;
  }

  /** Sets `bits` in the marks of all rules that speak of `name`, which is in lower case. */
  mark(name: string, bits: number, marks: Marks): void {
    for (const i of this.exact.get(name) ?? []) marks.add(i, bits);
    for (let dot = name.indexOf('.'); dot >= 0; dot = name.indexOf('.', dot + 1)) {
      for (const i of this.below.get(name.slice(dot + 1)) ?? []) marks.add(i, bits);
    }
  }
}
