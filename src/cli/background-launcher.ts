/**
 * Going to the background. A process with a JavaScript engine cannot fork, so the one that was called starts a second
 * one with the same command line, in a session of its own, and waits:
 *
 * - the service says on a pipe that it is ready: everything is bound and listening, the process id is written. The
 *   caller's process exits with 0;
 * - the pipe ends before: the service has said why on stderr, which it still shares. The caller's process exits with 1.
 *
 * When it is ready the service has let go of the caller's streams, so that their readers see the end. Of the
 * caller's other descriptors it gets those of `--fd`, of `--ready-fd` and of socket activation only.
 */
import { spawn, type StdioOptions } from 'node:child_process';
import type { Readable } from 'node:stream';
import { ConfigError, describeSystemError } from '../errors';
import type { Native } from '../native';
import { LAUNCH, type Launched } from '../sandbox/launched';
import { HANDED_ON } from './activation';
import type { Transport } from './options';
import { FIRST_AFTER_STDIO, WAITING_FD } from './background-service';

/** The pipe's descriptor in the service; its standard streams and FRONT_END_FD are before it. */
const PIPE_FD = 4;

const FORWARDED = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const;

/** The socket of the launcher's broker, behind the pipe. */
const BROKER_FD = 5;

/** What the service gets, in the order of its descriptors: FRONT_END_FD, PIPE_FD, BROKER_FD, SERVICE_READY_FD. */
function stdioFor(transport: Transport, readyFd: number | null, broker: number): StdioOptions {
  const socket = transport.kind === 'fd' ? transport.fd : transport.kind === 'listen' ? transport.opened : undefined;
  const frontEnd = socket ?? 'ignore';
  const behind = readyFd !== null ? [broker < 0 ? ('ignore' as const) : broker, readyFd] : broker < 0 ? [] : [broker];
  return ['ignore', 'ignore', 'inherit', frontEnd, 'pipe', ...behind];
}

/** What of the options it takes to start the service. */
interface Given {
  readonly transport: Transport;
  readonly readyFd: number | null;
}

/**
 * Starts the service and waits until it is ready: 0; or has failed: 1, and it has been said why. Throws ConfigError if
 * it cannot be started.
 */
export async function startInBackground(
  argv: readonly string[],
  { transport, readyFd }: Given,
  native: Native,
  launched: Launched | null,
  complain: (message: string) => void,
): Promise<number> {
  const broker = launched?.get('broker') ?? -1;
  const stdio = stdioFor(transport, readyFd, broker);
  const handedOn = launched === null ? {} : { [LAUNCH]: launched.handedOn(broker < 0 ? -1 : BROKER_FD) };
  const activation = transport.kind === 'listen' && transport.opened !== undefined ? HANDED_ON : {};
  // What the caller left open by mistake must not live on in the service.
  native.closeOnExec(FIRST_AFTER_STDIO);
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1], ...argv], {
    argv0: process.argv0,
    detached: true,
    env: { ...process.env, ...handedOn, ...activation, [WAITING_FD]: String(PIPE_FD) },
    stdio,
  });
  const forward = (signal: NodeJS.Signals): void => {
    child.kill(signal);
  };
  for (const signal of FORWARDED) process.on(signal, forward);
  const pipe = child.stdio[PIPE_FD] as Readable | null;
  try {
    const end = await new Promise<{ status: number | null; signal: string | null } | 'ready'>((resolve, reject) => {
      child.once('error', (error) => {
        reject(new ConfigError('CFG_ERR_HOST', `cannot start the service: ${describeSystemError(error)}`));
      });
      pipe?.once('data', () => {
        resolve('ready');
      });
      // 'close' comes after the pipe's end: a service that was ready and ended at once was ready.
      child.once('close', (code, by) => {
        resolve({ status: code, signal: by });
      });
    });
    if (end === 'ready') return 0;
    if (end.signal !== null) complain(`the service was killed by ${end.signal} before it was ready`);
    return 1;
  } finally {
    for (const signal of FORWARDED) process.off(signal, forward);
    pipe?.destroy();
    child.unref();
  }
}
