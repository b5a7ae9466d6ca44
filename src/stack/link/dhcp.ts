/**
 * DHCP and BOOTP server with one address, for one client at a time (lease-holder.ts), RFC 2131, RFC 2132. All that is
 * remembered is which client has the address: another client gets no answer, or a NAK if it requests that address. Any
 * lease can be renewed for ever, but leases end, so that a client hears of another network of the host's
 * (docs/adr/0008).
 *
 * | request | answer |
 * |---|---|
 * | DISCOVER | OFFER; with rapid commit (RFC 4039) ACK |
 * | REQUEST for the assigned address, or for none in particular | ACK |
 * | REQUEST for another address | NAK, so that the client starts over (RFC 2131 §4.3.2) |
 * | REQUEST that chose another server | nothing |
 * | INFORM | ACK without address and lease |
 * | BOOTP (no message type) | reply with the options BOOTP clients know |
 * | DECLINE, RELEASE of the holder | nothing; another client may have the address |
 * | anything else | nothing |
 *
 * Options are sent whether requested or not, requested ones first and in the order requested (RFC 2132 §9.8), as room
 * allows: clients exist that ask for nothing and need the MTU. Some that say nothing new (ON_REQUEST) are sent if asked
 * for only.
 */
import type { Mac } from '../wire/ethernet';
import { INFINITE_SEC, MAX_DNS } from '../config';
import type { FrameInfo, StackContext } from '../context';
import type { DropCode } from '../counters';
import { dropCode } from '../counters';
import { V4_MAPPED, addressWords } from '../ip/address';
import { LINK_UDP_PAYLOAD4, linkUdpPull, linkUdpSend } from './small-datagram';
import { bootClass4, bootFile4, bootOptions4, bootServer4 } from './boot';
import { learn4, words4 } from './guest-state';
import { HOW_DHCP } from './stations';
import { admitsClient } from './lease-admission';
import {
  DHCP_ACK,
  DHCP_CLIENT_PORT,
  DHCP_DECLINE,
  DHCP_DISCOVER,
  DHCP_FLAG_BROADCAST,
  DHCP_HEADER_LEN,
  DHCP_INFORM,
  DHCP_MAGIC,
  DHCP_MIN_LEN,
  DHCP_NAK,
  DHCP_OFFER,
  DHCP_OPTIONS,
  DHCP_OPT_BOOT_FILE,
  DHCP_OPT_BROADCAST,
  DHCP_OPT_CLASS,
  DHCP_OPT_CLIENT_ID,
  DHCP_OPT_DNS,
  DHCP_OPT_DOMAIN,
  DHCP_OPT_END,
  DHCP_OPT_FQDN,
  DHCP_OPT_HOSTNAME,
  DHCP_OPT_LEASE,
  DHCP_OPT_MASK,
  DHCP_OPT_MAX_SIZE,
  DHCP_OPT_MTU,
  DHCP_OPT_PARAMETERS,
  DHCP_OPT_RAPID_COMMIT,
  DHCP_OPT_REQUESTED_ADDRESS,
  DHCP_OPT_ROUTER,
  DHCP_OPT_ROUTER_DISCOVERY,
  DHCP_OPT_ROUTES,
  DHCP_OPT_ROUTES_MS,
  DHCP_OPT_SEARCH,
  DHCP_OPT_SERVER_ID,
  DHCP_OPT_T1,
  DHCP_OPT_T2,
  DHCP_OPT_TFTP_SERVER,
  DHCP_OPT_TYPE,
  DHCP_RELEASE,
  DHCP_REQUEST,
  DHCP_SERVER_PORT,
  type DhcpOptions,
  dhcpChaddrHi,
  dhcpChaddrLo,
  dhcpCheck,
  dhcpCiaddr,
  dhcpFlags,
  dhcpGiaddr,
  dhcpHlen,
  dhcpMagic,
  dhcpOptions,
  dhcpWriteBoot,
  dhcpWriteReply,
} from '../wire/dhcp';
import { encodeName, encodeSearchList } from '../wire/domain-name';
import { IPV4_BROADCAST } from '../wire/ipv4';
import { UDP_HEADER_LEN, udpLength } from '../wire/udp';

