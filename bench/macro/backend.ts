/** A back-end under measurement: ours or a peer, started the same way. */
import { PROGRAM } from '../../test/support/program';
import { ManagedProcess, describeExit, poll } from '../../test/support/world/processes';
import type { Lab } from './lab';
import { OUR_NAME, type VhostUserSpec } from './options';
import { isListening } from './probes';

const START_TIMEOUT_MS = 10_000;
/** The time to listening is known this well. */
const LOOK_EVERY_MS = 1;

export const OURS: VhostUserSpec = {
  kind: 'vhost-user',
  name: OUR_NAME,
  argv: PROGRAM,
};

export interface StartedBackend {
  readonly process: ManagedProcess;
  readonly socketPath: string;
  /** In the environment of all its processes, and of none of another back-end's. */
  readonly mark: string;
  /** From the start of the process (and of the programs that put it into its namespace) to a socket that listens. */
  readonly startMs: number;
}

/** Without what the caller's shell says to Node: a service has a clean environment. */
const CLEAN = ['env', '-u', 'NODE_EXTRA_CA_CERTS', '-u', 'NODE_OPTIONS'];

let sockets = 0;

/** Starts it in the host's namespace and waits until it listens. @throws Error with its log. */
export async function startBackend(spec: VhostUserSpec, lab: Lab, mtu: number): Promise<StartedBackend> {
  const socketPath = `${lab.scratch}/b${String(++sockets)}`;
  const options = ['--vhost-user', '--foreground', '--mtu', String(mtu), '--socket', socketPath];
  const mark = `BENCH_SOCKET=${socketPath}`;
  const started = performance.now();
  const backend = new ManagedProcess(spec.name, lab.world.inHost([...CLEAN, mark, ...spec.argv, ...options]));
  try {
    await poll(
      `${spec.name} listening`,
      () => {
        if (backend.exitStatus !== null) throw new Error(`${spec.name} ended (${describeExit(backend.exitStatus)})`);
        return isListening(lab.hostPid, socketPath) ? true : null;
      },
      START_TIMEOUT_MS,
      LOOK_EVERY_MS,
    );
    return { process: backend, socketPath, mark, startMs: performance.now() - started };
  } catch (error) {
    await backend.stop('SIGKILL');
    throw new Error(`${(error as Error).message}\n${backend.tail()}`, { cause: error });
  }
}
