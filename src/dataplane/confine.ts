/** The data plane's thread gives up the system calls that only its start needed. */
import type { MessagePort } from 'node:worker_threads';
import type { SandboxMode } from '../sandbox/layer';
import { installDataPlaneSeccomp, type SeccompNative } from '../sandbox/seccomp';
import { CONFINED, NOT_CONFINED, type WorkerMessage } from './commands';

let answer = -1;

/** Once a thread: what comes after it gets the first one's answer, as the filter allows no other. */
export function confineThread(native: SeccompNative, mode: SandboxMode, messages: MessagePort): number {
  if (answer >= 0) return answer;
  const layer = installDataPlaneSeccomp(native, mode);
  answer = layer.state === 'on' ? CONFINED : NOT_CONFINED;
  if (layer.state === 'missing') {
    const message = `the data plane's system calls are not filtered: ${layer.why ?? ''}`;
    messages.postMessage({ kind: 'log', level: 'warn', message, leftOut: 0 } satisfies WorkerMessage);
  }
  return answer;
}
