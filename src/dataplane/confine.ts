/** The data plane's thread gives up the system calls that only its start needed. */
import type { MessagePort } from 'node:worker_threads';
import { type InstallNative, installFilter } from '../sandbox/install-filter';
import { CONFINED, NOT_CONFINED, type WorkerMessage } from './commands';

let answer = -1;

/**
 * `program`: the thread's filter (sandbox/seccomp.ts). Once a thread: what comes after it gets the first one's answer, as the
 * filter allows no other.
 */
export function confineThread(native: InstallNative, program: Int32Array, messages: MessagePort): number {
  if (answer >= 0) return answer;
  const why = installFilter(native, program, false);
  answer = why === null ? CONFINED : NOT_CONFINED;
  if (why !== null) {
    const message = `the data plane's system calls are not filtered: ${why}`;
    messages.postMessage({ kind: 'log', level: 'warn', message, leftOut: 0 } satisfies WorkerMessage);
  }
  return answer;
}
