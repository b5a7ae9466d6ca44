/**
 * What is known of the guest (MAC and IP addresses, MTU), and how it is learnt from the guest's frames.
 *
 * There may be several Ethernet and IP addresses behind it (stations.ts). Connections and datagrams that are forwarded
 * without a target of their own go to one: the address that the guest was given, while it is seen in use; else the one
 * that it used last.
 */
import { addressWords, copyWords, isLinkLocal6, isUnspecified, mapWords4, wordsEqual } from '../ip/address';
import type { StackConfig } from '../config';
import type { FrameInfo, LinkState, StackContext } from '../context';
import { GuestMtu } from './guest-mtu';
import { LeaseHolder } from './lease-holder';
import { natTables } from '../ip/nat';
import { NeighbourTable } from './neighbours';
import { PathMtus } from '../ip/path-mtus';
import { PolicyGate } from '../policy/gate';
import { Rates } from '../kit/rate';
import { SITE_GUEST_MAC, SITE_GUEST_MTU, SITE_GUEST_MTU_LARGE } from '../kit/site-log';
import { HOW_ARP, HOW_NDP, StationTable } from './stations';
import { MAC_BROADCAST_HI, MAC_BROADCAST_LO, macIsGroup, macText, type Mac } from '../wire/ethernet';
import { IPV4_BROADCAST, ipv4IsLoopback, ipv4IsMulticast } from '../wire/ipv4';
import { TCP_HEADERS4, TCP_HEADERS6, TCP_HEADER_LEN, TCP_SYN, tcpCheck, tcpFlags, tcpOptionMss } from '../wire/tcp';

/**
 * How long the address given to the guest may be silent, while another one is used, before we send a request for it,
 * ms.
 */
const IN_USE_MS = 10_000;

/** Ethernet addresses of the guest that the log names; further ones it does not. */
const MACS_SAID = 8;

/** The state before any frame was seen: broadcast MAC, and the assigned addresses taken as the guest's. */
export function createLinkState(config: StackConfig): LinkState {
  const mac = new DataView(config.ourMac.buffer, config.ourMac.byteOffset, 6);
  const link: LinkState = {
    guestMacHi: MAC_BROADCAST_HI,
    guestMacLo: MAC_BROADCAST_LO,
    ourMacHi: mac.getUint16(0),
    ourMacLo: mac.getInt32(2),
    assigned4: 0,
    assigned6: new Int32Array(4),
    ours4: 0,
    ours6: new Int32Array(4),
    guest4: 0,
    guest6: new Int32Array(4),
    guest6LinkLocal: new Int32Array(4),
    seen: 0,
    saidMacs: new Float64Array(MACS_SAID),
    stations: new StationTable(),
    mtu: new GuestMtu(config),
    lease4: new LeaseHolder(),
    lease6: new LeaseHolder(),
    neighbours: new NeighbourTable(config),
    nat: natTables(config),
    policy: new PolicyGate(),
    rates: new Rates(),
    paths: new PathMtus(),
    words4: new Int32Array(4),
  };
  makeKnown(link, config);
  resetLinkState(link);
  return link;
}

/** Addresses that follow from the configuration. */
function makeKnown(link: LinkState, config: StackConfig): void {
  const { ip4, ip6 } = config;
  const words = new Int32Array(4);
  if (ip4 !== null) addressWords(ip4.guestAddr, words, 0);
  link.assigned4 = words[3];
  words.fill(0);
  if (ip4 !== null && ip4.gateway !== null) addressWords(ip4.gateway, words, 0);
  link.ours4 = words[3];
  link.assigned6.fill(0);
  link.ours6.fill(0);
  if (ip6 === null) return;
  addressWords(ip6.ourLinkLocal, link.ours6, 0);
  if (ip6.guestAddr !== null) addressWords(ip6.guestAddr, link.assigned6, 0);
}

/** Forgets what was learnt (the guest was reset), and what the guest knew. */
export function resetLinkState(link: LinkState): void {
  link.nat.forgetGuest();
  link.policy.reset();
  link.paths.clear();
  link.guestMacHi = MAC_BROADCAST_HI;
  link.guestMacLo = MAC_BROADCAST_LO;
  link.seen = 0;
  link.guest4 = link.assigned4;
  link.guest6.set(link.assigned6);
  link.guest6LinkLocal.fill(0);
  link.saidMacs.fill(0);
  link.stations.reset();
  link.mtu.reset();
  link.lease4.free();
  link.lease6.free();
}

