/** Tubetti itself under test: started in the host's world, its socket awaited, its metrics read. */
import { readFileSync } from 'node:fs';
import { PROGRAM } from '../program';
import type { HostWorld } from './host-world';
import { ManagedProcess, describeExit, poll, type ExitStatus } from './processes';

export interface ServiceOptions {
  readonly world: HostWorld;
  readonly socketPath: string;
  readonly args?: readonly string[];
  /** More of its environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** The front-end listens at `socketPath`, and the service connects to it as soon as it is there. */
  readonly connect?: boolean;
  /** What is run instead of this checkout's program: a command that has the service's options added. */
  readonly program?: readonly string[];
  /** How long it may take until the socket is there, ms. Default 10 000. */
  readonly startMs?: number;
  /** A connected socket of ours, which the service serves (`--fd`) and nothing else. */
  readonly fd?: number;
}

/**
 * Another vhost-user back-end with passt's command line to run instead, for comparison (docs/testing.md): a command and
 * its options, separated by spaces. What is asked of its metrics fails.
 */
const OTHER_BACKEND = process.env.TUBETTI_TEST_BACKEND?.split(' ');

export class Service {
  readonly process: ManagedProcess;
  readonly socketPath: string;
  private readonly world: HostWorld;
  /** On the loopback of the host's world. */
  readonly metricsPort: number;

  private constructor(process: ManagedProcess, options: ServiceOptions, metricsPort: number) {
    this.process = process;
    this.world = options.world;
    this.socketPath = options.socketPath;
    this.metricsPort = metricsPort;
  }

  /** Starts it and waits until its socket is listened on. @throws Error with its log. */
  static async start(options: ServiceOptions): Promise<Service> {
    const { port } = await options.world.host.call('freePort', {});
    const program = OTHER_BACKEND ?? [
      ...(options.program ?? PROGRAM),
      ...['--foreground', '--runas', '0', '--metrics', `127.0.0.1:${String(port)}`],
    ];
    const where =
      options.fd === undefined
        ? [options.connect === true ? '--connect' : '--socket', options.socketPath]
        : ['--fd', '3'];
    const argv = [...program, ...where, ...(options.args ?? [])];
    const fds = options.fd === undefined ? [] : [options.fd];
    const managed = new ManagedProcess('tubetti', options.world.inHost(argv), { fds, env: options.env ?? {} });
    if (options.connect === true || options.fd !== undefined) return new Service(managed, options, port);
    try {
      await poll(
        `the socket ${options.socketPath}`,
        () => {
          if (managed.exitStatus !== null) throw new Error(`it ended with ${describeExit(managed.exitStatus)}`);
          return isListening(managed.pid, options.socketPath) ? true : null;
        },
        options.startMs ?? 10_000,
      );
    } catch (error) {
      await managed.stop('SIGKILL');
      const { message } = error as Error;
      throw new Error(`Tubetti did not start: ${message}\n${managed.tail()}`, { cause: error });
    }
    return new Service(managed, options, port);
  }

  /** The sum of a counter over its labels, or over those samples that have these labels. */
  async metric(name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    const url = `http://127.0.0.1:${String(this.metricsPort)}/metrics`;
    const { status, body } = await this.world.host.call('httpGet', { url });
    if (status !== 200) throw new Error(`${url}: status ${String(status)}`);
    return sumOfSamples(body, name, labels);
  }

  /** The whole page. */
  async metricsPage(): Promise<string> {
    const url = `http://127.0.0.1:${String(this.metricsPort)}/metrics`;
    return (await this.world.host.call('httpGet', { url })).body;
  }

  stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<ExitStatus> {
    return this.process.stop(signal);
  }
}

/** Prometheus' text format: `name{label="value",…} number`. @throws Error when there is no such sample. */
export function sumOfSamples(page: string, name: string, labels: Readonly<Record<string, string>>): number {
  let sum = 0;
  let found = false;
  for (const match of page.matchAll(/^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/gm)) {
    if (match[1] !== name) continue;
    // Without labels the group is undefined, whatever its type says.
    const all = (match[2] as string | undefined) ?? '';
    if (!Object.entries(labels).every(([key, value]) => all.includes(`${key}="${value}"`))) continue;
    found = true;
    sum += Number(match[3]);
  }
  if (!found) throw new Error(`no metric ${name} ${JSON.stringify(labels)} in:\n${page}`);
  return sum;
}

/**
 * Whether somebody listens on a unix socket, without connecting to it: a back-end that serves one front-end at a time
 * would take the test's connection for its guest. The table is that of the process's network namespace; flags 00010000
 * mark a listening socket (proc(5)).
 */
function isListening(pid: number, path: string): boolean {
  return readFileSync(`/proc/${String(pid)}/net/unix`, 'utf8')
    .split('\n')
    .some((line) => line.includes(' 00010000 ') && line.endsWith(` ${path}`));
}
