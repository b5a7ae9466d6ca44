/**
 * Opening the files that the user names. None of them may make us wait (a FIFO without a reader, a device), and none
 * may become somebody else's: in a directory that others may write to, a symbolic link that they put there would let
 * them choose which of the user's files we write to.
 *
 * `open` never waits and makes what is open known before anything is done with it: fstat of the descriptor, not of the
 * path, which may be another file by then.
 */
import * as fs from 'node:fs';
import { dirname, isAbsolute, join, resolve } from 'node:path';

/** Links in a row that are followed, as in Linux. */
const MAX_LINKS = 40;
/** Group and others may write. */
const OTHERS_WRITE = 0o022;

export interface OpenedFile {
  readonly fd: number;
  readonly stat: fs.Stats;
}

/** Why a file was refused; reads as the end of "--log-file PATH: cannot write: ". */
export class FileRefused extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'FileRefused';
  }
}

/** Streams of ours by name: the kernel's links to them are not like others. */
const OWN_STREAM = /^\/(?:dev\/(?:stdin|stdout|stderr|fd\/[0-9]+)|proc\/self\/fd\/[0-9]+)$/;

/**
 * Whether `stat`, of the file at `path`, can be relied on to be there by our will or that of the directory's owner: the
 * rule of fs.protected_symlinks and fs.protected_regular, for every directory that others may write to.
 */
function isTrusted(path: string, { uid }: fs.Stats): boolean {
  const directory = fs.statSync(dirname(path));
  return (directory.mode & OTHERS_WRITE) === 0 || uid === process.geteuid?.() || uid === directory.uid;
}

/**
 * The path of `path` with the links of its last component followed; a link that others may have put there is refused,
 * as the kernel does itself where fs.protected_symlinks is on: in a directory that others may write to, the link's
 * owner must be us or the directory's owner. The directories on the way are the user's choice.
 */
function followLinks(path: string): string {
  let at = resolve(path);
  for (let n = 0; n < MAX_LINKS; n++) {
    if (OWN_STREAM.test(at)) return at;
    const link = fs.lstatSync(at, { throwIfNoEntry: false });
    if (link?.isSymbolicLink() !== true) return at;
    if (!isTrusted(at, link)) {
      throw new FileRefused(`${at} is a symbolic link of another user, in a directory that others can write to`);
    }
    const target = fs.readlinkSync(at);
    at = isAbsolute(target) ? target : join(dirname(at), target);
  }
  throw new FileRefused('too many symbolic links');
}

function kindOf(stat: fs.Stats): string {
  if (stat.isDirectory()) return 'a directory';
  if (stat.isFIFO()) return 'a pipe';
  if (stat.isSocket()) return 'a socket';
  return stat.isBlockDevice() ? 'a block device' : 'a device';
}

/** Opens without waiting. Throws the system's error, or FileRefused. */
function open(path: string, flags: number, allowed: (stat: fs.Stats) => boolean): OpenedFile {
  const { O_NONBLOCK, O_NOCTTY, O_NOFOLLOW } = fs.constants;
  const at = followLinks(path);
  const own = OWN_STREAM.test(at);
  let fd: number;
  try {
    // A link that takes the file's place from now on is not followed. Our own streams are links by nature.
    fd = fs.openSync(at, flags | O_NONBLOCK | O_NOCTTY | (own ? 0 : O_NOFOLLOW), 0o600);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENXIO') throw new FileRefused('it is a pipe without a reader, or a socket');
    if (code === 'ELOOP' && !own) throw new FileRefused('it became a symbolic link');
    throw error;
  }
  const stat = fs.fstatSync(fd);
  const why = !allowed(stat)
    ? `it is ${kindOf(stat)}, give a regular file`
    : own || stat.isCharacterDevice() || isTrusted(at, stat)
      ? null
      : 'it belongs to another user, in a directory that others can write to';
  if (why === null) return { fd, stat };
  fs.closeSync(fd);
  throw new FileRefused(why);
}

