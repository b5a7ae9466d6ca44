/** `--control` and its like: the sockets that take orders while the service runs, and what they have to work with. */
import type { Duplex } from 'node:stream';
import type * as Loaded from './control-faces';
import type { Captures } from '../control/captures';
import type { EventName, Events } from '../control/events';
import type { Forwards } from '../control/forwards';
import type { OutwardForwards, OutwardTable } from '../control/outward-forwards';
import type { PipeTarget, UnixForwards } from '../control/unix-forwards';
import type { OwnerSocketOptions } from '../control/owner-socket';
import type { ControlParts } from '../control/parts';
import type { Addresses, HostAddress, ServiceStatus } from '../control/types';
import type { ControlServer } from '../control/server';
import type { ListenerIo, OpenedListeners } from '../config/forward-listeners';
import { formatIp, formatMac } from '../config/address-text';
import type { AddressNews } from '../dataplane/commands';
import { hostAddresses } from '../config/host-addresses';
import type { ResolvedHost } from '../config/host-config';
import { readHostNetwork } from '../config/netlink';
import { isOfPorts, MAX_RULES } from '../config/port-spec';
import { readEphemeralRange } from '../config/sysctl';
import type { Log } from '../log';
import type { Native } from '../native';
import { type Broker, FOR_CONTROL, FOR_PESTO, FOR_SLIRP, type SocketUse } from '../sandbox/broker';
import type { NumberedRule } from '../stack/config';
import type { DataPlane } from '../supervisor/data-plane';
import type { Options } from './options';
import { listenAtPath } from './socket-file';

/** How the guest's addresses are learnt, by HOW_… of stack/link/stations.ts. */
const HOW = ['frame', 'arp', 'ndp', 'dhcp', 'dhcpv6'] as const;

/** Addresses that an event names at the most. */
const MOST_TOLD = 64;

/** Sockets of forwarded ports that there may be besides those of the start. */
const MORE_LISTENERS = 2048;
/** Of the limit of open files they take no more than this part. */
const SHARE_OF_FILES = 1 / 8;

/** True if forwarded ports can change while the service runs, or some are such that the control plane serves them. */
export function takesOrders({ control, confPath, slirpApi, namespace, rules }: Options): boolean {
  const auto = namespace !== null && namespace.auto.length > 0;
  // Of sockets that are passed some may be UNIX sockets; those at an interface follow it.
  const served = rules.some((rule) => !isOfPorts(rule) || (rule.ifname !== null && rule.ifname !== 'lo'));
  return auto || served || control !== null || confPath !== null || slirpApi !== null;
}

/** How many listeners there may be besides those of the start. */
export function moreListeners(options: Options, fileLimit: number): number {
  return takesOrders(options) ? Math.min(MORE_LISTENERS, Math.floor(fileLimit * SHARE_OF_FILES)) : 0;
}

/** How many forwarding rules the counters have room for. */
export function ruleCapacity(options: Options, rules: number): number {
  return takesOrders(options) ? MAX_RULES : rules;
}

/** How many rules the other direction may have (`-T`, `-U`). */
export function outwardCapacity(options: Options): number {
  if (options.namespace === null) return 0;
  return takesOrders(options) ? MAX_RULES : options.namespace.outward.length;
}

/** What the start has made, of which orders are about. */
export interface Controlled {
  readonly native: Native;
  /** What listeners are opened with. */
  readonly io: ListenerIo;
  readonly broker: Broker | null;
  readonly log: Log;
  readonly options: Options;
  readonly plane: DataPlane;
  readonly opened: OpenedListeners;
  readonly counters: SharedArrayBuffer;
  readonly families: { readonly v4: boolean; readonly v6: boolean };
  /** `moreListeners`. */
  readonly more: number;
}

type Faces = typeof Loaded;
type OwnerAt = Omit<OwnerSocketOptions, 'onClient'> & { readonly native: Native };

interface FrontEnds {
  on(event: 'connected' | 'disconnected', listener: () => void): unknown;
}

/** Listens from its making on; who connects waits for `serve`. */
export class Control {
  readonly forwards: Forwards;
  readonly events: Events;
  private readonly captures: Captures;
  /** Of a namespace: what leads from its loopback to the host's. */
  private outward: OutwardForwards | null = null;
  private readonly sockets: UnixForwards;
  private readonly servers: readonly ControlServer[];
  private readonly controlled: Controlled;
  private readonly faces: Faces;
  private readonly remove: readonly (() => void)[];

