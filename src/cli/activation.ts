/**
 * Socket activation (sd_listen_fds(3)): systemd, or who does as it does, listens on the socket and passes it to us as
 * descriptor 3. We listen on none of our own then, and leave the socket's file to its owner.
 */
import { statSync } from 'node:fs';
import { constants } from 'node:os';
import { resolve } from 'node:path';
import { ConfigError, describeErrno } from '../errors';
import type { Native } from '../native';
import type { Launched } from '../sandbox/launched';
import { WAITING_FD } from './background-service';
import type { Named } from './handed-over';
import type { Transport } from './options';

/** SD_LISTEN_FDS_START. */
const FIRST_PASSED = 3;
/** FileDescriptorName= of the socket unit that scrapers connect to. */
const METRICS = 'metrics';
/** More are refused whatever they are (addon/launch/words.cc). */
const MOST_PASSED = 32;
/** What sd_listen_fds_with_names(3) calls those of a manager that gives no names. */
const UNNAMED = 'unknown';
/** sockaddr_un's sun_path. */
const PATH_BYTES = 108;

const { EAFNOSUPPORT, EPROTOTYPE, EINVAL, EADDRNOTAVAIL, EBADF, ENOTSOCK } = constants.errno;

const WHO = 'systemd (LISTEN_FDS)';
const PATH_UNIT = 'give ListenStream=PATH in the socket unit';

/** What is to be said of a descriptor that cannot be served on, by errno of `unixListenerPath`. */
const WRONG: ReadonlyMap<number, string> = new Map([
  [EBADF, `is not open: ${PATH_UNIT}`],
  [ENOTSOCK, `is not a socket: ${PATH_UNIT}`],
  [EAFNOSUPPORT, `is not a unix socket: ${PATH_UNIT}, not a port`],
  [EPROTOTYPE, `is not a stream socket: ${PATH_UNIT}, not ListenDatagram= or ListenSequentialPacket=`],
  [EINVAL, 'does not listen: set Accept=no in the socket unit'],
  [EADDRNOTAVAIL, `has no path: ${PATH_UNIT}, not an abstract name`],
]);

export interface Passed {
  /** Descriptors from FIRST_PASSED on. */
  readonly count: number;
  /** LISTEN_FDNAMES, '' where there is none. */
  readonly names: string;
}

function problem(text: string): ConfigError {
  return new ConfigError('CFG_ERR_SOCKET', text);
}

/**
 * Whether what LISTEN_FDS says is meant for this process. In the background it has another number than the one that was
 * called: the launcher has looked in time, and a Node that stands in for it (background-launcher.ts) names no process.
 */
function isForUs(env: NodeJS.ProcessEnv, launched: Launched | null): boolean {
  if (env[WAITING_FD] !== undefined) return env.LISTEN_PID === undefined;
  if (launched !== null) return launched.get('listen') === 1;
  return Number(env.LISTEN_PID) === process.pid;
}

/** What was passed to us; null: nothing. Takes it out of the environment: it is meant for no other process. */
export function takePassed(env: NodeJS.ProcessEnv, launched: Launched | null): Passed | null {
  const { LISTEN_FDS: fds, LISTEN_FDNAMES: names = '' } = env;
  const ours = fds !== undefined && isForUs(env, launched);
  for (const name of ['LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES']) Reflect.deleteProperty(env, name);
  if (!ours) return null;
  if (!/^[0-9]{1,9}$/.test(fds)) throw problem(`LISTEN_FDS ${fds}: give the number of sockets that are passed`);
  const count = Number(fds);
  return count === 0 ? null : { count, names };
}

/** What is passed, as numbers of descriptors. */
export function passedFds(passed: Passed | null): number[] {
  return Array.from({ length: Math.min(passed?.count ?? 0, MOST_PASSED) }, (_, i) => FIRST_PASSED + i);
}

/** Sockets that were passed, by what they are for. */
export interface Sorted {
  /** Descriptor of the one that is named `metrics`; null: none. */
  readonly metrics: number | null;
  /** Sources of forwards. */
  readonly forwards: readonly Named[];
  /** The others, and the first one's descriptor. */
  readonly frontEnds: Passed | null;
  readonly first: number;
}

