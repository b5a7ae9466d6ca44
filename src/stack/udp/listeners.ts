/** UDP sockets that the control plane opened for forwarded ports. They stay open across resets of the guest. */
import { addressWords, addrSlotRead, isUnspecified } from '../ip/address';
import type { ForwardListener } from '../config';
import { KEY_KIND_SHIFT, KEY_UDP_LISTENER } from '../context';
import { ADDR_SLOT_UDP } from '../scratch';
import type { StackContext } from '../context';
import { receiveErrorsAndMarks } from '../ip/socket-options';
import type { HostIo } from '../ports';
import { SITE_UDP_LISTENER } from '../kit/site-log';
import { EPOLLET, EPOLLIN } from '../ports';
import { isShortage, unwatchedText } from '../kit/resting';
import {
  IP_PKTINFO,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_RECVPKTINFO,
  SO_BROADCAST,
  SO_RCVBUF,
  SOL_SOCKET,
} from '../kit/linux';

/** Wanted receive buffer of a listener, which all its peers share; the kernel cuts it to net.core.rmem_max. */
const RECEIVE_BUFFER = 4 << 20;

export interface UdpListener {
  /** -1: it was removed. */
  readonly fd: number;
  /** Port on the host and port of the guest. */
  readonly port: number;
  readonly targetPort: number;
  /** Number of the user's rule; 0: of none. */
  readonly rule: number;
  /** Fixed guest-side address as four words; null: the guest's observed address. */
  readonly target: Int32Array | null;
  /** Address bound; all zero words for wildcards of any family. */
  readonly bound: Int32Array;
  wildcard: boolean;
  /** It is watched, and its address is known: before, nothing is sent or received there. */
  watched: boolean;
  readonly takes4: boolean;
  readonly takes6: boolean;
  /** It sends and receives on one interface only. */
  readonly onDevice: boolean;
  /** Values of IP_MTU_DISCOVER and IPV6_MTU_DISCOVER that it is set to for the datagrams being sent; -1: not set yet. */
  discover4: number;
  discover6: number;
}

/**
 * Prepares the UDP listeners among `forwards`; their numbers are their places in `listeners`: those of removed ones first,
 * and never beyond `most`. Returns their numbers. `listenNow` follows.
 */
export const openUdpListeners = (
  ctx: StackContext,
  forwards: readonly ForwardListener[],
  listeners: UdpListener[],
  most: number,
): number[] => {
  const opened: number[] = [];
  let vacant = 0;
  for (const forward of forwards) {
    if (forward.protocol !== 'udp' || forward.inside === true) continue;
    while (vacant < listeners.length && listeners[vacant].fd >= 0) vacant++;
    if (vacant >= most) break;
    listeners[vacant] = makeListener(ctx.io, forward);
    opened.push(vacant);
  }
  return opened;
};

/** Those of `forwards` that are not there yet. */
export const unknownOf = (
  forwards: readonly ForwardListener[],
  listeners: readonly UdpListener[],
): ForwardListener[] => {
  const known = new Set(listeners.map(({ fd }) => fd));
  return forwards.filter(({ fd }) => !known.has(fd));
};

/** Takes one out; its number may be given again. */
export const closeUdpListener = (io: HostIo, listeners: UdpListener[], index: number): void => {
  io.unwatch(listeners[index].fd);
  listeners[index] = NONE;
};

/**
 * Watches listener `index`. True if it is watched, or never will be; false: the kernel has no memory or watch left now,
 * and the port stays deaf until this succeeds.
 */
export const listenNow = (ctx: StackContext, listeners: readonly UdpListener[], index: number): boolean => {
  const listener = listeners[index];
  const error = watch(ctx.io, listener, index);
  if (error >= 0) return true;
  const later = isShortage(error);
  if (ctx.log.take(SITE_UDP_LISTENER)) {
    ctx.log.say(SITE_UDP_LISTENER, 'warn', unwatchedText('UDP', listener.port, error, later));
  }
  return !later;
};

/** Learns where the socket is bound, and watches it. Returns 0 or -errno. */
function watch(io: HostIo, listener: UdpListener, index: number): number {
  const { fd, bound } = listener;
  const named = io.getsockname(fd, ADDR_SLOT_UDP);
  if (named < 0) return named;
  addrSlotRead(io.addrs, ADDR_SLOT_UDP, bound, 0);
  listener.wildcard = isUnspecified(bound, 0);
  const watched = io.watch(fd, EPOLLIN | EPOLLET, (KEY_UDP_LISTENER << KEY_KIND_SHIFT) | index, 0);
  listener.watched = watched >= 0;
  return watched;
}

/** In the place of one that was removed: nothing is sent to it, and nothing comes from it. */
const NONE: UdpListener = {
  fd: -1,
  port: 0,
  targetPort: 0,
  rule: 0,
  target: null,
  bound: new Int32Array(4),
  wildcard: false,
  watched: false,
  takes4: false,
  takes6: false,
  onDevice: false,
  discover4: -1,
  discover6: -1,
};

/** Prepares one socket. */
function makeListener(io: HostIo, listener: ForwardListener): UdpListener {
  const { fd, family } = listener;
  const takes4 = family !== 'v6';
  const takes6 = family !== 'v4';
  io.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER);
  if (takes4) {
    io.setsockopt(fd, IPPROTO_IP, IP_PKTINFO, 1);
    // What the service sends to all leaves from here as well.
    io.setsockopt(fd, SOL_SOCKET, SO_BROADCAST, 1);
    receiveErrorsAndMarks(io, fd, true);
  }
  if (takes6) {
    io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    receiveErrorsAndMarks(io, fd, false);
  }
  let target: Int32Array | null = null;
  if (listener.targetAddr !== null) {
    target = new Int32Array(4);
    addressWords(listener.targetAddr, target, 0);
  }
  return {
    fd,
    port: listener.port,
    targetPort: listener.targetPort,
    rule: listener.rule ?? 0,
    target,
    bound: new Int32Array(4),
    wildcard: false,
    watched: false,
    takes4,
    takes6,
    onDevice: listener.onDevice ?? false,
    discover4: -1,
    discover6: -1,
  };
}