const DROP_DHCP_MALFORMED = dropCode('dhcp_malformed');

/**
 * What any client takes as one IP packet (RFC 2131 §2), and the most we send if a client takes more (RFC 2132 §9.10).
 */
const MESSAGE_IP_LEN = 576;
const MESSAGE_IP_LEN_MAX = 1500;
const IP_UDP_LEN = 28;

/** The shortest lease that a client may wish for, seconds. */
const LEASE_SEC_MIN = 10;
const NONE = new Uint8Array(0);

/** Options without which a reply is worthless: room is kept for them. */
const ESSENTIAL: readonly number[] = [
  DHCP_OPT_MASK,
  DHCP_OPT_ROUTER,
  DHCP_OPT_LEASE,
  DHCP_OPT_T1,
  DHCP_OPT_T2,
  DHCP_OPT_TYPE,
  DHCP_OPT_SERVER_ID,
  DHCP_OPT_CLIENT_ID,
  DHCP_OPT_RAPID_COMMIT,
];

/**
 * Sent only on request: the domain (the search list has it), the broadcast address (the mask says it), that there are
 * no router advertisements of RFC 1256, Microsoft's number for the routes if the standard one is not requested, and what
 * the fixed part has of booting. What the user gave is sent in any case.
 */
const ON_REQUEST: readonly number[] = [
  DHCP_OPT_DOMAIN,
  DHCP_OPT_BROADCAST,
  DHCP_OPT_ROUTER_DISCOVERY,
  DHCP_OPT_ROUTES_MS,
  DHCP_OPT_TFTP_SERVER,
  DHCP_OPT_BOOT_FILE,
];

/** The longest client identifier that an option holds, and so the longest that is given back. */
const MAX_CLIENT_ID = 255;

/** RFC 4702 §2.1: the name is in wire encoding. */
const FQDN_FLAG_ENCODED = 0x04;

type Options = Map<number, Uint8Array>;

export class DhcpService {
  private readonly ctx: StackContext;
  /** Options that follow from the configuration. */
  private readonly fixed: ReadonlyMap<number, Uint8Array>;
  /** Codes of them that wait for a request. */
  private readonly onRequest: readonly number[];
  private readonly bootServer: number;
  private readonly bootFile: Uint8Array;
  private readonly assigned: number;
  /** Hardware address and identifier of the client whose message is being answered. */
  private readonly client: Mac;
  private clientId: Uint8Array;
  /** Source and destination of the reply, four words each. */
  private readonly addr: Int32Array;
  private readonly out: DataView;
  /** Where the REQUEST that is being answered was sent to. */
  private asked: number;

  constructor(ctx: StackContext) {
    this.ctx = ctx;
    this.asked = 0;
    this.fixed = fixedOptions(ctx);
    const { boot, options4 } = ctx.config.extras;
    this.onRequest = ON_REQUEST.filter((code) => !options4.some((option) => option.code === code));
    this.bootServer = bootServer4(ctx.config);
    this.bootFile = bootFile4(boot);
    this.addr = new Int32Array(8);
    this.addr[2] = this.addr[6] = V4_MAPPED;
    const ip4 = ctx.config.ip4;
    const words = new Int32Array(4);
    if (ip4 !== null) {
      if (ip4.gateway !== null) addressWords(ip4.gateway, this.addr, 0);
      addressWords(ip4.guestAddr, words, 0);
    }
    this.assigned = words[3];
    this.client = { hi: 0, lo: 0 };
    this.clientId = NONE;
    this.out = new DataView(new ArrayBuffer(LINK_UDP_PAYLOAD4 + MESSAGE_IP_LEN_MAX));
  }

