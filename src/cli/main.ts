/** The program: from a command line to an exit status. bin/tubetti.js calls `run`. */
import { isAbsolute, resolve } from 'node:path';
import { createLog, type Log, LogFile, type LogSink, lostLine, stderrLine, stderrSink } from '../log';
import { isJournal, jsonLine, priority, type StderrStyle } from '../log-format';
import { type Change, tableOf } from '../metrics/stats';
import { ConfigError, describeSystemError, messageOf } from '../errors';
import { addonDirectory, loadNative, type Native, PACKAGE_ROOT } from '../native';
import { Holder } from '../pasta/holder';
import { Broker } from '../sandbox/broker';
import { Launched } from '../sandbox/launched';
import { roomPaths } from '../sandbox/room';
import { allLayers, closeDoor, type Layer, missingLine, type SandboxMode } from '../sandbox/sandbox';
import { Filters, installBrokerSeccomp, installSeccomp } from '../sandbox/seccomp';
import { readableStack } from '../stack-trace';
import { closeStderr, LineWriter, openStderr, type UnblockedStderr } from '../stderr';
import { activated, passedFds, sorted, takePassed } from './activation';
import type { Program } from './draft';
import { type Options, parseOptions, type Transport } from './options';
import { PidFile } from './pid-file';
import { checkReadyFd, ReadyFd } from './ready-fd';
import { ServiceManager } from './service-manager';
import { takesOrders } from './control';
import { HandedOver, isPort } from './handed-over';
import { checkGiven, closeInherited } from './inherited';
import { programOf } from './invoked-name';
import { raiseFileLimit } from './file-limit';
import { askedFormat } from './log-options';
import { start } from './start';
import type { StartHooks } from './start-hooks';
import { syslogSink } from './syslog';
import { tftpDirectory } from './tftp-directory';
import { usage } from './usage';
import { changeUser, resolveRunAs, type RunAs } from './user';
import { version } from './version';
import { Waiting } from './background-service';

/** What a vhost-user back-end prints for --print-capabilities (vhost-user, "Backend program conventions"). */
const CAPABILITIES = `${JSON.stringify({ type: 'net' }, null, 2)}\n`;

const LICENCE = 'MIT licence. There is no warranty, to the extent permitted by law.';

/** passt's callers look for passt's name first. */
function versionText(program: Program): string {
  return `${program === 'tubetti' ? `tubetti ${version()}` : `${program} ${version()} (tubetti)`}\n${LICENCE}\n`;
}

/** What we were called as: Node makes its script's path absolute, the launcher's word for us is the caller's. */
function calledAs(launched: Launched | null): string {
  return launched === null ? (process.argv[1] ?? 'tubetti') : resolve(process.argv0);
}

function openLogFile(options: Options, program: Program, launched: Launched | null): LogFile | null {
  if (options.logFile === null) return null;
  try {
    const header = `${program} ${version()}: ${calledAs(launched)} (${launched?.pid ?? process.pid})`;
    return new LogFile(options.logFile, options.logSize, header, { format: options.logFormat, program });
  } catch (error) {
    throw new ConfigError(
      'CFG_ERR_VALUE',
      `--log-file ${options.logFile}: cannot write: ${describeSystemError(error)}`,
    );
  }
}

const NO_FDS = new Int32Array(0);

/** Standard error that never holds us up, also where it is a socket (a supervisor's, the journal's). */
function unblockedStderr(native: Native): UnblockedStderr {
  return openStderr((fd, bytes, offset) => native.sendFds(fd, bytes, offset, bytes.length - offset, NO_FDS, 0));
}

/** The addon, or one line that says why not. */
function loadAddon(): Native {
  try {
    return loadNative();
  } catch (error) {
    throw new ConfigError('CFG_ERR_HOST', messageOf(error));
  }
}

/** The word that makes a namespace the guest, where the program's name does not. */
const NETNS = 'netns';

