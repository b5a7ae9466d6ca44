/**
 * Watches the host's network while the service runs: links, addresses and routes (rtnetlink(7) notifications), the
 * neighbour table, and resolv.conf(5). It only says *that* something changed (`onChange`, a little later and once for
 * many changes: they come in rows) and what the neighbours are (`onNeighbours`); reading and deciding is the caller's.
 *
 * Nothing here is fatal: without a netlink socket or a watch the service keeps its configuration, and logs that once.
 */
import { type FSWatcher, realpathSync, watch } from 'node:fs';
import { constants } from 'node:os';
import { basename, dirname } from 'node:path';
import { describeErrno, ENOBUFS } from '../errors';
import { type Native, POLL_IN } from '../native';
import { applyNeighbours, type Neighbours, RTM_GETNEIGH } from './host-neighbours';
import { AF_UNSPEC, concernsGuest, DATAGRAM_MAX, dumpRequest } from './netlink';

// linux/rtnetlink.h
const RTMGRP_LINK = 0x1;
const RTMGRP_NEIGH = 0x4;
const RTMGRP_IPV4_IFADDR = 0x10;
const RTMGRP_IPV4_ROUTE = 0x40;
const RTMGRP_IPV6_IFADDR = 0x100;
const RTMGRP_IPV6_ROUTE = 0x400;
/** RTNLGRP_NEXTHOP, the last group that the bits of an address can name. Kernels before 5.3 leave it out. */
const RTMGRP_NEXTHOP = 1 << 31;
const NETWORK_GROUPS =
  RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE | RTMGRP_NEXTHOP;

/** Datagrams read in one go: the rest is left to the next call of the loop. */
const DATAGRAMS_PER_TURN = 256;
/** Changes come in rows (an address, its routes, then the resolvers). */
const SETTLE_MS = 300;
/** Minimum time between two reads of the host's network, since one may dump a large routing table. */
const LOOK_MS = 1000;
/** What failed for want of descriptors or memory is tried again after this. */
const AGAIN_MS = 1000;
/** The same for watches of resolv.conf: a user's limit of those may be used up for long. */
const WATCH_AGAIN_MS = 10_000;
/** Neighbours change all the time on a busy link. */
const NEIGHBOURS_MS = 100;

/** Of these a host runs out, and has some again. */
const { EMFILE, ENFILE, ENOMEM, ENOSPC } = constants.errno;
const SHORTAGES: ReadonlySet<number> = new Set([EMFILE, ENFILE, ENOMEM, ENOSPC, ENOBUFS]);

/** Takes a datagram of socket `fd`, or null: some were lost. */
type Take = (bytes: Uint8Array | null, fd: number) => void;

type MonitorIo = Pick<Native, 'netlinkOpen' | 'read' | 'write' | 'close' | 'pollStart' | 'pollStop'>;

export interface MonitorOptions {
  readonly native: MonitorIo;
  readonly log: (level: 'debug' | 'warn', message: string) => void;
  /** Links, addresses, routes or resolvers may have changed. */
  readonly onChange: () => void;
  /** The neighbours of all interfaces; the map is the monitor's. null: they are not watched. */
  readonly onNeighbours: ((table: Neighbours) => void) | null;
  /** Whether the family (AF_INET, AF_INET6) has a default route: then other routes do not matter. */
  readonly hasDefaultRoute: (family: number) => boolean;
  /** Another file than /etc/resolv.conf; null: none is watched. */
  readonly resolvConf?: string | null | undefined;
  /** Watches resolv.conf where we cannot, and returns what ends that; null: it cannot now. */
  readonly watchResolvers?: (changed: () => void) => (() => void) | null;
}

export class HostMonitor {
  private readonly options: MonitorOptions;
  private readonly neighbours: Neighbours = new Map();
  private readonly sockets: { fd: number; poll: number }[] = [];
  private watchers: Pick<FSWatcher, 'close'>[] = [];
  private settling: NodeJS.Timeout | null = null;
  private telling: NodeJS.Timeout | null = null;
  private asking: NodeJS.Timeout | null = null;
  private looking: NodeJS.Timeout | null = null;
  private watching: NodeJS.Timeout | null = null;
  /** Sockets that could not be had yet. */
  private readonly opening = new Set<NodeJS.Timeout>();
  /** When `onChange` was last called (performance.now()). */
  private looked = -Infinity;

  constructor(options: MonitorOptions) {
    this.options = options;
  }

  start(): void {
    this.open(NETWORK_GROUPS, (bytes) => {
      if (bytes === null || concernsGuest(bytes, this.options.hasDefaultRoute)) this.changed();
    });
    this.watchResolvers();
    if (this.options.onNeighbours === null) return;
    this.open(
      RTMGRP_NEIGH,
      (bytes, fd) => {
        // After an overflow the table is not what the notifications made it: it is read again.
        if (bytes === null) this.dumpNeighbours(fd);
        else if (applyNeighbours(bytes, this.neighbours)) this.tell();
      },
      (fd) => {
        this.dumpNeighbours(fd);
      },
    );
  }

  stop(): void {
    for (const { fd, poll } of this.sockets) {
      this.options.native.pollStop(poll);
      this.options.native.close(fd);
    }
    this.sockets.length = 0;
    for (const watcher of this.watchers) watcher.close();
    this.watchers = [];
    if (this.settling !== null) clearTimeout(this.settling);
    if (this.telling !== null) clearTimeout(this.telling);
    if (this.asking !== null) clearTimeout(this.asking);
    if (this.looking !== null) clearTimeout(this.looking);
    if (this.watching !== null) clearTimeout(this.watching);
    for (const timer of this.opening) clearTimeout(timer);
    this.opening.clear();
  }