  /** A datagram to port 67 from the guest. */
  fromGuest(frame: FrameInfo): DropCode {
    const drop = linkUdpPull(this.ctx, frame);
    if (drop !== 0) return drop;
    const head = this.ctx.port.head;
    const off = frame.l4Off + UDP_HEADER_LEN;
    const end = frame.l4Off + udpLength(head, frame.l4Off);
    const malformed = dhcpCheck(head, off, end);
    if (malformed !== 0) return malformed;
    const sent = dhcpOptions(head, off, end);
    const type = sent?.get(DHCP_OPT_TYPE);
    if (sent === null || (type !== undefined && type.length !== 1)) return DROP_DHCP_MALFORMED;
    if ((sent.get(DHCP_OPT_CLIENT_ID)?.length ?? 0) > MAX_CLIENT_ID) return DROP_DHCP_MALFORMED;
    // Without a gateway we have no address of our own on the link to be a server with.
    if (this.addr[3] === 0) return 0;
    this.setClient(head, off, sent);
    if (type === undefined) {
      if (this.admits()) this.replyBootp(head, off, sent);
      return 0;
    }
    switch (type[0]) {
      case DHCP_DISCOVER: {
        const rapid = sent.has(DHCP_OPT_RAPID_COMMIT);
        if (this.admits()) this.reply(head, off, sent, rapid ? DHCP_ACK : DHCP_OFFER, rapid);
        return 0;
      }
      case DHCP_REQUEST:
        return this.request(frame, head, off, sent);
      case DHCP_INFORM:
        this.reply(head, off, sent, DHCP_ACK, false, true);
        return 0;
      case DHCP_DECLINE:
      case DHCP_RELEASE:
        return this.givenBack(sent);
      default:
        return 0;
    }
  }

  private request(frame: FrameInfo, head: DataView, off: number, sent: DhcpOptions): DropCode {
    const server = addressOption(sent, DHCP_OPT_SERVER_ID);
    const requested = addressOption(sent, DHCP_OPT_REQUESTED_ADDRESS);
    if (server === null || requested === null) return DROP_DHCP_MALFORMED;
    if (server !== 0 && server !== this.addr[3]) {
      // RFC 2131 §4.3.2: what was offered here is declined by that.
      if (this.isHolder()) this.ctx.link.lease4.free();
      return 0;
    }
    this.asked = frame.addr[7];
    // SELECTING and INIT-REBOOT name the address in option 50, RENEWING and REBINDING in ciaddr.
    const wanted = requested !== 0 ? requested : dhcpCiaddr(head, off);
    const right = wanted === 0 || wanted === this.assigned;
    this.reply(head, off, sent, right && this.admits() ? DHCP_ACK : DHCP_NAK, false);
    return 0;
  }

  /** DECLINE or RELEASE. */
  private givenBack(sent: DhcpOptions): DropCode {
    const server = addressOption(sent, DHCP_OPT_SERVER_ID);
    if (server === null) return DROP_DHCP_MALFORMED;
    if ((server === 0 || server === this.addr[3]) && this.isHolder()) this.ctx.link.lease4.free();
    return 0;
  }

  /** Who asks: by hardware address (that of its frame, if it is not Ethernet's) and identifier. */
  private setClient(head: DataView, off: number, sent: DhcpOptions): void {
    const { guestMacHi, guestMacLo } = this.ctx.link;
    const ethernet = dhcpHlen(head, off) === 6;
    this.client.hi = ethernet ? dhcpChaddrHi(head, off) : guestMacHi;
    this.client.lo = ethernet ? dhcpChaddrLo(head, off) : guestMacLo;
    this.clientId = sent.get(DHCP_OPT_CLIENT_ID) ?? NONE;
  }

  private isHolder(): boolean {
    return this.ctx.link.lease4.isHolder(this.client.hi, this.client.lo, this.clientId);
  }

  /** May the client that asks have the address? */
  private admits(): boolean {
    const { link } = this.ctx;
    const { hi, lo } = this.client;
    return admitsClient(this.ctx, link.lease4, words4(link, this.assigned), hi, lo, this.clientId);
  }

