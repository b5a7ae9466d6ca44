/** Socket options of flows' sockets that IPv4 and IPv6 have by different names. */
import type { HostIo } from '../ports';
import {
  CONGESTION_RENO,
  IP_MTU_DISCOVER,
  IP_MULTICAST_TTL,
  IP_RECVERR,
  IP_RECVTOS,
  IP_RECVTTL,
  IP_TOS,
  IP_TTL,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPV6_MTU_DISCOVER,
  IPV6_MULTICAST_HOPS,
  IPV6_RECVERR,
  IPV6_RECVHOPLIMIT,
  IPV6_RECVTCLASS,
  IPV6_TCLASS,
  IPV6_UNICAST_HOPS,
  TCP_CONGESTION,
} from '../kit/linux';

/**
 * Packets up to this long, headers of the transport included or not, fit any path: whether their socket sets DF makes no
 * difference to them.
 */
export const FITS_ANYWHERE = 512;

/** Has a socket queue the ICMP errors about what it sends, and tell TTL and TOS of each datagram that it receives. */
export function receiveErrorsAndMarks(io: HostIo, fd: number, v4: boolean): void {
  const level = v4 ? IPPROTO_IP : IPPROTO_IPV6;
  io.setsockopt(fd, level, v4 ? IP_RECVERR : IPV6_RECVERR, 1);
  io.setsockopt(fd, level, v4 ? IP_RECVTTL : IPV6_RECVHOPLIMIT, 1);
  io.setsockopt(fd, level, v4 ? IP_RECVTOS : IPV6_RECVTCLASS, 1);
}

/** TTL or hop limit of what the socket sends. A packet with none left would not have come this far: 0 is left out. */
export function setTtl(io: HostIo, fd: number, v4: boolean, ttl: number): void {
  if (ttl > 0) io.setsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TTL : IPV6_UNICAST_HOPS, ttl);
}

/** As `setTtl`, for what goes to a multicast group. */
export function setMulticastTtl(io: HostIo, fd: number, v4: boolean, ttl: number): void {
  if (ttl > 0) io.setsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MULTICAST_TTL : IPV6_MULTICAST_HOPS, ttl);
}

/** TOS or traffic class of what the socket sends. */
export function setTos(io: HostIo, fd: number, v4: boolean, tos: number): void {
  io.setsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, tos);
}

/** Whether the socket sets DF: PMTUDISC_*. */
export function setMtuDiscovery(io: HostIo, fd: number, v4: boolean, how: number): void {
  io.setsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER, how);
}

/**
 * Tells a TCP socket whose other end is on this host too that there is no path to be careful of: it gets Reno, which every
 * kernel has and lets everybody choose. BBR, the default of many hosts, paces what it sends by a timer for each segment; within
 * a host that takes up to two thirds of the processor time that sending takes, and makes sending slower. Best before `connect`:
 * what BBR has started with keeps some of the pacing. Where it fails the connection is slower, not wrong.
 */
export function endsOnThisHost(io: HostIo, fd: number): void {
  io.setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, CONGESTION_RENO);
}