/** Major numbers of terminals (devices.txt): consoles, serial lines, pseudo-terminals. */
const TTY_MAJORS: ReadonlySet<number> = new Set([4, 5, 136, 137, 138, 139, 140, 141, 142, 143, 188, 204, 229]);

/** A terminal by its number: isatty needs node:tty, which an ordinary start does without. */
function isTerminal(stat: fs.Stats): boolean {
  return stat.isCharacterDevice() && TTY_MAJORS.has((stat.rdev >>> 8) & 0xfff);
}

function isDevice(stat: fs.Stats, path: string): boolean {
  return stat.isCharacterDevice() && stat.rdev === fs.statSync(path, { throwIfNoEntry: false })?.rdev;
}

/** For a log: a regular file, made if it is missing; or a terminal, /dev/null, a pipe with a reader. */
export function openForAppending(path: string): OpenedFile {
  const { O_RDWR, O_WRONLY, O_CREAT, O_APPEND } = fs.constants;
  const there = fs.statSync(followLinks(path), { throwIfNoEntry: false });
  const regular = there === undefined || there.isFile();
  // Reading is for regular files only: it would make us the reader that a pipe lacks.
  return open(path, (regular ? O_RDWR : O_WRONLY) | O_CREAT | O_APPEND, (stat) =>
    regular ? stat.isFile() : stat.isFIFO() || isDevice(stat, '/dev/null') || isTerminal(stat),
  );
}

/** For a capture, emptied: a regular file, made if it is missing; /dev/null, or a pipe with a reader. */
export function openForCapture(path: string): OpenedFile {
  const { O_WRONLY, O_CREAT, O_APPEND } = fs.constants;
  const opened = open(
    path,
    O_WRONLY | O_CREAT | O_APPEND,
    // /dev/full: people try with it what a full disk does.
    (stat) => stat.isFile() || stat.isFIFO() || isDevice(stat, '/dev/null') || isDevice(stat, '/dev/full'),
  );
  if (opened.stat.isFile()) fs.ftruncateSync(opened.fd, 0);
  return opened;
}

/** For a file that is written as a whole: regular, made if it is missing, left as it is until it is written. */
export function openForWriting(path: string): OpenedFile {
  const { O_WRONLY, O_CREAT } = fs.constants;
  return open(path, O_WRONLY | O_CREAT, (stat) => stat.isFile() || isDevice(stat, '/dev/null'));
}

/**
 * The text of a file of at most `maxBytes`, as UTF-8: a regular one, or /dev/null. A pipe only as a stream that we were
 * given (`<(…)` of a shell, /dev/stdin), whose writer is then waited for. Throws the system's error, or FileRefused.
 */
export function readText(path: string, maxBytes: number): string {
  if (OWN_STREAM.test(path) && fs.statSync(path).isFIFO()) {
    const text = fs.readFileSync(path, 'utf8');
    if (text.length > maxBytes) throw new FileRefused(`it has more than ${maxBytes} bytes`);
    return text;
  }
  const { fd } = open(path, fs.constants.O_RDONLY, (stat) => stat.isFile() || isDevice(stat, '/dev/null'));
  try {
    const buffer = Buffer.alloc(maxBytes + 1);
    let got = 0;
    for (;;) {
      // Not by its size: files of /proc say 0.
      const n = fs.readSync(fd, buffer, got, buffer.length - got, null);
      got += n;
      if (got > maxBytes) throw new FileRefused(`it has more than ${maxBytes} bytes`);
      if (n === 0) return buffer.toString('utf8', 0, got);
    }
  } finally {
    fs.closeSync(fd);
  }
}

/** Says which file is at `path`; empty if none is. @throws Error where the path cannot be followed. */
export function identifyFile(path: string): string {
  const stat = fs.lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? '' : `${stat.dev.toString()}:${stat.ino.toString()}`;
}
