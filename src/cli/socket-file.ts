/** UNIX sockets of the service's that have a file: `--metrics unix:PATH`, `--control PATH` and their like. */
import { chmodSync, unlinkSync } from 'node:fs';
import { resolve } from 'node:path';
import { ConfigError, describeErrno, EADDRINUSE } from '../errors';
import { identifyFile } from '../files';
import type { Native } from '../native';
import type { Broker, SocketUse } from '../sandbox/broker';

const BACKLOG = 64;
const OWNER_ONLY = 0o600;

export type SocketIo = Pick<Native, 'unixListen' | 'unixListenerPath'>;
export type SocketBroker = Pick<Broker, 'listensFor' | 'removeSocket'>;

export interface SocketFile {
  /** Listens. The caller's. */
  readonly fd: number;
  /** Removes the file, if it is still ours. */
  readonly remove: () => void;
}

/** The listener that is wanted: the option as the user gave it, for messages, and the use that the broker knows it by. */
export interface SocketAsked {
  readonly shown: string;
  readonly path: string;
  readonly mode?: number;
  readonly use: SocketUse;
}

/** Listens at a path: the file of a service that is gone is replaced, that of another is not. Throws ConfigError. */
export function listenAtPath(asked: SocketAsked, native: SocketIo, broker: SocketBroker | null): SocketFile {
  const { shown, path, mode = OWNER_ONLY, use } = asked;
  const fd = native.unixListen(path, BACKLOG);
  if (fd < 0) {
    const hint = fd === -EADDRINUSE ? ' (another process listens there, or it is not a socket: give another path)' : '';
    throw new ConfigError('CFG_ERR_BIND', `${shown}: cannot listen: ${describeErrno(fd)}${hint}`);
  }
  // Never open for others before it is to be.
  if (mode !== OWNER_ONLY) chmodSync(path, mode);
  // We may be in another directory at the end.
  const full = resolve(path);
  const ours = identifyFile(full);
  broker?.listensFor(use, full);
  const remove = (): void => {
    if (broker !== null) {
      broker.removeSocket(use);
      return;
    }
    try {
      if (identifyFile(full) === ours) unlinkSync(full);
    } catch {
      // Its directory may be closed to the user who serves, or gone.
    }
  };
  return { fd, remove };
}
