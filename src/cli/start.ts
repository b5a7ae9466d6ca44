/**
 * Puts the service together: reads the host, opens ports, starts the data plane, then serves front-ends until a signal
 * or the end of a one-off session. What was opened is given back in the opposite order.
 */
import { closeListeners } from '../config/forward-listeners';
import type { ResolvedHost } from '../config/host-config';
import { forwardInfos, statusOf } from '../control/status';
import type { BootFiles } from '../supervisor/boot-files';
import { DataPlane } from '../supervisor/data-plane';
import { startedForDebugger } from '../debugged';
import { ConfigError, describeErrnoName, ECONNREFUSED, ENOENT } from '../errors';
import type { Log } from '../log';
import type { Native } from '../native';
import type { BypassSetup, NumberedRule, OwnListener, StackConfig } from '../stack/config';
import { C_FRONT_END_RECONNECTS, countersFor } from '../stack/counters';
import { ServerError } from '../front-end/server';
import type { StreamServer } from '../stream/server';
import { NamespaceLink, describeTarget } from '../pasta/namespace';
import type { OutwardInfo, OutwardPorts } from '../pasta/outward';
import type { VhostServer } from '../vhost/server';
import { startStats } from '../metrics/stats';
import { watchRefused } from '../sandbox/seccomp';
import { openCapture } from './capture';
import { Control, outwardCapacity, ruleCapacity, rulesNow, specOfRule, takesOrders } from './control';
import { serverOf } from './front-end-server';
import { follow } from './host-follower';
import { startMetrics } from './metrics';
import { ForwardSockets, listenerIo } from './forward-sockets';
import { flowNames, flowsFor, openFlowLog } from './flows';
import type { Options } from './options';
import { ratesPart, ServicePolicy, type VerdictCount } from './policy';
import type { ServiceManager } from './service-manager';
import { type Endpoint, summary } from './summary';
import { version } from './version';
import { Ending } from './ending';
import { prepare } from './prepare';
import type { StartHooks } from './start-hooks';

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
  const { transport, namespace } = options;
  if (namespace !== null) return { kind: 'namespace', name: describeTarget(namespace) };
  if (transport.kind !== 'listen') return transport;
  return { ...transport, path: transport.path ?? defaultSocket(native) };
}

