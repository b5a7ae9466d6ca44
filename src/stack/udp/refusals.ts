/** ICMP errors of our own about the guest's first datagram of a flow that cannot be (RFC 1812 §5.2.7.1; RFC 4443 §3.1). */
import { isMulticast } from '../ip/address';
import type { FrameInfo, StackContext } from '../context';
import { ErrorBudget } from '../ip/error-budget';
import { FLOW_UDP } from '../kit/flow-rows';
import { KEY_WORDS } from '../kit/flow-table';
import { EHOSTUNREACH, ENETUNREACH } from '../kit/linux';
import { isResolverPort, NatResult, natOurAddress, natToHost } from '../ip/nat';
import {
  ICMP_CODE_ADMIN_PROHIBITED,
  ICMP_CODE_HOST,
  ICMP_CODE_NET,
  ICMP_DEST_UNREACHABLE,
  ICMPV6_CODE_ADDRESS,
  ICMPV6_CODE_ADMIN_PROHIBITED,
  ICMPV6_CODE_NO_ROUTE,
  ICMPV6_DEST_UNREACHABLE,
} from '../wire/icmp';
import { IP_PROTO_UDP, IPV4_BROADCAST } from '../wire/ipv4';
import type { UdpFlows } from './flows';
import type { UdpErrors } from './socket-errors';
import type { UdpSockets } from './sockets';

export class UdpRefusals {
  private readonly ctx: StackContext;
  private readonly flows: UdpFlows;
  private readonly errors: UdpErrors;
  private readonly sockets: UdpSockets;
  private readonly ours: NatResult;
  /** Of errors about flows that the policy forbids: nothing else bounds those. */
  private readonly budget: ErrorBudget;

  constructor(ctx: StackContext, flows: UdpFlows, errors: UdpErrors, sockets: UdpSockets) {
    this.ctx = ctx;
    this.flows = flows;
    this.errors = errors;
    this.sockets = sockets;
    this.ours = new NatResult();
    this.budget = new ErrorBudget(ctx.clock);
  }

  /** The host has no route: `error` is -errno of the call that said so. */
  unreachable(frame: FrameInfo, srcPort: number, dstPort: number, error: number): void {
    if (error !== -ENETUNREACH && error !== -EHOSTUNREACH) return;
    const net = error === -ENETUNREACH;
    if (frame.version === 4) this.report(frame, srcPort, dstPort, net ? ICMP_CODE_NET : ICMP_CODE_HOST);
    else this.report(frame, srcPort, dstPort, net ? ICMPV6_CODE_NO_ROUTE : ICMPV6_CODE_ADDRESS);
  }

  /** Does the policy let a flow of the guest's own live? */
  keeps(slot: number): boolean {
    const { ctx, ours } = this;
    const { policy, nat } = ctx.link;
    const { keys } = this.flows.table;
    const k = KEY_WORDS * slot;
    const port = keys[k + KEY_WORDS - 1] & 0xffff;
    // Whether a resolver's answers are believed is decided again by the next query.
    if (isResolverPort(port) || natToHost(nat, IP_PROTO_UDP, keys, k + 4, port, ours) !== 0) return false;
    return policy.keeps(ctx, IP_PROTO_UDP, keys, k + 4, port, ours);
  }

  /** The policy forbids it: `flows.table.probe` holds its key. */
  prohibited(frame: FrameInfo, srcPort: number, dstPort: number): void {
    this.ctx.ends?.refused(FLOW_UDP, true, this.flows.table.probe, 0, this.ctx.link.policy.verdict);
    this.denied(frame, srcPort, dstPort);
  }

  /** The policy forbids a flow that had begun. */
  denied(frame: FrameInfo, srcPort: number, dstPort: number): void {
    if (!this.budget.take()) return;
    const v4 = frame.version === 4;
    this.report(frame, srcPort, dstPort, v4 ? ICMP_CODE_ADMIN_PROHIBITED : ICMPV6_CODE_ADMIN_PROHIBITED);
  }

  private report(frame: FrameInfo, srcPort: number, dstPort: number, code: number): void {
    const a = frame.addr;
    const v4 = frame.version === 4;
    if (isMulticast(a, 4)) return;
    if (v4 && (a[7] === IPV4_BROADCAST || a[7] === this.sockets.broadcast4)) return;
    const { nat } = this.ctx.link;
    if (!natOurAddress(nat, v4, this.ours)) return;
    const { probe } = this.flows.table;
    for (let i = 0; i < 8; i++) probe[i] = a[i];
    probe[KEY_WORDS - 1] = (srcPort << 16) | dstPort;
    this.errors.unreachable(v4 ? ICMP_DEST_UNREACHABLE : ICMPV6_DEST_UNREACHABLE, code, this.ours.src, probe, 0);
  }
}
