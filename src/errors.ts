/**
 * Errors of the control plane. The data plane has none: it counts drops and returns codes (docs/architecture.md).
 * Match on `code`, not on the class or the text.
 */
import { getSystemErrorMap } from 'node:util';

export type ConfigErrorCode =
  /** Unknown option, missing or superfluous argument. */
  | 'CFG_ERR_USAGE'
  /** An option's value is malformed or out of range. */
  | 'CFG_ERR_VALUE'
  /** Known to passt, not (or not yet) to us. */
  | 'CFG_ERR_UNSUPPORTED'
  /** Two options contradict each other. */
  | 'CFG_ERR_CONFLICT'
  /** The host lacks something that an option needs: an interface, an address family. */
  | 'CFG_ERR_HOST'
  /** A forwarded port cannot be bound. */
  | 'CFG_ERR_BIND'
  /** The vhost-user socket cannot be opened. */
  | 'CFG_ERR_SOCKET';

/** Invalid or impossible options: one line on stderr, exit status 1. */
export class ConfigError extends Error {
  readonly code: ConfigErrorCode;

  constructor(code: ConfigErrorCode, message: string) {
    super(message);
    this.name = 'ConfigError';
    this.code = code;
  }
}

/** Linux errno values that the control plane tells apart (positive, as in errno.h). */
export {
  EACCES,
  EADDRINUSE,
  EADDRNOTAVAIL,
  EAGAIN,
  ECONNREFUSED,
  EINPROGRESS,
  EMFILE,
  ENOBUFS,
  ENOENT,
  EPERM,
} from './stack/kit/linux';

/** "permission denied" for -EACCES: takes what the addon returned. */
export function describeErrno(result: number): string {
  return getSystemErrorMap().get(result)?.[1] ?? `error ${-result}`;
}

/** Words for an error's name: "permission denied" for "EACCES". A name that is none comes back. */
export function describeErrnoName(name: string): string {
  for (const [known, words] of getSystemErrorMap().values()) if (known === name) return words;
  return name;
}

/** Why a call of node:fs and the like failed, in words: "no such file or directory". */
export function describeSystemError(error: unknown): string {
  const errno = typeof error === 'object' && error !== null && 'errno' in error ? error.errno : null;
  return typeof errno === 'number' ? describeErrno(errno) : messageOf(error);
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
