/** A front-end that says what it is told, which the prober keeps (src/probe), and what only tests need of it. */
import { readdirSync } from 'node:fs';

export {
  RawFrontEnd as MockFrontEnd,
  encode,
  type ReplyMessage,
  type SendOptions,
} from '../../../src/probe/raw-front-end';

/** Descriptors this process has open. */
export function countFds(): number {
  return readdirSync('/proc/self/fd').length;
}
