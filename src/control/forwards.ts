/**
 * Forwarded ports while the service runs: what there is, and changes of it.
 *
 * Theory of operation. An entry is what the user gave (`2222:22`), its parts are the rules that it was parsed to, each with
 * its sockets. A change names parts that go and entries that come. It is done whole or not at all: everything is checked,
 * then all sockets are opened, and only then the data plane is told, in one command, which cannot fail. Sockets of parts
 * that go are closed after that, or taken over by parts that listen at the same place and lead elsewhere. Changes are done
 * one after the other; each raises the version, by which a client can say what it has seen.
 *
 * Bounds: MAX_RULES rules, and as many sockets besides those of the start as the data plane was given room for.
 */
import { formatIp } from '../config/address-text';
import {
  closeListener,
  closeListeners,
  familyOf,
  type ListenerIo,
  type ListenerOptions,
  openListeners,
  type RuleListeners,
} from '../config/forward-listeners';
import {
  checkRules,
  isOfPorts,
  MAX_RULES,
  type PortRange,
  type PortRule,
  PortTable,
  sameRule,
  specOf,
} from '../config/port-spec';
import { ConfigError } from '../errors';
import type { ForwardChange, ForwardListener, ForwardRule, NumberedRule } from '../stack/config';
import { C_RULES, type Counters } from '../stack/counters';
import { Errors, type ForwardItem, parseItems, type WantedForward } from './forward-items';
import { Refused, refuse } from './problem';
import type { ForwardInfo, ItemError } from './types';
import type { UnixForwards } from './unix-forwards';

export interface ForwardList {
  readonly version: number;
  readonly forwards: readonly ForwardInfo[];
  /** Ports of the guest's loopback that lead to the host. */
  readonly outward: readonly ForwardInfo[];
}

export interface ChangeOptions {
  /** Refused if the version is another one by now; null: whatever it is. */
  readonly ifVersion?: number | null;
  /** Connections that came by forwards that go are reset; else they live on. */
  readonly closeFlows?: boolean;
}

export interface ForwardsOptions {
  readonly io: ListenerIo;
  /** Who accepts on UNIX sockets. */
  readonly sockets: Pick<UnixForwards, 'add' | 'remove'>;
  /** Tells the data plane; settles when it has done it. */
  readonly apply: (change: ForwardChange) => Promise<void>;
  readonly counters: Counters;
  /** What was opened at the start. Its sockets are this one's from now on. */
  readonly parts: readonly RuleListeners[];
  readonly rules: readonly ForwardRule[];
  readonly listen: Pick<ListenerOptions, 'v4' | 'v6' | 'freebind'>;
  readonly tcp: boolean;
  readonly udp: boolean;
  /** What `all` leaves out. */
  readonly ephemeral: PortRange;
  /** How many sockets there may be at a time. */
  readonly most: number;
  readonly log?: (level: 'info' | 'warn', message: string, site: string) => void;
  /** After each change. */
  readonly changed?: (list: ForwardList) => void;
}

/** Sockets that follow their interface at a time. */
const FOLLOW_STEP = 256;

interface Part {
  readonly rule: PortRule;
  readonly listeners: readonly ForwardListener[];
}

interface Entry {
  /** Never given again. */
  readonly id: number;
  /** Where its connections are counted (C_RULES). */
  readonly number: number;
  readonly protocol: 'tcp' | 'udp';
  readonly spec: string;
  readonly parts: readonly Part[];
}

export class Forwards {
  /** Says what is forwarded from the guest's side. */
  outward: () => readonly ForwardInfo[] = () => [];
  private readonly options: ForwardsOptions;
  private entries: readonly Entry[];
  private at = 1;
  /** The change being made, after which the next one begins. */
  private last: Promise<unknown> = Promise.resolve();
  private closed = false;
  private lastId = 0;

