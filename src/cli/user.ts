/** Changing the user (`--runas`), once everything that needs the first user's rights is open. */
import { readFileSync } from 'node:fs';
import { ConfigError, describeErrno, ENOENT, EPERM, messageOf } from '../errors';
import type { Log } from '../log';
import type { Native } from '../native';

export interface RunAs {
  readonly uid: number;
  readonly gid: number;
}

/** IDs of nobody where that account does not exist: those of the kernel's overflow user. */
const NOBODY_ID = 65534;
/** uid_t and gid_t have 32 bits; (uid_t)-1 is no user. */
const MAX_ID = 0xfffffffe;

function bad(value: string, right: string): ConfigError {
  return new ConfigError('CFG_ERR_VALUE', `--runas ${value}: ${right}`);
}

function numericId(text: string): number | null {
  if (!/^[0-9]{1,10}$/.test(text) || Number(text) > MAX_ID) return null;
  return Number(text);
}

function lookupUser(name: string, native: Native): RunAs | null {
  const ids = new Int32Array(2);
  const result = native.lookupUser(name, ids);
  if (result === -ENOENT) return null;
  if (result < 0) throw bad(name, `cannot look up the user: ${describeErrno(result)}`);
  return { uid: ids[0] >>> 0, gid: ids[1] >>> 0 };
}

function groupOf(value: string, text: string, native: Native): number {
  const number = numericId(text);
  if (number !== null) return number;
  const gid = native.lookupGroup(text);
  if (gid < 0) throw bad(value, `no such group ${text === '' ? '""' : text}, give GID or GROUP after the colon`);
  return gid;
}

/**
 * UID[:GID] or LOGIN[:GROUP], in any mixture. Without a group: the account's, or the user's number. A name that means
 * root is refused; 0 is taken, it is meant. Throws ConfigError.
 */
export function parseRunAs(value: string, native: Native): RunAs {
  const colon = value.indexOf(':');
  const user = colon < 0 ? value : value.slice(0, colon);
  const number = numericId(user);
  const ids = number === null ? lookupUser(user, native) : { uid: number, gid: number };
  if (ids === null) throw bad(value, `no such user ${user === '' ? '""' : user}, give UID[:GID] or LOGIN[:GROUP]`);
  if (number === null && ids.uid === 0) throw bad(value, `${user} is root, give another user (or 0 to stay root)`);
  return colon < 0 ? ids : { uid: ids.uid, gid: groupOf(value, value.slice(colon + 1), native) };
}

/** Whether ids here are those of the host: a root in a user namespace of its own is an ordinary user outside. */
export function isInitialUserNamespace(uidMap: string): boolean {
  return /^\s*0\s+0\s+4294967295\s*$/.test(uidMap);
}

function readUidMap(): string {
  try {
    return readFileSync('/proc/self/uid_map', 'utf8');
  } catch {
    return '';
  }
}

/**
 * The user to become: that of `--runas`, or nobody if we are the host's root, as with passt: a service that talks to a
 * hostile guest has no business being root. Null: stay. Throws ConfigError.
 */
export function resolveRunAs(value: string | null, native: Native, log: Log, uidMap = readUidMap()): RunAs | null {
  if (value !== null) return parseRunAs(value, native);
  if (native.getuid() !== 0 || !isInitialUserNamespace(uidMap)) return null;
  log.warn('started as root, changing to nobody (--runas USER for another user, --runas 0 to stay root)');
  return lookupUser('nobody', native) ?? { uid: NOBODY_ID, gid: NOBODY_ID };
}

/** The calls of `process` that change the user of all threads. */
export type Credentials = Pick<NodeJS.Process, 'setgroups' | 'setgid' | 'setuid' | 'getuid' | 'geteuid' | 'getgid'>;

/** Becomes that user for good, without supplementary groups. Throws ConfigError if that is not allowed. */
export function changeUser(to: RunAs, credentials: Credentials = process): void {
  const { setgroups, setgid, setuid } = credentials;
  if (credentials.getuid?.() === to.uid && credentials.getgid?.() === to.gid) return;
  try {
    setgroups?.call(credentials, []);
    setgid?.call(credentials, to.gid);
    setuid?.call(credentials, to.uid);
  } catch (error) {
    const denied = error instanceof Error && 'code' in error && error.code === 'EPERM';
    const why = denied ? `${describeErrno(-EPERM)}, only root may change the user` : messageOf(error);
    throw new ConfigError('CFG_ERR_HOST', `--runas: cannot become user ${to.uid}, group ${to.gid}: ${why}`);
  }
  if (credentials.geteuid?.() !== to.uid || credentials.getgid?.() !== to.gid) {
    throw new ConfigError('CFG_ERR_HOST', `--runas: the change to user ${to.uid}, group ${to.gid} had no effect`);
  }
}
