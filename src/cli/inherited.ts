/**
 * Descriptors that the caller left open by mistake: they would live as long as the service, and block processes that
 * wait for the end of a pipe, or keep a file or a port. Node opens files of its own before the first line of ours runs
 * and marks all others close-on-exec as it does its own, so they are told apart by what they are: at this moment Node
 * holds event loops (epoll, eventfd), pipes of which both ends are here, and /dev/null. What is none of these was
 * inherited.
 */
import { FIRST_AFTER_STDIO } from './background-service';
import { ConfigError } from '../errors';
import { FD_FOREIGN_SOCKET, FD_SOCKET, type Native } from '../native';
import { closeSync, fstatSync, readdirSync, readlinkSync, statSync } from 'node:fs';

/** Throws ConfigError if the descriptor of `--fd` is none of a socket: before anything is made or said for it. */
export function checkGiven(fd: number, native: Pick<Native, 'fdKind'>): void {
  const kind = native.fdKind(fd);
  if (kind === FD_SOCKET || kind === FD_FOREIGN_SOCKET) return;
  throw new ConfigError('CFG_ERR_SOCKET', `--fd ${fd}: descriptor ${fd} is not a socket`);
}

interface Held {
  readonly fd: number;
  readonly target: string;
}

function held(): Held[] {
  return readdirSync('/proc/self/fd').flatMap((name) => {
    try {
      return [{ fd: Number(name), target: readlinkSync(`/proc/self/fd/${name}`) }];
    } catch {
      return []; // the directory itself, which was open to be read
    }
  });
}

/** Whether another descriptor of ours is the same file: of a pipe that means that both its ends are here. */
function isPaired({ fd, target }: Held, all: readonly Held[]): boolean {
  return all.some((other) => other.fd !== fd && other.fd >= FIRST_AFTER_STDIO && other.target === target);
}

/** Whether it is something that Node itself holds, as far as that can be told. */
export function isHeldByNode(fd: number): boolean {
  const all = held();
  const one = all.find((each) => each.fd === fd);
  return (
    one !== undefined &&
    (one.target.startsWith('anon_inode:') || (one.target.startsWith('pipe:') && isPaired(one, all)))
  );
}

/** Whether a debugger's sockets may be among the descriptors. */
function isDebugged(): boolean {
  return [...process.execArgv, process.env.NODE_OPTIONS ?? ''].some((option) => option.includes('--inspect'));
}

/** Closes them, but for those in `keep`. To be called before anything of ours is open. */
export function closeInherited(keep: readonly number[]): void {
  if (isDebugged()) return;
  const channel = (process.channel as { readonly fd?: number } | undefined)?.fd ?? -1;
  const all = held();
  const nullDevice = statSync('/dev/null').rdev;
  for (const each of all) {
    const { fd } = each;
    if (fd < FIRST_AFTER_STDIO || fd === channel || keep.includes(fd)) continue;
    const paired = isPaired(each, all);
    try {
      const stat = fstatSync(fd);
      const foreign =
        stat.isSocket() ||
        stat.isFile() ||
        stat.isDirectory() ||
        stat.isBlockDevice() ||
        (stat.isCharacterDevice() && stat.rdev !== nullDevice) ||
        (stat.isFIFO() && !paired);
      if (foreign) closeSync(fd);
    } catch {
      // It is gone.
    }
  }
}
