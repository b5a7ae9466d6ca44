/**
 * DHCP and BOOTP server for one client with one address, RFC 2131, RFC 2132. Stateless: the guest's address is known
 * from the start, so an answer depends on the request alone, and any lease can be renewed for ever. Leases end all the
 * same, so that a client hears of another network of the host's (docs/adr/0008).
 *
 * | request | answer |
 * |---|---|
 * | DISCOVER | OFFER; with rapid commit (RFC 4039) ACK |
 * | REQUEST for the assigned address, or for none in particular | ACK |
 * | REQUEST for another address | NAK, so that the client starts over (RFC 2131 §4.3.2) |
 * | REQUEST that chose another server | nothing |
 * | INFORM | ACK without address and lease |
 * | BOOTP (no message type) | reply with the options BOOTP clients know |
 * | DECLINE, RELEASE, anything else | nothing |
 *
 * Options are sent whether asked for or not, those asked for first and in the order asked (RFC 2132 §9.8), as room
 * allows: clients exist that ask for nothing and need the MTU.
 */
import type { FrameInfo, StackContext } from './context';
import type { DropCode } from './counters';
import { dropCode } from './counters';
import { V4_MAPPED, addressWords } from './address';
import { LINK_UDP_PAYLOAD4, linkUdpPull, linkUdpSend } from './link-udp';
import {
  DHCP_ACK,
  DHCP_CLIENT_PORT,
  DHCP_DISCOVER,
  DHCP_FLAG_BROADCAST,
  DHCP_HEADER_LEN,
  DHCP_INFORM,
  DHCP_MAGIC,
  DHCP_MIN_LEN,
  DHCP_NAK,
  DHCP_OFFER,
  DHCP_OPTIONS,
  DHCP_OPT_CLIENT_ID,
  DHCP_OPT_DNS,
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
  DHCP_OPT_ROUTES,
  DHCP_OPT_SEARCH,
  DHCP_OPT_SERVER_ID,
  DHCP_OPT_T1,
  DHCP_OPT_T2,
  DHCP_OPT_TYPE,
  DHCP_REQUEST,
  DHCP_SERVER_PORT,
  dhcpCheck,
  dhcpCiaddr,
  dhcpFindOption,
  dhcpFlags,
  dhcpGiaddr,
  dhcpMagic,
  dhcpWriteReply,
} from './wire/dhcp';
import { encodeName, encodeSearchList } from './wire/domain-name';
import { IPV4_BROADCAST } from './wire/ipv4';
import { UDP_HEADER_LEN, udpLength } from './wire/udp';

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

/** RFC 4702 §2.1: the name is in wire encoding. */
const FQDN_FLAG_ENCODED = 0x04;

type Options = Map<number, Uint8Array>;

export class DhcpService {
  readonly #ctx: StackContext;
  /** Options that follow from the configuration. */
  readonly #fixed: ReadonlyMap<number, Uint8Array>;
  readonly #assigned: number;
  /** Source and destination of the reply, four words each. */
  readonly #addr: Int32Array;
  readonly #out: DataView;
  /** Where the REQUEST that is being answered was sent to. */
  #asked: number;

