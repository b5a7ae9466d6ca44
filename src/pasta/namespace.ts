/**
 * A namespace as the guest: goes there, makes its interface, and runs the command when all is ready. To the rest of the
 * start it looks like a server of front-ends (`EventEmitter` with `connected` and `end`) whose one front-end is there from
 * the beginning.
 */
import { EventEmitter } from 'node:events';
import { closeSync, openSync, readSync } from 'node:fs';
import { hostname as ownHostname } from 'node:os';
import type { ResolvedHost } from '../config/host-config';
import type { HostNetwork } from '../config/netlink';
import { type PortRule, specOf } from '../config/port-spec';
import { ConfigError, describeErrno, EPERM } from '../errors';
import type { Log } from '../log';
import type { Native } from '../native';
import type { SandboxMode } from '../sandbox/layer';
import type { ForwardChange, StackConfig } from '../stack/config';
import type { Counters } from '../stack/counters';
import type { StreamEnd } from '../stream/device';
import {
  ENTER_CREATE,
  ENTER_NEW_PID,
  ENTER_NEW_USER,
  ENTER_WATCH,
  SEAL_FILTER,
  SEAL_FILTER_LOG,
  SEAL_KEEP_PORTS,
  SEAL_NO_FILTER,
  type Entry,
  type Holder,
  type HolderAnswer,
} from './holder';
import { configureNetwork } from './network';
import { AutoPorts, TABLE_BYTES, TABLES } from './auto-ports';
import { OutwardPorts } from './outward';
import type { NamespaceRequest } from './request';

/** HOST_NAME_MAX of Linux. */
const HOST_NAME_MAX = 64;
const DEFAULT_IFNAME = 'tap0';
const EINVAL = 22;

/** What serves the tap, and what passes it by. */
export interface TapDevice {
  openTap(fd: number, offloads: number): Promise<void>;
  setBypass(channel: number): Promise<void>;
  forward(change: ForwardChange): Promise<void>;
  onStreamEnded: ((end: StreamEnd) => void) | null;
}

interface User {
  readonly uid: number;
  readonly gid: number;
}

export interface NamespaceOptions {
  readonly native: Native;
  readonly log: Log;
  readonly request: NamespaceRequest;
  readonly holder: Holder;
  readonly device: TapDevice;
  /** The user that the service becomes; null: it stays. */
  readonly user: User | null;
  readonly sandbox: SandboxMode;
  readonly counters: Counters;
  /** Where what comes by `-T` and `-U` is counted, from this rule's number on. */
  readonly firstNumber: number;
  /** How many rules `-T` and `-U` may have. */
  readonly mostOutward: number;
}

/** What forwards ports of the host (control/forwards.ts). */
export interface HostForwards {
  add(items: readonly { readonly protocol: 'tcp' | 'udp'; readonly spec: string }[]): Promise<unknown>;
  remove(items: readonly { readonly protocol: 'tcp' | 'udp'; readonly spec: string }[]): Promise<unknown>;
  rules(): readonly PortRule[];
}

/** Descriptors of /proc/net's tables of our own network; -1: that table is not to be had. */
function openTables(): number[] {
  return TABLES.map((name) => {
    try {
      return openSync(`/proc/self/net/${name}`, 'r');
    } catch {
      return -1;
    }
  });
}

interface NamespaceEvents {
  connected: [];
  disconnected: [];
  /** With the exit status. */
  end: [number];
}

/** How people call it. */
export function describeTarget({ target }: NamespaceRequest): string {
  switch (target.kind) {
    case 'command':
      return target.name;
    case 'process':
      return `process ${target.pid}`;
    case 'path':
      return target.path;
  }
}

function commandHostname(wish: string | null): string {
  if (wish !== null) return wish;
  const name = `pasta-${ownHostname()}`;
  return name.length <= HOST_NAME_MAX ? name : '';
}

function entryOf(request: NamespaceRequest, user: User | null): Entry {
  const { target, userns } = request;
  const watch = request.quit ? ENTER_WATCH : 0;
  const common = { user: null, userNamespace: '', netNamespace: '', hostname: '', process: 0 };
  switch (target.kind) {
    case 'command': {
      const newUser = !request.netnsOnly && userns === null;
      const flags = ENTER_CREATE | (newUser ? ENTER_NEW_USER : 0) | (request.pidns ? ENTER_NEW_PID : 0);
      const hostname = commandHostname(request.hostname);
      // Without a user namespace of its own the command has the caller's rights, or it could do nothing in there.
      return { ...common, flags, user: newUser ? user : null, userNamespace: userns ?? '', hostname };
    }
    case 'process': {
      const own = request.netnsOnly ? '' : `/proc/${target.pid}/ns/user`;
      const netNamespace = `/proc/${target.pid}/ns/net`;
      return { ...common, flags: watch, userNamespace: userns ?? own, netNamespace, process: target.pid };
    }
    case 'path':
      return { ...common, flags: watch, userNamespace: userns ?? '', netNamespace: target.path };
  }
}