  private reply(head: DataView, off: number, sent: DhcpOptions, type: number, rapid: boolean, inform = false): void {
    const options: Options = type === DHCP_NAK ? new Map<number, Uint8Array>() : new Map(this.fixed);
    options.set(DHCP_OPT_TYPE, Uint8Array.of(type));
    // A client that renews asks the server it knows, which has had another address since; and there are those that take
    // a refusal from no other.
    const server = type === DHCP_NAK && isUnicast(this.asked) ? this.asked : this.addr[3];
    options.set(DHCP_OPT_SERVER_ID, addressBytes(server));
    if (type !== DHCP_NAK && !inform) setLease(options, sent, this.ctx.config.ip4?.leaseSec ?? LEASE_SEC_MIN);
    if (rapid) options.set(DHCP_OPT_RAPID_COMMIT, NONE);
    const bootClass = type === DHCP_NAK ? null : bootClass4(this.ctx.config.extras.boot, sent);
    if (bootClass !== null) options.set(DHCP_OPT_CLASS, bootClass);
    // RFC 6842 §3: a client that sent an identifier gets it back.
    const clientId = sent.get(DHCP_OPT_CLIENT_ID);
    if (clientId !== undefined) options.set(DHCP_OPT_CLIENT_ID, clientId);
    const yiaddr = inform || type === DHCP_NAK ? 0 : this.assigned;
    const went = this.send(head, off, sent, options, yiaddr, type);
    if (!went || inform || type === DHCP_NAK) return;
    if (type === DHCP_OFFER) {
      const { link, clock } = this.ctx;
      const { hi, lo } = this.client;
      link.lease4.offer(hi, lo, this.clientId, clock.nowMs);
      return;
    }
    this.take(leaseMs(options));
    this.leased(sent);
  }

  /** The address is the client's for `ms`, as far as others are concerned. */
  private take(ms: number): void {
    const { link, clock } = this.ctx;
    const { hi, lo } = this.client;
    link.lease4.take(hi, lo, this.clientId, clock.nowMs, ms);
  }

  /** From now on the guest has this address, whatever it used before. */
  private leased(sent: DhcpOptions): void {
    const { link, clock } = this.ctx;
    const asked = sent.get(DHCP_OPT_PARAMETERS);
    link.guest4 = this.assigned;
    learn4(this.ctx, words4(this.ctx.link, this.assigned), 0, HOW_DHCP);
    link.mtu.leased(asked === undefined || asked.includes(DHCP_OPT_MTU), clock.nowMs);
    link.nat.guestKnows(4);
  }

  /** RFC 1534 §2: no DHCP-only options to BOOTP clients. */
  private replyBootp(head: DataView, off: number, sent: DhcpOptions): void {
    const known = dhcpMagic(head, off) === DHCP_MAGIC;
    const options = known ? new Map(this.fixed) : new Map<number, Uint8Array>();
    if (this.send(head, off, sent, options, this.assigned, 0)) this.take(Infinity);
  }

  /** `type`: of the DHCP message, 0 for BOOTP. */
  private send(
    head: DataView,
    off: number,
    sent: DhcpOptions,
    options: Options,
    yiaddr: number,
    type: number,
  ): boolean {
    const out = this.out;
    const at = LINK_UDP_PAYLOAD4;
    const nak = type === DHCP_NAK;
    // RFC 2131 §4.3.1, table 3: only an ACK returns what the client has.
    const ciaddr = nak || type === DHCP_OFFER ? 0 : dhcpCiaddr(head, off);
    const giaddr = dhcpGiaddr(head, off);
    let flags = dhcpFlags(head, off);
    // RFC 2131 §4.3.2: a relay is to broadcast a NAK, for the client may have no usable address.
    if (nak && giaddr !== 0) flags |= DHCP_FLAG_BROADCAST;
    dhcpWriteReply(out, at, head, off, ciaddr, yiaddr, flags);
    if (!nak) dhcpWriteBoot(out, at, this.bootServer, this.bootFile);
    const order = optionOrder(options, sent.get(DHCP_OPT_PARAMETERS) ?? NONE, this.onRequest);
    const budget = messageLimit(sent) - DHCP_HEADER_LEN;
    let next = at + DHCP_OPTIONS;
    if (dhcpMagic(head, off) === DHCP_MAGIC) next = writeOptions(out, next, options, order, budget);
    while (next < at + DHCP_MIN_LEN) out.setUint8(next++, 0);

    // Where to: RFC 2131 §4.1.
    let to = yiaddr;
    let port = DHCP_CLIENT_PORT;
    if (giaddr !== 0) {
      to = giaddr;
      port = DHCP_SERVER_PORT;
    } else if (nak) {
      to = IPV4_BROADCAST;
    } else if (ciaddr !== 0) {
      to = ciaddr;
    } else if ((flags & DHCP_FLAG_BROADCAST) !== 0 || yiaddr === 0) {
      to = IPV4_BROADCAST;
    }
    this.addr[7] = to;
    return linkUdpSend(this.ctx, out, 4, this.addr, DHCP_SERVER_PORT, port, next - at, 0);
  }
}