/** How we came to be, and who waits for us. */
interface Around {
  readonly program: Program;
  readonly style: StderrStyle;
  readonly native: Native;
  readonly waiting: Waiting | null;
  readonly launched: Launched | null;
  readonly broker: Broker | null;
  /** The descriptor of `--ready-fd`, as it is numbered here. */
  readonly readyFd: number | null;
  readonly handedOver: HandedOver;
}

/** Words that may name files which Node loads into each thread. */
function nodeWords(): string[] {
  return [...process.execArgv, ...(process.env.NODE_OPTIONS ?? '').split(' ')];
}

/** Says what of the sandbox there is not. Throws ConfigError where --sandbox=strict asks for more than there is. */
function judge(mode: SandboxMode, layers: readonly Layer[], log: Log): void {
  const missing = mode === 'off' ? null : missingLine(layers);
  if (missing !== null && mode === 'strict') throw new ConfigError('CFG_ERR_HOST', `--sandbox strict: ${missing}`);
  if (missing !== null) log.warn(missing);
  if (mode === 'off') log.warn('--sandbox off: for debugging; who breaks into the service has all that its user has');
}

/** Gives up what only the start needed. `paths`: what the root directory is to have. */
function shutDoor(
  mode: SandboxMode,
  { native, launched, broker }: Around,
  runAs: RunAs | null,
  paths: readonly string[],
): Layer[] {
  return closeDoor({
    native,
    mode,
    launched,
    broker,
    user: runAs,
    becomeUser: () => {
      if (runAs !== null) changeUser(runAs);
    },
    paths,
  });
}

/** What the start needs to go into a namespace; null: the guest is none. Throws ConfigError. */
function namespaceHooks(
  native: Native,
  launched: Launched | null,
  { namespace }: Options,
  user: RunAs | null,
): StartHooks['namespace'] {
  if (namespace === null) return null;
  const fd = launched?.get('holder') ?? -1;
  if (fd < 0) {
    const why = launched === null ? 'it was not started by tubetti-launch (bin/pasta does)' : 'no process can be made';
    throw new ConfigError('CFG_ERR_HOST', `namespaces cannot be entered: ${why}`);
  }
  return { request: namespace, holder: new Holder(native, fd), user };
}

/** What `--stats` says: a table, or one object. */
function statsText(changes: readonly Change[], program: Program, style: StderrStyle): string {
  if (style.format === 'text') return tableOf(changes).join('\n');
  const counters = Object.fromEntries(changes.map(({ name, change, now }) => [name, { change, now }]));
  return priority('info', style) + jsonLine('info', 'counters', { program, counters });
}

/**
 * Serves in this process. The log goes to stderr for good in the foreground, until the service is ready in the
 * background; and into the file if one is named; and, in the background without a file, to the system log.
 */
