/**
 * ARP, RFC 826: every IPv4 address is reached through us, so each is answered for: with the Ethernet address that the
 * host knows it by, else the gateway's, else ours (neighbours.ts).
 *
 * Not answered: the guest's own addresses (assigned, observed, or found at another Ethernet address behind the link),
 * announcements, and probes (RFC 5227 §2.1: sender
 * 0.0.0.0) for anything but our own address: an answer would tell a guest that the address it is about to use is taken.
 */
import type { FrameInfo, StackContext } from '../context';
import type { DropCode } from '../counters';
import { addressWords } from '../ip/address';
import { learnArp, macFor, words4 } from './guest-state';
import { CLASS_OTHER, sendSmall, trySendSmall } from '../ip/to-guest';
import {
  ARP_LEN,
  ARP_REPLY,
  ARP_REQUEST,
  arpCheck,
  arpOperation,
  arpSenderIp,
  arpSenderMacHi,
  arpSenderMacLo,
  arpTargetIp,
  arpWrite,
} from '../wire/arp';
import {
  ETHERNET_HEADER_LEN,
  ETHERTYPE_ARP,
  MAC_BROADCAST_HI,
  MAC_BROADCAST_LO,
  ethernetWrite,
  type Mac,
} from '../wire/ethernet';

const FRAME_LEN = ETHERNET_HEADER_LEN + ARP_LEN;

export class ArpService {
  private readonly ctx: StackContext;
  /** The address assigned to the guest and our own (the gateway's); 0: none. */
  private readonly assigned: number;
  private readonly ours: number;
  private readonly out: DataView;
  private readonly mac: Mac;
  private readonly to: Mac;

  constructor(ctx: StackContext) {
    this.ctx = ctx;
    const ip4 = ctx.config.ip4;
    const words = new Int32Array(8);
    if (ip4 !== null) addressWords(ip4.guestAddr, words, 0);
    if (ip4?.gateway) addressWords(ip4.gateway, words, 4);
    this.assigned = words[3];
    this.ours = words[7];
    this.out = new DataView(new ArrayBuffer(FRAME_LEN));
    this.mac = { hi: 0, lo: 0 };
    this.to = { hi: 0, lo: 0 };
  }

  /** An ARP frame from the guest; the packet starts at `l3Off`. */
  fromGuest(frame: FrameInfo): DropCode {
    const ctx = this.ctx;
    const head = ctx.port.head;
    const off = frame.l3Off;
    const drop = arpCheck(head, off, Math.min(frame.frameLen, ctx.port.headLen));
    if (drop !== 0) return drop;
    const sender = arpSenderIp(head, off);
    const target = arpTargetIp(head, off);
    const toHi = arpSenderMacHi(head, off);
    const toLo = arpSenderMacLo(head, off);
    const answers = arpOperation(head, off) === ARP_REQUEST && this.answers(sender, target, toHi, toLo);
    learnArp(ctx, sender, toHi, toLo);
    if (!answers) return 0;
    macFor(ctx, words4(ctx.link, target), 0, this.mac);
    const { guestMacHi, guestMacLo, ourMacHi, ourMacLo } = ctx.link;
    ethernetWrite(this.out, 0, guestMacHi, guestMacLo, ourMacHi, ourMacLo, ETHERTYPE_ARP);
    this.to.hi = toHi;
    this.to.lo = toLo;
    arpWrite(this.out, ETHERNET_HEADER_LEN, ARP_REPLY, this.mac, target, this.to, sender);
    sendSmall(ctx, this.out, FRAME_LEN, CLASS_OTHER);
    return 0;
  }

  private answers(sender: number, target: number, senderHi: number, senderLo: number): boolean {
    if (sender === 0) return target === this.ours || target === 0;
    const { link, clock } = this.ctx;
    if (target === sender || target === this.assigned || target === link.guest4) return false;
    // Behind another Ethernet address of the guest's: it answers for itself.
    return !link.stations.isElsewhere(words4(link, target), 0, senderHi, senderLo, clock.nowMs);
  }

  /** Asks for the guest's assigned address, to learn its Ethernet address. False if it must be tried again. */
  probe(): boolean {
    return this.ask(this.assigned);
  }

  /** Asks the guest for one of its addresses. False if it must be tried again. */
  ask(target: number): boolean {
    if (this.ours === 0) return true;
    const { ourMacHi, ourMacLo } = this.ctx.link;
    this.broadcast(ourMacHi, ourMacLo, this.ours, target);
    return trySendSmall(this.ctx, this.out, FRAME_LEN, CLASS_OTHER);
  }

  /**
   * Announces that the host found `address` at an Ethernet address (RFC 5227 §3: a request for itself), so that a guest
   * which asked before corrects its table. Not for the guest's own address: it would take it for a conflict.
   */
  announce(address: number, macHi: number, macLo: number): void {
    if (address === this.assigned || address === this.ctx.link.guest4) return;
    this.broadcast(macHi, macLo, address, address);
    sendSmall(this.ctx, this.out, FRAME_LEN, CLASS_OTHER);
  }

  private broadcast(macHi: number, macLo: number, sender: number, target: number): void {
    ethernetWrite(this.out, 0, MAC_BROADCAST_HI, MAC_BROADCAST_LO, macHi, macLo, ETHERTYPE_ARP);
    this.mac.hi = macHi;
    this.mac.lo = macLo;
    this.to.hi = 0;
    this.to.lo = 0;
    arpWrite(this.out, ETHERNET_HEADER_LEN, ARP_REQUEST, this.mac, sender, this.to, target);
  }
}
