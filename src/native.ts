/**
 * The only importer of the .node file: the typed interface of the addon. Thin calls, no protocol knowledge. Unless a
 * comment says otherwise a call returns a value >= 0 or `-errno` and never throws for what the outside world does
 * (a wrong argument type throws TypeError: that is our bug).
 *
 * The addon is loaded once per thread; its table of memory regions is process-wide. Scratch tables (rows, addresses,
 * messages, epoll events) belong to the thread that loaded it.
 */
import { createRequire } from 'node:module';
import { dirname, resolve } from 'node:path';
import { addonFiles, remedy } from './addon-file';
import { messageOf } from './errors';
import { MSGS_TOTAL, ROWS_TOTAL, SCRATCH_SIZE } from './stack/scratch';
import { ADDR_SLOTS, ADDR_SLOT_SIZE } from './stack/ports';
import type { SpliceIo } from './stack/splice/io';

/** What kind of file a descriptor is (`fdKind`). */
export const FD_OTHER = 0;
export const FD_EVENTFD = 1;
export const FD_SOCKET = 2; // AF_UNIX
export const FD_PIPE = 3;
export const FD_MEMORY = 4; // memfd, file of tmpfs or hugetlbfs, regular file on a local disk
export const FD_FOREIGN_SOCKET = 5; // of another family

/** Events of `pollStart` (EPOLLIN, EPOLLOUT). */
export const POLL_IN = 1;
export const POLL_OUT = 4;

/** Descriptors that wait to be closed (closer.cc): with more, a front-end has given us some that block, or floods us. */
export const MOST_UNCLOSED = 1024;

/** What the watchdog reports about a data plane: it waits in a system call; its loop is stuck. */
export const WATCHDOG_STALLED = 1;
export const WATCHDOG_HUNG = 2;

/** F_SEAL_* bits (Linux). */
export const F_SEAL_SEAL = 1;
export const F_SEAL_SHRINK = 2;
export const F_SEAL_GROW = 4;

export interface Native extends SpliceIo {
  // ---- memory.cc ----------------------------------------------------------------------------------------------
  /**
   * Maps `length` bytes at file offset `offset` (need not be page-aligned) of `fd`, shared, read-write, NORESERVE.
   * Checks that the file is that long. Returns the region's number (1 … 65535) or -errno (-EINVAL: range; -ENFILE:
   * table full; -ENOMEM: no addresses or no mappings left). The descriptor may be closed afterwards. Any thread.
   */
  mapRegion(fd: number, offset: number, length: number): number;
  /** Maps `length` bytes of private zeroed memory as a region (scratch). */
  allocRegion(length: number): number;
  /**
   * The region's memory. One SharedArrayBuffer per call over one backing store per region: shared by postMessage
   * between threads; the mapping goes when the last one is collected and the region was retired. Throws RangeError
   * for an unknown region. A view of all of it is a DataView: a typed array of V8's may have less than 2^32 elements.
   */
  regionBuffer(region: number): SharedArrayBuffer;
  regionLength(region: number): number;
  /**
   * Lets go of guest memory at once: anonymous zero pages are mapped over it, so that views which outlive it read
   * zeros. Rows naming it fail with -EFAULT from now on.
   */
  retireRegion(region: number): number;
  /**
   * This thread has let go of `regions` regions of `bytes` bytes: no view of them can be reached any more. If much
   * waits for a collection, which alone frees mappings and slots, this thread's garbage is collected at once (some 15
   * ms), and the result is 1; else 0. To be called by each thread that had views.
   */
  relieve(regions: number, bytes: number): number;
  /**
   * Number of faults in this region so far, because the front-end truncated its file: SIGBUS that was answered with
   * zero pages, and system calls that failed with -EFAULT.
   */
  regionFaults(region: number): number;
  /**
   * The process's eventfd (or -errno) that becomes readable with each fault of any region, and when a thread is given
   * up (`closerLost`). Never to be closed.
   */
  faultEvent(): number;
  /** Regions now in the table (tests: leaks). */
  regionCount(): number;
  memfdCreate(name: string, size: number, seals: number): number;
  /** File size in bytes (fstat), or -errno. */
  fileSize(fd: number): number;
  ftruncate(fd: number, size: number): number;

