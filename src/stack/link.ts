/** What is known of the guest's end of the link, and how it is learnt from the guest's own frames. */
import { addressWords, isLinkLocal6 } from './address';
import type { StackConfig } from './config';
import type { LinkState, StackContext } from './context';
import { natTables } from './nat';
import { NeighbourTable } from './neighbours';
import { PathMtus } from './path-mtus';
import { SITE_GUEST_MAC } from './site-log';
import { MAC_BROADCAST_HI, MAC_BROADCAST_LO, macIsGroup, macText } from './wire/ethernet';

/** The state before any frame was seen: broadcast MAC, and the assigned addresses taken as the guest's. */
export function createLinkState(config: StackConfig): LinkState {
  const mac = new DataView(config.ourMac.buffer, config.ourMac.byteOffset, 6);
  const link: LinkState = {
    guestMacHi: MAC_BROADCAST_HI,
    guestMacLo: MAC_BROADCAST_LO,
    ourMacHi: mac.getUint16(0),
    ourMacLo: mac.getInt32(2),
    guest4: 0,
    guest6: new Int32Array(4),
    guest6LinkLocal: new Int32Array(4),
    seen: 0,
    neighbours: new NeighbourTable(config),
    nat: natTables(config),
    paths: new PathMtus(),
  };
  resetLinkState(link, config);
  return link;
}

/** Forgets what was learnt (the guest was reset), and what the guest knew. */
export function resetLinkState(link: LinkState, config: StackConfig): void {
  link.nat.forgetGuest();
  link.paths.clear();
  const words = new Int32Array(4);
  link.guestMacHi = MAC_BROADCAST_HI;
  link.guestMacLo = MAC_BROADCAST_LO;
  link.seen = 0;
  if (config.ip4 !== null) addressWords(config.ip4.guestAddr, words, 0);
  link.guest4 = words[3];
  link.guest6.fill(0);
  link.guest6LinkLocal.fill(0);
  if (config.ip6 !== null && config.ip6.guestAddr !== null) addressWords(config.ip6.guestAddr, link.guest6, 0);
}

/**
 * The host's network changed. An address that the guest was seen to use, or was assigned, stays the guest's until its
 * frames or a DHCP exchange say otherwise.
 */
export function reconfigureLink(link: LinkState, config: StackConfig): void {
  link.nat.configure(config);
  link.neighbours.configure(config);
  const words = new Int32Array(4);
  if (link.guest4 === 0 && config.ip4 !== null) {
    addressWords(config.ip4.guestAddr, words, 0);
    link.guest4 = words[3];
  }
  const guestAddr = config.ip6?.guestAddr;
  if (guestAddr && link.guest6.every((word) => word === 0)) addressWords(guestAddr, link.guest6, 0);
}

/** Takes the Ethernet source of the guest's latest frame. Group addresses, zero and our own are not a guest's. */
export function learnMac(ctx: StackContext, hi: number, lo: number): void {
  const link = ctx.link;
  if (hi === link.guestMacHi && lo === link.guestMacLo) return;
  if (macIsGroup(hi) || (hi === 0 && lo === 0) || (hi === link.ourMacHi && lo === link.ourMacLo)) return;
  link.guestMacHi = hi;
  link.guestMacLo = lo;
  if (ctx.log.take(SITE_GUEST_MAC))
    ctx.log.say(SITE_GUEST_MAC, 'info', `guest's Ethernet address is ${macText(hi, lo)}`);
}

/** Takes the source of a valid IPv4 frame (neither zero, loopback nor multicast) as the guest's address. */
export function learn4(ctx: StackContext, src: number): void {
  if (ctx.config.ip4 !== null && !ctx.config.ip4.addrFixed) ctx.link.guest4 = src;
}

/** Takes the source of a valid IPv6 frame (neither unspecified, loopback nor multicast) as the guest's address. */
export function learn6(ctx: StackContext, w0: number, w1: number, w2: number, w3: number): void {
  const linkLocal = isLinkLocal6(w0);
  if (!linkLocal && (ctx.config.ip6 === null || ctx.config.ip6.addrFixed)) return;
  const to = linkLocal ? ctx.link.guest6LinkLocal : ctx.link.guest6;
  to[0] = w0;
  to[1] = w1;
  to[2] = w2;
  to[3] = w3;
}

/** An Ethernet address as two numbers: high 16 bits, low 32 bits (int32). */
export interface Mac {
  hi: number;
  lo: number;
}

/**
 * The Ethernet address under which the guest knows `w0…w3` (IPv4 as v4-mapped), which must not be the guest's own.
 * Frames to any Ethernet address are taken, so all are reached through us whatever they are told to have.
 */
export function macFor(ctx: StackContext, w0: number, w1: number, w2: number, w3: number, out: Mac): void {
  const { neighbours } = ctx.link;
  neighbours.lookup(w0, w1, w2, w3);
  out.hi = neighbours.macHi;
  out.lo = neighbours.macLo;
}
