/**
 * `-T`, `-U`: ports of the namespace's loopback that lead to the host's. The process inside makes the listeners, the data
 * plane has them; here they are opened, listed and, with `auto`, follow what listens on the host.
 */
import type { ForwardChange, ForwardListener } from '../stack/config';
import { ConfigError, describeErrno, EPERM } from '../errors';
import type { Log } from '../log';
import type { Native } from '../native';
import { C_RULES, type Counters } from '../stack/counters';
import { AF_INET, AF_INET6 } from '../stack/ports';
import { LISTEN_DUAL, LISTEN_ON_LOOPBACK, type Holder } from './holder';
import type { OutwardRequest } from './request';

/** Linux's SOCK_STREAM and SOCK_DGRAM. */
const TYPES = { tcp: 1, udp: 2 } as const;
const EADDRINUSE = 98;
const EAFNOSUPPORT = 97;
const ENOSPC = 28;
/** Listeners inside at the most (MOST_INSIDE of stack/splice/bypass.ts); a port may have two. */
const MOST = 1024;

/** One `-T` or `-U`, as the control API lists it. */
export interface OutwardInfo {
  readonly protocol: 'tcp' | 'udp';
  readonly spec: string;
  readonly listeners: number;
  readonly connections: number;
  /** Of `auto`: the ports inside that are forwarded at the moment. */
  readonly ports?: readonly number[];
}

export interface OutwardOptions {
  readonly native: Pick<Native, 'close'>;
  readonly holder: Pick<Holder, 'listen'>;
  readonly log: Pick<Log, 'warn'>;
  readonly requests: readonly OutwardRequest[];
  readonly families: { readonly v4: boolean; readonly v6: boolean };
  readonly apply: (change: ForwardChange) => Promise<void>;
  readonly counters: Counters;
  /** Rules are counted from here on (C_RULES + number). */
  readonly firstNumber: number;
  /** Rules at the most. */
  readonly most: number;
}

interface Entry {
  /** Where its connections are counted. */
  readonly number: number;
  readonly request: OutwardRequest;
}

/** What a change came to: for each request that was to come what is wrong with it, null: nothing. Nothing was changed if one is. */
export type Outcome = readonly (ConfigError | null)[];

export class OutwardPorts {
  private readonly options: OutwardOptions;
  private entries: readonly Entry[];
  /** By `tcp 80`. */
  private readonly open = new Map<string, readonly ForwardListener[]>();
  private warned = false;

  constructor(options: OutwardOptions) {
    this.options = options;
    this.entries = options.requests.map((request, i) => ({ number: options.firstNumber + i, request }));
  }

  /** Opens the ports that were named. Throws ConfigError. */
  async start(): Promise<void> {
    const add: ForwardListener[] = [];
    for (const { number, request } of this.entries) add.push(...(await this.openAll(number, request, new Map())));
    if (add.length > 0) await this.options.apply({ remove: [], add, closeFlows: false });
  }

  /** What leads outwards, `auto` included. */
  get requests(): readonly OutwardRequest[] {
    return this.entries.map(({ request }) => request);
  }

  /** Where an entry's connections are counted, and what it was given as; null: there is none of that number. */
  specOf(number: number): string | null {
    return this.entries.find((entry) => entry.number === number)?.request.spec ?? null;
  }