function cannotEnter({ result, text }: HolderAnswer, request: NamespaceRequest): ConfigError {
  const create = request.target.kind === 'command';
  const what = `cannot ${create && !text.includes('/') ? 'make' : 'enter'} ${text === '' ? 'the namespace' : text}`;
  let hint = '';
  if (create && result === -EPERM) hint = ' (user namespaces may be forbidden: user.max_user_namespaces, AppArmor)';
  else if (text.startsWith('user') && result === -EINVAL) hint = ' (already in it: add --netns-only)';
  return new ConfigError('CFG_ERR_HOST', `${what}: ${describeErrno(result)}${hint}`);
}

/** A table of /proc/net, from its beginning, as far as the buffer goes. */
function readTable(fd: number, buffer: Buffer): string {
  if (fd < 0) return '';
  let length = 0;
  try {
    for (let got = -1; got !== 0 && length < buffer.length; length += got)
      got = readSync(fd, buffer, length, buffer.length - length, length);
  } catch {
    return '';
  }
  return buffer.toString('latin1', 0, length);
}

export class NamespaceLink extends EventEmitter<NamespaceEvents> {
  private readonly options: NamespaceOptions;
  /** Descriptors of TABLES, where ports are forwarded as they come; -1: that table is not to be had. */
  private tables: readonly number[] = [];
  /** The same of the host. */
  private hostTables: readonly number[] = [];
  private readonly scans: AutoPorts[] = [];
  private outward: OutwardPorts | null = null;
  private channel = -1;
  /** TCP ports of the host that are the service's own. */
  private ownPorts: readonly number[] = [];
  private tapFd = -1;
  private offloads = -1;
  private ended = false;

  constructor(options: NamespaceOptions) {
    super();
    this.options = options;
    const { holder, log, request } = options;
    holder.onEnded = (status) => {
      this.end(status);
    };
    holder.onGone = (why) => {
      if (why !== '') log.error(why);
      else log.info(`namespace ${describeTarget(request)} is gone, exiting`);
      this.end(why === '' ? 0 : 1);
    };
  }

  get connected(): boolean {
    return this.channel >= 0;
  }

  /** Goes there and sets all up; gives up the rights to. Nothing is sent before `start`. Throws ConfigError. */
  async open(host: ResolvedHost, network: HostNetwork, config: StackConfig): Promise<void> {
    const { native, holder, request, user, sandbox } = this.options;
    const entered = await holder.enter(entryOf(request, user));
    if (entered.result < 0) throw cannotEnter(entered, request);
    const ifname = request.spliceOnly ? null : await this.makeTap(host);
    await configureNetwork(native, holder, { request, host, network, config, ifname });
    if (request.auto.length > 0) {
      const opened: number[] = [];
      for (const which of TABLES.keys()) opened.push((await holder.proc(which)).fd);
      this.tables = opened;
    }
    const scansHost = request.outward.some(({ auto }) => auto);
    if (scansHost) this.hostTables = openTables();
    const pool = await holder.pool();
    if (pool.result < 0) {
      throw new ConfigError('CFG_ERR_HOST', `no socket to the namespace: ${describeErrno(pool.result)}`);
    }
    this.channel = pool.fd;
    this.ownPorts = config.ownListeners.map(({ port }) => port);
    this.outward = new OutwardPorts({
      native,
      holder,
      log: this.options.log,
      requests: request.outward,
      families: { v4: config.ip4 !== null, v6: config.ip6 !== null },
      apply: (change) => this.options.device.forward(change),
      counters: this.options.counters,
      firstNumber: this.options.firstNumber,
      most: this.options.mostOutward,
    });
    await this.outward.start();
    const joinedUser = entryOf(request, user).userNamespace !== '' || request.target.kind === 'command';
    const filter = sandbox === 'off' ? SEAL_NO_FILTER : sandbox === 'log' ? SEAL_FILTER_LOG : SEAL_FILTER;
    // A port inside that comes later may be one of a few that need a right.
    const sealed = await holder.seal(joinedUser ? null : user, filter | (scansHost ? SEAL_KEEP_PORTS : 0));
    if (sealed.result < 0) {
      throw new ConfigError(
        'CFG_ERR_HOST',
        `the process inside the namespace cannot be confined: ${describeErrno(sealed.result)} (--sandbox off does without)`,
      );
    }
  }

