/**
 * UNIX sockets of the host's that are forwarded into the guest (`-t unix:PATH:PORT`): their files. At the start we make them
 * ourselves; behind the door it is the broker that does, in directories that were named to it before.
 */
import { constants } from 'node:os';
import { unlinkSync } from 'node:fs';
import type { ListenerIo, PassedSockets, UnixSockets } from '../config/forward-listeners';
import { EADDRINUSE, EPERM } from '../errors';
import { identifyFile } from '../files';
import type { Native } from '../native';
import { type Broker, FIRST_FORWARD, MAX_UNIX_FORWARDS } from '../sandbox/broker';

const BACKLOG = 128;
const { ENOSPC } = constants.errno;

export type ForwardSocketsIo = Pick<Native, 'unixListen' | 'listenOn' | 'close'>;
export type ForwardSocketsBroker = Pick<Broker, 'listensFor' | 'bindsPath' | 'removeSocket'>;

interface Opened {
  readonly path: string;
  /** What the broker knows it by. */
  readonly use: number;
  /** Which file it is. */
  readonly ours: string;
}

export class ForwardSockets implements UnixSockets {
  private readonly native: ForwardSocketsIo;
  private readonly broker: ForwardSocketsBroker | null;
  private readonly opened = new Map<number, Opened>();
  private behindDoor = false;

  constructor(native: ForwardSocketsIo, broker: ForwardSocketsBroker | null) {
    this.native = native;
    this.broker = broker;
  }

  /** Paths are the broker's from now on, where there is one. */
  shutDoor(): void {
    this.behindDoor = this.broker !== null;
  }

  open(path: string): number {
    const use = this.freeUse();
    if (use < 0) return -ENOSPC;
    const fd = this.behindDoor ? this.openByBroker(path, use) : this.native.unixListen(path, BACKLOG);
    if (fd < 0) return fd;
    if (!this.behindDoor) this.broker?.listensFor(use, path);
    this.opened.set(fd, { path, use, ours: this.broker === null ? identifyFile(path) : '' });
    return fd;
  }

  close(fd: number): void {
    const opened = this.opened.get(fd);
    this.native.close(fd);
    if (opened === undefined) return;
    this.opened.delete(fd);
    if (this.broker !== null) {
      this.broker.removeSocket(opened.use);
      return;
    }
    try {
      if (identifyFile(opened.path) === opened.ours) unlinkSync(opened.path);
    } catch {
      // Its directory may be closed to the user who serves, or gone.
    }
  }

  hint(error: number): string {
    switch (error) {
      case -EADDRINUSE:
        return ' (another process listens there, or it is not a socket: give another path)';
      case -ENOSPC:
        return ` (there are ${MAX_UNIX_FORWARDS} of them at most)`;
      case -EPERM:
        return this.behindDoor
          ? ' (while the service runs, only in the directory of --control or of a socket that was forwarded at the start)'
          : '';
      default:
        return '';
    }
  }

  private openByBroker(path: string, use: number): number {
    const fd = this.broker?.bindsPath(use, path) ?? -EPERM;
    const error = fd < 0 ? fd : this.native.listenOn(fd, BACKLOG);
    if (fd < 0 || error >= 0) return fd;
    this.native.close(fd);
    this.broker?.removeSocket(use);
    return error;
  }

  private freeUse(): number {
    const used = new Set([...this.opened.values()].map(({ use }) => use));
    for (let use = FIRST_FORWARD; use < FIRST_FORWARD + MAX_UNIX_FORWARDS; use++) if (!used.has(use)) return use;
    return -1;
  }
}

/** What listeners are opened with. */
export function listenerIo(native: Native, unix: UnixSockets, passed: PassedSockets): ListenerIo {
  return {
    addrs: native.addrs,
    openPorts: (slot, flags, device, backlog, out) => native.openPorts(slot, flags, device, backlog, out),
    close: (fd) => native.close(fd),
    ifIndex: (name) => native.ifIndex(name),
    unix,
    passed,
  };
}
