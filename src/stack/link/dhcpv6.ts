/**
 * DHCPv6 server with one address, for one client at a time, RFC 8415. As its IPv4 sister (dhcp.ts) it remembers who has
 * the address (lease-holder.ts): one identity association of one client. Lifetimes are finite as there.
 *
 * | message | server id | answer |
 * |---|---|---|
 * | SOLICIT | absent | ADVERTISE; REPLY if it has rapid commit (§18.3.1) |
 * | REQUEST, RENEW | ours | REPLY |
 * | REBIND | absent | REPLY |
 * | CONFIRM with addresses | absent | REPLY with status Success or NotOnLink (§18.3.3) |
 * | RELEASE, DECLINE | ours | REPLY with status Success (§18.3.7, §18.3.8) |
 * | INFORMATION-REQUEST without IA | absent or ours | REPLY without addresses |
 *
 * The first IA_NA gets the assigned address, every other identity association the status that there is none. Addresses
 * that are not ours: a REQUEST for them gets NotOnLink, RENEW and REBIND get them back with lifetimes of zero.
 *
 * While another client has the address: SOLICIT and REQUEST get NoAddrsAvail, RENEW and REBIND NoBinding (§18.3.4),
 * CONFIRM NotOnLink, so that the client starts over.
 */
import { INFINITE_SEC, MAX_DNS } from '../config';
import type { FrameInfo, StackContext } from '../context';
import type { DropCode } from '../counters';
import { dropCode } from '../counters';
import { addressWords, wordsEqual } from '../ip/address';
import { bootClass6, bootUrl6 } from './boot';
import { learn6 } from './guest-state';
import { HOW_DHCPV6 } from './stations';
import { LINK_UDP_PAYLOAD6, linkUdpPull, linkUdpSend } from './small-datagram';
import { copyBytes } from '../kit/bytes';
import { admitsClient } from './lease-admission';
import {
  DHCPV6_ADVERTISE,
  DHCPV6_CLIENT_PORT,
  DHCPV6_CONFIRM,
  DHCPV6_DECLINE,
  DHCPV6_HEADER_LEN,
  DHCPV6_IAADDR_LEN,
  DHCPV6_IA_LEN,
  DHCPV6_IA_TA_LEN,
  DHCPV6_INFORMATION_REQUEST,
  DHCPV6_OPTION_HEADER_LEN,
  DHCPV6_OPT_BOOT_URL,
  DHCPV6_OPT_CLASS,
  DHCPV6_OPT_CLIENTID,
  DHCPV6_OPT_DNS,
  DHCPV6_OPT_FQDN,
  DHCPV6_OPT_IAADDR,
  DHCPV6_OPT_IA_NA,
  DHCPV6_OPT_IA_PD,
  DHCPV6_OPT_IA_TA,
  DHCPV6_OPT_RAPID_COMMIT,
  DHCPV6_OPT_SEARCH,
  DHCPV6_OPT_SERVERID,
  DHCPV6_OPT_STATUS_CODE,
  DHCPV6_REBIND,
  DHCPV6_RELEASE,
  DHCPV6_RENEW,
  DHCPV6_REPLY,
  DHCPV6_REQUEST,
  DHCPV6_SERVER_PORT,
  DHCPV6_SOLICIT,
  DHCPV6_STATUS_NOT_ON_LINK,
  DHCPV6_STATUS_NO_ADDRS_AVAIL,
  DHCPV6_STATUS_NO_BINDING,
  DHCPV6_STATUS_NO_PREFIX_AVAIL,
  DHCPV6_STATUS_SUCCESS,
  dhcpv6Check,
  dhcpv6Data,
  dhcpv6FindOption,
  dhcpv6OptionCode,
  dhcpv6OptionLen,
  dhcpv6OptionNext,
  dhcpv6OptionsCheck,
  dhcpv6Type,
  dhcpv6Write,
  dhcpv6WriteOptionHeader,
  dhcpv6Xid,
} from '../wire/dhcpv6';
import { encodeName, encodeNames } from '../wire/domain-name';
import { IPV6_HEADER_LEN, IPV6_MIN_MTU, ipv6ReadAddress } from '../wire/ipv6';
import { UDP_HEADER_LEN, udpLength } from '../wire/udp';

