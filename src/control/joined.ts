/** Two byte streams, each of which carries on what the other brings. */
import type { Duplex } from 'node:stream';

/** True if all that was read and written of it has been: its close loses nothing. */
function isDone(stream: Duplex): boolean {
  return stream.errored === null && stream.readableEnded && stream.writableFinished;
}

/**
 * Bytes of each go to the other, as fast as that takes them; the end of one's bytes is that of the other's, and one that
 * breaks ends the other. Both should be half-open ones, or an answer after the end of a question is lost.
 */
export function join(one: Duplex, other: Duplex): void {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ]) {
    from.on('error', () => undefined); // 'close' follows
    from.once('close', () => {
      if (!isDone(from)) to.destroy();
    });
    from.pipe(to);
  }
}
