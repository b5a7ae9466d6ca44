/**
 * UDP flows to resolvers, where the policy speaks of names (../policy/dns.ts): queries are copied out of the guest's memory
 * before they are read, and what was read is what leaves; answers are received into memory of our own, read, and copied to
 * the guest. Flows to other ports, and all flows without such a policy, cost a look at one byte here.
 */
import { isV4 } from '../ip/address';
import type { StackContext } from '../context';
import { KEY_WORDS } from '../kit/flow-table';
import type { RowSpan } from '../kit/rows';
import { setRow } from '../kit/rows';
import { LINK_UDP_PAYLOAD4, LINK_UDP_PAYLOAD6, linkUdpSend } from '../link/small-datagram';
import { PORT_DNS } from '../ip/nat';
import { DnsWatch, QUERY_BAD, QUERY_PASS, QUERY_REFUSED } from '../policy/dns';
import { copyBytes } from '../kit/bytes';
import { ROWS_MISC, SCRATCH_QUERY, SCRATCH_QUERY_SIZE } from '../scratch';
import type { UdpFlows } from './flows';

export { QUERY_BAD, QUERY_PASS, QUERY_REFUSED };

/** Queries are checked; the answers are not believed. */
const CHECKED = 1;
const BELIEVED = 2;

/** A refusal: header, a name of 255 bytes, type and class. */
const MAX_REFUSAL = 12 + 255 + 4;

export class UdpResolving {
  private readonly ctx: StackContext;
  private readonly flows: UdpFlows;
  private readonly watch: DnsWatch;
  /** By flow: 0, CHECKED or BELIEVED. */
  private readonly reads: Uint8Array;
  private readonly refusal: DataView;
  /** Source and destination of a refusal. */
  private readonly ends: Int32Array;

  constructor(ctx: StackContext, flows: UdpFlows) {
    this.ctx = ctx;
    this.flows = flows;
    this.watch = new DnsWatch(ctx);
    this.reads = new Uint8Array(flows.table.capacity);
    this.refusal = new DataView(new ArrayBuffer(LINK_UDP_PAYLOAD6 + MAX_REFUSAL));
    this.ends = new Int32Array(8);
  }

  reset(): void {
    this.watch.reset();
  }

  /** A new flow, of nobody's in particular. */
  opened(slot: number): void {
    this.reads[slot] = 0;
  }

  /** A new flow of the guest's own that the policy has just admitted. */
  admitted(slot: number, port: number): void {
    const { policy } = this.ctx.link;
    if (!policy.readsNames || port !== PORT_DNS) return;
    this.reads[slot] = policy.trustsResolver(port) ? BELIEVED : CHECKED;
  }

  /** The flow's queries are read. */
  reader(slot: number): boolean {
    return this.reads[slot] !== 0;
  }

  /** The flow's answers are read. */
  believes(slot: number): boolean {
    return this.reads[slot] === BELIEVED;
  }

  /**
   * A query of `length` bytes that `payload` names, cut by `segment` if that is not 0. Returns QUERY_PASS: `payload` names a
   * copy now, which is valid until the next query; QUERY_REFUSED: the guest has its answer; or QUERY_BAD.
   */
  query(slot: number, payload: RowSpan, length: number, segment: number): number {
    const { io } = this.ctx;
    if (segment !== 0 || length > SCRATCH_QUERY_SIZE) return QUERY_BAD;
    setRow(io.rows, ROWS_MISC, io.scratchRegion, SCRATCH_QUERY, length);
    if (io.copyRows(payload.first, payload.count, ROWS_MISC, 1) !== length) return QUERY_BAD;
    const code = this.watch.query(this.flowText(slot), io.scratch, SCRATCH_QUERY, length);
    if (code === QUERY_REFUSED) this.refuse(slot);
    if (code !== QUERY_PASS) return code;
    setRow(io.rows, payload.first, io.scratchRegion, SCRATCH_QUERY, length);
    payload.count = 1;
    return code;
  }

  /** An answer of `length` bytes at `at` of scratch memory. */
  answer(slot: number, at: number, length: number): void {
    this.watch.answer(this.flowText(slot), this.ctx.io.scratch, at, length);
  }

  /** What no other flow has, before or after. */
  private flowText(slot: number): string {
    return `udp/${slot}/${this.flows.table.generation[slot]}`;
  }

  private refuse(slot: number): void {
    const { ctx, refusal, ends } = this;
    const { keys } = this.flows.table;
    const k = KEY_WORDS * slot;
    const ports = keys[k + KEY_WORDS - 1];
    for (let i = 0; i < 4; i++) {
      ends[i] = keys[k + 4 + i];
      ends[4 + i] = keys[k + i];
    }
    const v4 = isV4(keys, k);
    const { refusalLength } = this.watch;
    copyBytes(ctx.io.scratch, SCRATCH_QUERY, refusal, v4 ? LINK_UDP_PAYLOAD4 : LINK_UDP_PAYLOAD6, refusalLength);
    linkUdpSend(ctx, refusal, v4 ? 4 : 6, ends, ports & 0xffff, ports >>> 16, refusalLength, 0);
  }
}