async function serve(options: Options, around: Around): Promise<number> {
  const { program, style, native, waiting, launched, broker, handedOver } = around;
  const pid = launched?.pid ?? process.pid;
  const file = openLogFile(options, program, launched);
  let unblocked: UnblockedStderr | null = unblockedStderr(native);
  const lines = new LineWriter(unblocked.write, undefined, lostLine(program, style));
  const stderr = stderrSink(program, lines, style);
  const leaveStderr = (): void => {
    if (unblocked !== null) closeStderr(unblocked);
    unblocked = null;
  };
  const sinks: LogSink[] = [stderr];
  if (file !== null) sinks.push(file.sink);
  else if (waiting !== null) {
    const connect = broker === null ? undefined : () => broker.syslog();
    sinks.push(syslogSink(native, program, connect, pid, options.logFormat));
  }
  const log = createLog(options.logLevel, sinks);
  const manager = ServiceManager.find(process.env, native, log);
  let pidFile: PidFile | null = null;
  let namespace: StartHooks['namespace'] = null;
  try {
    for (const warning of options.warnings) log.warn(warning);
    const tftp = options.tftp === null ? null : tftpDirectory(options.tftp);
    if (options.pid !== null) pidFile = new PidFile(options.pid);
    const { readyFd } = around;
    const readiness = readyFd === null ? null : new ReadyFd(native, readyFd, options.readyFd ?? readyFd);
    const runAs = resolveRunAs(options.runAs, native, log);
    waiting?.prepare();
    let layers: readonly Layer[] = [];
    const { sandbox } = options;
    const filters = new Filters(native, sandbox, options.namespace === null ? 'machine' : 'namespace');
    let paths: readonly string[] = [];
    const prepare = (): void => {
      filters.prepare(broker !== null);
      if (sandbox !== 'off') paths = roomPaths(PACKAGE_ROOT, addonDirectory(), nodeWords(), tftp);
    };
    const bound = (): void => {
      layers = shutDoor(sandbox, around, runAs, paths);
    };
    const filter = (): void => {
      // The broker first, which is asked to: then all that was to be asked of it at the start has been.
      layers = [...layers, installBrokerSeccomp(native, filters, broker !== null), installSeccomp(native, filters)];
      judge(sandbox, layers, log);
    };
    const confined = (layer: Layer): void => {
      layers = [...layers, layer];
      if (layer.state === 'missing') log.warn(missingLine([layer]) ?? '');
    };
    const ready = (): void => {
      pidFile?.write(pid);
      manager?.ready(waiting === null ? null : pid);
      const untold = readiness?.tell() ?? null;
      if (untold !== null) log.warn(untold);
      if (waiting === null) return;
      sinks.splice(sinks.indexOf(stderr), 1);
      leaveStderr();
      if (options.namespace !== null) process.chdir('/');
      else leaveDirectory(options.transport);
      waiting.release(native);
    };
    const show = (changes: readonly Change[]): void => {
      try {
        lines.line(statsText(changes, program, style));
      } catch {
        // Nobody is there any more.
      }
    };
    namespace = namespaceHooks(native, launched, options, runAs);
    const said = { show, manager, layers: () => allLayers(layers) };
    const hooks = { namespace, prepare, bound, filter, filters, confined, ready, broker, handedOver, ...said };
    const status = await start({ ...options, tftp }, native, log, hooks);
    if (waiting === null || waiting.released || status !== 0) return status;
    log.error('the service was stopped before it was ready');
    return 1;
  } catch (error) {
    if (!(error instanceof ConfigError)) {
      // A bug of ours. In the background only the log shows it.
      if (waiting !== null)
        log.error(`internal error: ${error instanceof Error ? readableStack(error) : String(error)}`);
      throw error;
    }
    log.error(error.message);
    return 1;
  } finally {
    // Where the start came to nothing it would wait for what the process in there says.
    namespace?.holder.close();
    manager?.close();
    file?.close();
    leaveStderr();
  }
}

/** A service that lives long must not keep a file system busy. Paths that are still needed must not depend on it. */
function leaveDirectory(transport: Transport): void {
  if (transport.kind === 'fd' || transport.path === null || isAbsolute(transport.path)) process.chdir('/');
}

/** Where scrapers come, where systemd has passed a socket for them. Throws ConfigError where that cannot be. */
function scraped(options: Options, fd: number, waiting: Waiting | null): Options['metrics'] {
  if (options.metrics !== null) {
    const who = 'systemd (LISTEN_FDS) has passed a socket named metrics';
    throw new ConfigError('CFG_ERR_CONFLICT', `--metrics: ${who}, give only one of the two`);
  }
  if (options.background && waiting === null) throw foregroundOnly('a socket named metrics');
  return { fd };
}

/** Of what systemd passes only the front-ends' socket finds its way to the background, where we are called without the launcher. */
function foregroundOnly(what: string): ConfigError {
  return new ConfigError('CFG_ERR_UNSUPPORTED', `${what}: served in the foreground only, add --foreground`);
}

