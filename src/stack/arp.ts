/**
 * ARP, RFC 826: the guest finds every IPv4 address at our Ethernet address, because every one is reached through us.
 *
 * Not answered: the guest's own address (assigned or observed), announcements, and probes (RFC 5227 §2.1: sender
 * 0.0.0.0) for anything but our own address: an answer would tell a guest that the address it is about to use is taken.
 */
import type { FrameInfo, StackContext } from './context';
import type { DropCode } from './counters';
import { V4_MAPPED, addressWords } from './address';
import type { Mac } from './link';
import { macFor } from './link';
import { CLASS_OTHER, sendSmall, trySendSmall } from './output';
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
} from './wire/arp';
import { ETHERNET_HEADER_LEN, ETHERTYPE_ARP, MAC_BROADCAST_HI, MAC_BROADCAST_LO, ethernetWrite } from './wire/ethernet';

const FRAME_LEN = ETHERNET_HEADER_LEN + ARP_LEN;

export class ArpService {
  readonly #ctx: StackContext;
  /** The address assigned to the guest and our own (the gateway's); 0: none. */
  readonly #assigned: number;
  readonly #ours: number;
  readonly #out: DataView;
  readonly #mac: Mac;

  constructor(ctx: StackContext) {
    this.#ctx = ctx;
    const ip4 = ctx.config.ip4;
    const words = new Int32Array(8);
    if (ip4 !== null) addressWords(ip4.guestAddr, words, 0);
    if (ip4?.gateway) addressWords(ip4.gateway, words, 4);
    this.#assigned = words[3];
    this.#ours = words[7];
    this.#out = new DataView(new ArrayBuffer(FRAME_LEN));
    this.#mac = { hi: 0, lo: 0 };
  }

  /** An ARP frame from the guest; the packet starts at `l3Off`. */
  fromGuest(frame: FrameInfo): DropCode {
    const ctx = this.#ctx;
    const head = ctx.port.head;
    const off = frame.l3Off;
    const drop = arpCheck(head, off, Math.min(frame.frameLen, ctx.port.headLen));
    if (drop !== 0) return drop;
    const sender = arpSenderIp(head, off);
    const target = arpTargetIp(head, off);
    if (arpOperation(head, off) !== ARP_REQUEST || !this.#answers(sender, target)) return 0;
    macFor(ctx, 0, 0, V4_MAPPED, target, this.#mac);
    const toHi = arpSenderMacHi(head, off);
    const toLo = arpSenderMacLo(head, off);
    this.#write(ctx.link.guestMacHi, ctx.link.guestMacLo, ARP_REPLY, this.#mac, target, toHi, toLo, sender);
    sendSmall(ctx, this.#out, FRAME_LEN, CLASS_OTHER);
    return 0;
  }

  #answers(sender: number, target: number): boolean {
    if (sender === 0) return target === this.#ours || target === 0;
    return target !== sender && target !== this.#assigned && target !== this.#ctx.link.guest4;
  }

  /** Asks for the guest's assigned address, to learn its Ethernet address. False if it must be tried again. */
  probe(): boolean {
    if (this.#ours === 0) return true;
    const link = this.#ctx.link;
    this.#mac.hi = link.ourMacHi;
    this.#mac.lo = link.ourMacLo;
    this.#write(MAC_BROADCAST_HI, MAC_BROADCAST_LO, ARP_REQUEST, this.#mac, this.#ours, 0, 0, this.#assigned);
    return trySendSmall(this.#ctx, this.#out, FRAME_LEN, CLASS_OTHER);
  }

  #write(
    dstHi: number,
    dstLo: number,
    operation: number,
    senderMac: Mac,
    senderIp: number,
    targetMacHi: number,
    targetMacLo: number,
    targetIp: number,
  ): void {
    const { ourMacHi, ourMacLo } = this.#ctx.link;
    ethernetWrite(this.#out, 0, dstHi, dstLo, ourMacHi, ourMacLo, ETHERTYPE_ARP);
    arpWrite(
      this.#out,
      ETHERNET_HEADER_LEN,
      operation,
      senderMac.hi,
      senderMac.lo,
      senderIp,
      targetMacHi,
      targetMacLo,
      targetIp,
    );
  }
}