  /**
   * Requests `gone` (of `requests`) go and `add` come, all or none. A port that is in both keeps its listener. With `closeFlows`
   * connections that came by what goes are reset.
   */
  async change(gone: readonly OutwardRequest[], add: readonly OutwardRequest[], closeFlows: boolean): Promise<Outcome> {
    const { options } = this;
    const kept = this.entries.filter(({ request }) => !gone.includes(request));
    const goes = new Set(this.entries.filter((entry) => !kept.includes(entry)).map(({ number }) => number));
    const free = new Map([...this.open].filter(([, listeners]) => goes.has(listeners[0].rule ?? 0)));
    for (const key of free.keys()) this.open.delete(key);
    const old = [...free.values()].flat();
    const numbers = Array.from({ length: options.most }, (_, i) => options.firstNumber + i).filter(
      (number) => !kept.some((entry) => entry.number === number),
    );
    const entries: Entry[] = [];
    const opened: ForwardListener[] = [];
    const outcome: (ConfigError | null)[] = [];
    const before = new Map(free);
    for (const request of add) {
      const number = numbers.shift();
      try {
        if (number === undefined)
          throw new ConfigError('CFG_ERR_VALUE', `there can be ${options.most} forwards to the host at most`);
        opened.push(...(await this.openAll(number, request, free)));
        entries.push({ number, request });
        outcome.push(null);
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error;
        outcome.push(error);
      }
    }
    const wasOld = new Set(old.map(({ fd }) => fd));
    if (outcome.some((error) => error !== null)) {
      const fds = new Set(opened.map(({ fd }) => fd));
      for (const [key, listeners] of [...this.open]) if (listeners.some(({ fd }) => fds.has(fd))) this.open.delete(key);
      for (const [key, listeners] of before) this.open.set(key, listeners);
      for (const fd of fds) if (!wasOld.has(fd)) options.native.close(fd);
      return outcome;
    }
    for (const { number } of entries) options.counters[C_RULES + number] = 0;
    this.entries = [...kept, ...entries];
    await options.apply({ remove: [...wasOld], add: opened, closeFlows });
    for (const { fd } of opened) wasOld.delete(fd);
    for (const fd of wasOld) options.native.close(fd);
    return outcome;
  }

  /** All ports of a request but those of `auto`: by listeners of `free`, which it takes from there, or new ones. Throws ConfigError. */
  private async openAll(
    number: number,
    { protocol, rules, auto }: OutwardRequest,
    free: Map<string, readonly ForwardListener[]>,
  ): Promise<ForwardListener[]> {
    if (auto) return [];
    const all: ForwardListener[] = [];
    for (const rule of rules) {
      let failure: ConfigError | null = null;
      let opened = 0;
      for (let port = rule.first; port <= rule.last; port++) {
        const listeners = await this.openOne(protocol, port, rule.targetFirst + port - rule.first, number, free);
        if (typeof listeners !== 'number') {
          opened++;
          all.push(...listeners);
          continue;
        }
        failure ??= new ConfigError(
          'CFG_ERR_BIND',
          `${rule.origin}: cannot bind port ${port} in the namespace: ${describeErrno(listeners)}`,
        );
        if (!rule.weak) break;
      }
      if (failure !== null && (opened === 0 || !rule.weak)) {
        this.forget(all);
        throw failure;
      }
    }
    return all;
  }

  /** As `listen`, by a listener of `free` if one has the port. */
  private async openOne(
    protocol: 'tcp' | 'udp',
    port: number,
    targetPort: number,
    rule: number,
    free: Map<string, readonly ForwardListener[]>,
  ): Promise<readonly ForwardListener[] | number> {
    const key = `${protocol} ${port}`;
    const old = free.get(key);
    if (old === undefined) return this.listen(protocol, port, targetPort, rule);
    free.delete(key);
    const listeners = old.map((listener) => ({ ...listener, targetPort, rule }));
    this.open.set(key, listeners);
    return listeners;
  }

  /** Closes listeners that the data plane was not told about. */
  private forget(listeners: readonly ForwardListener[]): void {
    for (const { protocol, port, fd } of listeners) {
      this.open.delete(`${protocol} ${port}`);
      this.options.native.close(fd);
    }
  }