const DROP_DHCPV6_MALFORMED = dropCode('dhcpv6_malformed');

/** A DUID has at most 128 bytes after its two of type (RFC 8415 §11.1). */
const MAX_DUID = 130;
/** Replies fit into a packet of the smallest MTU with its headers, so that no MTU matters. */
const MAX_MESSAGE = IPV6_MIN_MTU - IPV6_HEADER_LEN - UDP_HEADER_LEN;

/** Flags of the client FQDN option (RFC 4704 §4.1). */
const FQDN_S = 0x01;
const FQDN_O = 0x02;
const FQDN_N = 0x04;

export class Dhcpv6Service {
  private readonly ctx: StackContext;
  /** Source (ours) and destination, four words each. */
  private readonly addr: Int32Array;
  private readonly assigned: Int32Array;
  /** The address of the option in hand. */
  private readonly other: Int32Array;
  /** DUID-LL (RFC 8415 §11.4): made of our Ethernet address alone, so it outlives a restart. */
  private readonly serverId: Uint8Array;
  /** Options that follow from the configuration, in the order of sending. */
  private readonly fixed: ReadonlyMap<number, Uint8Array>;
  private readonly fqdn: Uint8Array;
  private readonly out: DataView;
  /** Who asks: DUID and the IAID of the first IA_NA; and whether that client may have the address. */
  private clientId: Uint8Array;
  private admitted: boolean;
  /** Next byte and end of the message being written. */
  private at: number;
  private end: number;

  constructor(ctx: StackContext) {
    this.ctx = ctx;
    this.addr = new Int32Array(8);
    this.assigned = new Int32Array(4);
    this.other = new Int32Array(4);
    const { config } = ctx;
    const { ip6 } = config;
    if (ip6 !== null) {
      addressWords(ip6.ourLinkLocal, this.addr, 0);
      if (ip6.guestAddr !== null) addressWords(ip6.guestAddr, this.assigned, 0);
    }
    this.serverId = Uint8Array.from([0, 3, 0, 1, ...config.ourMac]);
    const dns = ip6 !== null && config.advertiseDns ? ip6.dns.slice(0, MAX_DNS) : [];
    const search = config.advertiseSearch ? encodeNames(config.search, 512) : new Uint8Array(0);
    const fixed = new Map([
      [DHCPV6_OPT_DNS, Uint8Array.from(dns.flatMap((a) => [...a]))],
      [DHCPV6_OPT_SEARCH, search],
      [DHCPV6_OPT_BOOT_URL, bootUrl6(config)],
    ]);
    for (const { code, data } of config.extras.options6) fixed.set(code, data ?? new Uint8Array(0));
    this.fixed = fixed;
    this.fqdn = (config.fqdn === null ? null : encodeName(config.fqdn)) ?? new Uint8Array(0);
    this.out = new DataView(new ArrayBuffer(LINK_UDP_PAYLOAD6 + MAX_MESSAGE));
    this.clientId = new Uint8Array(0);
    this.admitted = true;
    this.at = 0;
    this.end = 0;
  }

  /** A datagram to port 547 of a multicast group from the guest. There must be an assigned address. */
  fromGuest(frame: FrameInfo): DropCode {
    const drop = linkUdpPull(this.ctx, frame);
    if (drop !== 0) return drop;
    const head = this.ctx.port.head;
    const off = frame.l4Off + UDP_HEADER_LEN;
    const end = frame.l4Off + udpLength(head, frame.l4Off);
    const malformed = dhcpv6Check(head, off, end);
    if (malformed !== 0) return malformed;
    const options = off + DHCPV6_HEADER_LEN;
    if (!this.valid(head, off, options, end)) return DROP_DHCPV6_MALFORMED;
    for (let i = 0; i < 4; i++) this.addr[4 + i] = frame.addr[i];
    this.answer(head, off, options, end);
    return 0;
  }