  constructor(ctx: StackContext) {
    this.#ctx = ctx;
    this.#asked = 0;
    this.#fixed = fixedOptions(ctx);
    this.#addr = new Int32Array(8);
    this.#addr[2] = this.#addr[6] = V4_MAPPED;
    const ip4 = ctx.config.ip4;
    const words = new Int32Array(4);
    if (ip4 !== null) {
      if (ip4.gateway !== null) addressWords(ip4.gateway, this.#addr, 0);
      addressWords(ip4.guestAddr, words, 0);
    }
    this.#assigned = words[3];
    this.#out = new DataView(new ArrayBuffer(LINK_UDP_PAYLOAD4 + MESSAGE_IP_LEN_MAX));
  }

  /** A datagram to port 67 from the guest. */
  fromGuest(frame: FrameInfo): DropCode {
    const drop = linkUdpPull(this.#ctx, frame);
    if (drop !== 0) return drop;
    const head = this.#ctx.port.head;
    const off = frame.l4Off + UDP_HEADER_LEN;
    const end = frame.l4Off + udpLength(head, frame.l4Off);
    const malformed = dhcpCheck(head, off, end);
    if (malformed !== 0) return malformed;
    // Without a gateway we have no address of our own on the link to be a server with.
    if (this.#addr[3] === 0) return 0;
    const typeAt = dhcpFindOption(head, off, end, DHCP_OPT_TYPE);
    if (typeAt < 0) {
      this.#replyBootp(head, off, end);
      return 0;
    }
    if (head.getUint8(typeAt + 1) !== 1) return DROP_DHCP_MALFORMED;
    switch (head.getUint8(typeAt + 2)) {
      case DHCP_DISCOVER: {
        const rapid = dhcpFindOption(head, off, end, DHCP_OPT_RAPID_COMMIT) >= 0;
        this.#reply(head, off, end, rapid ? DHCP_ACK : DHCP_OFFER, rapid);
        return 0;
      }
      case DHCP_REQUEST:
        return this.#request(frame, head, off, end);
      case DHCP_INFORM:
        this.#reply(head, off, end, DHCP_ACK, false, true);
        return 0;
      default:
        return 0;
    }
  }

  #request(frame: FrameInfo, head: DataView, off: number, end: number): DropCode {
    const server = addressOption(head, off, end, DHCP_OPT_SERVER_ID);
    const requested = addressOption(head, off, end, DHCP_OPT_REQUESTED_ADDRESS);
    if (server === null || requested === null) return DROP_DHCP_MALFORMED;
    if (server !== 0 && server !== this.#addr[3]) return 0;
    this.#asked = frame.addr[7];
    // SELECTING and INIT-REBOOT name the address in option 50, RENEWING and REBINDING in ciaddr.
    const wanted = requested !== 0 ? requested : dhcpCiaddr(head, off);
    const type = wanted === 0 || wanted === this.#assigned ? DHCP_ACK : DHCP_NAK;
    this.#reply(head, off, end, type, false);
    return 0;
  }

  #reply(head: DataView, off: number, end: number, type: number, rapid: boolean, inform = false): void {
    const options: Options = type === DHCP_NAK ? new Map<number, Uint8Array>() : new Map(this.#fixed);
    options.set(DHCP_OPT_TYPE, Uint8Array.of(type));
    // A client that renews asks the server it knows, which has had another address since; and there are those that take
    // a refusal from no other.
    const server = type === DHCP_NAK && isUnicast(this.#asked) ? this.#asked : this.#addr[3];
    options.set(DHCP_OPT_SERVER_ID, addressBytes(server));
    if (type !== DHCP_NAK && !inform)
      setLease(options, head, off, end, this.#ctx.config.ip4?.leaseSec ?? LEASE_SEC_MIN);
    if (rapid) options.set(DHCP_OPT_RAPID_COMMIT, NONE);
    const clientId = optionBytes(head, off, end, DHCP_OPT_CLIENT_ID);
    // RFC 6842 §3: a client that sent an identifier gets it back.
    if (clientId !== null) options.set(DHCP_OPT_CLIENT_ID, clientId);
    const yiaddr = inform || type === DHCP_NAK ? 0 : this.#assigned;
    const acknowledged = type === DHCP_ACK && !inform;
    if (this.#send(head, off, end, options, yiaddr, type) && acknowledged) {
      // From now on the guest has this address, whatever it used before.
      this.#ctx.link.guest4 = this.#assigned;
      this.#ctx.link.nat.guestKnows(4);
    }
  }

  /** RFC 1534 §2: no DHCP-only options to BOOTP clients. */
  #replyBootp(head: DataView, off: number, end: number): void {
    const known = dhcpMagic(head, off) === DHCP_MAGIC;
    this.#send(head, off, end, known ? new Map(this.#fixed) : new Map<number, Uint8Array>(), this.#assigned, 0);
  }

  /** `type`: of the DHCP message, 0 for BOOTP. */
  #send(head: DataView, off: number, end: number, options: Options, yiaddr: number, type: number): boolean {
    const out = this.#out;
    const at = LINK_UDP_PAYLOAD4;
    const nak = type === DHCP_NAK;
    // RFC 2131 §4.3.1, table 3: only an ACK returns what the client has.
    const ciaddr = nak || type === DHCP_OFFER ? 0 : dhcpCiaddr(head, off);
    const giaddr = dhcpGiaddr(head, off);
    let flags = dhcpFlags(head, off);
    // RFC 2131 §4.3.2: a relay is to broadcast a NAK, for the client may have no usable address.
    if (nak && giaddr !== 0) flags |= DHCP_FLAG_BROADCAST;
    dhcpWriteReply(out, at, head, off, ciaddr, yiaddr, flags);
    const order = optionOrder(options, optionBytes(head, off, end, DHCP_OPT_PARAMETERS));
    const budget = messageLimit(head, off, end) - DHCP_HEADER_LEN;
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
    this.#addr[7] = to;
    return linkUdpSend(this.#ctx, out, 4, this.#addr, DHCP_SERVER_PORT, port, next - at, 0);
  }
}

/**
 * The lease, the shorter one of what we give and what the client wishes (RFC 2131 §4.3.1), with the times at which it
 * is to be renewed (§4.4.5).
 */
function setLease(options: Options, head: DataView, off: number, end: number, mostSec: number): void {
  const wish = addressOption(head, off, end, DHCP_OPT_LEASE) ?? 0;
  const leaseSec = wish === 0 ? mostSec : Math.min(mostSec, Math.max(LEASE_SEC_MIN, wish >>> 0));
  options.set(DHCP_OPT_LEASE, addressBytes(leaseSec));
  options.set(DHCP_OPT_T1, addressBytes(leaseSec >>> 1));
  options.set(DHCP_OPT_T2, addressBytes(Math.floor((leaseSec * 7) / 8)));
}

function fixedOptions(ctx: StackContext): ReadonlyMap<number, Uint8Array> {
  const { config } = ctx;
  const { ip4 } = config;
  const options: Options = new Map();
  if (!ip4?.gateway) return options;
  options.set(DHCP_OPT_MASK, addressBytes(prefixMask(ip4.prefixLen)));
  options.set(DHCP_OPT_ROUTER, ip4.gateway);
  if (config.advertiseDns && ip4.dns.length > 0) {
    options.set(DHCP_OPT_DNS, Uint8Array.from(ip4.dns.slice(0, 3).flatMap((a) => [...a])));
  }
  if (config.hostname !== null && config.hostname !== '') {
    const name = new TextEncoder().encode(config.hostname);
    if (name.length <= 255) options.set(DHCP_OPT_HOSTNAME, name);
  }
  if (config.mtu !== 0) options.set(DHCP_OPT_MTU, Uint8Array.of(config.mtu >> 8, config.mtu & 0xff));
  const fqdn = config.fqdn === null ? null : encodeName(config.fqdn);
  if (fqdn !== null && fqdn.length + 3 <= 255) {
    options.set(DHCP_OPT_FQDN, Uint8Array.from([FQDN_FLAG_ENCODED, 0xff, 0xff, ...fqdn]));
  }
  const search = config.advertiseSearch ? encodeSearchList(config.search, 255) : NONE;
  if (search.length > 0) options.set(DHCP_OPT_SEARCH, search);
  const mask = prefixMask(ip4.prefixLen);
  if ((wordOf(ip4.gateway) & mask) !== (wordOf(ip4.guestAddr) & mask)) {
    // RFC 3442: the gateway is on the link though not in the subnet, then the default route through it.
    options.set(DHCP_OPT_ROUTES, Uint8Array.from([32, ...ip4.gateway, 0, 0, 0, 0, 0, ...ip4.gateway]));
  }
  return options;
}

/** Codes in the order of sending: type first unless asked for elsewhere, then as asked, then ascending. */
function optionOrder(options: Options, asked: Uint8Array | null): number[] {
  const order = new Set<number>();
  if (!asked?.includes(DHCP_OPT_TYPE)) order.add(DHCP_OPT_TYPE);
  for (const code of asked ?? NONE) {
    if (code === DHCP_OPT_ROUTER) order.add(DHCP_OPT_MASK); // the mask comes before it (RFC 2132 §3.3)
    order.add(code);
  }
  for (const code of [...options.keys()].sort((a, b) => a - b)) order.add(code);
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
function messageLimit(head: DataView, off: number, end: number): number {
  const at = dhcpFindOption(head, off, end, DHCP_OPT_MAX_SIZE);
  const asked = at >= 0 && head.getUint8(at + 1) === 2 ? head.getUint16(at + 2) : 0;
  return Math.min(Math.max(asked, MESSAGE_IP_LEN), MESSAGE_IP_LEN_MAX) - IP_UDP_LEN;
}

/** Data of an option, copied, or null if absent. */
function optionBytes(dv: DataView, off: number, end: number, code: number): Uint8Array | null {
  const at = dhcpFindOption(dv, off, end, code);
  if (at < 0) return null;
  return Uint8Array.from(new Uint8Array(dv.buffer, dv.byteOffset + at + 2, dv.getUint8(at + 1)));
}

/** Address in an option: 0 if the option is absent, null if it has not 4 bytes. */
function addressOption(dv: DataView, off: number, end: number, code: number): number | null {
  const at = dhcpFindOption(dv, off, end, code);
  if (at < 0) return 0;
  return dv.getUint8(at + 1) === 4 ? dv.getInt32(at + 2) : null;
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