/** What sockets may be for beside front-ends and scrapers. */
export interface Wanted {
  /** Names that forwards have. */
  readonly names: ReadonlySet<string>;
  /** Further forwards can come while the service runs. */
  readonly later: boolean;
  /** True if a descriptor is a socket of IPv4 or IPv6. */
  readonly isPort: (fd: number) => boolean;
}

/**
 * Where forwards can have them, sockets of IPv4 and IPv6 are theirs, whatever they are named. Throws ConfigError where
 * several are for scrapers, or there are too many.
 */
export function sorted(passed: Passed | null, { names, later, isPort }: Wanted): Sorted {
  if (names.has(METRICS)) throw problem(`fd:${METRICS}: the socket of that name is for scrapers, give it another name`);
  if (passed === null) return { metrics: null, forwards: [], frontEnds: null, first: FIRST_PASSED };
  const { count } = passed;
  if (count > MOST_PASSED) throw problem(`${WHO} has passed ${count} sockets: give at most ${MOST_PASSED}`);
  const given = passed.names === '' ? [] : passed.names.split(':').slice(0, count);
  const all = Array.from({ length: count }, (_, i) => ({ fd: FIRST_PASSED + i, name: given[i] ?? UNNAMED }));
  const scraped = all.filter(({ name }) => name === METRICS);
  if (scraped.length > 1) throw problem(`${WHO} has passed several sockets named ${METRICS}`);
  const forwarding = names.size > 0 || later;
  const isForwarded = ({ fd, name }: Named): boolean => names.has(name) || (forwarding && isPort(fd));
  const others = all.filter(({ name }) => name !== METRICS);
  const frontEnds = others.filter((one) => !isForwarded(one));
  return {
    metrics: scraped.at(0)?.fd ?? null,
    forwards: others.filter(isForwarded),
    frontEnds:
      frontEnds.length === 0
        ? null
        : { count: frontEnds.length, names: given.length === 0 ? '' : frontEnds.map(({ name }) => name).join(':') },
    first: frontEnds.at(0)?.fd ?? FIRST_PASSED,
  };
}

/** What a background service finds in its environment when a new Node is started for it, where it is handed the socket. */
export const HANDED_ON: Readonly<NodeJS.ProcessEnv> = { LISTEN_FDS: '1' };

function isSameFile(one: string, other: string): boolean {
  if (resolve(one) === resolve(other)) return true;
  const [a, b] = [one, other].map((path) => statSync(path, { bigint: true, throwIfNoEntry: false }));
  return a !== undefined && a.dev === b?.dev && a.ino === b.ino;
}

/**
 * Where front-ends come from, with a socket that was passed. Throws ConfigError where it is none to serve on, or the command
 * line wants another. `first`: its descriptor. `own`: descriptors that are ours, one of which may have the number of a socket that was not passed.
 */
export function activated(
  given: Transport,
  passed: Passed,
  own: readonly number[],
  native: Pick<Native, 'unixListenerPath'>,
  first = FIRST_PASSED,
): Transport {
  if (given.kind !== 'listen')
    throw problem(`--${given.kind}: ${WHO} has passed a socket to listen on, give only one of the two`);
  if (passed.count > 1) {
    const names = passed.names === '' ? '' : ` (${passed.names})`;
    throw problem(`${WHO} has passed ${passed.count} sockets${names}: give one ListenStream= in the socket unit`);
  }
  const out = Buffer.alloc(PATH_BYTES);
  const length = own.includes(first) ? -EBADF : native.unixListenerPath(first, out);
  if (length < 0) {
    const what = WRONG.get(-length) ?? `cannot be used: ${describeErrno(length)}`;
    throw problem(`descriptor ${first} of ${WHO} ${what}`);
  }
  const path = out.toString('utf8', 0, length);
  if (given.path !== null && !isSameFile(given.path, path)) {
    throw problem(`--socket ${given.path}: ${WHO} has passed a socket that listens on ${path}: leave --socket out`);
  }
  return { kind: 'listen', path, opened: first };
}