/**
 * The lease, the shorter one of what we give and what the client wishes (RFC 2131 §4.3.1), with the times at which it
 * is to be renewed (§4.4.5).
 */
function setLease(options: Options, sent: DhcpOptions, mostSec: number): void {
  const wish = addressOption(sent, DHCP_OPT_LEASE) ?? 0;
  const leaseSec = wish === 0 ? mostSec : Math.min(mostSec, Math.max(LEASE_SEC_MIN, wish >>> 0));
  options.set(DHCP_OPT_LEASE, addressBytes(leaseSec));
  const endless = leaseSec === INFINITE_SEC;
  options.set(DHCP_OPT_T1, addressBytes(endless ? leaseSec : leaseSec >>> 1));
  options.set(DHCP_OPT_T2, addressBytes(endless ? leaseSec : Math.floor((leaseSec * 7) / 8)));
}

function fixedOptions(ctx: StackContext): ReadonlyMap<number, Uint8Array> {
  const { config } = ctx;
  const { ip4 } = config;
  const options: Options = new Map();
  if (!ip4?.gateway) return options;
  options.set(DHCP_OPT_MASK, addressBytes(prefixMask(ip4.prefixLen)));
  options.set(DHCP_OPT_ROUTER, ip4.gateway);
  if (config.advertiseDns && ip4.dns.length > 0) {
    options.set(DHCP_OPT_DNS, Uint8Array.from(ip4.dns.slice(0, MAX_DNS).flatMap((a) => [...a])));
  }
  if (config.hostname !== null && config.hostname !== '') {
    const name = new TextEncoder().encode(config.hostname);
    if (name.length <= 255) options.set(DHCP_OPT_HOSTNAME, name);
  }
  const mtu = ctx.link.mtu.told;
  if (mtu !== 0) options.set(DHCP_OPT_MTU, Uint8Array.of(mtu >> 8, mtu & 0xff));
  const fqdn = config.fqdn === null ? null : encodeName(config.fqdn);
  if (fqdn !== null && fqdn.length + 3 <= 255) {
    options.set(DHCP_OPT_FQDN, Uint8Array.from([FQDN_FLAG_ENCODED, 0xff, 0xff, ...fqdn]));
  }
  const search = config.advertiseSearch ? encodeSearchList(config.search, 255) : NONE;
  if (search.length > 0) options.set(DHCP_OPT_SEARCH, search);
  const domain = config.advertiseSearch ? domainName(config.search) : null;
  if (domain !== null) options.set(DHCP_OPT_DOMAIN, domain);
  const mask = prefixMask(ip4.prefixLen);
  // RFC 3021 §2.2: links of two addresses have no broadcast address.
  if (ip4.prefixLen < 31) options.set(DHCP_OPT_BROADCAST, addressBytes(wordOf(ip4.guestAddr) | ~mask));
  options.set(DHCP_OPT_ROUTER_DISCOVERY, Uint8Array.of(0));
  if ((wordOf(ip4.gateway) & mask) !== (wordOf(ip4.guestAddr) & mask)) {
    // RFC 3442: the gateway is on the link though not in the subnet, then the default route through it.
    const routes = Uint8Array.from([32, ...ip4.gateway, 0, 0, 0, 0, 0, ...ip4.gateway]);
    options.set(DHCP_OPT_ROUTES, routes);
    options.set(DHCP_OPT_ROUTES_MS, routes);
  }
  for (const [code, data] of bootOptions4(config)) options.set(code, data);
  for (const { code, data } of config.extras.options4) {
    if (data === null) options.delete(code);
    else options.set(code, data);
  }
  return options;
}