  // ---- unix_socket.cc -----------------------------------------------------------------------------------------
  /**
   * Listens on a unix stream socket with file mode 0600. A stale socket file is replaced; -EADDRINUSE if a process
   * answers there or the path is not a socket; -ENAMETOOLONG above 107 bytes.
   */
  unixListen(path: string, backlog: number): number;
  /** listen(2) on a socket that somebody else has bound. */
  listenOn(fd: number, backlog: number): number;
  /**
   * The path that a unix stream socket listens on, which somebody else has opened: its bytes go to `out` (108 suffice),
   * their number is returned. -ENOTSOCK; -EAFNOSUPPORT: of another family; -EPROTOTYPE: not a stream; -EINVAL: it does not
   * listen; -EADDRNOTAVAIL: it has no path.
   */
  unixListenerPath(fd: number, out: Uint8Array): number;
  unixAccept(fd: number): number;
  /**
   * The uid of who has connected a unix stream socket (SO_PEERCRED), or -errno. Where our user namespace does not know him
   * it is the broker that says, and 65534 if there is none.
   */
  peerUid(fd: number): number;
  /** Connects (the result is immediate for unix sockets: 0+ fd, -ENOENT, -ECONNREFUSED, -EAGAIN backlog full). */
  unixConnect(path: string): number;
  /**
   * A datagram socket connected to `path` (syslog, a service manager), non-blocking: a full receiver is -EAGAIN. A path
   * that begins with a zero byte is an abstract name.
   */
  unixDatagram(path: string): number;
  /** Stream socket pair: writes both to `out[0]`, `out[1]`. */
  unixPair(out: Int32Array): number;
  /**
   * recvmsg of up to `length` bytes into `buf` at `offset`, descriptors (close-on-exec) to `fds`: count in fds[0],
   * then the descriptors from fds[1] on. At most fds.length - 1 (<= 64); if more came all are closed, later, and
   * -EMSGSIZE is returned; the same with -EMFILE if some found no place in this process (MSG_CTRUNC). The bytes are
   * gone then. 0 = end of stream. -EAGAIN when empty.
   */
  recvFds(fd: number, buf: Uint8Array, offset: number, length: number, fds: Int32Array): number;
  /**
   * sendmsg with `fdCount` descriptors (<= 253, SCM_MAX_FD) taken from fds[0…]. Of no bytes: 0, or -EPIPE where the peer
   * has closed its socket.
   */
  sendFds(fd: number, buf: Uint8Array, offset: number, length: number, fds: Int32Array, fdCount: number): number;

  // ---- event_fd.cc --------------------------------------------------------------------------------------------
  eventFd(initial: number): number;
  /**
   * Writes 1 (8 bytes) to an eventfd, pipe or unix socket (no SIGPIPE). 0 or -errno. Does not block on an eventfd or
   * socket whatever its flags are and whatever other holders do; on a pipe it may, where Linux is older than 6.4, and
   * an eventfd, where Linux is older than 5.8 or gives no AIO. So not for a descriptor of a front-end: `signalLater`.
   */
  signal(fd: number): number;
  /**
   * As `signal`, in one system call, for a descriptor of which `fdKind` was asked before.
   */
  notify(fd: number, kind: number): number;
  /** Reads and clears: the 8-byte counter's low 31 bits, 0 if nothing was there, or -errno. Never blocks. */
  drain(fd: number): number;
  /**
   * FD_*, found out without asking the descriptor's file system, which may be silent. -EBADF: there is none. -ENOMEM,
   * -EMFILE, -ENFILE: it could not be found out now.
   */
  fdKind(fd: number): number;
  /**
   * Which file it is, without asking its file system: `out[0…3]` become its device's major and minor number and the
   * high and low 32 bits of its inode. 0 or -errno.
   */
  fileId(fd: number, out: Int32Array): number;
  setNonBlocking(fd: number): number;

