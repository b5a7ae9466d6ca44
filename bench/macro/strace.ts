/** System calls of a running back-end, counted by strace. */
import { readFileSync } from 'node:fs';
import { ManagedProcess, dieWithParent } from '../../test/support/world/processes';
import { processesOfGroup } from './probes';

const ATTACH_TIMEOUT_MS = 10_000;

export interface Tracer {
  /** Lets the back-end go. @returns calls by name */
  stop(): Promise<Record<string, number>>;
}

/** Attaches to all processes and threads of a group. @throws Error when strace is not there or may not. */
export async function traceCalls(group: number, scratch: string): Promise<Tracer> {
  const file = `${scratch}/strace`;
  const pids = processesOfGroup(group).flatMap((pid) => ['-p', String(pid)]);
  const argv = ['strace', '-f', '-c', '-U', 'name,calls', '-o', file, ...pids];
  const tracer = new ManagedProcess('strace', dieWithParent(argv));
  try {
    await tracer.waitForLine(/attached/, ATTACH_TIMEOUT_MS);
  } catch (error) {
    await tracer.stop('SIGKILL');
    throw error;
  }
  return {
    stop: async () => {
      await tracer.stop('SIGINT');
      return parseSummary(readFileSync(file, 'utf8'));
    },
  };
}

/** The lines "name calls" of strace's table. */
function parseSummary(text: string): Record<string, number> {
  const calls: Record<string, number> = {};
  for (const match of text.matchAll(/^([a-z]\w*)\s+(\d+)$/gm)) {
    if (match[1] !== 'total') calls[match[1]] = Number(match[2]);
  }
  return calls;
}