/** An error of the socket, naming the option that it comes from. */
function socketError(error: unknown, endpoint: Endpoint): unknown {
  if (!(error instanceof ServerError) || endpoint.kind === 'namespace') return error;
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

/** If the control plane's loop is stuck this long while events wait, the process ends with HUNG_STATUS. */
const HUNG_MS = 30_000;
const HUNG_STATUS = 70; // EX_SOFTWARE of sysexits.h

type FrontEnds = StreamServer | VhostServer | NamespaceLink;

/** Keeps a service manager informed. */
function tell(manager: Pick<ServiceManager, 'status'>, frontEnds: FrontEnds, endpoint: Endpoint): void {
  const where = whereOf(endpoint);
  if (endpoint.kind === 'namespace') {
    manager.status(`serving ${where}`);
    return;
  }
  const waits = (): void => {
    manager.status(`waiting for a front-end on ${where}`);
  };
  waits();
  frontEnds.on('connected', () => {
    manager.status(`serving a front-end on ${where}`);
  });
  frontEnds.on('disconnected', waits);
}

/** Where front-ends come, for people. */
function whereOf(endpoint: Endpoint): string {
  if (endpoint.kind === 'namespace') return endpoint.name;
  return endpoint.kind === 'fd' ? `descriptor ${endpoint.fd}` : endpoint.path;
}

/** Counts front-ends after the first one. */
function countReconnects(frontEnds: FrontEnds, counters: Float64Array): void {
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

/** How the host's loopback is joined to a namespace's; null: the guest is none. */
function bypassOf({ namespace }: Options, { ip4, ip6 }: ResolvedHost): BypassSetup | null {
  if (namespace === null) return null;
  const { splice, spliceOnly, hostLoToNsLo } = namespace;
  const families = { v4: ip4 !== null, v6: ip6 !== null };
  return { inward: splice, only: spliceOnly, keepsLoopback: hostLoToNsLo, ...families, channel: -1 };
}

/** What guests boot from by network; null: nothing. Loaded on demand, with the parts of Node that it needs. */
async function bootFiles({ tftp }: Options, log: Log): Promise<BootFiles | null> {
  if (tftp === null) return null;
  const { BootFiles } = await import('../supervisor/boot-files.js');
  return new BootFiles(tftp, log.log);
}

/** Serves until told to end. Returns the exit status. Throws ConfigError for what the user can change. */
export async function start(options: Options, native: Native, log: Log, hooks: StartHooks): Promise<number> {
  const endpoint = endpointOf(options, native);
  const ending = new Ending(native, log, hooks);
  /** What has to be given back, in the order it was had. */
  const undo: (() => unknown)[] = [
    () => {
      ending.release();
    },
  ];
  try {
    let orders: Control | null = null;
    const files = await bootFiles(options, log);
    const link = hooks.namespace === null ? options.frontEnd : 'tap';
    // The thread boots while the host is read.
    const plane = DataPlane.launch({
      link,
      log: log.log,
      onReplaced: () => orders?.replaced(),
      ...(files === null ? {} : { readFile: (request) => files.read(request) }),
      onFatal: (error) => {
        log.error(error.message);
        ending.end(1);
      },
    });
    undo.push(() => plane.stop());
    const sockets = new ForwardSockets(native, hooks.broker);
    const io = listenerIo(native, sockets, hooks.handedOver);
    const { config: prepared, opened, host, network, v6Sockets, reach, more } = prepare(options, native, io, log);
    const unnamed = hooks.handedOver.warning();
    if (unnamed !== null) log.warn(unnamed);
    const policy = new ServicePolicy(options.policy, reach);
    // The data plane ends last of all that use listeners.
    undo.unshift(() => {
      if (orders === null) closeListeners(io, opened.listeners);
      else orders.forwards.close();
    });
    const rulesMost = ruleCapacity(options, opened.rules.length);
    const outwardMost = outwardCapacity(options);
    const counters = new SharedArrayBuffer(countersFor(rulesMost + outwardMost) * Float64Array.BYTES_PER_ELEMENT);
    if (takesOrders(options)) {
      const { broker } = hooks;
      const families = { v4: host.ip4 !== null, v6: host.ip6 !== null };
      const control = await Control.open({ native, io, broker, log, options, plane, opened, counters, families, more });
      orders = control;
      undo.push(() => {
        control.close(ending.status);
      });
    }
    const rules = (): readonly NumberedRule[] => rulesNow(opened, orders);
    const captureFd = options.pcap === null ? -1 : openCapture(options.pcap, log);
    if (captureFd >= 0) {
      undo.unshift(() => {
        native.close(captureFd);
      });
    }
    const verdictText = (verdict: number): string => policy.verdictText(verdict);
    const names = await flowNames(options);
    // Known once the namespace is entered.
    let outward: () => OutwardPorts | null = () => null;
    const outwardNow = (): readonly OutwardInfo[] => outward()?.list() ?? [];
    const specOf = (rule: number): string | null =>
      rule > rulesMost ? (outward()?.specOf(rule) ?? null) : specOfRule(opened, orders, rule);
    const words = {
      specOf,
      verdictText,
      ...(names === null ? {} : { nameOf: names.nameOf }),
    };
    const flowLog = await openFlowLog(options, words, log);
    if (flowLog !== null) {
      // The data plane's last flows are in it.
      undo.unshift(() => {
        flowLog.close();
      });
    }
    const flows = await flowsFor(options, plane, words);
    let server: FrontEnds | null = null;
    const guestConnected = (): boolean => server?.connected === true;
    const { layers } = hooks;
    const { labels } = options;
    const status = statusOf.bind(null, {
      ...{ version: version(), labels, layers, frontEnd: link, endpoint: whereOf(endpoint) },
      connected: guestConnected,
      guest: plane,
      forwards: () => forwardInfos(rules(), new Float64Array(counters)),
      outward: outwardNow,
    });
    let metricsUrl: string | null = null;
    let ownListeners: readonly OwnListener[] = [];
    if (options.metrics !== null) {
      const verdicts = (): readonly VerdictCount[] => policy.counts();
      const leading = hooks.namespace === null ? {} : { outward: outwardNow };
      const exported = { counters, guestConnected, version: version(), layers, rules, labels, verdicts, ...leading };
      // Before the data plane begins: it must know where the guest may not connect to.
      const metrics = await startMetrics(options.metrics, exported, native, hooks.broker, { status, flows });
      undo.push(() => metrics.close());
      metricsUrl = metrics.url;
      ownListeners = metrics.ownListeners;
    }
    const config: StackConfig = { ...prepared, ownListeners };
    const { trace, pollUs, moderation, rates } = options;
    const listeners = opened.listeners.filter(({ path }) => path === undefined);
    const limits = { policy: policy.setup, rates };
    const forwarding = { listeners, moreListeners: more, counters };
    const ends = flowLog === null ? {} : { flowEnds: flowLog };
    const heard = names === null ? {} : { onName: names.learn.bind(names) };
    const onAddress = orders?.tellGuestAddress.bind(orders);
    const addressed = onAddress === undefined ? {} : { onAddress };
    const rest = { ...limits, ...ends, ...heard, ...addressed };
    const bypass = bypassOf(options, host);
    const begun = plane.begin({ config, bypass, ...forwarding, captureFd, trace, pollUs, moderation, ...rest });
    policy.attach(plane);
    begun.catch(() => undefined); // awaited below, if it comes to that

    const { oneOff } = options;
    const space =
      hooks.namespace === null
        ? null
        : new NamespaceLink({
            ...{ native, log, device: plane, sandbox: options.sandbox, ...hooks.namespace },
            counters: new Float64Array(counters),
            firstNumber: rulesMost + 1,
            mostOutward: outwardMost,
          });
    if (space !== null) {
      // The data plane ends before the device is closed that it reads.
      undo.unshift(() => {
        space.close();
      });
      ending.onInterrupt = (signal) => space.interrupt(signal);
      outward = () => space.outwardPorts;
    }
    const frontEnds = space ?? serverOf(options, native, log, { endpoint, plane, broker: hooks.broker });
    server = frontEnds;
    frontEnds.once('end', (status?: number) => {
      ending.end(status ?? 0);
    });
    if (hooks.manager !== null) tell(hooks.manager, frontEnds, endpoint);
    orders?.watch(frontEnds);
    if (options.statsSeconds !== null) {
      undo.push(startStats(new Float64Array(counters), options.statsSeconds, hooks.show));
    }
    countReconnects(frontEnds, new Float64Array(counters));
    undo.push(() => frontEnds.stop());
    try {
      // Front-ends can connect while the thread boots, and wait.
      frontEnds.listen();
      await space?.open(host, network, config);
      const ports = outward();
      if (ports !== null) orders?.addOutward(ports);
      hooks.prepare();
      // The thread's files may be for the first user only: it has them before that one is given up.
      await begun;
      frontEnds.start();
    } catch (error) {
      throw socketError(error, endpoint);
    }
    // In the same turn: no front-end can have been heard.
    hooks.bound();
    sockets.shutDoor();
    const report = {
      version: version(),
      frontEnd: options.frontEnd,
      endpoint,
      oneOff,
      config,
      host,
      rules: options.rules,
      skipped: opened.skipped,
      policy: options.policy,
      rates: options.rates,
      control: options.control,
      metricsUrl,
    };
    // What the start needed; the service itself asks the C library for next to nothing.
    native.trimHeap();
    for (const line of summary(report)) log.info(line);
    const onAddresses = orders === null ? null : orders.tellAddresses.bind(orders);
    const monitor = follow({
      options,
      native,
      log,
      plane,
      host,
      config,
      v6Sockets,
      broker: hooks.broker,
      policy,
      onAddresses,
      followInterfaces: orders === null ? null : () => orders.forwards.followInterfaces(),
    });
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
    const confined = plane.confine(hooks.filters);
    hooks.ready();
    const limited = { policy: policy.part, rates: ratesPart(plane, rates) };
    orders?.serve({
      status,
      addresses: () => orders.addresses(status, host),
      ...limited,
      ...(flows !== null && { flows }),
      end: () => ending.end(0),
    });
    hooks.confined(await confined);
    space?.forwardAuto(orders?.forwards ?? null, options.rules);
    await space?.run();
    // From now on there is no long step in this thread.
    if (!startedForDebugger()) native.watchdogMain(HUNG_MS, HUNG_STATUS);
    return await ending.reached;
  } finally {
    await giveBack(undo);
  }
}
