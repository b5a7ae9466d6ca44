/**
 * ICMPv6 errors for IPv6 fragments that are refused (RFC 8200 §4.5, RFC 7112 §5). IPv4 demands nothing of the kind:
 * there they are counted only.
 *
 * No error is sent about an error, to a group, or about a frame to a group's Ethernet address (RFC 4443 §2.4 e), nor
 * more often than a token bucket allows (§2.4 f).
 */
import { isMulticast, isUnspecified } from './address';
import type { FrameInfo, StackContext } from '../context';
import { ErrorBudget } from './error-budget';
import type { IcmpErrorSender } from './icmp-error';
import { NatResult, natOurAddress, type NatTables } from './nat';
import { MAX_HEAD } from '../ports';
import {
  ICMPV6_CODE_ERRONEOUS_FIELD,
  ICMPV6_CODE_INCOMPLETE_CHAIN,
  ICMPV6_INFORMATIONAL,
  ICMPV6_PARAMETER_PROBLEM,
} from '../wire/icmp';
import { IP_PROTO_ICMPV6 } from '../wire/ipv4';
import { IPV6_FRAGMENT_LEN, IPV6_FRAGMENT_OFFSET_AT, IPV6_PAYLOAD_LENGTH_AT } from '../wire/ipv6';

export class FragmentErrors {
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly sender: IcmpErrorSender;
  private readonly ours: NatResult;
  private readonly budget: ErrorBudget;

  constructor(ctx: StackContext, sender: IcmpErrorSender) {
    this.ctx = ctx;
    this.nat = ctx.link.nat;
    this.sender = sender;
    this.ours = new NatResult();
    this.budget = new ErrorBudget(ctx.clock);
  }

  /**
   * A fragment that is not the last one, and not a multiple of 8 bytes. Its data lie at `dataOff`, as with the others.
   */
  oddLength(frame: FrameInfo, protocol: number, offset: number, dataOff: number): void {
    this.send(frame, protocol, offset, dataOff, ICMPV6_CODE_ERRONEOUS_FIELD, IPV6_PAYLOAD_LENGTH_AT);
  }

  /** The packet of which this is a fragment would be longer than any packet. */
  tooLong(frame: FrameInfo, protocol: number, offset: number, dataOff: number): void {
    const pointer = dataOff - IPV6_FRAGMENT_LEN + IPV6_FRAGMENT_OFFSET_AT - frame.l3Off;
    this.send(frame, protocol, offset, dataOff, ICMPV6_CODE_ERRONEOUS_FIELD, pointer);
  }

  /** A first fragment that has not all headers. */
  incompleteChain(frame: FrameInfo, protocol: number, dataOff: number): void {
    this.send(frame, protocol, 0, dataOff, ICMPV6_CODE_INCOMPLETE_CHAIN, 0);
  }

  private send(
    frame: FrameInfo,
    protocol: number,
    offset: number,
    dataOff: number,
    code: number,
    pointer: number,
  ): void {
    const { ctx, ours } = this;
    const { port } = ctx;
    const a = frame.addr;
    const end = port.pull(Math.min(frame.frameLen, MAX_HEAD));
    const { head } = port;
    if (protocol === IP_PROTO_ICMPV6) {
      // Whether it is about an error can only be seen in the first fragment.
      if (offset !== 0 || dataOff >= end || head.getUint8(dataOff) < ICMPV6_INFORMATIONAL) return;
    }
    const toGroup = (head.getUint8(0) & 1) !== 0 || isMulticast(a, 4);
    if (toGroup || isUnspecified(a, 0)) return;
    if (!natOurAddress(this.nat, false, ours) || !this.budget.take()) return;
    this.sender.sendAbout(ICMPV6_PARAMETER_PROBLEM, code, pointer, ours.src, frame, end - frame.l3Off);
  }
}
