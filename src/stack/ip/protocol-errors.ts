/**
 * ICMP errors for packets whose transport is not supported (ESP, GRE, SCTP …): protocol unreachable (RFC 1122
 * §3.2.2.1), in IPv6 a parameter problem that points at the next header (RFC 8200 §4, RFC 4443 §3.4). The log names
 * each protocol once.
 *
 * No error is sent about packets to a group or to all, in either layer's address (RFC 1122 §3.2.2, RFC 4443 §2.4 e):
 * IGMP, VRRP and OSPF do not concern us. Nor about the other family's ICMP, which may be an error, nor more
 * often than a token bucket allows.
 */
import { copyWords, isGroup } from './address';
import type { FrameInfo, StackContext } from '../context';
import { NatResult, natOurAddress, type NatTables } from './nat';
import { MAX_HEAD } from '../ports';
import { SITE_IP_PROTOCOL } from '../kit/site-log';
import { macIsGroup } from '../wire/ethernet';
import {
  ICMP_CODE_PROTOCOL,
  ICMP_DEST_UNREACHABLE,
  ICMPV6_CODE_UNRECOGNIZED_NEXT_HEADER,
  ICMPV6_PARAMETER_PROBLEM,
} from '../wire/icmp';
import { ipv4ChecksumOk } from '../wire/ipv4';
import { ipv6TransportNamedAt } from '../wire/ipv6';
import { ErrorBudget } from './error-budget';
import { IcmpErrorSender } from './icmp-error';

/** Names that an administrator knows them by (IANA, "Protocol Numbers"). */
const NAMES: ReadonlyMap<number, string> = new Map([
  [4, 'IPv4 in IP'],
  [33, 'DCCP'],
  [41, 'IPv6 in IP'],
  [47, 'GRE'],
  [50, 'ESP'],
  [51, 'AH'],
  [89, 'OSPF'],
  [94, 'IPIP'],
  [97, 'EtherIP'],
  [103, 'PIM'],
  [115, 'L2TP'],
  [132, 'SCTP'],
  [136, 'UDP-Lite'],
]);

export class ProtocolErrors {
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly sender: IcmpErrorSender;
  private readonly budget: ErrorBudget;
  private readonly ours: NatResult;
  /** One for each protocol that the log has named. */
  private readonly said: Uint8Array;

  constructor(ctx: StackContext) {
    this.ctx = ctx;
    this.nat = ctx.link.nat;
    this.sender = new IcmpErrorSender(ctx);
    this.budget = new ErrorBudget(ctx.clock);
    this.ours = new NatResult();
    this.said = new Uint8Array(256);
  }

  /** A packet, whole, whose addresses are checked and whose source is one. */
  report(frame: FrameInfo): void {
    const { ctx, ours } = this;
    const { port } = ctx;
    const a = frame.addr;
    const v4 = frame.version === 4;
    // Which protocol it is of, a broken header does not say (RFC 1122 §3.2.1.2).
    if (v4 && !ipv4ChecksumOk(port.head, frame.l3Off)) return;
    if (macIsGroup(port.head.getUint16(0)) || isGroup(v4, a, 4)) return;
    if (v4 && this.isSubnetBroadcast(a[7])) return;
    this.say(frame.protocol);
    if (!this.budget.take()) return;
    // Without an address of our own on the link, it comes from where the packet was to go.
    if (!natOurAddress(this.nat, v4, ours)) copyWords(a, 4, ours.src, 0);
    const { l3Off } = frame;
    // Ethernet padding is no part of the packet.
    const end = Math.min(port.pull(Math.min(frame.frameLen, MAX_HEAD)), frame.l4Off + frame.l4Len);
    const length = end - l3Off;
    if (v4) {
      this.sender.sendAbout(ICMP_DEST_UNREACHABLE, ICMP_CODE_PROTOCOL, 0, ours.src, frame, length);
      return;
    }
    const pointer = ipv6TransportNamedAt(port.head, l3Off, frame.l4Off) - l3Off;
    const code = ICMPV6_CODE_UNRECOGNIZED_NEXT_HEADER;
    this.sender.sendAbout(ICMPV6_PARAMETER_PROBLEM, code, pointer, ours.src, frame, length);
  }

  private isSubnetBroadcast(dst: number): boolean {
    const { ip4 } = this.ctx.config;
    if (ip4 === null || ip4.prefixLen > 30) return false;
    const host = ip4.prefixLen === 0 ? -1 : ~(-1 << (32 - ip4.prefixLen));
    return (dst & host) === host && ((dst ^ this.ctx.link.assigned4) & ~host) === 0;
  }

  private say(protocol: number): void {
    if (this.said[protocol] !== 0 || !this.ctx.log.take(SITE_IP_PROTOCOL)) return;
    this.said[protocol] = 1;
    this.ctx.log.say(SITE_IP_PROTOCOL, 'warn', refusalText(protocol));
  }
}

/** What carries the same over UDP, which is supported. */
const REMEDIES: ReadonlyMap<number, string> = new Map([
  [50, 'let IPsec use UDP encapsulation (NAT traversal, port 4500)'],
  [51, 'let IPsec use ESP with UDP encapsulation (NAT traversal, port 4500)'],
  [132, 'encapsulate it in UDP (RFC 6951)'],
]);
const REMEDY = 'use a tunnel over UDP or TCP instead (WireGuard, VXLAN, OpenVPN)';

function refusalText(protocol: number): string {
  const name = NAMES.get(protocol);
  const which = name === undefined ? `IP protocol ${protocol}` : `${name} (IP protocol ${protocol})`;
  const remedy = REMEDIES.get(protocol) ?? REMEDY;
  return `the guest sends ${which}, which is not supported (only TCP, UDP and ICMP echo are): answered with an ICMP error; ${remedy}`;
}