  /** Makes the interface. Returns its name. */
  private async makeTap(host: ResolvedHost): Promise<string> {
    const { holder, request } = this.options;
    const wish = request.ifname ?? host.template4 ?? host.template6 ?? DEFAULT_IFNAME;
    const tap = await holder.tap(wish);
    if (tap.result < 0 || tap.fd < 0) {
      throw new ConfigError('CFG_ERR_HOST', `cannot make ${tap.text} in the namespace: ${describeErrno(tap.result)}`);
    }
    this.tapFd = tap.fd;
    this.offloads = tap.value;
    return tap.text;
  }

  listen(): void {
    // There is nobody to wait for.
  }

  start(): void {
    const { device } = this.options;
    device.onStreamEnded = ({ detail }) => {
      if (this.ended) return;
      this.options.log.error(`the interface in the namespace is gone (${detail})`);
      this.end(1);
    };
    if (this.tapFd >= 0) void device.openTap(this.tapFd, this.offloads);
    void device.setBypass(this.channel);
    this.emit('connected');
  }

  /** Lets the command go: everything is ready. Throws ConfigError if it cannot be executed. */
  async run(): Promise<void> {
    const { target } = this.options.request;
    if (target.kind !== 'command' || this.ended) return;
    const { result, text } = await this.options.holder.start(target.first ?? -1);
    if (result < 0) throw new ConfigError('CFG_ERR_HOST', `cannot run ${text}: ${describeErrno(result)}`);
  }

  /** A signal of the terminal's, which the command got as well: it decides. False: there is no command. */
  interrupt(signal: number): boolean {
    if (this.options.request.target.kind !== 'command') return false;
    this.options.holder.interrupt(signal);
    return true;
  }

  /** `-T` and `-U`; null: the namespace is not open yet. */
  get outwardPorts(): OutwardPorts | null {
    return this.outward;
  }

  /**
   * From now on ports follow what listens on the other side. `forwards`: what forwards ports of the host; null: they are those
   * of `given` for good.
   */
  forwardAuto(forwards: HostForwards | null, given: readonly PortRule[]): void {
    const { request } = this.options;
    const { outward } = this;
    if (this.ended || outward === null) return;
    const buffer = Buffer.alloc(TABLE_BYTES);
    const reader = (tables: readonly number[]) => (table: number) => readTable(tables[table], buffer);
    const isGiven = (rules: readonly PortRule[], protocol: 'tcp' | 'udp', port: number): boolean =>
      rules.some((rule) => rule.protocol === protocol && rule.first <= port && port <= rule.last);
    const outside = (): readonly PortRule[] => forwards?.rules() ?? given;
    const done = (change: Promise<unknown>): Promise<boolean> =>
      change.then(
        () => true,
        () => false, // another program has the port
      );
    if (this.tables.length > 0 && forwards !== null) {
      this.scans.push(
        new AutoPorts({
          read: reader(this.tables),
          forwards: {
            add: (rule) => done(forwards.add([{ protocol: rule.protocol, spec: specOf(rule) }])),
            remove: async (rule) => {
              await done(forwards.remove([{ protocol: rule.protocol, spec: specOf(rule) }]));
            },
          },
          rules: () => request.auto,
          taken: (protocol, port) => isGiven(given, protocol, port),
          own: (protocol, port) => outward.has(protocol, port),
        }),
      );
    }
    if (this.hostTables.length > 0) {
      const rulesOf = (isAuto: boolean): PortRule[] =>
        outward.requests.filter(({ auto }) => auto === isAuto).flatMap(({ rules }) => rules);
      this.scans.push(
        new AutoPorts({
          read: reader(this.hostTables),
          forwards: {
            add: ({ protocol, first, targetFirst }) => outward.add(protocol, first, targetFirst),
            remove: ({ protocol, first }) => outward.remove(protocol, first),
          },
          rules: () => rulesOf(true),
          taken: (protocol, port) => isGiven(rulesOf(false), protocol, port),
          own: (protocol, port) =>
            isGiven(outside(), protocol, port) || (protocol === 'tcp' && this.ownPorts.includes(port)),
        }),
      );
    }
    for (const scan of this.scans) void scan.start();
  }

  stop(): void {
    for (const scan of this.scans) scan.stop();
    this.ended = true;
    this.options.device.onStreamEnded = null;
  }

  /** The data plane does not use the device any more. */
  close(): void {
    for (const fd of this.tables) if (fd >= 0) this.options.native.close(fd);
    this.tables = [];
    for (const fd of this.hostTables) if (fd >= 0) closeSync(fd);
    this.hostTables = [];
    this.outward?.close();
    if (this.channel >= 0) this.options.native.close(this.channel);
    this.channel = -1;
    if (this.tapFd >= 0) this.options.native.close(this.tapFd);
    this.tapFd = -1;
    this.options.holder.close();
  }

  private end(status: number): void {
    if (this.ended) return;
    this.ended = true;
    this.emit('end', status);
  }
}