  // ---- closer.cc: descriptors of a front-end, on a thread that may be lost ------------------------------------------
  /**
   * Closes a descriptor that came from a front-end, or a unix socket that may have such ones in its queue: soon, after
   * the jobs before it, on another thread. The number stays taken until then. Never blocks.
   */
  closeLater(fd: number): number;
  /**
   * `signal` for a front-end's descriptor, after the jobs before it, on that thread. At most 256 wait. Never blocks.
   */
  signalLater(fd: number): number;
  /**
   * Waits until no job is left, `mostMs` ms at the most; with 0, only asks. Returns how many are left, without those
   * whose thread was given up.
   */
  closerWait(mostMs: number): number;
  /** Threads that were given up, because a call on a descriptor took longer than a second, and did not come back. */
  closerLost(): number;
  /** When (`nowUs`) the job was given whose thread was given up last; 0: none ever was. */
  closerLostAt(): number;

  // ---- watch.cc: libuv, for threads with an ordinary event loop ---------------------------------------------------
  /** Calls `callback(events)` (POLL_IN, POLL_OUT, HUP/ERR = 8) on this thread's libuv loop while fd is ready
   *  (level-triggered). Returns a handle >= 0. The handle keeps the loop alive. */
  pollStart(fd: number, events: number, callback: (events: number) => void): number;
  pollChange(handle: number, events: number): number;
  /** Must come before the descriptor is closed. */
  pollStop(handle: number): number;

  // ---- watchdog.cc: see there for what it watches and why -------------------------------------------------------
  /**
   * Starts the watchdog's thread, once a process. Returns a descriptor that is readable when `watchdogRead` has news.
   */
  watchdogStart(): number;
  /** Pairs of a data plane's id and what is wrong with it: WATCHDOG_STALLED, WATCHDOG_HUNG. Returns how many pairs. */
  watchdogRead(out: Int32Array): number;
  /** Has this thread watched as data plane `id` (> 0), from now on until it ends. */
  watchdogEnter(id: number): number;
  /**
   * Has this thread's libuv loop watched: the process ends with `status` if it hangs for `limitMs` while work waits.
   */
  watchdogMain(limitMs: number, status: number): number;
  /**
   * Data plane `id` is given up: JavaScript of its thread does not go on behind the call it is in. -ESRCH: it is gone.
   */
  condemn(id: number): number;
  /** Condemned threads that have not ended. Node would wait for them at its end: see `exitNow`. */
  strays(): number;
  /**
   * From now on SIGTERM, SIGINT, SIGQUIT and SIGHUP end the process with status 1 if it has not ended `limitMs` later,
   * whatever it hangs in. What they do besides stays, so it must have been said before.
   */
  endOnSignals(limitMs: number): number;
  /** Ends the process with status 1 in `limitMs`, if it has not ended by then. */
  endWithin(limitMs: number): number;
  /** _exit(2): waits for no thread and runs no handler. */
  exitNow(status: number): number;
  /** Gives memory that the C library keeps for later back to the system, where it can (malloc_trim(3)). Takes a millisecond. */
  trimHeap(): number;

  // ---- epoll.cc: for the data plane ---------------------------------------------------------------------------
  /** Makes this thread's epoll set, which HostIo.watch/rewatch/unwatch use. Returns its fd. */
  epollInit(): number;
  /**
   * Waits up to `timeoutUs` µs (-1: no limit, 0: poll) on this thread's set. Returns the number of events n; event i
   * is epollOut[3i] = key, [3i + 1] = generation, [3i + 2] = events. -EINTR is returned as 0.
   */
  epollWait(timeoutUs: number): number;
  readonly epollOut: Int32Array;

  // ---- tap.cc: frames of a tap device -----------------------------------------------------------------------------
  /**
   * Reads frames of at most `most` bytes each into `region`, from `offset` on, each at the next multiple of 64, while one
   * of that length fits before `end` and `lengths` has room. Returns how many there were, or the first one's -errno
   * (-EAGAIN: none waits; -EBADFD: the device is gone). Behind the lengths is what ended it, if there is room: -errno, or 0.
   */
  tapRead(fd: number, region: number, offset: number, end: number, most: number, lengths: Int32Array): number;
  /**
   * Writes frames `first … end - 1`, of `lengths[i]` bytes at `offsets[i]` of `region`. Returns how many the kernel took;
   * -errno if it did not take the first one.
   */
  tapWrite(fd: number, region: number, offsets: Int32Array, lengths: Int32Array, first: number, end: number): number;

