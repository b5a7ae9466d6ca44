/**
 * The control sockets served in the process of the test: real sockets, HTTP and forwards, over parts that are made up.
 * Ports are "opened" by a stand-in, so nothing listens.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import type { ListenerIo } from '../../../src/config/forward-listeners';
import { Captures } from '../../../src/control/captures';
import { Events } from '../../../src/control/events';
import { Forwards } from '../../../src/control/forwards';
import { OutwardForwards } from '../../../src/control/outward-forwards';
import type { ControlParts } from '../../../src/control/parts';
import { startControlServer } from '../../../src/control/server';
import { SlirpServer } from '../../../src/control/slirp';
import type { Addresses, FlowInfo, FlowQuery, ServiceStatus } from '../../../src/control/types';
import type { CaptureEnd, CaptureStart } from '../../../src/dataplane/commands';
import { loadNative } from '../../../src/native';
import type { Holder, HolderAnswer } from '../../../src/pasta/holder';
import { OutwardPorts } from '../../../src/pasta/outward';
import type { ForwardChange, LinkRates } from '../../../src/stack/config';
import { C_RULES, countersFor } from '../../../src/stack/counters';
import type { Policy } from '../../../src/stack/policy/types';
import { ADDR_SLOT_SIZE, ADDR_SLOTS } from '../../../src/stack/ports';

const native = loadNative();
const EADDRINUSE = 98;

/** A port of somebody else's. */
export const TAKEN = 9999;

/** Such a port inside the namespace. */
export const TAKEN_INSIDE = 9998;

/** And somebody else's UNIX socket. */
export const TAKEN_PATH = '/run/taken';

/** Where an address slot has its port, little-endian (src/stack/ip/address.ts). */
const SLOT_PORT = 2;

export const STATUS: ServiceStatus = {
  version: '1.2.3',
  node: 'v20.0.0',
  labels: { vm: 'web1' },
  startedAt: Date.now() - 3 * 3600_000,
  frontEnd: 'vhost-user',
  endpoint: '/run/vm.sock',
  guest: {
    connected: true,
    mac: '52:54:00:12:34:56',
    addresses: ['192.0.2.10', '2001:db8::10'],
    features: ['csum', 'mrg_rxbuf'],
    mtu: 1500,
  },
  forwards: [{ protocol: 'tcp', spec: '2222:22', listeners: 1, connections: 4 }],
  outward: [],
  sandbox: [
    { layer: 'root', state: 'on' },
    { layer: 'landlock', state: 'missing' },
  ],
};

export const ADDRESSES: Addresses = {
  host: [{ interface: 'eth0', address: '192.0.2.1', prefix: 24 }],
  assigned: ['192.0.2.10'],
  guest: ['192.0.2.10', '2001:db8::10'],
};

export function flowOf(id: string, over: Partial<FlowInfo> = {}): FlowInfo {
  return {
    id,
    protocol: 'tcp',
    kind: 'link',
    origin: 'guest',
    guest: { address: '192.0.2.10', port: 40000 },
    peer: { address: '198.51.100.7', port: 443 },
    name: null,
    state: 'open',
    startedAt: Date.now() - 65_000,
    fromGuest: 1500,
    toGuest: 12_345_678,
    rttUs: 15_200,
    rule: null,
    ...over,
  };
}

/** Flows two a page. */
class SomeFlows {
  all: readonly FlowInfo[] = [
    flowOf('tcp-1-1-1'),
    flowOf('udp-1-2-1', { protocol: 'udp' }),
    flowOf('tcp-1-3-1', { origin: 'host', rule: '2222:22' }),
  ];

  list({ protocol, from = '0' }: FlowQuery): Promise<{ flows: readonly FlowInfo[]; next: string | null }> {
    const some = this.all.filter((flow) => protocol === undefined || flow.protocol === protocol);
    const end = Number(from) + 2;
    return Promise.resolve({ flows: some.slice(Number(from), end), next: end < some.length ? String(end) : null });
  }

  close(id: string): Promise<boolean> {
    const before = this.all.length;
    this.all = this.all.filter((flow) => flow.id !== id);
    return Promise.resolve(this.all.length < before);
  }
}

class SomePolicy {
  current: Policy | null = null;
  version = 1;

  set(policy: Policy | null): Promise<void> {
    this.current = policy;
    this.version++;
    return Promise.resolve();
  }
}

class SomeRates {
  current: LinkRates = { in: 0, out: 0 };

  set(rates: LinkRates): Promise<void> {
    this.current = rates;
    return Promise.resolve();
  }
}

/** Gives numbers that are no descriptors. */
class StandInIo implements ListenerIo {
  readonly addrs = new DataView(new ArrayBuffer(ADDR_SLOT_SIZE * ADDR_SLOTS));
  readonly open = new Map<number, number>();
  /** Further ports of somebody else's. */
  readonly taken = new Set<number>();
  private next = 100_000;

  openPorts(slot: number, _flags: number, _device: string, _backlog: number, out: Int32Array): number {
    const first = this.addrs.getUint16(slot * ADDR_SLOT_SIZE + SLOT_PORT, true);
    let opened = 0;
    for (let i = 0; i < out.length; i++) {
      const port = first + i;
      out[i] = port === TAKEN || this.taken.has(port) ? -EADDRINUSE : this.next++;
      if (out[i] < 0) continue;
      this.open.set(out[i], port);
      opened++;
    }
    return opened;
  }

  close(fd: number): number {
    this.open.delete(fd);
    return 0;
  }

  /** Of each interface. */
  index = 1;