  /**
   * RFC 8415 §16: which of the identifiers a message must and must not have, and that its options hold what they say.
   */
  private valid(head: DataView, off: number, options: number, end: number): boolean {
    const client = dhcpv6FindOption(head, options, end, DHCPV6_OPT_CLIENTID);
    const server = dhcpv6FindOption(head, options, end, DHCPV6_OPT_SERVERID);
    if (client >= 0 && (dhcpv6OptionLen(head, client) < 2 || dhcpv6OptionLen(head, client) > MAX_DUID)) return false;
    if (!associationsValid(head, options, end)) return false;
    switch (dhcpv6Type(head, off)) {
      case DHCPV6_SOLICIT:
      case DHCPV6_CONFIRM:
      case DHCPV6_REBIND:
        return client >= 0 && server < 0;
      case DHCPV6_REQUEST:
      case DHCPV6_RENEW:
      case DHCPV6_RELEASE:
      case DHCPV6_DECLINE:
        return client >= 0 && server >= 0 && this.isOurs(head, server);
      case DHCPV6_INFORMATION_REQUEST:
        return (
          (server < 0 || this.isOurs(head, server)) &&
          dhcpv6FindOption(head, options, end, DHCPV6_OPT_IA_NA) < 0 &&
          dhcpv6FindOption(head, options, end, DHCPV6_OPT_IA_TA) < 0 &&
          dhcpv6FindOption(head, options, end, DHCPV6_OPT_IA_PD) < 0
        );
      default:
        return false;
    }
  }

  private isOurs(head: DataView, at: number): boolean {
    const id = this.serverId;
    if (dhcpv6OptionLen(head, at) !== id.length) return false;
    return id.every((byte, i) => head.getUint8(at + DHCPV6_OPTION_HEADER_LEN + i) === byte);
  }

  private answer(head: DataView, off: number, options: number, end: number): void {
    const type = dhcpv6Type(head, off);
    const rapid = type === DHCPV6_SOLICIT && dhcpv6FindOption(head, options, end, DHCPV6_OPT_RAPID_COMMIT) >= 0;
    let status = -1;
    this.setClient(head, options, end);
    if (type === DHCPV6_CONFIRM) {
      const found = this.addressesSeen(head, options, end);
      if (found === 0) return; // §18.3.3: nothing to confirm, no answer
      const right = found === 1 && this.admits();
      status = right ? DHCPV6_STATUS_SUCCESS : DHCPV6_STATUS_NOT_ON_LINK;
    } else if (type === DHCPV6_RELEASE || type === DHCPV6_DECLINE) {
      status = DHCPV6_STATUS_SUCCESS;
      if (this.isHolder()) this.ctx.link.lease6.free();
    } else if (type !== DHCPV6_INFORMATION_REQUEST && firstAssociation(head, options, end) >= 0) {
      this.admits();
    }
    const xid = dhcpv6Xid(head, off);
    const client = dhcpv6FindOption(head, options, end, DHCPV6_OPT_CLIENTID);
    // A guest may list more associations than a reply holds; there must be room left for its identifier.
    const kept = client < 0 ? 0 : DHCPV6_OPTION_HEADER_LEN + dhcpv6OptionLen(head, client);
    this.at = LINK_UDP_PAYLOAD6;
    this.end = LINK_UDP_PAYLOAD6 + MAX_MESSAGE - kept;
    dhcpv6Write(this.out, this.at, type === DHCPV6_SOLICIT && !rapid ? DHCPV6_ADVERTISE : DHCPV6_REPLY, xid);
    this.at += DHCPV6_HEADER_LEN;
    this.bytes(DHCPV6_OPT_SERVERID, this.serverId);
    if (rapid) this.header(DHCPV6_OPT_RAPID_COMMIT, 0);
    const assigned = status < 0 && this.associations(head, options, end, type);
    this.end += kept;
    if (client >= 0) this.echo(head, client);
    if (status >= 0) {
      if (this.fits(2 + statusText(status).length)) this.status(status);
    } else {
      for (const [code, data] of this.fixed) this.bytes(code, data);
      const asked = dhcpv6FindOption(head, options, end, DHCPV6_OPT_CLASS);
      if (asked >= 0) this.bytes(DHCPV6_OPT_CLASS, bootClass6(this.ctx.config.extras.boot, dhcpv6Data(head, asked)));
      this.writeFqdn(head, options, end);
    }
    const length = this.at - LINK_UDP_PAYLOAD6;
    const sent = linkUdpSend(this.ctx, this.out, 6, this.addr, DHCPV6_SERVER_PORT, DHCPV6_CLIENT_PORT, length, xid);
    if (!sent || !assigned) return;
    const { link, clock, config } = this.ctx;
    const { guestMacHi: hi, guestMacLo: lo, lease6 } = link;
    if (type === DHCPV6_SOLICIT && !rapid) {
      lease6.offer(hi, lo, this.clientId, clock.nowMs);
      return;
    }
    // For as long as the address is valid (`address`).
    const validMs = validSec(config.ip6?.leaseSec ?? 0) * 1000;
    lease6.take(hi, lo, this.clientId, clock.nowMs, validMs);
    link.guest6.set(this.assigned);
    learn6(this.ctx, this.assigned, 0, HOW_DHCPV6);
    link.nat.guestKnows(6);
  }