  /** Forwards of `auto`. False: the port cannot be had, now. */
  async add(protocol: 'tcp' | 'udp', port: number, target: number): Promise<boolean> {
    const entry = this.entries.find(({ request }) => request.auto && request.protocol === protocol);
    if (entry === undefined || this.open.has(`${protocol} ${port}`)) return false;
    const listeners = await this.listen(protocol, port, target, entry.number);
    if (typeof listeners === 'number') return false;
    await this.options.apply({ remove: [], add: listeners, closeFlows: false });
    return true;
  }

  async remove(protocol: 'tcp' | 'udp', port: number): Promise<void> {
    const key = `${protocol} ${port}`;
    const listeners = this.open.get(key) ?? [];
    this.open.delete(key);
    if (listeners.length === 0) return;
    await this.options.apply({ remove: listeners.map(({ fd }) => fd), add: [], closeFlows: false });
    for (const { fd } of listeners) this.options.native.close(fd);
  }

  /** Whether the port inside is one of ours. */
  has(protocol: 'tcp' | 'udp', port: number): boolean {
    return this.open.has(`${protocol} ${port}`);
  }

  list(): OutwardInfo[] {
    const { counters } = this.options;
    const all = [...this.open.values()].flat();
    return this.entries.map(({ number, request: { protocol, spec, auto } }) => {
      const own = all.filter(({ rule }) => rule === number);
      const ports = [...new Set(own.map(({ port }) => port))].sort((a, b) => a - b);
      const connections = counters[C_RULES + number];
      return { protocol, spec, listeners: own.length, connections, ...(auto ? { ports } : {}) };
    });
  }

  /** The data plane must be gone. */
  close(): void {
    for (const { fd } of [...this.open.values()].flat()) this.options.native.close(fd);
    this.open.clear();
  }

  /** The listeners of one port, or -errno. */
  private async listen(
    protocol: 'tcp' | 'udp',
    port: number,
    targetPort: number,
    rule: number,
  ): Promise<readonly ForwardListener[] | number> {
    const { families, native } = this.options;
    if (this.open.has(`${protocol} ${port}`)) return -EADDRINUSE;
    if ([...this.open.values()].flat().length >= MOST - 1) return -ENOSPC;
    const common = { protocol, port, targetPort, targetAddr: null, rule, inside: true } as const;
    const { v4, v6 } = families;
    const wide = await this.ask(protocol, v6 ? AF_INET6 : AF_INET, port, LISTEN_ON_LOOPBACK | (v4 ? LISTEN_DUAL : 0));
    if (wide >= 0) {
      const listeners = [{ ...common, fd: wide, family: v6 ? (v4 ? 'dual' : 'v6') : 'v4' } as const];
      this.open.set(`${protocol} ${port}`, listeners);
      return listeners;
    }
    if (wide !== -EPERM && wide !== -EAFNOSUPPORT) return wide;
    // The kernel lets nobody bind to an interface without a right (before Linux 5.7), or the namespace has no IPv6.
    if (!this.warned && wide === -EPERM)
      this.options.log.warn('-T, -U: listening on 127.0.0.1 and ::1, as the loopback interface cannot be bound to');
    this.warned = true;
    const listeners: ForwardListener[] = [];
    let failure = wide;
    for (const family of [...(v4 ? [AF_INET] : []), ...(v6 ? [AF_INET6] : [])]) {
      const fd = await this.ask(protocol, family, port, 0);
      if (fd >= 0) listeners.push({ ...common, fd, family: family === AF_INET ? 'v4' : 'v6' });
      else if (fd !== -EAFNOSUPPORT) failure = fd;
    }
    if (listeners.length === 0 || (failure !== wide && failure !== -EAFNOSUPPORT)) {
      for (const { fd } of listeners) native.close(fd);
      return failure;
    }
    this.open.set(`${protocol} ${port}`, listeners);
    return listeners;
  }

  private async ask(protocol: 'tcp' | 'udp', family: number, port: number, flags: number): Promise<number> {
    const { result, fd } = await this.options.holder.listen(family, TYPES[protocol], port, flags);
    return result < 0 ? result : fd;
  }
}