/** The domain of option 15, without a dot at its end: the first of the search list that is a name in ASCII. */
function domainName(search: readonly string[]): Uint8Array | null {
  const name = search.find((entry) => encodeName(entry) !== null && /^[!-~]+$/.test(entry));
  return name === undefined ? null : new TextEncoder().encode(name.replace(/\.$/, ''));
}

/** Codes in the order of sending: type first unless requested elsewhere, then as requested, then ascending. */
function optionOrder(options: Options, asked: Uint8Array, onRequest: readonly number[]): number[] {
  const order = new Set<number>();
  if (!asked.includes(DHCP_OPT_TYPE)) order.add(DHCP_OPT_TYPE);
  for (const code of asked) {
    // RFC 3442 asks for one of the two numbers: the right one where the client knows both.
    if (code === DHCP_OPT_ROUTES_MS && asked.includes(DHCP_OPT_ROUTES)) continue;
    if (code === DHCP_OPT_ROUTER) order.add(DHCP_OPT_MASK); // the mask comes before it (RFC 2132 §3.3)
    order.add(code);
  }
  const rest = [...options.keys()].filter((code) => !onRequest.includes(code));
  for (const code of rest.sort((a, b) => a - b)) order.add(code);
  return [...order].filter((code) => options.has(code));
}

/** Writes what fits into `budget` bytes, END included; returns the offset after END. */
function writeOptions(out: DataView, at: number, options: Options, order: readonly number[], budget: number): number {
  let room = budget - 1;
  for (const code of ESSENTIAL) {
    const data = options.get(code);
    if (data !== undefined) room -= 2 + data.length;
  }
  let next = at;
  for (const code of order) {
    const data = options.get(code) ?? NONE;
    if (!ESSENTIAL.includes(code)) {
      if (2 + data.length > room) continue;
      room -= 2 + data.length;
    }
    out.setUint8(next, code);
    out.setUint8(next + 1, data.length);
    for (let i = 0; i < data.length; i++) out.setUint8(next + 2 + i, data[i]);
    next += 2 + data.length;
  }
  out.setUint8(next, DHCP_OPT_END);
  return next + 1;
}

/** Bytes of DHCP message the client takes. */
function messageLimit(sent: DhcpOptions): number {
  const data = sent.get(DHCP_OPT_MAX_SIZE);
  const asked = data?.length === 2 ? (data[0] << 8) | data[1] : 0;
  return Math.min(Math.max(asked, MESSAGE_IP_LEN), MESSAGE_IP_LEN_MAX) - IP_UDP_LEN;
}

/** How long the lease of a reply is, ms. */
function leaseMs(options: Options): number {
  const seconds = options.get(DHCP_OPT_LEASE);
  return seconds === undefined ? Infinity : (wordOf(seconds) >>> 0) * 1000;
}

/** Address in an option: 0 if the option is absent, null if it has not 4 bytes. */
function addressOption(sent: DhcpOptions, code: number): number | null {
  const data = sent.get(code);
  if (data === undefined) return 0;
  return data.length === 4 ? wordOf(data) : null;
}

function isUnicast(word: number): boolean {
  return word !== 0 && word >>> 28 < 14;
}

function addressBytes(word: number): Uint8Array {
  return Uint8Array.of(word >>> 24, (word >>> 16) & 0xff, (word >>> 8) & 0xff, word & 0xff);
}

function wordOf(bytes: Uint8Array): number {
  return (bytes[0] << 24) | (bytes[1] << 16) | (bytes[2] << 8) | bytes[3];
}

function prefixMask(prefixLen: number): number {
  return prefixLen === 0 ? 0 : (-1 << (32 - prefixLen)) | 0;
}
