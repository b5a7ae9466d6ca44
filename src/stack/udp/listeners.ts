/** UDP sockets that the control plane opened for forwarded ports. They stay open across resets of the guest. */
import { addressWords, addrSlotWord, isUnspecified } from '../ip/address';
import type { ForwardListener } from '../config';
import { ADDR_SLOT_UDP, KEY_KIND_SHIFT, KEY_UDP_LISTENER } from '../context';
import type { StackContext } from '../context';
import type { HostIo } from '../ports';
import { SITE_UDP_LISTENER } from '../kit/site-log';
import { EPOLLET, EPOLLIN } from '../ports';
import {
  IP_PKTINFO,
  IP_RECVERR,
  IP_RECVTOS,
  IP_RECVTTL,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_RECVERR,
  IPV6_RECVHOPLIMIT,
  IPV6_RECVPKTINFO,
  IPV6_RECVTCLASS,
  SO_BROADCAST,
  SO_RCVBUF,
  SOL_SOCKET,
} from '../kit/linux';

/** Wanted receive buffer of a listener, which all its peers share; the kernel cuts it to net.core.rmem_max. */
const RECEIVE_BUFFER = 4 << 20;

export interface UdpListener {
  readonly fd: number;
  /** Port on the host and port of the guest. */
  readonly port: number;
  readonly targetPort: number;
  /** Fixed guest-side address as four words; null: the guest's observed address. */
  readonly target: Int32Array | null;
  /** Address bound; all zero words for wildcards of any family. */
  readonly bound: Int32Array;
  readonly wildcard: boolean;
  readonly takes4: boolean;
  readonly takes6: boolean;
  /** It sends and receives on one interface only. */
  readonly onDevice: boolean;
}

/** Opens the UDP listeners among `forwards`; their numbers are their places in `listeners`. */
export const openUdpListeners = (
  ctx: StackContext,
  forwards: readonly ForwardListener[],
  listeners: UdpListener[],
): void => {
  for (const forward of forwards) {
    if (forward.protocol !== 'udp') continue;
    const opened = makeListener(ctx.io, forward, listeners.length);
    if (opened !== null) listeners.push(opened);
    else ctx.log.line(SITE_UDP_LISTENER, 'warn', `UDP port ${String(forward.port)}: the socket cannot be used`);
  }
};

/** Prepares one socket and watches it as number `index`. Returns null if the socket is not usable. */
function makeListener(io: HostIo, listener: ForwardListener, index: number): UdpListener | null {
  const { fd, family } = listener;
  const takes4 = family !== 'v6';
  const takes6 = family !== 'v4';
  io.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER);
  if (takes4) {
    io.setsockopt(fd, IPPROTO_IP, IP_PKTINFO, 1);
    // What the service sends to all leaves from here as well.
    io.setsockopt(fd, SOL_SOCKET, SO_BROADCAST, 1);
    io.setsockopt(fd, IPPROTO_IP, IP_RECVERR, 1);
    io.setsockopt(fd, IPPROTO_IP, IP_RECVTTL, 1);
    io.setsockopt(fd, IPPROTO_IP, IP_RECVTOS, 1);
  }
  if (takes6) {
    io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
    io.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
  }
  if (io.getsockname(fd, ADDR_SLOT_UDP) < 0) return null;
  const bound = new Int32Array(4);
  for (let i = 0; i < 4; i++) bound[i] = addrSlotWord(io.addrs, ADDR_SLOT_UDP, i);
  if (io.watch(fd, EPOLLIN | EPOLLET, (KEY_UDP_LISTENER << KEY_KIND_SHIFT) | index, 0) < 0) return null;
  let target: Int32Array | null = null;
  if (listener.targetAddr !== null) {
    target = new Int32Array(4);
    addressWords(listener.targetAddr, target, 0);
  }
  return {
    fd,
    port: listener.port,
    targetPort: listener.targetPort,
    target,
    bound,
    wildcard: isUnspecified(bound[0], bound[1], bound[2], bound[3]),
    takes4,
    takes6,
    onDevice: listener.onDevice ?? false,
  };
}
