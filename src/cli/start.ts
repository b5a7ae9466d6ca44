/**
 * Puts the service together: reads the host, opens ports, starts the data plane, then serves front-ends until a signal
 * or the end of a one-off session. What was opened is given back in the opposite order.
 */
import { closeListeners, openListeners, type OpenedListeners } from '../config/forward-listeners';
import { flowLimits, resolveHostConfig, stackConfig, weakListeners } from '../config/host-config';
import { readHostNetwork } from '../config/netlink';
import { probePeekOff } from '../config/peek-off';
import { readResolvConf } from '../config/resolv-conf';
import { readSysctls } from '../config/sysctl';
import { DataPlane } from '../supervisor/data-plane';
import { startedForDebugger } from '../debugged';
import { ConfigError, describeErrnoName, ECONNREFUSED, ENOENT } from '../errors';
import type { Log } from '../log';
import type { Native } from '../native';
import type { Broker } from '../sandbox/broker';
import type { Layer } from '../sandbox/layer';
import { formatIp } from '../config/address-text';
import type { OwnListener, StackConfig } from '../stack/config';
import { C_FRONT_END_RECONNECTS, countersFor } from '../stack/counters';
import { AF_INET, AF_INET6, SOCK_UDP } from '../stack/ports';
import { ServerError } from '../front-end/server';
import { StreamServer } from '../stream/server';
import { VhostServer } from '../vhost/server';
import { type Change, startStats } from '../metrics/stats';
import { watchRefused } from '../sandbox/seccomp';
import { openCapture } from './capture';
import { checkListeners, raiseFileLimit } from './file-limit';
import { follow } from './host-follower';
import { startMetrics } from './metrics';
import type { Options } from './options';
import type { ServiceManager } from './service-manager';
import { type Endpoint, summary } from './summary';
import { version } from './version';

const DEFAULT_SOCKETS = 99;

/** passt's default socket: the first of /tmp/passt_1.socket … on which no process listens. */
function defaultSocket(native: Native): string {
  for (let i = 1; i <= DEFAULT_SOCKETS; i++) {
    const path = `/tmp/passt_${i}.socket`;
    const fd = native.unixConnect(path);
    if (fd === -ENOENT || fd === -ECONNREFUSED) return path;
    if (fd >= 0) native.close(fd);
  }
  throw new ConfigError(
    'CFG_ERR_SOCKET',
    `/tmp/passt_1.socket to /tmp/passt_${DEFAULT_SOCKETS}.socket are all in use, give --socket PATH`,
  );
}

function endpointOf(options: Options, native: Native): Endpoint {
  const { transport } = options;
  if (transport.kind !== 'listen') return transport;
  return { ...transport, path: transport.path ?? defaultSocket(native) };
}

/** True if sockets of the IPv6 family can be made on this host. */
function hasIp6Sockets(native: Native): boolean {
  const fd = native.socket(AF_INET6, SOCK_UDP);
  if (fd >= 0) native.close(fd);
  return fd >= 0;
}

/** For every family of which there are sockets: a guest's resolver may be one of the family that the guest has not. */
function canPeekOff(native: Native, v6: boolean): boolean {
  return probePeekOff(native, AF_INET) && (!v6 || probePeekOff(native, AF_INET6));
}

/** An error of the socket, naming the option that it comes from. */
function socketError(error: unknown, endpoint: Endpoint): unknown {
  if (!(error instanceof ServerError)) return error;
  const option =
    endpoint.kind === 'fd'
      ? `--fd ${endpoint.fd}`
      : `--${endpoint.kind === 'listen' ? 'socket' : 'connect'} ${endpoint.path}`;
  const message = error.message.replace(/\bE[A-Z0-9]+$/, describeErrnoName);
  const hint = error.message.endsWith('EADDRINUSE')
    ? ' (another process listens there, or it is not a socket: give another path)'
    : '';
  return new ConfigError('CFG_ERR_SOCKET', `${option}: ${message}${hint}`);
}

/**
 * Time for the end, from the signal or the event that asks for it. The watchdog sees to it even where this thread
 * hangs; END_LOG_MS into it, what it comes to is in the log.
 */
const END_MS = 3000;
const END_LOG_MS = 2500;

/** If the control plane's loop is stuck this long while events wait, the process ends with HUNG_STATUS. */
const HUNG_MS = 30_000;
const HUNG_STATUS = 70; // EX_SOFTWARE of sysexits.h

/**
 * Settles when the service shall end: a signal (0), a one-off session's end (0), a data plane that cannot live (1). The
 * process then has END_MS to end, whatever hangs.
 */
class Ending {
  readonly reached: Promise<number>;
  private resolve: (status: number) => void = () => undefined;
  private readonly signals = ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP'] as const;
  private stopping = false;
  private readonly native: Native;
  private readonly log: Log;
  private readonly manager: StartHooks['manager'];