  ifIndex(): number {
    return this.index;
  }

  /** Paths, by the descriptors that listen there. */
  readonly paths = new Map<number, string>();

  readonly unix = {
    open: (path: string): number => {
      if (path === TAKEN_PATH) return -EADDRINUSE;
      this.paths.set(this.next, path);
      return this.next++;
    },
    close: (fd: number): void => {
      this.paths.delete(fd);
    },
    hint: (): string => '',
  };
}

/** Writes a capture's head; one with a limit of packets is over then. */
class StandInPlane {
  onCaptureEnded: ((id: number, end: CaptureEnd) => void) | null = null;

  startCapture({ id, fd, head, frames }: CaptureStart): Promise<boolean> {
    native.write(fd, head, 0, head.length);
    if (frames !== null) this.onCaptureEnded?.(id, 'done');
    return Promise.resolve(true);
  }

  stopCapture(id: number, now: boolean): Promise<boolean> {
    if (!now) this.onCaptureEnded?.(id, 'done');
    return Promise.resolve(now);
  }
}

/** Sockets of a namespace's loopback, which are numbers only. */
class StandInHolder implements Pick<Holder, 'listen'> {
  private next = 500_000;
  /** By descriptor: the port. */
  readonly open = new Map<number, number>();

  listen(_family: number, _type: number, port: number): Promise<HolderAnswer> {
    if (port === TAKEN_INSIDE) return Promise.resolve({ result: -EADDRINUSE, value: 0, text: '', fd: -1 });
    this.open.set(++this.next, port);
    return Promise.resolve({ result: 0, value: 0, text: '', fd: this.next });
  }

  close(fd: number): number {
    this.open.delete(fd);
    return 0;
  }
}

/** Rules of the other direction. */
const OUTWARD_MOST = 5;

export class InProcess {
  readonly dir = mkdtempSync(join(tmpdir(), 'tubetti-ctl-'));
  readonly path = join(this.dir, 'control');
  readonly slirpPath = join(this.dir, 'slirp');
  readonly io = new StandInIo();
  readonly flows = new SomeFlows();
  readonly policy = new SomePolicy();
  readonly rates = new SomeRates();
  readonly events = new Events();
  readonly captures = new Captures(native, new StandInPlane(), this.events);
  /** UNIX sockets that are accepted on. */
  readonly accepting = new Set<number>();
  /** What the data plane was told. */
  readonly changes: ForwardChange[] = [];
  readonly bugs: string[] = [];
  /** Lines in the log about forwards. */
  readonly said: string[] = [];
  /** Ports of the guest that somebody was connected to. */
  readonly connected: number[] = [];
  ends = 0;
  readonly counters = new Float64Array(countersFor(255 + OUTWARD_MOST));
  readonly inside = new StandInHolder();
  readonly outward: OutwardPorts;
  readonly forwards: Forwards;
  private readonly servers: { close(): void }[];

  /** `without`: parts that the service does not have. */
  constructor(without: readonly (keyof ControlParts)[] = []) {
    this.forwards = new Forwards({
      io: this.io,
      sockets: { add: (listener) => this.accepting.add(listener.fd), remove: (fd) => this.accepting.delete(fd) },
      apply: (change) => {
        this.changes.push(change);
        for (const { rule = 0 } of change.add) this.counters[C_RULES + rule] = 7;
        return Promise.resolve();
      },
      counters: this.counters,
      parts: [],
      rules: [],
      listen: { v4: true, v6: true, freebind: false },
      tcp: true,
      udp: true,
      ephemeral: { first: 32768, last: 60999 },
      most: 64,
      log: (_level, message) => {
        this.said.push(message);
      },
      changed: ({ version }) => {
        this.events.emit('forwards-changed', { version });
      },
    });
    const apply = (change: ForwardChange): Promise<void> => {
      this.changes.push(change);
      return Promise.resolve();
    };
    this.outward = new OutwardPorts({
      native: this.inside,
      holder: this.inside,
      log: { warn: () => undefined },
      requests: [],
      families: { v4: true, v6: true },
      apply,
      counters: this.counters,
      firstNumber: 256,
      most: OUTWARD_MOST,
    });
    const ephemeral = { first: 32768, last: 60999 };
    const outward = { forwards: this.forwards, table: this.outward, ephemeral, tcp: true, udp: true };
    const parts: ControlParts = {
      outward: new OutwardForwards(outward),
      status: () => Promise.resolve(STATUS),
      addresses: () => Promise.resolve(ADDRESSES),
      flows: this.flows,
      forwards: this.forwards,
      events: this.events,
      policy: this.policy,
      rates: this.rates,
      captures: this.captures,
      connect: (port) => {
        this.connected.push(port);
        return Promise.resolve(new PassThrough());
      },
      end: () => {
        this.ends++;
      },
    };
    const has = Object.fromEntries(
      Object.entries(parts).filter(([name]) => !without.includes(name as keyof ControlParts)),
    ) as ControlParts;
    const listen = (path: string, shown: string) => ({
      native,
      fd: native.unixListen(path, 8),
      startedAs: native.getuid(),
      shown,
      warn: (message: string) => this.bugs.push(message),
    });
    const error = (message: string): void => {
      this.bugs.push(message);
    };
    const control = startControlServer({ ...listen(this.path, '--control'), error });
    const slirp = new SlirpServer(listen(this.slirpPath, '--slirp-api'));
    this.servers = [control, slirp];
    control.serve(has);
    slirp.serve(has);
  }

  stop(): void {
    for (const server of this.servers) server.close();
    rmSync(this.dir, { recursive: true });
  }
}