  constructor(options: ForwardsOptions) {
    this.options = options;
    this.entries = options.rules.map(({ protocol, spec }, i) => ({
      id: ++this.lastId,
      number: i + 1,
      protocol,
      spec,
      parts: options.parts.filter(({ number }) => number === i + 1),
    }));
    for (const { listeners } of options.parts) this.accept(listeners);
  }

  get version(): number {
    return this.at;
  }

  list(): ForwardList {
    const { counters } = this.options;
    const forwards = this.entries.map(({ number, protocol, spec, parts }) => ({
      protocol,
      spec,
      listeners: parts.reduce((sum, { listeners }) => sum + listeners.length, 0),
      connections: counters[C_RULES + number],
    }));
    return { version: this.at, forwards, outward: this.outward() };
  }

  /** All rules of ports, in the order of their entries. */
  rules(): PortRule[] {
    const all = this.entries.flatMap(({ parts }) => parts.map(({ rule }) => rule));
    return all.filter(isOfPorts);
  }

  /** Entries by their ids, with their rules of ports, and those of UNIX sockets that have a path here. */
  byId(): { readonly id: number; readonly rules: readonly PortRule[]; readonly unix: readonly PortRule[] }[] {
    return this.entries.map(({ id, parts }) => {
      const all = parts.map(({ rule }) => rule);
      return { id, rules: all.filter(isOfPorts), unix: all.filter(({ path }) => path !== undefined) };
    });
  }

  /** The id of what was given as that; -1: it is not forwarded. */
  idOf(protocol: string, spec: string): number {
    return this.entries.find((entry) => entry.protocol === protocol && entry.spec === spec)?.id ?? -1;
  }

  /** Removes the entry of that id. Throws Refused. */
  removeId(id: number): Promise<ForwardList> {
    return this.change({}, () => {
      if (!this.entries.some((entry) => entry.id === id))
        throw refuse(404, 'not-found', `there is no forward ${id}`, 'id');
      return { keep: (entry) => entry.id !== id, add: [] };
    });
  }

  /** What the metrics show. */
  metrics(): NumberedRule[] {
    const { forwards } = this.list();
    return this.entries.map(({ number }, i) => ({ number, rule: forwards[i] }));
  }

  /** The rule whose connections are counted at `number`, as it was given; null: none is. */
  specOf(number: number): string | null {
    return this.entries.find((entry) => entry.number === number)?.spec ?? null;
  }

  /** Adds forwards. Throws Refused with an error for each item that cannot be. */
  add(items: readonly ForwardItem[], options: ChangeOptions = {}): Promise<ForwardList> {
    return this.change(options, () => ({ keep: () => true, add: parseItems(items, this.options.ephemeral) }));
  }

  /** Removes forwards, named as they are listed. */
  remove(items: readonly ForwardItem[], options: ChangeOptions = {}): Promise<ForwardList> {
    return this.change(options, () => {
      const gone = new Set<Entry>();
      const errors: ItemError[] = [];
      for (const [i, { protocol, spec }] of items.entries()) {
        const entry = this.entries.find((each) => each.protocol === protocol && each.spec === spec);
        if (entry !== undefined) gone.add(entry);
        else errors.push({ at: `forwards/${i}`, code: 'not-found', message: `${protocol} ${spec} is not forwarded` });
      }
      if (errors.length > 0) throw new Refused(404, errors);
      return { keep: (entry) => !gone.has(entry), add: [] };
    });
  }

  /** These forwards and no others. Those that are there already stay as they are, with their connections. */
  replace(items: readonly ForwardItem[], options: ChangeOptions = {}): Promise<ForwardList> {
    return this.change(options, () => {
      const isIn = ({ protocol, spec }: ForwardItem, list: readonly ForwardItem[]): boolean =>
        list.some((each) => each.protocol === protocol && each.spec === spec);
      const wanted = parseItems(items, this.options.ephemeral).filter((item) => !isIn(item, this.entries));
      return { keep: (entry) => isIn(entry, items), add: wanted };
    });
  }