  constructor(native: Native, log: Log, manager: StartHooks['manager']) {
    this.native = native;
    this.log = log;
    this.manager = manager;
    this.reached = new Promise((resolve) => {
      this.resolve = resolve;
    });
    for (const signal of this.signals) process.on(signal, this.onSignal);
    if (native.watchdogStart() >= 0) native.endOnSignals(END_MS);
  }

  end(status: number): void {
    if (!this.stopping) {
      this.manager?.stopping();
      this.native.endWithin(END_MS);
      setTimeout(() => {
        this.log.error(`shutdown takes longer than ${END_LOG_MS / 1000} s: exiting without waiting for the rest`);
        this.native.exitNow(1);
      }, END_LOG_MS).unref();
    }
    this.stopping = true;
    this.resolve(status);
  }

  release(): void {
    for (const signal of this.signals) process.off(signal, this.onSignal);
  }

  private readonly onSignal = (signal: NodeJS.Signals): void => {
    // A second signal: the user does not want to wait.
    if (this.stopping) this.native.exitNow(1); // process.exit would wait for threads
    this.log.debug(`${signal}: shutting down`);
    this.end(0);
  };
}

/** Keeps a service manager informed. */
function tell(
  manager: Pick<ServiceManager, 'status'>,
  frontEnds: StreamServer | VhostServer,
  endpoint: Endpoint,
): void {
  const where = endpoint.kind === 'fd' ? `descriptor ${endpoint.fd}` : endpoint.path;
  const waits = (): void => {
    manager.status(`waiting for a front-end on ${where}`);
  };
  waits();
  frontEnds.on('connected', () => {
    manager.status(`serving a front-end on ${where}`);
  });
  frontEnds.on('disconnected', waits);
}

interface Prepared {
  readonly config: StackConfig;
  readonly opened: OpenedListeners;
  readonly host: ReturnType<typeof resolveHostConfig>;
  readonly v6Sockets: boolean;
}

/** A gateway outside of the guest's subnet works with clients that take routes by DHCP; or it is a typing error. */
function warnOfGateway(options: Options, { ip4 }: Prepared['host'], log: Log): void {
  const { gateway } = options.host.ip4;
  if (gateway === null || ip4 === null) return;
  const wide = (bytes: Uint8Array): number => Buffer.from(bytes).readUInt32BE() / 2 ** (32 - ip4.prefixLen);
  if (Math.floor(wide(gateway)) === Math.floor(wide(ip4.guestAddr))) return;
  const subnet = `${formatIp(ip4.guestAddr)}/${ip4.prefixLen}`;
  log.warn(
    `--gateway ${formatIp(gateway)}: not in the guest's subnet (${subnet}); DHCP sends a route to it (option 121), ` +
      'which some clients ignore',
  );
}

/** Everything that can fail for the user's or the host's reasons. */
function prepare(options: Options, native: Native, log: Log): Prepared {
  const fileLimit = raiseFileLimit(native);
  const facts = {
    network: readHostNetwork(native),
    resolvConf: readResolvConf(),
    v6Sockets: hasIp6Sockets(native),
  };
  const host = resolveHostConfig(options.host, facts);
  for (const note of host.notes) log.log(note.level, note.text);
  warnOfGateway(options, host, log);
  const families = { v4: host.ip4 !== null, v6: host.ip6 !== null };
  const opened = openListeners(native, options.rules, {
    ...families,
    freebind: options.freebind,
    maxWeak: weakListeners(fileLimit),
  });
  checkListeners(fileLimit, opened.listeners.length);
  const peekOff = canPeekOff(native, facts.v6Sockets);
  const limits = flowLimits(fileLimit, opened.listeners.length);
  log.debug(
    `limit of ${fileLimit} open files: up to ${limits.maxTcpFlows} TCP, ${limits.maxUdpFlows} UDP, ${limits.maxPingFlows} ping flows`,
  );
  log.debug(`SO_PEEK_OFF on TCP: ${peekOff ? 'works' : 'not available, unacknowledged bytes are read again'}`);
  const config = stackConfig(options.host, host, readSysctls(), limits, peekOff);
  return { config, opened, host, v6Sockets: facts.v6Sockets };
}

/** What the program does at two moments of the start; what these throw ends it. */
export interface StartHooks {
  /** All that needs the first user's rights is open, no front-end was served yet. */
  readonly bound: () => void;
  /** All of the start was done that needs other system calls than the service does; still none was served. */
  readonly filter: () => void;
  /** What became of the data plane's own filter. */
  readonly confined: (layer: Layer) => void;
  /** The service is ready. */
  readonly ready: () => void;
  /** Who does what we cannot do behind the door. */
  readonly broker: Broker | null;
  /** What the sandbox consists of by now. */
  readonly layers: () => readonly Layer[];
  /** Writes counters (`--stats`) to standard error. */
  readonly show: (changes: readonly Change[]) => void;
  /** Who is told what the service does; null: nobody. */
  readonly manager: Pick<ServiceManager, 'status' | 'stopping'> | null;
}

