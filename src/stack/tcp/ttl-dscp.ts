/**
 * TTL or hop limit and DSCP of the guest's segments, on the flow's socket: DSCP marks reach the network, and so does a
 * guest's own idea of how far its packets may go. They are set when they change, so at no cost in the steady state. The
 * ECN bits belong to the kernel, which does its own congestion control on this connection (it keeps them out of these
 * options for TCP as well).
 *
 * The other way there is nothing to copy: Linux tells a TCP socket neither TTL nor TOS of what it received.
 */
import { setTos, setTtl } from '../ip/socket-options';
import type { TcpEngine } from './flow';

/** What a socket sends without being told, as almost every guest does as well (net.ipv4.ip_default_ttl). */
export const DEFAULT_TTL = 64;
/** All but the ECN bits (RFC 3168 §5). */
export const DSCP_MASK = 0xfc;

/** Puts marks that are not the kernel's own on a socket, before it connects: the SYN carries them. */
export function markSocket(t: TcpEngine, fd: number, v6: boolean, ttl: number, tos: number): void {
  if (ttl !== DEFAULT_TTL) setTtl(t.io, fd, !v6, ttl);
  if ((tos & DSCP_MASK) !== 0) setTos(t.io, fd, !v6, tos & DSCP_MASK);
}

/** The marks of an acceptable segment of the flow: the socket gets them if they are not those of the one before. */
export function followMarks(t: TcpEngine, flow: number, v6: boolean, ttl: number, tos: number): void {
  const dscp = tos & DSCP_MASK;
  if (t.ttl[flow] === ttl && t.dscp[flow] === dscp) return;
  const fd = t.fd[flow];
  if (fd >= 0) {
    if (t.ttl[flow] !== ttl) setTtl(t.io, fd, !v6, ttl);
    if (t.dscp[flow] !== dscp) setTos(t.io, fd, !v6, dscp);
  }
  t.ttl[flow] = ttl;
  t.dscp[flow] = dscp;
}
