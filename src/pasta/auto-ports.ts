/**
 * `auto`: ports on which something listens on one side are forwarded from the other while it does. Once a second the
 * kernel's tables of that side's sockets are read, by descriptors that were opened there at the start, and forwards
 * come and go with what is in them. Which addresses are listened on does not matter, as with pasta. A UDP port is forwarded
 * for a TCP listener as well. What we listen on there ourselves, for the other direction, is not forwarded back.
 *
 * Bounds: a process in the namespace can open any number of sockets. TABLE_BYTES of each table are read (listening sockets of
 * TCP stand first in theirs), MOST_PORTS are forwarded, and a port that cannot be bound here is tried again after RETRY_SCANS.
 */
import { type PortRule, ruleOfTarget } from '../config/port-spec';

/** Tables of /proc/net, in the order of the descriptors. */
export const TABLES = ['tcp', 'tcp6', 'udp', 'udp6'] as const;

type Protocol = 'tcp' | 'udp';

/** What is changed. `rule` has one port. */
export interface AutoForwards {
  /** False: it cannot be, now. */
  add(rule: PortRule): Promise<boolean>;
  remove(rule: PortRule): Promise<void>;
}

export interface AutoPortsOptions {
  /** The text of table `i` of TABLES of the other side, TABLE_BYTES of it at the most; '' if it cannot be had. */
  readonly read: (table: number) => string;
  readonly forwards: AutoForwards;
  /** Which ports may be forwarded, and from where: to a port of the other side. */
  readonly rules: () => readonly PortRule[];
  /** Forwarded already, whatever listens: `port` of this side. */
  readonly taken: (protocol: Protocol, port: number) => boolean;
  /** Listened on by ourselves on the other side. */
  readonly own: (protocol: Protocol, port: number) => boolean;
}

export const SCAN_MS = 1000;
export const TABLE_BYTES = 1 << 18;
const MOST_PORTS = 128;
const RETRY_SCANS = 10;

/** Hexadecimal states of /proc/net (include/net/tcp_states.h): a TCP socket that listens, a UDP socket that is not connected. */
const STATE: Readonly<Record<Protocol, string>> = { tcp: '0A', udp: '07' };

/** Ports in a table's lines that are in the state: `sl local_address rem_address st …`, addresses as HEX:PORT. */
export function portsIn(text: string, protocol: Protocol): Set<number> {
  const ports = new Set<number>();
  for (const [, port, state] of text.matchAll(
    /^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} ([0-9A-F]{2}) /gm,
  )) {
    if (state === STATE[protocol]) ports.add(parseInt(port, 16));
  }
  return ports;
}

interface Watched {
  readonly rule: PortRule;
  /** How many scans are left until it is tried again; 0: it is forwarded. */
  left: number;
}

export class AutoPorts {
  private readonly options: AutoPortsOptions;
  /** By protocol, address and port of this side. */
  private readonly ports = new Map<string, Watched>();
  private timer: NodeJS.Timeout | null = null;
  private stopped = false;

  constructor(options: AutoPortsOptions) {
    this.options = options;
  }

  /** Looks at once, and every SCAN_MS from then on. */
  async start(): Promise<void> {
    await this.scan();
    if (this.stopped) return;
    this.timer = setTimeout(() => void this.start(), SCAN_MS);
    this.timer.unref();
  }

  stop(): void {
    this.stopped = true;
    if (this.timer !== null) clearTimeout(this.timer);
  }

  /** One look, and what follows from it. */
  async scan(): Promise<void> {
    const wanted = this.wanted();
    for (const [key, { rule, left }] of [...this.ports]) {
      if (wanted.has(key)) continue;
      this.ports.delete(key);
      if (left === 0 && !this.stopped) await this.options.forwards.remove(rule);
    }
    for (const [key, rule] of wanted) {
      const known = this.ports.get(key) ?? { rule, left: 1 };
      this.ports.set(key, known);
      if (known.left > 1) known.left--;
      else if (known.left === 1 && !this.stopped)
        known.left = (await this.options.forwards.add(rule)) ? 0 : RETRY_SCANS;
    }
  }

  private wanted(): Map<string, PortRule> {
    const { read, taken, own } = this.options;
    const rules = this.options.rules();
    const listening = (protocol: Protocol, table: number): number[] =>
      [...portsIn(read(table), protocol), ...portsIn(read(table + 1), protocol)].filter((port) => !own(protocol, port));
    const tcp = listening('tcp', 0);
    const udp = rules.some(({ protocol }) => protocol === 'udp') ? [...listening('udp', 2), ...tcp] : [];
    const wanted = new Map<string, PortRule>();
    for (const rule of rules) {
      for (const port of rule.protocol === 'tcp' ? tcp : udp) {
        const one = ruleOfTarget(rule, port);
        if (one === null || taken(one.protocol, one.first) || wanted.size >= MOST_PORTS) continue;
        wanted.set(`${one.protocol} ${String(one.addr)} ${one.ifname ?? ''} ${one.first}`, one);
      }
    }
    return wanted;
  }
}