/** Counts front-ends after the first one. */
function countReconnects(frontEnds: StreamServer | VhostServer, counters: Float64Array): void {
  frontEnds.once('connected', () => {
    frontEnds.on('connected', () => {
      counters[C_FRONT_END_RECONNECTS]++;
    });
  });
}

/** Takes the steps, last first, all of them also where one fails. @throws what failed first. */
async function giveBack(steps: readonly (() => unknown)[]): Promise<void> {
  let failure: Error | null = null;
  for (const step of [...steps].reverse()) {
    try {
      await step();
    } catch (error) {
      failure ??= error instanceof Error ? error : new Error(String(error));
    }
  }
  if (failure !== null) throw failure;
}

/** Serves until told to end. Returns the exit status. Throws ConfigError for what the user can change. */
export async function start(options: Options, native: Native, log: Log, hooks: StartHooks): Promise<number> {
  const endpoint = endpointOf(options, native);
  const ending = new Ending(native, log, hooks.manager);
  /** What has to be given back, in the order it was had. */
  const undo: (() => unknown)[] = [
    () => {
      ending.release();
    },
  ];
  try {
    // The thread boots while the host is read.
    const plane = DataPlane.launch({
      link: options.frontEnd,
      log: log.log,
      onFatal: (error) => {
        log.error(error.message);
        ending.end(1);
      },
    });
    undo.push(() => plane.stop());
    const { config: prepared, opened, host, v6Sockets } = prepare(options, native, log);
    // The data plane ends last of all that use listeners.
    undo.unshift(() => {
      closeListeners(native, opened.listeners);
    });
    const counters = new SharedArrayBuffer(countersFor(opened.rules.length) * Float64Array.BYTES_PER_ELEMENT);
    const captureFd = options.pcap === null ? -1 : openCapture(options.pcap, log);
    if (captureFd >= 0) {
      undo.unshift(() => {
        native.close(captureFd);
      });
    }
    let server: StreamServer | VhostServer | null = null;
    let metricsUrl: string | null = null;
    let ownListeners: readonly OwnListener[] = [];
    if (options.metrics !== null) {
      const { layers } = hooks;
      const { labels } = options;
      const guestConnected = (): boolean => server?.connected === true;
      const exported = { counters, guestConnected, version: version(), layers, rules: opened.rules, labels };
      // Before the data plane begins: it must know where the guest may not connect to.
      const metrics = await startMetrics(options.metrics, exported, native, hooks.broker);
      undo.push(() => metrics.close());
      metricsUrl = metrics.url;
      ownListeners = metrics.ownListeners;
    }
    const config: StackConfig = { ...prepared, ownListeners };
    const { trace, pollUs, moderation } = options;
    const begun = plane.begin({ config, listeners: opened.listeners, counters, captureFd, trace, pollUs, moderation });
    begun.catch(() => undefined); // awaited below, if it comes to that

    const source =
      endpoint.kind === 'fd'
        ? { fd: endpoint.fd }
        : endpoint.kind === 'listen'
          ? { listen: endpoint.path, opened: endpoint.opened }
          : { connect: endpoint.path };
    const { oneOff } = options;
    const paths = hooks.broker === null ? {} : { paths: hooks.broker };
    const serverOptions = { native, device: plane, log: log.log, source, oneOff, ...paths };
    const frontEnds = options.frontEnd === 'stream' ? new StreamServer(serverOptions) : new VhostServer(serverOptions);
    server = frontEnds;
    frontEnds.once('end', () => {
      ending.end(0);
    });
    if (hooks.manager !== null) tell(hooks.manager, frontEnds, endpoint);
    if (options.statsSeconds !== null) {
      undo.push(startStats(new Float64Array(counters), options.statsSeconds, hooks.show));
    }
    countReconnects(frontEnds, new Float64Array(counters));
    undo.push(() => frontEnds.stop());
    try {
      // Front-ends can connect while the thread boots, and wait.
      frontEnds.listen();
      // The thread's files may be for the first user only: it has them before that one is given up.
      await begun;
      frontEnds.start();
    } catch (error) {
      throw socketError(error, endpoint);
    }
    // In the same turn: no front-end can have been heard.
    hooks.bound();
    const { rules } = options;
    const report = {
      version: version(),
      frontEnd: options.frontEnd,
      endpoint,
      oneOff,
      config,
      host,
      rules,
      skipped: opened.skipped,
      metricsUrl,
    };
    for (const line of summary(report)) log.info(line);
    const monitor = follow({ options, native, log, plane, host, config, v6Sockets, broker: hooks.broker });
    undo.push(() => {
      monitor.stop();
    });
    undo.push(
      watchRefused(native, options.sandbox, (message) => {
        log.warn(message);
      }),
    );
    // In this order: a thread with a filter of its own would keep the other from all of them.
    hooks.filter();
    const confined = plane.confine(options.sandbox);
    hooks.ready();
    hooks.confined(await confined);
    // From now on there is no long step in this thread.
    if (!startedForDebugger()) native.watchdogMain(HUNG_MS, HUNG_STATUS);
    return await ending.reached;
  } finally {
    await giveBack(undo);
  }
}