  /** As `replace`, of rules. An entry of which only some are wanted keeps those. */
  replaceRules(rules: readonly PortRule[], options: ChangeOptions = {}): Promise<ForwardList> {
    return this.change(options, () => {
      const there = this.rules();
      const wanted = rules.map((rule, i) => ({
        protocol: rule.protocol,
        spec: specOf(rule),
        rules: [rule],
        at: `rules/${i}`,
      }));
      return {
        // Who has a table of ports knows of nothing else.
        keep: (_entry, { rule: own }) => !isOfPorts(own) || rules.some((rule) => sameRule(rule, own)),
        add: wanted.filter((item) => !there.some((rule) => sameRule(rule, item.rules[0]))),
      };
    });
  }

  /**
   * The host's network has changed: where the interface that a rule names is another one by now (it was made again, or
   * renamed), the rule's sockets listen there from then on. Those for which that cannot be yet stay, until the next change.
   */
  async followInterfaces(): Promise<void> {
    const follows = ({ rule: { ifname } }: Part): boolean => ifname !== null;
    if (!this.entries.some(({ parts }) => parts.some(follows))) return;
    const done = this.last.then(async () => {
      // In steps: there are not descriptors for all ports twice.
      while (!this.closed && (await this.followSome()));
    });
    this.last = done.catch(() => undefined);
    await done;
  }

  /** Closes all sockets. The data plane must be gone. */
  close(): void {
    this.closed = true;
    for (const { parts } of this.entries) for (const { listeners } of parts) closeListeners(this.options.io, listeners);
    this.entries = [];
  }

  /** Makes a change of what is listed, behind the one before it. Throws Refused, also what `body` throws. */
  inTurn(ifVersion: number | null, body: () => Promise<void>): Promise<ForwardList> {
    const done = this.last.then(async () => {
      if (this.closed) throw refuse(503, 'ending', 'the service ends');
      if (ifVersion !== null && ifVersion !== this.at)
        throw refuse(412, 'version', `the forwards have changed: this is version ${this.at}`, 'If-Match');
      await body();
      return this.list();
    });
    this.last = done.catch(() => undefined);
    return done;
  }

  /** What leads outwards has changed (outward-forwards.ts). */
  raise(): void {
    this.at++;
    this.options.changed?.(this.list());
  }

  /** Has up to FOLLOW_STEP sockets follow their interfaces. True if some did: there may be more. */
  private async followSome(): Promise<boolean> {
    const { io, apply, listen, log } = this.options;
    const moved = new Map<ForwardListener, ForwardListener>();
    const failed = new Map<string, string>();
    const names = new Set<string>();
    for (const { number, parts } of this.entries) {
      for (const { rule, listeners } of parts) {
        const { ifname } = rule;
        const index = ifname === null ? -1 : io.ifIndex(ifname);
        if (ifname === null || index <= 0) continue;
        for (const old of listeners.filter(({ ifIndex }) => ifIndex !== undefined && ifIndex !== index)) {
          if (moved.size === FOLLOW_STEP) break;
          const { port, targetPort } = old;
          try {
            const one = { ...rule, first: port, last: port, targetFirst: targetPort, weak: false };
            const [fresh] = openListeners(io, [one], { ...listen, maxWeak: 0 }).listeners;
            moved.set(old, { ...fresh, rule: number });
            names.add(ifname);
          } catch (error) {
            if (!(error instanceof ConfigError)) throw error;
            failed.set(ifname, error.message);
          }
        }
      }
    }
    if (moved.size === 0) {
      for (const [ifname, message] of failed)
        log?.('warn', `${ifname} is another interface than before: ${message}`, 'forward.interface');
      return false;
    }
    this.entries = this.entries.map((entry) => ({
      ...entry,
      parts: entry.parts.map(({ rule, listeners }) => ({
        rule,
        listeners: listeners.map((each) => moved.get(each) ?? each),
      })),
    }));
    await apply({ remove: [...moved.keys()].map(({ fd }) => fd), add: [...moved.values()], closeFlows: false });
    for (const old of moved.keys()) closeListener(io, old);
    const where = [...names].join(', ');
    log?.('info', `${moved.size} forwarded ports follow to the new ${where}`, 'forward.interface');
    return true;
  }

