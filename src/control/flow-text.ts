/** Flows as text: from the rows of numbers that the data plane fills (stack/kit/flow-rows.ts). */
import { formatIp } from '../config/address-text';
import {
  FLOW_END,
  FLOW_ENDED_AT,
  FLOW_ENDS,
  FLOW_FROM_GUEST,
  FLOW_GENERATION,
  FLOW_GUEST,
  FLOW_GUEST_PORT,
  FLOW_OF_GUEST,
  FLOW_PEER,
  FLOW_PEER_PORT,
  FLOW_PROTOCOL,
  FLOW_RTT_US,
  FLOW_RULE,
  FLOW_SINCE,
  FLOW_SLOT,
  FLOW_STATE,
  FLOW_STATES,
  FLOW_TCP_SPLICE,
  FLOW_TO_GUEST,
  FLOW_VERDICT,
} from '../stack/kit/flow-rows';
import type { EndedFlow, FlowInfo, FlowProtocol } from './types';

/** By FLOW_TCP, FLOW_UDP, FLOW_ICMP, FLOW_TCP_SPLICE, FLOW_UDP_SPLICE. */
export const PROTOCOL_NAMES: readonly FlowProtocol[] = ['tcp', 'udp', 'icmp', 'tcp', 'udp'];
/** What ids begin with, in the same order. */
export const ID_NAMES: readonly string[] = ['tcp', 'udp', 'icmp', 'tcps', 'udps'];

/** Where words come from that the data plane does not have. */
export interface FlowWords {
  /** The user's forwarding rule of that number (C_RULES), as it was given; null: there is none. */
  readonly specOf: (rule: number) => string | null;
  /** The name by which the guest looked `address` up; null: not known. Default: none is. */
  readonly nameOf?: (address: string) => string | null;
  /** What a policy means by the number that it gave a flow (FlowEnds.refused). Default: the number. */
  readonly verdictText?: (verdict: number) => string;
}

const MAPPED = 0xffff;

/** Four int32 words, IPv4 as v4-mapped: RFC 5952, or a dotted quad. */
export function addressText(rows: ArrayLike<number>, at: number): string {
  const v4 = rows[at] === 0 && rows[at + 1] === 0 && rows[at + 2] === MAPPED;
  const bytes = new DataView(new ArrayBuffer(16));
  for (let i = 0; i < 4; i++) bytes.setInt32(4 * i, rows[at + i]);
  return formatIp(new Uint8Array(bytes.buffer, v4 ? 12 : 0));
}

/** Milliseconds between the data plane's clock (CLOCK_MONOTONIC) and the epoch, at this moment. */
export function epochOfClock(): number {
  return Date.now() - Number(process.hrtime.bigint() / 1000n) / 1000;
}

/** The id of a flow of data plane `worker`. */
export function flowId(worker: number, rows: Float64Array, at: number): string {
  return `${ID_NAMES[rows[at + FLOW_PROTOCOL]]}-${worker}-${rows[at + FLOW_SLOT]}-${rows[at + FLOW_GENERATION]}`;
}

/** The flow of the row at `rows[at…]`, which data plane `worker` has filled. `epoch`: as `epochOfClock`. */
export function flowInfo(words: FlowWords, worker: number, rows: Float64Array, at: number, epoch: number): FlowInfo {
  const peer = addressText(rows, at + FLOW_PEER);
  const rule = rows[at + FLOW_RULE];
  const rtt = rows[at + FLOW_RTT_US];
  return {
    id: flowId(worker, rows, at),
    protocol: PROTOCOL_NAMES[rows[at + FLOW_PROTOCOL]],
    kind: rows[at + FLOW_PROTOCOL] >= FLOW_TCP_SPLICE ? 'splice' : 'link',
    origin: rows[at + FLOW_OF_GUEST] === 1 ? 'guest' : 'host',
    guest: { address: addressText(rows, at + FLOW_GUEST), port: rows[at + FLOW_GUEST_PORT] },
    peer: { address: peer, port: rows[at + FLOW_PEER_PORT] },
    name: words.nameOf?.(peer) ?? null,
    state: FLOW_STATES[rows[at + FLOW_STATE]],
    startedAt: Math.round(epoch + rows[at + FLOW_SINCE]),
    fromGuest: rows[at + FLOW_FROM_GUEST],
    toGuest: rows[at + FLOW_TO_GUEST],
    rttUs: rtt < 0 ? null : rtt,
    rule: rule === 0 ? null : words.specOf(rule),
  };
}

/** The same of a flow that has ended. */
export function endedFlow(words: FlowWords, worker: number, rows: Float64Array, at: number, epoch: number): EndedFlow {
  const verdict = rows[at + FLOW_VERDICT];
  return {
    ...flowInfo(words, worker, rows, at, epoch),
    endedAt: Math.round(epoch + rows[at + FLOW_ENDED_AT]),
    reason: FLOW_ENDS[rows[at + FLOW_END]],
    ...(verdict === 0 ? {} : { verdict: words.verdictText?.(verdict) ?? String(verdict) }),
  };
}