  /** Who asks: the identity association is one client's, whichever of its interfaces it asks on (RFC 8415 §12). */
  private setClient(head: DataView, options: number, end: number): void {
    const client = dhcpv6FindOption(head, options, end, DHCPV6_OPT_CLIENTID);
    const ia = firstAssociation(head, options, end);
    const id: number[] = [];
    for (let i = 0; client >= 0 && ia >= 0 && i < dhcpv6OptionLen(head, client); i++) {
      id.push(head.getUint8(client + DHCPV6_OPTION_HEADER_LEN + i));
    }
    for (let i = 0; client >= 0 && ia >= 0 && i < 4; i++) id.push(head.getUint8(ia + DHCPV6_OPTION_HEADER_LEN + i));
    this.clientId = Uint8Array.from(id);
    this.admitted = true;
  }

  private isHolder(): boolean {
    const { guestMacHi, guestMacLo, lease6 } = this.ctx.link;
    return lease6.isHolder(guestMacHi, guestMacLo, this.clientId);
  }

  /** May the client that asks have the address? */
  private admits(): boolean {
    const { guestMacHi, guestMacLo, lease6 } = this.ctx.link;
    this.admitted = admitsClient(this.ctx, lease6, this.assigned, guestMacHi, guestMacLo, this.clientId);
    return this.admitted;
  }

  /** Writes an answer to every identity association. Returns true if the address was assigned to one. */
  private associations(head: DataView, options: number, end: number, type: number): boolean {
    let assigned = false;
    for (let at = options; at < end; at = dhcpv6OptionNext(head, at)) {
      switch (dhcpv6OptionCode(head, at)) {
        case DHCPV6_OPT_IA_NA:
          if (type === DHCPV6_REQUEST && this.foreign(head, at, DHCPV6_IA_LEN)) {
            this.associationStatus(head, at, DHCPV6_OPT_IA_NA, DHCPV6_STATUS_NOT_ON_LINK);
          } else if (!this.admitted) {
            const known = type === DHCPV6_RENEW || type === DHCPV6_REBIND;
            const status = known ? DHCPV6_STATUS_NO_BINDING : DHCPV6_STATUS_NO_ADDRS_AVAIL;
            this.associationStatus(head, at, DHCPV6_OPT_IA_NA, status);
          } else if (assigned) {
            this.associationStatus(head, at, DHCPV6_OPT_IA_NA, DHCPV6_STATUS_NO_ADDRS_AVAIL);
          } else {
            assigned = this.assign(head, at, type);
          }
          break;
        case DHCPV6_OPT_IA_TA: {
          const wrong = type === DHCPV6_REQUEST && this.foreign(head, at, DHCPV6_IA_TA_LEN);
          const status = wrong ? DHCPV6_STATUS_NOT_ON_LINK : DHCPV6_STATUS_NO_ADDRS_AVAIL;
          this.associationStatus(head, at, DHCPV6_OPT_IA_TA, status);
          break;
        }
        case DHCPV6_OPT_IA_PD:
          this.associationStatus(head, at, DHCPV6_OPT_IA_PD, DHCPV6_STATUS_NO_PREFIX_AVAIL);
          break;
        default:
          break;
      }
    }
    return assigned;
  }