  /** Makes one change behind the one before it. `plan` is asked then. */
  private change(
    { ifVersion = null, closeFlows = false }: ChangeOptions,
    plan: () => { keep: (entry: Entry, part: Part) => boolean; add: readonly WantedForward[] },
  ): Promise<ForwardList> {
    return this.inTurn(ifVersion, async () => {
      const { keep, add } = plan();
      const kept: Entry[] = [];
      const gone: Part[] = [];
      for (const entry of this.entries) {
        const parts = entry.parts.filter((part) => keep(entry, part));
        gone.push(...entry.parts.filter((part) => !parts.includes(part)));
        if (parts.length === entry.parts.length) kept.push(entry);
        else if (parts.length > 0)
          kept.push({ ...entry, parts, spec: parts.map(({ rule }) => specOf(rule)).join(',') });
      }
      if (gone.length > 0 || add.length > 0) await this.commit(kept, gone, add, closeFlows);
    });
  }

  /** Throws Refused: nothing was changed then. */
  private async commit(
    kept: readonly Entry[],
    gone: readonly Part[],
    wanted: readonly WantedForward[],
    closeFlows: boolean,
  ): Promise<void> {
    const { options } = this;
    this.check(kept, wanted);
    const free = new Map(
      gone
        .filter(({ rule }) => rule.passed === undefined)
        .flatMap(({ rule, listeners }) => listeners.map((each) => [this.placeOf(rule, each.port), each])),
    );
    const opened: ForwardListener[] = [];
    const entries: Entry[] = [];
    const errors = new Errors();
    const numbers = this.freeNumbers(kept);
    let room = options.most - kept.reduce((sum, { parts }) => sum + socketsOf(parts), 0);
    for (const { protocol, spec, rules, at } of wanted) {
      const number = numbers.shift() ?? 0;
      const parts = errors.try(at, () => this.open(rules, number, free, opened, room));
      if (parts === null) continue;
      entries.push({ id: ++this.lastId, number, protocol, spec, parts });
      room -= socketsOf(parts);
    }
    try {
      errors.throwAny();
    } catch (error) {
      closeListeners(options.io, opened);
      throw error;
    }
    for (const { number } of entries) options.counters[C_RULES + number] = 0;
    const goes = gone.flatMap(({ listeners }) => listeners);
    const remove = goes.map(({ fd }) => fd);
    const listeners = entries.flatMap(({ parts }) => parts.flatMap((part) => part.listeners));
    const stay = new Set(listeners.map(({ fd }) => fd));
    this.entries = [...kept, ...entries];
    this.at++;
    const add = listeners.filter(({ path }) => path === undefined);
    await options.apply({ remove, add, closeFlows });
    for (const { fd, path } of goes) if (path !== undefined) options.sockets.remove(fd, closeFlows);
    this.accept(listeners);
    for (const listener of goes) if (!stay.has(listener.fd)) closeListener(options.io, listener);
    options.changed?.(this.list());
  }

  /** Whether they could be, as far as that can be told without trying. */
  private check(kept: readonly Entry[], add: readonly WantedForward[]): void {
    const { listen, tcp, udp } = this.options;
    const errors = new Errors();
    const table = new PortTable(this.options.ephemeral);
    for (const { protocol, spec, parts } of kept)
      table.hold(
        `${protocol} ${spec}`,
        parts.map(({ rule }) => rule),
      );
    for (const { rules, at } of add) {
      errors.try(at, () => {
        checkRules(rules, { v4: listen.v4, v6: listen.v6, tcp, udp });
        table.take(rules);
      });
    }
    if (kept.length + add.length > MAX_RULES)
      errors.all.push({ at: 'forwards', code: 'limit', message: `there can be ${MAX_RULES} forwards at most` });
    errors.throwAny();
  }