  /**
   * Calls `take` with each datagram, and with null when some were lost, after those that were not: a dump requested
   * then is newer than all of them. `opened` is called once, with the descriptor: later, if the host has no descriptor,
   * memory or watch left now; changes until then count as lost.
   */
  private open(groups: number, take: Take, opened?: (fd: number) => void, late = false): void {
    const { log } = this.options;
    const fd = this.listen(groups, take);
    if (fd >= 0) {
      if (late) log('warn', "changes of the host's network are followed again");
      opened?.(fd);
      if (late) take(null, fd);
      return;
    }
    const again = SHORTAGES.has(-fd);
    if (!late || !again) {
      const when = again ? '; trying again' : '';
      log('warn', `cannot follow changes of the host's network: ${describeErrno(fd)}${when}`);
    }
    if (!again) return;
    const timer = setTimeout(() => {
      this.opening.delete(timer);
      this.open(groups, take, opened, true);
    }, AGAIN_MS);
    this.opening.add(timer);
  }

  /** Opens and watches a netlink socket. Returns its descriptor or -errno. */
  private listen(groups: number, take: Take): number {
    const { native } = this.options;
    const fd = native.netlinkOpen(groups);
    if (fd < 0) return fd;
    const buffer = new Uint8Array(DATAGRAM_MAX);
    let lost = false;
    const poll = native.pollStart(fd, POLL_IN, () => {
      for (let i = 0; i < DATAGRAMS_PER_TURN; i++) {
        const got = native.read(fd, buffer, 0, buffer.length);
        if (got > 0) {
          take(buffer.subarray(0, got), fd);
        } else if (got === -ENOBUFS) {
          // The kernel had more to say than the socket holds.
          lost = true;
        } else {
          if (lost) take(null, fd);
          lost = false;
          return;
        }
      }
    });
    if (poll < 0) {
      native.close(fd);
      return poll;
    }
    this.sockets.push({ fd, poll });
    return fd;
  }

  /** The answer comes as notifications do. */
  private dumpNeighbours(fd: number): void {
    this.neighbours.clear();
    const request = dumpRequest(RTM_GETNEIGH, AF_UNSPEC, 1);
    // Without room for the question there are no neighbours, which is to be asked again.
    if (this.options.native.write(fd, request, 0, request.length) < 0) {
      this.asking ??= setTimeout(() => {
        this.asking = null;
        this.dumpNeighbours(fd);
      }, AGAIN_MS);
    }
    this.tell();
  }

  private changed(): void {
    if (this.settling !== null) return;
    const wait = Math.max(SETTLE_MS, this.looked + LOOK_MS - performance.now());
    this.settling = setTimeout(() => {
      this.settling = null;
      this.looked = performance.now();
      // Before the file is read: what happens to it from then on is seen.
      this.watchResolvers();
      this.options.onChange();
    }, wait);
  }

  /** Calls `onChange` in a while: the host's network could not be read now. */
  lookAgain(): void {
    this.looking ??= setTimeout(() => {
      this.looking = null;
      this.changed();
    }, AGAIN_MS);
  }

  /** Calls `onNeighbours`, a little later. */
  tell(): void {
    this.telling ??= setTimeout(() => {
      this.telling = null;
      this.options.onNeighbours?.(this.neighbours);
    }, NEIGHBOURS_MS);
  }

  /**
   * Watches the file's directory, that of what it links to, and the file itself, which may be mounted over another
   * directory's. A file that is replaced is another one, and directories come and go, so the watches are replaced
   * with every look.
   */
  private watchResolvers(): void {
    for (const watcher of this.watchers) watcher.close();
    this.watchers = [];
    const { watchResolvers, resolvConf: path = '/etc/resolv.conf' } = this.options;
    if (path === null) return;
    if (watchResolvers !== undefined) {
      const close = watchResolvers(() => this.changed());
      if (close === null) this.watchAgain();
      else this.watchers = [{ close }];
      return;
    }
    let target = path;
    try {
      target = realpathSync(path);
    } catch {
      // Not there (yet): its directory tells when it comes.
    }
    const seen = (): void => {
      this.changed();
    };
    for (const place of new Set([path, target])) {
      this.watch(dirname(place), (name) => name === null || name === basename(place), seen);
    }
    this.watch(target, () => true, seen);
  }

  /** What changed until then is seen then. */
  private watchAgain(): void {
    this.watching ??= setTimeout(() => {
      this.watching = null;
      this.changed();
    }, WATCH_AGAIN_MS);
  }

  private watch(path: string, concerns: (name: string | null) => boolean, seen: () => void): void {
    try {
      const watcher = watch(path, { persistent: false }, (_event, name) => {
        if (concerns(name)) seen();
      });
      watcher.on('error', () => undefined);
      this.watchers.push(watcher);
    } catch (error) {
      this.options.log('debug', `cannot watch ${path}: ${error instanceof Error ? error.message : String(error)}`);
      const errno = error instanceof Error && 'errno' in error ? Number(error.errno) : 0;
      if (SHORTAGES.has(-errno)) this.watchAgain();
    }
  }
}
