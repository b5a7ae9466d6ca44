/**
 * Rules compiled to an index, and the first of them that matches a flow: no more than a few looks, however many rules there are.
 *
 * Theory of operation. Each rule is in one group: of those with a prefix, by length and prefix; of those with a class; of those
 * about everybody. In a group rules stand by port, where they have few, or in a list, where they have ranges or none. A
 * look takes the first rule that fits from each group that the address is in; the least of them is the one. Names are not
 * looked at here: who asks has marked the rules whose name leads to the flow's address (`Marks`), and those are looked at by
 * themselves. Nothing is allocated by a look.
 */
import { isV4 } from '../ip/address';
import { inPrefix, prefixWords } from './classes';
import type { Prefix } from './types';

/** Ports of a rule that are worth a place each. */
const FEW_PORTS = 8;
const NOTHING: readonly number[] = [];

/** Marks of rules whose name leads to an address, and which they are. */
export class Marks {
  readonly bits: Uint8Array;
  /** Rules that are marked, in any order. */
  readonly marked: Int32Array;
  count = 0;

  constructor(rules: number) {
    this.bits = new Uint8Array(rules);
    this.marked = new Int32Array(rules);
  }

  clear(): void {
    for (let i = 0; i < this.count; i++) this.bits[this.marked[i]] = 0;
    this.count = 0;
  }

  add(rule: number, bits: number): void {
    if (this.bits[rule] === 0) this.marked[this.count++] = rule;
    this.bits[rule] |= bits;
  }
}

/** What a group asks of a rule besides what makes it a group: protocol and ports. */
export type Fits = (rule: number, protocol: number, port: number) => boolean;

/** Rules that are about the same addresses, by port. */
class Group {
  private readonly list: number[] = [];
  private readonly byPort = new Map<number, number[]>();

  /** Rules come in ascending order. */
  add(rule: number, ports: readonly (readonly [number, number])[]): void {
    const all = ports.reduce((sum, [first, last]) => sum + 1 + last - first, 0);
    if (all === 0 || all > FEW_PORTS) {
      this.list.push(rule);
      return;
    }
    for (const [first, last] of ports) {
      for (let port = first; port <= last; port++) {
        const rules = this.byPort.get(port);
        if (rules === undefined) this.byPort.set(port, [rule]);
        else if (rules[rules.length - 1] !== rule) rules.push(rule);
      }
    }
  }

  /** The first rule below `below` that fits; `below`: there is none. */
  first(protocol: number, port: number, below: number, fits: Fits): number {
    const best = firstIn(this.list, protocol, port, below, fits);
    return firstIn(this.byPort.get(port) ?? NOTHING, protocol, port, best, fits);
  }
}

function firstIn(rules: readonly number[], protocol: number, port: number, below: number, fits: Fits): number {
  for (let i = 0; i < rules.length && rules[i] < below; i++) if (fits(rules[i], protocol, port)) return rules[i];
  return below;
}

/** Prefixes of one length and family. */
interface Length {
  readonly v4: boolean;
  /** The mask, four words. */
  readonly masks: Int32Array;
  /** By a hash of the prefix: those that have it, most often one. */
  readonly prefixes: Map<number, { readonly words: Int32Array; readonly group: Group }[]>;
}

function hashOf(words: Int32Array, at: number, masks: Int32Array): number {
  let hash = 0;
  for (let i = 0; i < 4; i++) hash = Math.imul(hash ^ (words[at + i] & masks[i]), 0x85ebca6b) ^ (hash >>> 13);
  return hash;
}

export class RuleIndex {
  private readonly lengths: Length[] = [];
  private readonly everybody = new Group();
  /** By class bit. */
  private readonly classes = new Map<number, Group>();
  /** The bits that any rule is about. */
  private classBits = 0;

  /** Rules come in ascending order. */
  addPrefix(rule: number, { address, length }: Prefix, ports: readonly (readonly [number, number])[]): void {
    const words = new Int32Array(4);
    const masks = new Int32Array(4);
    prefixWords(address, length, words, masks, 0);
    const v4 = address.length === 4;
    let same = this.lengths.find((one) => one.v4 === v4 && one.masks.every((mask, i) => mask === masks[i]));
    if (same === undefined) {
      same = { v4, masks, prefixes: new Map() };
      this.lengths.push(same);
    }
    const hash = hashOf(words, 0, masks);
    const there = same.prefixes.get(hash) ?? [];
    same.prefixes.set(hash, there);
    let prefix = there.find((one) => one.words.every((word, i) => word === words[i]));
    if (prefix === undefined) {
      prefix = { words, group: new Group() };
      there.push(prefix);
    }
    prefix.group.add(rule, ports);
  }

  addClass(rule: number, bit: number, ports: readonly (readonly [number, number])[]): void {
    const group = this.classes.get(bit) ?? new Group();
    this.classes.set(bit, group);
    this.classBits |= bit;
    group.add(rule, ports);
  }

  addEverybody(rule: number, ports: readonly (readonly [number, number])[]): void {
    this.everybody.add(rule, ports);
  }

  /**
   * The first rule below `below` for `addr[at…]`, which has the class bits `classes`, that fits `protocol` and `port`;
   * `below`: there is none.
   */
  first(
    addr: Int32Array,
    at: number,
    classes: number,
    protocol: number,
    port: number,
    below: number,
    fits: Fits,
  ): number {
    let best = this.everybody.first(protocol, port, below, fits);
    for (let bits = classes & this.classBits; bits !== 0; bits &= bits - 1) {
      best = this.classes.get(bits & -bits)?.first(protocol, port, best, fits) ?? best;
    }
    const v4 = isV4(addr, at);
    for (const length of this.lengths) {
      if (length.v4 !== v4) continue;
      const there = length.prefixes.get(hashOf(addr, at, length.masks));
      if (there === undefined) continue;
      for (const { words, group } of there) {
        if (inPrefix(words, length.masks, 0, addr, at)) best = group.first(protocol, port, best, fits);
      }
    }
    return best;
  }
}
