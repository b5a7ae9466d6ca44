/** The two ends of what is bypassed: where the host's loopback leads to inside, and what the namespace may reach outside. */
import { copyWords, isLoopback, isV4, mapWords4 } from '../ip/address';
import type { ForwardListener } from '../config';
import type { StackContext } from '../context';
import { dropCode } from '../counters';
import { NatResult } from '../ip/nat';
import { FLOW_TCP_SPLICE, FLOW_UDP_SPLICE } from '../kit/flow-rows';
import { KEY_WORDS } from '../kit/flow-table';
import { IP_PROTO_TCP, IP_PROTO_UDP } from '../wire/ipv4';

const LOOPBACK_4 = 0x7f000001;

const DROP_DESTINATION_INVALID = dropCode('destination_invalid');
const DROP_OWN_LISTENER = dropCode('own_listener');
const DROP_POLICY_DENIED = dropCode('policy_denied');

export class BypassEnds {
  /** Connections to the host's loopback keep their destination (--host-lo-to-ns-lo). */
  readonly keepsLoopback: boolean;
  /** Result of `inside`: four words. */
  readonly to: Int32Array;
  private readonly ctx: StackContext;
  /** Descriptors and ports of the host's that are listened on for the guest. */
  private readonly own = { tcp: new Map<number, number>(), udp: new Map<number, number>() };
  private readonly target: NatResult;

  constructor(ctx: StackContext, keepsLoopback: boolean) {
    this.ctx = ctx;
    this.keepsLoopback = keepsLoopback;
    this.to = new Int32Array(4);
    this.target = new NatResult();
  }

  /**
   * Where in the namespace what came from the host's loopback address `peer` to `local` goes: the guest's own address, as
   * with pasta, or, if it has none or destinations are kept, the loopback.
   */
  inside(peer: Int32Array, local: Int32Array): void {
    const { to } = this;
    const { link } = this.ctx;
    const v4 = isV4(peer, 0);
    if (this.keepsLoopback && isLoopback(local, 0)) {
      copyWords(local, 0, to, 0);
      return;
    }
    to.fill(0);
    if (v4) mapWords4(link.guest4 !== 0 ? link.guest4 : link.assigned4 !== 0 ? link.assigned4 : LOOPBACK_4, to, 0);
    else if (!isZero(link.guest6)) copyWords(link.guest6, 0, to, 0);
    else if (!isZero(link.assigned6)) copyWords(link.assigned6, 0, to, 0);
    else to[3] = 1;
  }

  /**
   * Of a new flow of the namespace's, from `peer` to port `port` of the host's `local`: 0, or a drop code. What the policy
   * denies is reported; `key`, a key of the flow table's form, is overwritten for that.
   */
  refusal(
    protocol: 'tcp' | 'udp',
    peer: Int32Array,
    peerPort: number,
    local: Int32Array,
    port: number,
    key: Int32Array,
  ): number {
    const { ctx } = this;
    if (!isLoopback(peer, 0) || !isLoopback(local, 0)) return DROP_DESTINATION_INVALID;
    if (this.isOurs(protocol, port)) return DROP_OWN_LISTENER;
    const { policy } = ctx.link;
    const ip = protocol === 'tcp' ? IP_PROTO_TCP : IP_PROTO_UDP;
    if (!policy.on || policy.admits(ctx, ip, local, 0, port, this.reach(local, 0))) return 0;
    copyWords(peer, 0, key, 0);
    copyWords(local, 0, key, 4);
    key[KEY_WORDS - 1] = (peerPort << 16) | port;
    ctx.ends?.refused(protocol === 'tcp' ? FLOW_TCP_SPLICE : FLOW_UDP_SPLICE, true, key, 0, policy.verdict);
    return DROP_POLICY_DENIED;
  }

  /** Does the policy let a flow of the namespace's live? `protocol`: IP_PROTO_*; its key is at `key[k…]`. */
  keeps(protocol: number, key: Int32Array, k: number): boolean {
    const port = key[k + KEY_WORDS - 1] & 0xffff;
    return this.ctx.link.policy.keeps(this.ctx, protocol, key, k + 4, port, this.reach(key, k + 4));
  }

  /** The host's loopback address `words[at…]`, as a policy reads destinations. */
  private reach(words: Int32Array, at: number): NatResult {
    copyWords(words, at, this.target.dst, 0);
    this.target.local = true;
    return this.target;
  }

  /** Whether port `port` of the host leads to the service itself: back to the namespace, or to its metrics. */
  private isOurs(protocol: 'tcp' | 'udp', port: number): boolean {
    for (const own of this.own[protocol].values()) if (own === port) return true;
    if (protocol === 'udp') return false;
    return this.ctx.config.ownListeners.some((listener) => listener.port === port);
  }

  /** Listeners of the host's that there are from now on, or no more. */
  change(remove: readonly number[], add: readonly ForwardListener[]): void {
    for (const fd of remove) for (const own of Object.values(this.own)) own.delete(fd);
    for (const { fd, protocol, port, inside } of add) if (inside !== true) this.own[protocol].set(fd, port);
  }
}

function isZero(words: Int32Array): boolean {
  return (words[0] | words[1] | words[2] | words[3]) === 0;
}
