/**
 * The package's API for Node programs that run virtual machines: a back-end as a child process, and orders to it with types
 * (docs/control.md, "From Node"). It is the client of `--control`; the service is the same as on a command line.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Readable } from 'node:stream';
import { ControlClient, Denied } from '../ctl/client';
import type {
  Addresses,
  CaptureInfo,
  CaptureQuery,
  FlowPage,
  FlowQuery,
  ForwardInfo,
  ServiceStatus,
} from '../control/types';

export type {
  Addresses,
  CaptureInfo,
  CaptureQuery,
  CaptureReason,
  FlowInfo,
  FlowPage,
  FlowQuery,
  ForwardInfo,
  HostAddress,
  ItemError,
  ServiceStatus,
} from '../control/types';
export { ControlClient, Denied };

/** A forwarded port, as `-t` and `-u` have it. */
export interface Forward {
  readonly protocol: 'tcp' | 'udp';
  readonly spec: string;
}

export interface BackendOptions {
  /** Where the hypervisor connects. */
  readonly socket: string;
  /** Ports that are forwarded from the start. */
  readonly forwards?: readonly Forward[];
  /** More options, as on a command line: `['--no-map-gw']`. */
  readonly args?: readonly string[];
  /** The control socket's path. Default: one in a temporary directory that is removed at the end. */
  readonly control?: string;
  /** Gets each line of the service's log. Default: nobody does. */
  readonly onLog?: (line: string) => void;
  /** The program. Default: that of this package. */
  readonly program?: string;
}

/** The service has ended, and says why. */
export class BackendError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'BackendError';
  }
}

const PROGRAM = resolve(__dirname, '..', '..', 'bin', 'tubetti');
/** Descriptor of the child's that tells when it is ready. */
const READY_FD = 3;
/** Lines of the log that an error repeats. */
const LAST_LINES = 5;

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

  /** All or none. Throws Denied, with an error for each that cannot be. */
  async addForwards(...forwards: readonly Forward[]): Promise<void> {
    await this.client.ask('POST', '/v1/forwards', { body: { forwards } });
  }

  /** Named as they were given: all or none. Connections that came by them live on, unless they are to be closed. */
  async removeForwards(forwards: readonly Forward[], { closeFlows = false } = {}): Promise<void> {
    const query = { closeFlows: `${closeFlows}` };
    await this.client.ask('POST', '/v1/forwards/remove', { body: { forwards }, query });
  }

  /** These and no others. */
  async replaceForwards(...forwards: readonly Forward[]): Promise<void> {
    await this.client.ask('PUT', '/v1/forwards', { body: { forwards } });
  }

  flows(query: FlowQuery = {}): Promise<FlowPage> {
    return this.client.flows(query);
  }

  closeFlow(id: string): Promise<boolean> {
    return this.client.closeFlow(id);
  }

  /** What happens, from now on, until `signal` ends it. */
  async *events(signal?: AbortSignal): AsyncGenerator<{ readonly event: string; readonly at: number }> {
    for await (const { data } of this.client.events('/v1/events', signal)) {
      yield JSON.parse(data) as { event: string; at: number };
    }
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

/** Starts a back-end; settles when it is ready. Throws BackendError if it cannot start. */
export async function startBackend(options: BackendOptions): Promise<Backend> {
  const { socket, forwards = [], args = [], onLog, program = PROGRAM } = options;
  const own = options.control === undefined ? mkdtempSync(join(tmpdir(), 'tubetti-')) : null;
  const control = options.control ?? join(own ?? '', 'control');
  const ports = forwards.flatMap(({ protocol, spec }) => [protocol === 'tcp' ? '-t' : '-u', spec]);
  const words = [
    '--foreground',
    '--ready-fd',
    `${READY_FD}`,
    '--socket',
    socket,
    '--control',
    control,
    ...ports,
    ...args,
  ];
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