/** Both rings run, or another client of the stream is there: the guest may be another one that was not reset. */
export function linkCameUp(link: LinkState, nowMs: number): void {
  link.lease4.linkUp(nowMs);
  link.lease6.linkUp(nowMs);
}

/**
 * The host's network changed. An address that the guest was seen to use, or was assigned, stays the guest's until its
 * frames or a DHCP exchange say otherwise.
 */
export function reconfigureLink(link: LinkState, config: StackConfig): void {
  link.nat.configure(config);
  link.neighbours.configure(config);
  link.mtu.configure(config);
  makeKnown(link, config);
  if (link.guest4 === 0) link.guest4 = link.assigned4;
  const { guest6 } = link;
  if (isUnspecified(guest6, 0)) guest6.set(link.assigned6);
}

/** Can an Ethernet address be a guest's? Group addresses, zero and our own cannot. */
function isGuestMac(link: LinkState, hi: number, lo: number): boolean {
  return !macIsGroup(hi) && (hi !== 0 || lo !== 0) && (hi !== link.ourMacHi || lo !== link.ourMacLo);
}

/** Takes the Ethernet source of the guest's latest frame. False if it cannot be a guest's. */
export function learnMac(ctx: StackContext, hi: number, lo: number): boolean {
  const link = ctx.link;
  if (hi === link.guestMacHi && lo === link.guestMacLo) return hi !== MAC_BROADCAST_HI;
  if (!isGuestMac(link, hi, lo)) return false;
  if (link.guestMacHi !== MAC_BROADCAST_HI) link.stations.several = true;
  link.guestMacHi = hi;
  link.guestMacLo = lo;
  sayMac(ctx, hi, lo);
  return true;
}

/** Each Ethernet address of the guest is said once, the first MACS_SAID of them. */
function sayMac(ctx: StackContext, hi: number, lo: number): void {
  const { saidMacs } = ctx.link;
  const mac = hi * 2 ** 32 + (lo >>> 0);
  for (let i = 0; i < MACS_SAID; i++) {
    if (saidMacs[i] === mac) return;
    if (saidMacs[i] !== 0) continue;
    if (!ctx.log.take(SITE_GUEST_MAC)) return;
    saidMacs[i] = mac;
    const last = i === MACS_SAID - 1 ? ' (further ones are not logged)' : '';
    // eslint-disable-next-line no-restricted-syntax -- cold: a few times a guest
    ctx.log.say(SITE_GUEST_MAC, 'info', `guest's Ethernet address is ${macText(hi, lo)}${last}`);
    return;
  }
}

/**
 * Takes the source of a valid IPv4 frame (neither zero, loopback nor multicast), from a guest's Ethernet address; or an
 * address that it has leased. `how`: HOW_… of stations.ts.
 */
export function learn4(ctx: StackContext, words: Int32Array, at: number, how: number): void {
  const { link, config, clock } = ctx;
  const src = words[at + 3];
  if (src === link.ours4) return;
  link.stations.learn(words, at, link.guestMacHi, link.guestMacLo, clock.nowMs, how);
  if (src === link.guest4 || config.ip4 === null || config.ip4.addrFixed) return;
  useAs4(ctx, src);
}

/**
 * Takes sender and Ethernet address of an ARP packet; what cannot be a guest's is passed over. As the guest's address
 * only one of our subnet counts: hosts put any address of theirs into a request (Linux's arp_announce).
 */
export function learnArp(ctx: StackContext, sender: number, hi: number, lo: number): void {
  const { link, config, clock } = ctx;
  if (sender === 0 || sender === IPV4_BROADCAST || sender === link.ours4 || !isGuestMac(link, hi, lo)) return;
  if (ipv4IsLoopback(sender) || ipv4IsMulticast(sender)) return;
  link.stations.learn(words4(link, sender), 0, hi, lo, clock.nowMs, HOW_ARP);
  if (config.ip4 === null || config.ip4.addrFixed || sender === link.guest4) return;
  const { prefixLen } = config.ip4;
  const mask = prefixLen === 0 ? 0 : (-1 << (32 - prefixLen)) | 0;
  if (((sender ^ link.assigned4) & mask) === 0) useAs4(ctx, sender);
}

/** The guest uses `src`: forwarded connections go there, unless the address that it was given is still in use. */
function useAs4(ctx: StackContext, src: number): void {
  const { link, clock } = ctx;
  const { stations, assigned4 } = link;
  if (link.guest4 === assigned4 && stations.isInUse(words4(link, assigned4), 0, IN_USE_MS, clock.nowMs)) return;
  link.guest4 = src;
}

