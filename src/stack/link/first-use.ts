/**
 * What a new user gets wrong in the guest, said in the log: an interface that is down, memory that is not shared, no
 * address. Looked at once, PATIENCE_MS after the link came up; one line for a guest, and no cost on the path of a frame.
 */
import { addressWords, isLinkLocal6, isV4 } from '../ip/address';
import type { AddressBytes, StackConfig } from '../config';
import type { StackContext } from '../context';
import { C_FRAMES_FROM_GUEST } from '../counters';
import { SITE_FIRST_USE, SITE_VLAN } from '../kit/site-log';
import { ipv4Text } from '../wire/ipv4';
import { ipv6Text } from '../wire/ipv6';

/** Time for a guest to go on with its boot after its driver started, and to configure its interface, ms. */
export const PATIENCE_MS = 45_000;

export class FirstUse {
  private readonly ctx: StackContext;
  private dueMs: number;
  /** Frames that had come from the guest when the link came up. */
  private framesBefore: number;
  private said: boolean;
  private saidVlan: boolean;

  constructor(ctx: StackContext) {
    this.ctx = ctx;
    this.dueMs = Infinity;
    this.framesBefore = 0;
    this.said = false;
    this.saidVlan = false;
  }

  linkUp(): void {
    const { clock, counters } = this.ctx;
    this.framesBefore = counters[C_FRAMES_FROM_GUEST];
    this.dueMs = this.said ? Infinity : clock.nowMs + PATIENCE_MS;
  }

  /** The guest was reset: the next one hears it again. */
  reset(): void {
    this.said = false;
    this.saidVlan = false;
  }

  nextDeadline(): number {
    return this.dueMs;
  }

  /** `hasBuffers`: the guest has posted receive buffers since the link came up. */
  onTimer(hasBuffers: boolean): void {
    if (this.ctx.clock.nowMs < this.dueMs) return;
    this.dueMs = Infinity;
    const text = this.complaint(hasBuffers);
    if (text === null || !this.ctx.log.take(SITE_FIRST_USE)) return;
    this.said = true;
    this.ctx.log.say(SITE_FIRST_USE, 'warn', text);
  }

  /** A frame with the tag of VLAN `id` was dropped. */
  vlan(id: number): void {
    if (this.saidVlan || !this.ctx.log.take(SITE_VLAN)) return;
    this.saidVlan = true;
    const remedy = 'use its untagged interface, there are no VLANs here';
    this.ctx.log.say(SITE_VLAN, 'warn', `the guest sends frames of VLAN ${String(id)}, which are dropped: ${remedy}`);
  }

  private complaint(hasBuffers: boolean): string | null {
    const { port, counters, config, link } = this.ctx;
    if (!port.up) return null;
    const after = `${String(PATIENCE_MS / 1000)} s`;
    const sent = counters[C_FRAMES_FROM_GUEST] - this.framesBefore > 0;
    if (!sent && !hasBuffers) return `the guest's driver has started, but its queues were empty for ${after}: ${SHARE}`;
    if (link.stations.any(isUsable)) return null;
    const remedy = remedyFor(config);
    if (remedy === null) return null;
    return sent
      ? `the guest has sent frames for ${after}, but none from an address that can be used: ${remedy}`
      : `the guest has sent nothing for ${after}: ${remedy}`;
  }
}

const SHARE =
  'bring its interface up (ip link set dev IFACE up); if it is up, the guest has its memory for itself: QEMU needs ' +
  "share=on with its memory-backend, libvirt <access mode='shared'/> in <memoryBacking>";

/** Not one that a host takes because it was given none (RFC 3927, RFC 4291 §2.5.6). */
function isUsable(words: Int32Array, at: number): boolean {
  return isV4(words, at) ? words[at + 3] >>> 16 !== LINK_LOCAL4 : !isLinkLocal6(words, at);
}

/** 169.254/16. */
const LINK_LOCAL4 = 0xa9fe;

function bytesText(address: AddressBytes): string {
  const words = new Int32Array(4);
  addressWords(address, words, 0);
  return address.length === 4 ? ipv4Text(words[3]) : ipv6Text(words, 0);
}

/** How the guest gets an address; null: there is none for it. */
function remedyFor({ ip4, ip6, dhcp, dhcpv6, ndp, ra }: StackConfig): string | null {
  if (ip4 !== null) {
    const gateway = ip4.gateway === null ? '' : `, gateway ${bytesText(ip4.gateway)}`;
    const byHand = `${bytesText(ip4.guestAddr)}/${String(ip4.prefixLen)}${gateway}`;
    const asks = dhcp && ip4.gateway !== null;
    return asks ? `start a DHCP client in it, or configure ${byHand}` : `configure ${byHand} in it`;
  }
  if (!ip6?.guestAddr) return null;
  const gateway = ip6.gateway === null ? '' : `, gateway ${bytesText(ip6.gateway)}`;
  const byHand = `${bytesText(ip6.guestAddr)}/64${gateway}`;
  const learns = ndp && ra;
  if (!learns && !dhcpv6) return `configure ${byHand} in it`;
  return `let it accept router advertisements or start a DHCPv6 client in it, or configure ${byHand}`;
}
