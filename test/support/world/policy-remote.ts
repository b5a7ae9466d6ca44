/** The far end of tests of policies by name (test/fixtures/policy-remote.cjs): a resolver, and servers with TLS where `dir` has certificates. */
import { join } from 'node:path';
import { type HostWorld, REMOTE_ADDRESS_4 } from './host-world';
import { ManagedProcess } from './processes';

const PROGRAM = join(__dirname, '../../fixtures/policy-remote.cjs');

/** Starts it in the remote host; `names`: the addresses of each name. It is ready then. */
export async function startPolicyRemote(
  world: HostWorld,
  names: Readonly<Record<string, readonly string[]>>,
  ...dir: [] | [string]
): Promise<ManagedProcess> {
  const argv = [process.execPath, PROGRAM, JSON.stringify(names), REMOTE_ADDRESS_4, ...dir];
  const remote = new ManagedProcess('remote', world.inRemote(argv));
  await remote.waitForLine(/^ready$/, 20_000);
  return remote;
}