  /** Writes the IA_NA at `at` with the assigned address. False if there is no room. */
  private assign(head: DataView, at: number, type: number): boolean {
    const inner = DHCPV6_OPTION_HEADER_LEN + DHCPV6_IAADDR_LEN;
    if (!this.fits(DHCPV6_IA_LEN + inner)) return false;
    const start = this.at;
    this.header(DHCPV6_OPT_IA_NA, 0);
    this.word(head.getInt32(at + DHCPV6_OPTION_HEADER_LEN));
    // RFC 8415 §21.4: 0.5 and 0.8 times the preferred lifetime.
    const preferredSec = this.ctx.config.ip6?.leaseSec ?? 0;
    const endless = preferredSec === INFINITE_SEC;
    this.word(endless ? preferredSec : preferredSec >>> 1);
    this.word(endless ? preferredSec : Math.floor((preferredSec * 4) / 5));
    this.address(this.assigned, preferredSec);
    if (type === DHCPV6_RENEW || type === DHCPV6_REBIND) {
      const last = dhcpv6OptionNext(head, at);
      const first = at + DHCPV6_OPTION_HEADER_LEN + DHCPV6_IA_LEN;
      for (let i = first; i < last && this.fits(DHCPV6_IAADDR_LEN); i = dhcpv6OptionNext(head, i)) {
        // §18.3.4, §18.3.5: addresses no longer appropriate go back with lifetimes of 0.
        if (!isAddress(head, i) || this.isAssigned(head, i)) continue;
        ipv6ReadAddress(head, i + DHCPV6_OPTION_HEADER_LEN, this.other, 0);
        this.address(this.other, 0);
      }
    }
    dhcpv6WriteOptionHeader(this.out, start, DHCPV6_OPT_IA_NA, this.at - start - DHCPV6_OPTION_HEADER_LEN);
    return true;
  }

  /** Valid for twice as long as preferred: connections continue while the address is replaced. */
  private address(words: Int32Array, preferredSec: number): void {
    this.header(DHCPV6_OPT_IAADDR, DHCPV6_IAADDR_LEN);
    for (let i = 0; i < 4; i++) this.word(words[i]);
    this.word(preferredSec);
    this.word(validSec(preferredSec));
  }

  /** Writes an IA like the one at `at`, holding only a status code. */
  private associationStatus(head: DataView, at: number, code: number, status: number): void {
    const fixed = code === DHCPV6_OPT_IA_TA ? DHCPV6_IA_TA_LEN : DHCPV6_IA_LEN;
    const text = statusText(status);
    const inner = DHCPV6_OPTION_HEADER_LEN + 2 + text.length;
    if (!this.fits(fixed + inner)) return;
    this.header(code, fixed + inner);
    this.word(head.getInt32(at + DHCPV6_OPTION_HEADER_LEN));
    for (let i = 4; i < fixed; i += 4) this.word(0);
    this.status(status);
  }

  /** 0: no addresses in any IA; 1: ours alone; 2: others too. */
  private addressesSeen(head: DataView, options: number, end: number): number {
    let seen = 0;
    for (let at = options; at < end; at = dhcpv6OptionNext(head, at)) {
      const fixed = fixedLen(dhcpv6OptionCode(head, at));
      if (fixed < 0 || dhcpv6OptionCode(head, at) === DHCPV6_OPT_IA_PD) continue;
      if (this.foreign(head, at, fixed)) return 2;
      const first = at + DHCPV6_OPTION_HEADER_LEN + fixed;
      if (dhcpv6FindOption(head, first, dhcpv6OptionNext(head, at), DHCPV6_OPT_IAADDR) >= 0) seen = 1;
    }
    return seen;
  }

  /** True if the IA at `at` holds an address that is not the assigned one. */
  private foreign(head: DataView, at: number, fixed: number): boolean {
    const last = dhcpv6OptionNext(head, at);
    for (let i = at + DHCPV6_OPTION_HEADER_LEN + fixed; i < last; i = dhcpv6OptionNext(head, i)) {
      if (isAddress(head, i) && !this.isAssigned(head, i)) return true;
    }
    return false;
  }

  private isAssigned(head: DataView, at: number): boolean {
    ipv6ReadAddress(head, at + DHCPV6_OPTION_HEADER_LEN, this.other, 0);
    return wordsEqual(this.assigned, 0, this.other, 0);
  }