async function serveAs(
  argv: readonly string[],
  options: Options,
  { program, style }: Pick<Around, 'program' | 'style'>,
  launched: Launched | null,
): Promise<number> {
  if (!options.background) launched?.stayInForeground();
  // Before WAITING_FD is taken, by which it tells whom it is for.
  const passed = takePassed(process.env, launched);
  const waiting = options.background ? Waiting.find(process.env, launched) : null;
  const readyFd = waiting?.readyFd(options.readyFd) ?? options.readyFd;
  if (readyFd !== null) checkReadyFd(readyFd, options.readyFd ?? readyFd);
  const given = options.transport.kind === 'fd' ? options.transport.fd : -1;
  const own = launched?.descriptors ?? [];
  if (launched?.get('closed') !== 1) {
    const keep = [given, readyFd ?? -1, ...own, ...passedFds(passed)];
    closeInherited([...keep, ...(waiting?.descriptors ?? [])]);
  }
  const native = loadAddon();
  raiseFileLimit(native);
  const wanted = waiting?.transport(options.transport) ?? options.transport;
  const {
    metrics: scrapers,
    forwards,
    frontEnds,
    first,
  } = sorted(passed, {
    names: new Set(options.rules.flatMap(({ passed: name }) => name ?? [])),
    later: takesOrders(options),
    isPort: (fd) => !own.includes(fd) && isPort(fd, native),
  });
  if (forwards.length > 0 && options.background && waiting === null) throw foregroundOnly('sockets to forward');
  const transport = frontEnds === null ? wanted : activated(wanted, frontEnds, own, native, first);
  const metrics = scrapers === null ? options.metrics : scraped(options, scrapers, waiting);
  if (transport.kind === 'fd') checkGiven(transport.fd, native);
  if (options.background && waiting === null) {
    const { startInBackground } = await import('./background-launcher.js');
    return startInBackground(argv, { ...options, transport }, native, launched, (message) => {
      stderrSink(program, undefined, style)('error', message);
    });
  }
  const handedOver = new HandedOver(
    forwards.filter(({ fd }) => !own.includes(fd)),
    native,
  );
  const socket = launched?.get('broker') ?? -1;
  const broker = socket < 0 ? null : new Broker(native, socket, launched?.get('bind') === 1);
  const around = { program, style, native, waiting, launched, broker, readyFd, handedOver };
  const status = await serve({ ...options, transport, metrics }, around);
  // Node would wait for threads of data planes that sit in a system call. All there was to give back has been given.
  if (native.strays() > 0) native.exitNow(status);
  return status;
}

/**
 * Runs the program with the arguments behind its name and returns its exit status: 0 after a clean end or, in the
 * background, when the service is ready; 1 after any error, which has then been said in one line on stderr.
 */
export async function run(argv: readonly string[], script = process.argv[1], argv0 = process.argv0): Promise<number> {
  let program: Program = 'tubetti';
  const journal = isJournal(process.env.JOURNAL_STREAM);
  let style: StderrStyle = { format: askedFormat(argv, process.env), journal };
  const launched = Launched.take(process.env);
  try {
    program = programOf(script, argv0);
    const skipped = program === 'tubetti' && argv[0] === NETNS ? 1 : 0;
    if (skipped > 0) program = 'pasta';
    const command = parseOptions(argv.slice(skipped), undefined, { program, env: process.env, skipped });
    switch (command.action) {
      case 'help':
        process.stdout.write(usage(program));
        return 0;
      case 'version':
        process.stdout.write(versionText(program));
        return 0;
      case 'capabilities':
        process.stdout.write(CAPABILITIES);
        return 0;
      case 'run':
        style = { format: command.options.logFormat, journal };
        return await serveAs(argv, command.options, { program, style }, launched);
    }
  } catch (error) {
    // Any other error is a bug or a broken installation: its stack trace helps with a report.
    const text =
      error instanceof ConfigError ? error.message : error instanceof Error ? readableStack(error) : String(error);
    process.stderr.write(`${stderrLine('error', text, program, style)}\n`);
    return 1;
  }
}
