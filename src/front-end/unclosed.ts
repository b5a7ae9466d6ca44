/** Waits, with a deadline, until the helper thread has closed a front-end's descriptors (closer.cc). */
import type { Native } from '../native';

const SHUT_RDWR = 2;

/** Turns of the loop before time is counted: mostly that thread needs no longer. */
const TURNS = 20;
const LOOK_MS = 5;
const MOST_MS = 500;

/**
 * Settles with true when all are closed, or with false half a second later: then one blocks, and is left to its thread.
 */
export async function whenClosed(native: Native): Promise<boolean> {
  for (let turn = 0; turn < TURNS; turn++) {
    if (native.closerWait(0) === 0) return true;
    await new Promise((resolve) => setImmediate(resolve));
  }
  const deadline = native.nowUs() + MOST_MS * 1000;
  while (native.nowUs() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    if (native.closerWait(0) === 0) return true;
  }
  return false;
}

/**
 * Closes a front-end's socket, with whatever descriptors lie unread in it. The peer sees the end at once, also while
 * the closer is behind.
 */
export function closeConnection(native: Native, fd: number): void {
  native.shutdown(fd, SHUT_RDWR);
  native.closeLater(fd);
}