  private writeFqdn(head: DataView, options: number, end: number): void {
    const name = this.fqdn;
    if (name.length === 0 || !this.fits(1 + name.length)) return;
    const asked = dhcpv6FindOption(head, options, end, DHCPV6_OPT_FQDN);
    const wantsS = asked >= 0 && dhcpv6OptionLen(head, asked) > 0 && (head.getUint8(asked + 4) & FQDN_S) !== 0;
    this.header(DHCPV6_OPT_FQDN, 1 + name.length);
    // We update no DNS (N), which overrides a client that asked us to (O).
    this.out.setUint8(this.at++, wantsS ? FQDN_N | FQDN_O : FQDN_N);
    for (const byte of name) this.out.setUint8(this.at++, byte);
  }

  /** Writes an option of these bytes, unless there are none or no room. */
  private bytes(code: number, data: Uint8Array): void {
    if (data.length === 0 || !this.fits(data.length)) return;
    this.header(code, data.length);
    for (const byte of data) this.out.setUint8(this.at++, byte);
  }

  /** Copies the option at `at` of the request. */
  private echo(head: DataView, at: number): void {
    const length = dhcpv6OptionLen(head, at);
    if (!this.fits(length)) return;
    this.header(dhcpv6OptionCode(head, at), length);
    copyBytes(head, at + DHCPV6_OPTION_HEADER_LEN, this.out, this.at, length);
    this.at += length;
  }

  /** Writes a status code option; the caller saw to it that it fits. */
  private status(status: number): void {
    const text = statusText(status);
    this.header(DHCPV6_OPT_STATUS_CODE, 2 + text.length);
    this.out.setUint16(this.at, status);
    this.at += 2;
    for (let i = 0; i < text.length; i++) this.out.setUint8(this.at++, text.charCodeAt(i));
  }

  private fits(dataLen: number): boolean {
    return this.at + DHCPV6_OPTION_HEADER_LEN + dataLen <= this.end;
  }

  private header(code: number, length: number): void {
    dhcpv6WriteOptionHeader(this.out, this.at, code, length);
    this.at += DHCPV6_OPTION_HEADER_LEN;
  }

  private word(value: number): void {
    this.out.setInt32(this.at, value);
    this.at += 4;
  }
}

function validSec(preferredSec: number): number {
  return Math.min(INFINITE_SEC, 2 * preferredSec);
}

/** Bytes in front of the options inside an IA; -1 for other options. */
function fixedLen(code: number): number {
  if (code === DHCPV6_OPT_IA_NA || code === DHCPV6_OPT_IA_PD) return DHCPV6_IA_LEN;
  return code === DHCPV6_OPT_IA_TA ? DHCPV6_IA_TA_LEN : -1;
}

/** The first IA_NA, or -1. */
function firstAssociation(head: DataView, options: number, end: number): number {
  return dhcpv6FindOption(head, options, end, DHCPV6_OPT_IA_NA);
}

/** Every IA is long enough, and the options inside it tile it. */
function associationsValid(head: DataView, options: number, end: number): boolean {
  for (let at = options; at < end; at = dhcpv6OptionNext(head, at)) {
    const fixed = fixedLen(dhcpv6OptionCode(head, at));
    if (fixed < 0) continue;
    if (dhcpv6OptionLen(head, at) < fixed) return false;
    const first = at + DHCPV6_OPTION_HEADER_LEN + fixed;
    const last = dhcpv6OptionNext(head, at);
    if (dhcpv6OptionsCheck(head, first, last) !== 0) return false;
    for (let i = first; i < last; i = dhcpv6OptionNext(head, i)) {
      if (dhcpv6OptionCode(head, i) === DHCPV6_OPT_IAADDR && dhcpv6OptionLen(head, i) < DHCPV6_IAADDR_LEN) return false;
    }
  }
  return true;
}

function isAddress(head: DataView, at: number): boolean {
  return dhcpv6OptionCode(head, at) === DHCPV6_OPT_IAADDR;
}

function statusText(status: number): string {
  switch (status) {
    case DHCPV6_STATUS_SUCCESS:
      return 'Success.';
    case DHCPV6_STATUS_NO_ADDRS_AVAIL:
      return 'The only address is assigned to another IA.';
    case DHCPV6_STATUS_NO_BINDING:
      return 'No binding.';
    case DHCPV6_STATUS_NOT_ON_LINK:
      return 'Prefix not appropriate for link.';
    default:
      return 'No prefix delegation.';
  }
}