  // ---- listen.cc ----------------------------------------------------------------------------------------------
  /**
   * Opens a listening socket for each of `out.length` ports in a row, from the address in `slot` on: `out[i]` becomes a
   * descriptor or -errno, as for a socket of its own with SO_REUSEADDR. Once descriptors run out (-EMFILE, -ENFILE) the
   * rest is not tried. `flags`: OPEN_UDP, OPEN_DUAL, OPEN_FREEBIND; `device`: SO_BINDTODEVICE, "" for none; UDP sockets
   * get errors (RECVERR) and destinations (PKTINFO). Returns how many are open, or -EINVAL: slot, device, ports.
   */
  openPorts(slot: number, flags: number, device: string, backlog: number, out: Int32Array): number;
  /**
   * What a socket is that somebody else has opened: `out[0…6]` become its family, type and protocol (SO_DOMAIN, SO_TYPE,
   * SO_PROTOCOL), and 1 or 0 for whether it listens, is IPv6's only, is bound to a device, and is connected. 0 or -errno
   * (-ENOTSOCK, -EBADF).
   */
  socketFacts(fd: number, out: Int32Array): number;

  // ---- seccomp.cc, syscall_numbers.cc: see src/sandbox ------------------------------------------------------------
  /** AUDIT_ARCH_* of this processor, or 0: there is no filter for it. */
  seccompArchitecture(): number;
  /** The address behind the one system call instruction that the log mode's filter lets pass whatever it asks. */
  seccompGate(): number;
  /**
   * Has calls that a filter traps answered by their error and noted. Returns the eventfd (never to be closed) that is
   * readable when there is a call that was never noted before, or -errno.
   */
  seccompTrap(): number;
  /** New ones: pairs of its number (511: that or a higher one) and 1 if the data plane made it, else 0. How many pairs. */
  seccompRefused(out: Int32Array): number;
  /**
   * Installs a filter for this thread, or, with `allThreads` 1, for all: each instruction of classic BPF as four numbers
   * (code, jt, jf, k). Sets no_new_privs. 0, -errno, or the thread that has another filter already.
   */
  seccompInstall(program: Int32Array, allThreads: number): number;
  /** Numbers of system calls by `names`, separated by spaces: -1 for what this architecture has not. -EINVAL: no such name. */
  syscallNumbers(names: string, out: Int32Array): number;

  // ---- netlink.cc, misc ---------------------------------------------------------------------------------------
  /** NETLINK_ROUTE socket, bound, strict checking on where the kernel has it. `groups`: RTMGRP_* mask. */
  netlinkOpen(groups: number): number;
  /** read(2) / write(2) of up to `length` bytes of `buf` from `offset` on (netlink, cold paths). -EINVAL: range. */
  read(fd: number, buf: Uint8Array, offset: number, length: number): number;
  write(fd: number, buf: Uint8Array, offset: number, length: number): number;
  /** CLOCK_MONOTONIC in µs. */
  nowUs(): number;
  /** Fills `out` with random bits of the kernel's (getrandom). 0 or -errno. */
  randomFill(out: Int32Array): number;
  /** CLOCK_REALTIME in µs since the epoch. */
  realTimeUs(): number;
  /** Raises RLIMIT_NOFILE to its hard limit; returns the limit now in force. */
  raiseFileLimit(): number;
  /** Index of a network interface, or -errno. */
  ifIndex(name: string): number;
  getuid(): number;
  /**
   * For every thread of the process, and for good: no_new_privs; no capabilities, but with `keepPorts` 1
   * CAP_NET_BIND_SERVICE, if it was there (ports below 1024 of the guest's flows); no ambient or inheritable ones; none in
   * the bounding set where that may be changed; the rules of descriptor `landlock`, unless it is -1. Returns how many
   * threads could not be reached within a second (0 as a rule), or -errno.
   */
  confine(keepPorts: number, landlock: number): number;
  /** PR_SET_DUMPABLE: 0 keeps other processes of our user from our memory. */
  setDumpable(on: number): number;

  // ---- landlock.cc, room.cc: see src/sandbox ------------------------------------------------------------------------
  /**
   * A ruleset (its descriptor) under which files may be read and nothing else: not written, made, removed or executed; and
   * no abstract socket or process outside be reached, where the kernel has that. `keepRemoving` 1: files may be removed.
   */
  landlockRules(keepRemoving: number): number;
  /**
   * Makes a root directory for the process that has `paths` (absolute, separated by NUL), read-only, and nothing else. On
   * failure (-errno) `failed` gets what it was about, ended by a zero, and the old root directory is kept.
   */
  enterRoom(paths: string, failed: Uint8Array): number;

