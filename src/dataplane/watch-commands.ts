/** The first descriptor that a data plane watches: the eventfd by which the control plane announces commands. */
import type { Native } from '../native';
import { EPOLLIN } from '../stack/ports';

/**
 * Makes the thread's epoll set, and watches `wakeFd` in it by `key`. Throws Error if the kernel has no descriptor,
 * memory or watch left: a data plane without it would wait for ever, and one that ends is replaced.
 */
export function watchCommands(native: Pick<Native, 'epollInit' | 'watch'>, wakeFd: number, key: number): void {
  const made = native.epollInit();
  const watched = made < 0 ? made : native.watch(wakeFd, EPOLLIN, key, 0);
  if (watched < 0) throw new Error(`cannot wait for events (errno ${String(-watched)})`);
}
