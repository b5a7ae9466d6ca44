/**
 * ICMP errors about segments that went to the guest, from the guest or a router behind it (../ip/from-guest-errors.ts).
 *
 * "Fragmentation needed" and "packet too big" (RFC 1191, RFC 8201, RFC 9293 §3.7.2) make the flow's segments smaller,
 * if the quoted sequence number is one that is on its way (RFC 5927 §4.1), never larger, and for the flow's life:
 * another flow may take another way. What was sent goes out again at once in the new size.
 *
 * Below LEAST_MTU4, Linux's net.ipv4.route.min_pmtu, segments do not get smaller, but may be fragmented, as
 * RFC 1191 §3 allows; an IPv6 link has 1280 bytes or more, and who says less is not believed (RFC 8201 §4).
 */
import type { QuotedPacket } from '../context';
import { LEAST_MTU4 } from '../ip/path-mtus';
import { seqLe, seqLt } from '../kit/seq';
import { C_TCP_RESETS_FROM_GUEST } from '../counters';
import { IPV6_MIN_MTU } from '../wire/ipv6';
import { TCP_HEADERS4, TCP_HEADERS6 } from '../wire/tcp';
import { END_UNREACHABLE } from '../kit/flow-rows';
import { abortHost } from './close';
import { F_FIN_ACKED, F_NO_DF, F_RECOVERY, F_RTX_DUE, F_TIMING, ST_OPEN, ST_SYN_SENT, touch } from './flow';
import type { TcpEngine } from './flow';

/** Ports and sequence number: what every error quotes (RFC 792). */
const QUOTE_LEN = 8;

/** The flow that the quoted segment, which we sent, belongs to; -1 if there is none. */
function quotedFlow(t: TcpEngine, quote: QuotedPacket): number {
  if (quote.l4Len < QUOTE_LEN) return -1;
  const { probe } = t.table;
  for (let i = 0; i < 4; i++) {
    probe[i] = quote.addr[4 + i];
    probe[4 + i] = quote.addr[i];
  }
  const ports = quote.head.getInt32(quote.l4Off);
  probe[8] = (ports << 16) | (ports >>> 16);
  return t.table.lookup();
}

/** Returns false if it is about nothing that was sent. */
export function pathMtu(t: TcpEngine, quote: QuotedPacket, mtu: number): boolean {
  const flow = quotedFlow(t, quote);
  if (flow < 0 || t.state[flow] !== ST_OPEN) return false;
  const seq = quote.head.getInt32(quote.l4Off + 4);
  if (!seqLe(t.sndUna[flow], seq) || !seqLt(seq, t.sndMax[flow])) return false;
  const v6 = quote.version === 6;
  if (v6 && mtu < IPV6_MIN_MTU) return false;
  const fragments = mtu < LEAST_MTU4 && (t.flags[flow] & F_NO_DF) === 0;
  const mss = Math.max(mtu, LEAST_MTU4) - (v6 ? TCP_HEADERS6 : TCP_HEADERS4);
  if (mss >= t.mss[flow] && !fragments) return true;
  if (fragments) t.flags[flow] |= F_NO_DF;
  if (mss < t.mss[flow]) t.mss[flow] = mss;
  if ((t.flags[flow] & F_FIN_ACKED) !== 0) return true;
  // Not a sign of congestion: all of it, and no recovery for what was lost with it.
  t.flags[flow] &= ~(F_TIMING | F_RECOVERY | F_RTX_DUE);
  t.recover[flow] = t.sndMax[flow];
  t.dupAcks[flow] = 0;
  t.sndNxt[flow] = t.sndUna[flow];
  touch(t, flow);
  return true;
}

/**
 * The quoted packet cannot be delivered. For a forwarded connection that the guest's side has not answered that is the
 * end, as in Linux (RFC 1122 §4.2.3.9 would wait for some codes; the peer can try again). An open one goes on.
 */
export function unreachable(t: TcpEngine, quote: QuotedPacket): boolean {
  const flow = quotedFlow(t, quote);
  if (flow < 0) return false;
  if (t.state[flow] !== ST_SYN_SENT || quote.head.getInt32(quote.l4Off + 4) !== t.iss[flow]) return false;
  t.ctx.counters[C_TCP_RESETS_FROM_GUEST]++;
  abortHost(t, flow, END_UNREACHABLE);
  return true;
}