  private constructor(controlled: Controlled, faces: Faces) {
    const { native, io, broker, log, options, plane, opened, counters, families, more } = controlled;
    this.controlled = controlled;
    this.faces = faces;
    this.events = new faces.Events();
    this.captures = new faces.Captures(native, plane, this.events);
    const warn = (message: string, site: string): void => {
      log.log('warn', message, site);
    };
    this.sockets = new faces.UnixForwards({ io: native, connect: (target) => this.connect(target), warn });
    this.forwards = new faces.Forwards({
      io,
      sockets: this.sockets,
      apply: (change) => plane.forward(change),
      counters: new Float64Array(counters),
      parts: opened.parts,
      rules: opened.rules,
      listen: { ...families, freebind: options.freebind },
      tcp: options.host.tcp,
      udp: options.host.udp,
      ephemeral: readEphemeralRange(),
      most: opened.listeners.length + more,
      log: (level, message, site) => {
        log.log(level, message, site);
      },
      changed: ({ version }) => {
        this.events.emit('forwards-changed', { version });
      },
    });
    const startedAs = native.getuid();
    const error = (message: string): void => {
      log.log('error', message, 'control.bug');
    };
    const servers: ControlServer[] = [];
    const remove: (() => void)[] = [];
    const listen = (name: string, path: string, use: SocketUse): OwnerAt => {
      const shown = `--${name} ${path}`;
      const file = listenAtPath({ shown, path, use }, native, broker);
      remove.push(file.remove);
      return { native, fd: file.fd, startedAs, shown, warn };
    };
    const { control, confPath, slirpApi } = options;
    if (control !== null) servers.push(faces.startControlServer({ ...listen('control', control, FOR_CONTROL), error }));
    if (confPath !== null) {
      const { tcp, udp } = options.host;
      const info = (message: string, site: string): void => {
        log.log('info', message, site);
      };
      const at = listen('conf-path', confPath, FOR_PESTO);
      servers.push(new faces.PestoServer({ ...at, abilities: { ...families, tcp, udp }, info }));
    }
    if (slirpApi !== null) servers.push(new faces.SlirpServer(listen('slirp-api', slirpApi, FOR_SLIRP)));
    this.servers = servers;
    this.remove = remove;
  }

  /** Throws ConfigError. */
  static async open(controlled: Controlled): Promise<Control> {
    // Loaded on demand, before the door is closed: HTTP and the validator cost memory that only some need.
    return new Control(controlled, await import('./control-faces.js'));
  }

  /** What leads from a namespace to the host is listed, and can be changed. */
  addOutward(table: OutwardTable): void {
    const { tcp, udp } = this.controlled.options.host;
    const common = { forwards: this.forwards, ephemeral: readEphemeralRange(), tcp, udp };
    this.outward = new this.faces.OutwardForwards({ ...common, table });
  }

  /** Front-ends that come and go are events from now on. */
  watch(frontEnds: FrontEnds): void {
    frontEnds.on('connected', () => {
      this.tell('front-end-connected');
    });
    frontEnds.on('disconnected', () => {
      this.tell('front-end-disconnected');
    });
  }

  tell(event: EventName, data?: Readonly<Record<string, string | number>>): void {
    this.events.emit(event, data);
  }

  /** Another data plane takes the place of one that has died. */
  replaced(): void {
    this.captures.lost();
    this.tell('data-plane-restarted');
  }

  tellAddresses(addresses: readonly HostAddress[]): void {
    const words = addresses.slice(0, MOST_TOLD).map(({ address, prefix }) => `${address}/${prefix}`);
    this.tell('host-addresses', { addresses: words.join(' ') });
  }

  tellGuestAddress({ how, address, mac: [hi, lo], leftOut }: AddressNews): void {
    const mac = Buffer.alloc(6);
    mac.writeUInt16BE(hi);
    mac.writeInt32BE(lo, 2);
    const told = { address: this.faces.addressText(address, 0), mac: formatMac(mac), how: HOW[how] };
    this.tell('guest-address', leftOut === 0 ? told : { ...told, leftOut });
  }

  /** Those of the host at this moment, and what is known of the guest. */
  async addresses(status: () => Promise<ServiceStatus>, { ip4, ip6 }: ResolvedHost): Promise<Addresses> {
    const { guest } = await status();
    const assigned = [ip4?.guestAddr ?? null, ip6?.guestAddr ?? null].flatMap((addr) =>
      addr === null ? [] : [formatIp(addr)],
    );
    return { host: hostAddresses(readHostNetwork(this.controlled.native)), assigned, guest: guest.addresses };
  }

  /** Answers from now on. */
  serve(parts: ControlParts): void {
    const { forwards, events, captures, outward } = this;
    const connect: ControlParts['connect'] = (targetPort) => this.connect({ targetPort, targetAddr: null, rule: 0 });
    this.sockets.serve();
    for (const server of this.servers)
      server.serve({ ...parts, forwards, events, captures, connect, ...(outward !== null && { outward }) });
  }

  /** Takes no orders any more: the service ends with this exit status. */
  close(status: number): void {
    this.tell('end', { status });
    for (const remove of this.remove) remove();
    this.captures.close();
    for (const server of this.servers) server.close();
    this.sockets.close();
  }

  private connect(target: PipeTarget): Promise<Duplex> {
    const { native, plane } = this.controlled;
    return this.faces.openGuestPipe(native, target, (adoption) => plane.adopt(adoption));
  }
}

/** The forwarding rules of this moment, and where each is counted. */
export function rulesNow(opened: OpenedListeners, control: Control | null): readonly NumberedRule[] {
  return control?.forwards.metrics() ?? opened.rules.map((rule, i) => ({ number: i + 1, rule }));
}

/** The rule that is counted at `number`, as it was given; null: there is none. */
export function specOfRule(opened: OpenedListeners, control: Control | null, number: number): string | null {
  return control === null ? (opened.rules.at(number - 1)?.spec ?? null) : control.forwards.specOf(number);
}
