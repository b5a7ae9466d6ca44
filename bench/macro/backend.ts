/** A back-end under measurement: ours or a peer, started the same way. */
import { join } from 'node:path';
import { REPO_ROOT } from '../../test/support/rig/paths';
import { ManagedProcess, describeExit, poll } from '../../test/support/rig/processes';
import type { Lab } from './lab';
import { OUR_NAME, type BackendSpec } from './options';
import { isListening } from './probes';

const START_TIMEOUT_MS = 10_000;

export const OURS: BackendSpec = { name: OUR_NAME, argv: [process.execPath, join(REPO_ROOT, 'bin/tubetti.js')] };

/** Starts it in the host's namespace and waits until it listens. @throws Error with its log. */
export async function startBackend(
  spec: BackendSpec,
  lab: Lab,
  socketPath: string,
  mtu: number,
): Promise<ManagedProcess> {
  const options = ['--vhost-user', '--foreground', '--mtu', String(mtu), '--socket', socketPath];
  const backend = new ManagedProcess(spec.name, lab.world.inHost([...spec.argv, ...options]));
  try {
    await poll(
      `${spec.name} listening`,
      () => {
        if (backend.exitStatus !== null) throw new Error(`${spec.name} ended (${describeExit(backend.exitStatus)})`);
        return isListening(lab.hostPid, socketPath) ? true : null;
      },
      START_TIMEOUT_MS,
    );
  } catch (error) {
    await backend.stop('SIGKILL');
    throw new Error(`${(error as Error).message}\n${backend.tail()}`, { cause: error });
  }
  return backend;
}
