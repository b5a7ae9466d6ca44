/** Errors about echo requests: the sockets' error queues, turned into ICMP errors to the guest. */
import { isGroup, isV4 } from '../ip/address';
import { ADDR_SLOT_PING_ERROR, SCRATCH_MISC } from '../scratch';
import type { FrameInfo, StackContext } from '../context';
import { KEY_WORDS } from '../kit/flow-table';
import { NatResult, natOurAddress } from '../ip/nat';
import type { NatTables } from '../ip/nat';
import { MAX_HEAD, SOCKERR_CODE, SOCKERR_INFO, SOCKERR_LENGTH, SOCKERR_TYPE } from '../ports';
import { isShortage, type RestingSockets } from '../kit/resting';
import {
  ICMP_CODE_ADMIN_PROHIBITED,
  ICMP_DEST_UNREACHABLE,
  ICMP_ECHO_REQUEST,
  ICMP_HEADER_LEN,
  icmpSeq,
  icmpType,
  ICMPV6_CODE_ADMIN_PROHIBITED,
  ICMPV6_DEST_UNREACHABLE,
  ICMPV6_ECHO_REQUEST,
  icmpWrite,
} from '../wire/icmp';
import { IpFields } from '../wire/ip-fields';
import { IP_PROTO_ICMP, IP_PROTO_ICMPV6 } from '../wire/ipv4';
import type { PingFlows } from './flows';
import { ErrorBudget } from '../ip/error-budget';
import { IcmpErrorSender, MAX_QUOTE6 } from '../ip/icmp-error';
import {
  ERRORS_PER_CALL,
  QUOTED_TTL,
  errorIsForGuest,
  errorIsTooLong,
  errorSource,
  takeError,
} from '../ip/socket-error';

export class PingErrors {
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly flows: PingFlows;
  private readonly later: RestingSockets;
  private readonly sender: IcmpErrorSender;
  private readonly found: NatResult;
  private readonly ip: IpFields;
  /** Errors about requests that the policy forbids. */
  private readonly budget: ErrorBudget;

  /** `later` gets the flows whose errors could not all be read. */
  constructor(ctx: StackContext, nat: NatTables, flows: PingFlows, later: RestingSockets) {
    this.ctx = ctx;
    this.nat = nat;
    this.flows = flows;
    this.later = later;
    this.sender = new IcmpErrorSender(ctx);
    this.found = new NatResult();
    this.ip = new IpFields(IP_PROTO_ICMP, QUOTED_TTL);
    this.budget = new ErrorBudget(ctx.clock);
  }

  /**
   * Empties the error queue of a flow's socket, now or later. True if the host itself refused a request as too long.
   */
  drain(slot: number): boolean {
    const { io } = this.ctx;
    let refused = false;
    for (let i = 0; i < ERRORS_PER_CALL; i++) {
      const r = takeError(io, this.flows.fd[slot], ADDR_SLOT_PING_ERROR, 0);
      if (isShortage(r)) this.later.push(slot, this.ctx.clock.nowMs);
      if (r <= 0) return refused;
      if (errorIsTooLong(io)) {
        refused = true;
        this.tooLong(slot);
      } else {
        this.report(slot);
      }
    }
    this.later.push(slot, this.ctx.clock.nowMs);
    return refused;
  }

  /** The policy forbids the request in hand (RFC 1812 §5.2.7.1; RFC 4443 §3.1). */
  prohibited(frame: FrameInfo): void {
    const { found } = this;
    const { port } = this.ctx;
    const v4 = frame.version === 4;
    if (isGroup(v4, frame.addr, 4) || !this.budget.take() || !natOurAddress(this.nat, v4, found)) return;
    const end = Math.min(port.pull(Math.min(frame.frameLen, MAX_HEAD)), frame.l4Off + frame.l4Len);
    const type = v4 ? ICMP_DEST_UNREACHABLE : ICMPV6_DEST_UNREACHABLE;
    const code = v4 ? ICMP_CODE_ADMIN_PROHIBITED : ICMPV6_CODE_ADMIN_PROHIBITED;
    this.sender.sendAbout(type, code, 0, found.src, frame, end - frame.l3Off);
  }

  /** The host's interface cannot carry so long a request. */
  private tooLong(slot: number): void {
    const { found } = this;
    const { io } = this.ctx;
    const key = this.flows.table.keys;
    const k = KEY_WORDS * slot;
    const v4 = isV4(key, k);
    if (!natOurAddress(this.nat, v4, found)) return;
    const request = v4 ? ICMP_ECHO_REQUEST : ICMPV6_ECHO_REQUEST;
    icmpWrite(io.scratch, SCRATCH_MISC, request, 0, 0, (this.flows.id(slot) << 16) | this.flows.seq[slot]);
    const mtu = io.sockErrOut[SOCKERR_INFO];
    this.sender.sendTooLong(mtu, found.src, this.quoted(slot), io.scratch, SCRATCH_MISC, ICMP_HEADER_LEN);
  }

  /** IP header of the request of flow `slot`. */
  private quoted(slot: number): IpFields {
    const { ip } = this;
    const key = this.flows.table.keys;
    const k = KEY_WORDS * slot;
    ip.between(isV4(key, k), key, k, k + 4);
    ip.protocol = ip.v4 ? IP_PROTO_ICMP : IP_PROTO_ICMPV6;
    ip.ttl = this.flows.ttl[slot] > 0 ? this.flows.ttl[slot] : QUOTED_TTL;
    return ip;
  }

  /** The kernel returns the request from its ICMP header on, with the identifier it had on the wire. */
  private report(slot: number): void {
    const { ctx, found } = this;
    const { io } = ctx;
    const error = io.sockErrOut;
    const key = this.flows.table.keys;
    const k = KEY_WORDS * slot;
    const v4 = isV4(key, k);
    if (!errorIsForGuest(io, v4)) return;
    if (!errorSource(ctx, this.nat, ADDR_SLOT_PING_ERROR, this.flows.peer, 4 * slot, key, k, found)) return;
    const length = Math.min(error[SOCKERR_LENGTH], MAX_QUOTE6);
    const request = v4 ? ICMP_ECHO_REQUEST : ICMPV6_ECHO_REQUEST;
    // Without its header the guest could not tell which request this is about.
    if (length < ICMP_HEADER_LEN || icmpType(io.scratch, SCRATCH_MISC) !== request) return;
    const seq = icmpSeq(io.scratch, SCRATCH_MISC);
    icmpWrite(io.scratch, SCRATCH_MISC, request, 0, 0, (this.flows.id(slot) << 16) | seq);
    this.sender.send(
      error[SOCKERR_TYPE],
      error[SOCKERR_CODE],
      error[SOCKERR_INFO],
      found.src,
      this.quoted(slot),
      io.scratch,
      SCRATCH_MISC,
      length,
    );
  }
}