/**
 * Takes the source of a valid IPv6 frame (neither unspecified, loopback nor multicast), from a guest's Ethernet
 * address; or an address that it leases or is about to use. `how`: HOW_… of stations.ts.
 */
export function learn6(ctx: StackContext, words: Int32Array, at: number, how: number): void {
  const { link } = ctx;
  learnAt(ctx, words, at, link.guestMacHi, link.guestMacLo, how);
}

/** As `learn6`, for an address that the guest says is found at `hi`, `lo` (neighbour advertisements). */
export function learn6At(ctx: StackContext, words: Int32Array, at: number, hi: number, lo: number): void {
  learnAt(ctx, words, at, hi, lo, HOW_NDP);
}

function learnAt(ctx: StackContext, words: Int32Array, at: number, hi: number, lo: number, how: number): void {
  const { link, config, clock } = ctx;
  const { stations, guest6, assigned6 } = link;
  if (wordsEqual(link.ours6, 0, words, at) || !isGuestMac(link, hi, lo)) return;
  stations.learn(words, at, hi, lo, clock.nowMs, how);
  if (isLinkLocal6(words, at)) {
    copyWords(words, at, link.guest6LinkLocal, 0);
    return;
  }
  if (wordsEqual(guest6, 0, words, at) || config.ip6 === null || config.ip6.addrFixed) return;
  // A host has several addresses of a prefix (RFC 4862, RFC 8981), and its services answer from the one that it
  // prefers,
  // which is the one that it used last.
  const samePrefix = words[at] === assigned6[0] && words[at + 1] === assigned6[1];
  const sameHost = samePrefix && stations.heardMs(assigned6, 0, hi, lo) !== -Infinity;
  const given = wordsEqual(guest6, 0, assigned6, 0) && !sameHost;
  if (given && stations.isInUse(assigned6, 0, IN_USE_MS, clock.nowMs)) return;
  copyWords(words, at, guest6, 0);
}

/** An IPv4 address as four words. The next call overwrites them. */
export function words4(link: LinkState, addr: number): Int32Array {
  mapWords4(addr, link.words4, 0);
  return link.words4;
}

/** The guest showed that its link takes IP packets of `mtu` bytes. One line where that is less than it was told. */
export function learnMtu(ctx: StackContext, mtu: number): void {
  const { clock, log } = ctx;
  const known = ctx.link.mtu;
  known.shown(mtu, clock.nowMs);
  if (known.isTooLarge(mtu, clock.nowMs) && log.take(SITE_GUEST_MTU_LARGE)) {
    log.say(SITE_GUEST_MTU_LARGE, 'warn', tooLargeText(mtu, known));
  }
  if (!known.isNews(clock.nowMs) || !log.take(SITE_GUEST_MTU)) return;
  const used = known.bound(true);
  // eslint-disable-next-line no-restricted-syntax -- cold: once for each MTU
  const text = `the guest uses an MTU of ${used}, but ${known.told} was advertised: datagrams to it are fragmented to fit`;
  log.say(SITE_GUEST_MTU, 'warn', text);
}

function tooLargeText(mtu: number, { told, frontEndLimits }: GuestMtu): string {
  const other = frontEndLimits ? `host_mtu=${mtu} at QEMU's -device` : `--mtu ${mtu}`;
  return `the guest uses an MTU of ${mtu}, but ${told} was offered: set ${told} in the guest (ip link set dev IFACE mtu ${told}), or offer more (${other})`;
}

/** A SYN's segment size, if the frame is one, shows the MTU of the guest's interface. Its header is in `port.head`. */
export function learnSegmentSize(ctx: StackContext, frame: FrameInfo): void {
  const { head } = ctx.port;
  const off = frame.l4Off;
  if (frame.l4Len < TCP_HEADER_LEN || (tcpFlags(head, off) & TCP_SYN) === 0) return;
  if (tcpCheck(head, off, off + frame.l4Len) !== 0) return;
  const mss = tcpOptionMss(head, off);
  if (mss > 0) learnMtu(ctx, mss + (frame.version === 4 ? TCP_HEADERS4 : TCP_HEADERS6));
}

/**
 * The Ethernet address under which the guest knows `words[at…]` (IPv4 as v4-mapped), which must not be the guest's own.
 * Frames to any Ethernet address are taken, so all are reached through us whatever they are told to have.
 */
export function macFor(ctx: StackContext, words: Int32Array, at: number, out: Mac): void {
  const { neighbours } = ctx.link;
  neighbours.lookup(words, at);
  out.hi = neighbours.macHi;
  out.lo = neighbours.macLo;
}
