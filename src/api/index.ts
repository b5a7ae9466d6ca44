/**
 * The package's API for Node programs that run virtual machines: a back-end as a child process, and orders to it with types
 * (docs/api.md). It is the client of `--control`; the service is the same as on a command line.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Readable } from 'node:stream';
import { type Change, ControlClient, Denied } from '../ctl/client';
import type {
  Addresses,
  CaptureInfo,
  CaptureQuery,
  FlowPage,
  FlowQuery,
  Forward,
  ForwardInfo,
  ForwardList,
  PolicyFile,
  PolicyState,
  Rates,
  ServiceStatus,
} from '../control/types';
import { BackendError, type BackendOptions, checkOptions, wordsOf } from './options';

export type {
  Addresses,
  CaptureInfo,
  CaptureQuery,
  CaptureReason,
  FlowInfo,
  FlowPage,
  FlowQuery,
  Forward,
  ForwardInfo,
  ForwardList,
  HostAddress,
  ItemError,
  PolicyFile,
  PolicyItem,
  PolicyState,
  Rates,
  ServiceStatus,
} from '../control/types';
export { type Change, ControlClient, Denied };
export { BackendError, type BackendOptions } from './options';

const PROGRAM = resolve(__dirname, '..', '..', 'bin', 'tubetti');
/** Descriptor of the child's that tells when it is ready. */
const READY_FD = 3;
/** Lines of the log that an error repeats. */
const LAST_LINES = 5;

/** Something that happened. */
export interface BackendEvent {
  /** `front-end-connected` and the like: docs/control.md has all. */
  readonly event: string;
  /** Milliseconds since the epoch. */
  readonly at: number;
  /** More about it. */
  readonly data: Readonly<Record<string, string | number>>;
}

export class Backend {
  readonly socket: string;
  readonly control: string;
  /** Settles when it has ended: its exit status, or null after a signal. */
  readonly ended: Promise<number | null>;
  private readonly child: ChildProcess;
  private readonly client: ControlClient;

  /** @internal */
  constructor(child: ChildProcess, socket: string, control: string, ended: Promise<number | null>) {
    this.child = child;
    this.socket = socket;
    this.control = control;
    this.ended = ended;
    this.client = new ControlClient(control);
  }

  /** The process's number. */
  get pid(): number {
    return this.child.pid ?? -1;
  }

  status(): Promise<ServiceStatus> {
    return this.client.status();
  }

  /** Those of the host's interfaces, and of the guest. */
  addresses(): Promise<Addresses> {
    return this.client.addresses();
  }

  async forwards(): Promise<readonly ForwardInfo[]> {
    return (await this.client.forwards()).body.forwards;
  }

  /** The same with its version, by which a change can be refused if there was another since. */
  async forwardList(): Promise<ForwardList> {
    return (await this.client.forwards()).body;
  }

  /** All or none. Throws Denied, with an error for each that cannot be. */
  addForwards(forwards: Forward | readonly Forward[], change: Change = {}): Promise<ForwardList> {
    return this.client.changeForwards('add', forwards, change);
  }

  /** Named as they were given: all or none. Connections that came by them live on, unless `closeFlows`. */
  removeForwards(
    forwards: Forward | readonly Forward[],
    change: Change & { readonly closeFlows?: boolean } = {},
  ): Promise<ForwardList> {
    return this.client.changeForwards('remove', forwards, change);
  }

  /** These and no others. Connections that came by those that go live on, unless `closeFlows`. */
  replaceForwards(
    forwards: Forward | readonly Forward[],
    change: Change & { readonly closeFlows?: boolean } = {},
  ): Promise<ForwardList> {
    return this.client.changeForwards('set', forwards, change);
  }

  /** Whom the guest may talk to; null: everybody. */
  policy(): Promise<PolicyState> {
    return this.client.policy();
  }

  /**
   * Replaces the policy as a whole; null: the guest may talk to everybody. When it settles, flows that the new one forbids are
   * closed. Throws Denied, with an error for each place that is wrong.
   */
  setPolicy(policy: PolicyFile | null, change: Change = {}): Promise<PolicyState> {
    return this.client.setPolicy(policy, change);
  }

  /** Limits of what goes to the guest and comes from it, bit/s; 0: none. */
  rates(): Promise<Rates> {
    return this.client.rates();
  }

  setRates(rates: Rates): Promise<Rates> {
    return this.client.setRates(rates);
  }

  flows(query: FlowQuery = {}): Promise<FlowPage> {
    return this.client.flows(query);
  }

  closeFlow(id: string): Promise<boolean> {
    return this.client.closeFlow(id);
  }

  /** What happens, from now on, until `signal` ends it. */
  async *events(signal?: AbortSignal): AsyncGenerator<BackendEvent> {
    for await (const { data } of this.client.events('/v1/events', signal)) yield JSON.parse(data) as BackendEvent;
  }

  /**
   * The guest's packets from now on, as a file of pcap. It ends by a limit, by `stopCapture`, or when the stream is destroyed. Packets
   * that it is read too slowly for are left out, and counted (`captures`).
   */
  capture(query: CaptureQuery = {}): Promise<{ readonly id: string; readonly stream: Readable }> {
    return this.client.capture(query);
  }

  /** Those that run, and the last ones that are over. */
  captures(): Promise<readonly CaptureInfo[]> {
    return this.client.captures();
  }

  /** Its stream ends behind what there is. Throws Denied if it does not run. */
  stopCapture(id: string): Promise<void> {
    return this.client.stopCapture(id);
  }

  /** A connection to a TCP port of the guest. */
  async connect(port: number): Promise<Socket> {
    const { socket, head } = await this.client.upgrade(`/v1/connect/${port}`, 'tcp');
    if (head.length > 0) socket.unshift(head);
    return socket;
  }

  /** Ends it, and settles when it has ended. */
  async end(): Promise<void> {
    this.child.kill('SIGTERM');
    await this.ended;
  }
}

/** Starts a back-end; settles when it is ready. Throws BackendError if it cannot start, or an option is wrong. */
export async function startBackend(options: BackendOptions): Promise<Backend> {
  checkOptions(options);
  const { socket, policy, onLog, program = PROGRAM } = options;
  const own = options.control === undefined || policy !== undefined ? mkdtempSync(join(tmpdir(), 'tubetti-')) : null;
  const control = options.control ?? join(own ?? '', 'control');
  const file = own === null || policy === undefined ? null : join(own, 'policy.json');
  if (file !== null) writeFileSync(file, JSON.stringify(policy));
  const words = [...wordsOf(options, file), ...['--control', control, '--ready-fd', `${READY_FD}`]];
  const child = spawn(program, words, { stdio: ['ignore', 'ignore', 'pipe', 'pipe'] });
  const last: string[] = [];
  let rest = '';
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    const lines = `${rest}${chunk}`.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      onLog?.(line);
      if (last.push(line) > LAST_LINES) last.shift();
    }
  });
  const ended = new Promise<number | null>((done) => {
    child.once('error', (error) => {
      last.push(error.message);
      done(null);
    });
    child.once('close', (status) => {
      done(status);
    });
  });
  void ended.then(() => {
    if (own !== null) rmSync(own, { recursive: true, force: true });
  });
  const ready = new Promise<boolean>((done) => {
    const told = child.stdio[READY_FD] as Readable | null | undefined;
    told?.once('data', () => {
      done(true);
    });
    void ended.then(() => {
      done(false);
    });
  });
  if (await ready) return new Backend(child, socket, control, ended);
  throw new BackendError(`the service did not start: ${last.join(' | ')}`);
}