  /** Opens the sockets of an entry, or takes over those of `free` that listen at the same place. Throws ConfigError. */
  private open(
    rules: readonly PortRule[],
    number: number,
    free: Map<string, ForwardListener>,
    opened: ForwardListener[],
    room: number,
  ): Part[] {
    const { io, listen } = this.options;
    const strict = rules.reduce((sum, { weak, first, last }) => (weak ? sum : sum + last - first + 1), 0);
    if (strict > room)
      throw new ConfigError(
        'CFG_ERR_VALUE',
        `${rules[0].origin}: there is room for ${Math.max(0, room)} more ports only`,
      );
    const taken = rules.map((rule) => this.takeOver(rule, number, free));
    const missing = rules.flatMap((rule, i) => gaps(rule, taken[i]).map((part) => ({ i, part })));
    const fresh = openListeners(
      io,
      missing.map(({ part }) => part),
      { ...listen, maxWeak: room },
    );
    opened.push(...fresh.listeners);
    return rules.map((rule, i) => {
      const own = fresh.parts.filter(({ rule: part }) => missing.some((each) => each.i === i && each.part === part));
      const listeners = own.flatMap((each) => each.listeners.map((listener) => ({ ...listener, rule: number })));
      return { rule, listeners: [...taken[i], ...listeners] };
    });
  }

  private takeOver(rule: PortRule, number: number, free: Map<string, ForwardListener>): ForwardListener[] {
    const taken: ForwardListener[] = [];
    // A name's sockets are there in any case.
    if (rule.passed !== undefined) return taken;
    for (let port = rule.first; port <= rule.last && free.size > 0; port++) {
      const place = this.placeOf(rule, port);
      const old = free.get(place);
      if (old === undefined) continue;
      free.delete(place);
      const targetPort = rule.targetFirst + port - rule.first;
      taken.push({ ...old, targetPort, targetAddr: rule.targetAddr, rule: number });
    }
    return taken;
  }

  /** What tells one socket from another. */
  private placeOf(rule: PortRule, port: number): string {
    const { protocol, addr, ifname, path } = rule;
    if (path !== undefined) return path;
    const where = addr === null ? familyOf(rule, this.options.listen) : formatIp(addr);
    return `${protocol} ${where}%${ifname ?? ''} ${port}`;
  }

  /** On those of `listeners` that the data plane does not know of. */
  private accept(listeners: readonly ForwardListener[]): void {
    for (const listener of listeners) if (listener.path !== undefined) this.options.sockets.add(listener);
  }

  private freeNumbers(kept: readonly Entry[]): number[] {
    const used = new Set(kept.map(({ number }) => number));
    return Array.from({ length: MAX_RULES }, (_, i) => i + 1).filter((number) => !used.has(number));
  }
}

function socketsOf(parts: readonly Part[]): number {
  return parts.reduce((sum, { listeners }) => sum + listeners.length, 0);
}

/** The runs of a rule's ports that no socket of `taken` has. */
function gaps(rule: PortRule, taken: readonly ForwardListener[]): PortRule[] {
  if (taken.length === 0) return [rule];
  const ports = new Set(taken.map(({ port }) => port));
  const runs: PortRule[] = [];
  let first = -1;
  for (let port = rule.first; port <= rule.last + 1; port++) {
    const isGap = port <= rule.last && !ports.has(port);
    if (isGap && first < 0) first = port;
    if (isGap || first < 0) continue;
    runs.push({ ...rule, first, last: port - 1, targetFirst: rule.targetFirst + first - rule.first });
    first = -1;
  }
  return runs;
}