  // ---- broker.cc: see src/sandbox/broker.ts -------------------------------------------------------------------------
  /** From now on descriptor `fd` leads to the broker, which binds ports below 1024 for us if `mayBind` is 1. */
  brokerUse(fd: number, mayBind: number): number;
  /**
   * A request to the broker (BrokerOp of addon/broker_protocol.h) and its answer: a descriptor, 0, or -errno; -ETIMEDOUT
   * after a second. `out` gets the text of the reply, ended by a zero.
   */
  brokerCall(op: number, a: number, b: number, text: string, out: Uint8Array): number;
  /** Gives the broker a filter of system calls (as `seccompInstall`), its last one. 0 or -errno. */
  brokerFilter(program: Int32Array): number;
  /** dup2 and close: `to` becomes what `from` was. Close-on-exec unless `to` is a standard stream. */
  moveFd(from: number, to: number): number;
  /** Another descriptor for what `fd` is, close-on-exec; or -errno. */
  dupFd(fd: number): number;
  /** Marks every descriptor from `first` on close-on-exec: programs started later inherit what they are given only. */
  closeOnExec(first: number): number;
  /** ids[0] and ids[1] become the uid and gid (unsigned bits) of an account. -ENOENT: there is none. */
  lookupUser(name: string, ids: Int32Array): number;
  /** gid of a group, or -ENOENT. */
  lookupGroup(name: string): number;
}

/** What the addon exports beside the interface: what it was built for. */
interface Built {
  /** NODE_MODULE_VERSION: the addon uses V8 in one place, so it belongs to one Node ABI. */
  readonly abi: number;
}

/** The package's root seen from src/ as from dist/: both lie directly in it. */
export const PACKAGE_ROOT = resolve(__dirname, '..');

/** Why the addon cannot be used with this Node and these sources, or null. */
function mismatch(native: Native & Built): string | null {
  if (String(native.abi) !== process.versions.modules) return `is built for another Node (ABI ${String(native.abi)})`;
  const same =
    native.rows.capacity === ROWS_TOTAL &&
    native.msgRow.length === MSGS_TOTAL &&
    native.addrs.byteLength === ADDR_SLOTS * ADDR_SLOT_SIZE &&
    native.scratch.byteLength === SCRATCH_SIZE;
  return same ? null : 'is of another version of Tubetti';
}

/** The addon in a file, or why it cannot be used. */
function open(file: string): (Native & Built) | string {
  let native: Native & Built;
  try {
    native = createRequire(__filename)(file) as Native & Built;
  } catch (error) {
    // The dynamic linker's: the processor, the C library or a symbol of Node's.
    return `cannot be loaded (${messageOf(error).split('\n')[0]})`;
  }
  return mismatch(native) ?? native;
}

let loaded: { readonly native: Native; readonly file: string } | null = null;

function load(): { readonly native: Native; readonly file: string } {
  let why: string | null = null;
  for (const file of addonFiles(PACKAGE_ROOT)) {
    const found = open(file);
    if (typeof found !== 'string') return { native: Object.create(found) as Native, file };
    why ??= found;
  }
  const node = `Node ${process.version} (ABI ${process.versions.modules}, ${process.platform}-${process.arch})`;
  const what = why === null ? `no native addon for ${node}` : `the native addon ${why}, this is ${node}`;
  throw new Error(`${what}: ${remedy(PACKAGE_ROOT)}`);
}

/**
 * Loads the addon. Throws one clear Error if there is none, or none for this Node and version.
 *
 * The same object is returned to every caller of a thread: its scratch tables and its epoll set are the thread's.
 *
 * It inherits what the addon exports. V8 stores an object with that many properties from C++ as a hash table, and each
 * access of the data plane a call that looks it up; a prototype is laid out for its heirs, and compiled code has what
 * it holds at hand.
 */
export function loadNative(): Native {
  loaded ??= load();
  return loaded.native;
}

/** The directory that the addon of this thread came from: threads that start later load it again. */
export function addonDirectory(): string {
  loaded ??= load();
  return dirname(loaded.file);
}
