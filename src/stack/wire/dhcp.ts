/**
 * DHCP messages, RFC 2131 §2, options RFC 2132. Offsets `off` are those of the message (the UDP payload). Accessors are
 * valid once `dhcpCheck` returned 0 for the same bytes.
 */
import type { DropCode } from '../counters';
import { dropCode } from '../counters';
import { ipv4Text } from './ipv4';

/** Fixed part up to and with the magic cookie; options follow. */
export const DHCP_HEADER_LEN = 240;
/** Shortest message (BOOTP, RFC 951): older clients refuse less. */
export const DHCP_MIN_LEN = 300;

export const DHCP_SERVER_PORT = 67;
export const DHCP_CLIENT_PORT = 68;

const OP = 0;
const HTYPE = 1;
const HLEN = 2;
const HOPS = 3;
const XID = 4;
const SECS = 8;
const FLAGS = 10;
const CIADDR = 12;
const YIADDR = 16;
const SIADDR = 20;
const GIADDR = 24;
const CHADDR = 28;
const SNAME = 44;
const MAGIC = 236;
export const DHCP_OPTIONS = DHCP_HEADER_LEN;

export const DHCP_OP_REQUEST = 1;
export const DHCP_OP_REPLY = 2;
/** Magic cookie of RFC 2132 (99.130.83.99) as int32. */
export const DHCP_MAGIC = 0x63825363;
export const DHCP_FLAG_BROADCAST = 0x8000;

// Message types (option 53).
export const DHCP_DISCOVER = 1;
export const DHCP_OFFER = 2;
export const DHCP_REQUEST = 3;
export const DHCP_DECLINE = 4;
export const DHCP_ACK = 5;
export const DHCP_NAK = 6;
export const DHCP_RELEASE = 7;
export const DHCP_INFORM = 8;

// Options.
export const DHCP_OPT_PAD = 0;
export const DHCP_OPT_MASK = 1;
export const DHCP_OPT_ROUTER = 3;
export const DHCP_OPT_DNS = 6;
export const DHCP_OPT_HOSTNAME = 12;
export const DHCP_OPT_MTU = 26;
export const DHCP_OPT_REQUESTED_ADDRESS = 50;
export const DHCP_OPT_LEASE = 51;
export const DHCP_OPT_TYPE = 53;
export const DHCP_OPT_SERVER_ID = 54;
export const DHCP_OPT_PARAMETERS = 55;
export const DHCP_OPT_MESSAGE = 56;
export const DHCP_OPT_MAX_SIZE = 57;
/** When to renew with the server that leased, and when with any (RFC 2132 §9.11, §9.12). */
export const DHCP_OPT_T1 = 58;
export const DHCP_OPT_T2 = 59;
export const DHCP_OPT_CLIENT_ID = 61;
export const DHCP_OPT_RAPID_COMMIT = 80;
export const DHCP_OPT_FQDN = 81;
export const DHCP_OPT_SEARCH = 119;
export const DHCP_OPT_ROUTES = 121;
export const DHCP_OPT_END = 255;

const DROP_DHCP_MALFORMED = dropCode('dhcp_malformed');

/**
 * A request from a client: fixed part present, op 1, hardware address of at most 16 bytes and, if the cookie is DHCP's,
 * well-formed options up to END or the end of the message (which may be missing: RFC 2131 does not require pads after).
 */
export function dhcpCheck(dv: DataView, off: number, end: number): DropCode {
  if (end - off < DHCP_HEADER_LEN) return DROP_DHCP_MALFORMED;
  if (dv.getUint8(off + OP) !== DHCP_OP_REQUEST || dv.getUint8(off + HLEN) > 16) return DROP_DHCP_MALFORMED;
  if (dhcpMagic(dv, off) !== DHCP_MAGIC) return 0;
  let i = off + DHCP_OPTIONS;
  while (i < end) {
    const code = dv.getUint8(i);
    if (code === DHCP_OPT_END) return 0;
    if (code === DHCP_OPT_PAD) {
      i++;
      continue;
    }
    if (i + 2 > end || i + 2 + dv.getUint8(i + 1) > end) return DROP_DHCP_MALFORMED;
    i += 2 + dv.getUint8(i + 1);
  }
  return 0;
}

/** Offset of the first option `code` (its code byte), or -1. Only after `dhcpCheck`; unknown cookie: always -1. */
export function dhcpFindOption(dv: DataView, off: number, end: number, code: number): number {
  if (dhcpMagic(dv, off) !== DHCP_MAGIC) return -1;
  let i = off + DHCP_OPTIONS;
  while (i < end) {
    const c = dv.getUint8(i);
    if (c === DHCP_OPT_END) return -1;
    if (c === code) return i;
    i += c === DHCP_OPT_PAD ? 1 : 2 + dv.getUint8(i + 1);
  }
  return -1;
}

export function dhcpHtype(dv: DataView, off: number): number {
  return dv.getUint8(off + HTYPE);
}

export function dhcpXid(dv: DataView, off: number): number {
  return dv.getInt32(off + XID);
}

export function dhcpFlags(dv: DataView, off: number): number {
  return dv.getUint16(off + FLAGS);
}

export function dhcpCiaddr(dv: DataView, off: number): number {
  return dv.getInt32(off + CIADDR);
}

export function dhcpYiaddr(dv: DataView, off: number): number {
  return dv.getInt32(off + YIADDR);
}

export function dhcpGiaddr(dv: DataView, off: number): number {
  return dv.getInt32(off + GIADDR);
}

export function dhcpMagic(dv: DataView, off: number): number {
  return dv.getInt32(off + MAGIC);
}

/**
 * Writes the fixed part of the reply to the request at `from` of `src`: what identifies the client is copied, `yiaddr`
 * and `ciaddr` are given, the rest (hops, secs, siaddr, sname, file) is zero. The cookie is echoed.
 */
export function dhcpWriteReply(
  dv: DataView,
  off: number,
  src: DataView,
  from: number,
  ciaddr: number,
  yiaddr: number,
  flags: number,
): void {
  dv.setUint8(off + OP, DHCP_OP_REPLY);
  dv.setUint8(off + HTYPE, src.getUint8(from + HTYPE));
  dv.setUint8(off + HLEN, src.getUint8(from + HLEN));
  dv.setUint8(off + HOPS, 0);
  dv.setInt32(off + XID, dhcpXid(src, from));
  dv.setUint16(off + SECS, 0);
  dv.setUint16(off + FLAGS, flags);
  dv.setInt32(off + CIADDR, ciaddr);
  dv.setInt32(off + YIADDR, yiaddr);
  dv.setInt32(off + SIADDR, 0);
  dv.setInt32(off + GIADDR, dhcpGiaddr(src, from));
  for (let i = CHADDR; i < SNAME; i += 4) dv.setInt32(off + i, src.getInt32(from + i));
  for (let i = SNAME; i < MAGIC; i += 4) dv.setInt32(off + i, 0);
  dv.setInt32(off + MAGIC, dhcpMagic(src, from));
}

/** For traces and tests; allocates. */
export function dhcpDescribe(dv: DataView, off: number, end: number): string {
  const at = dhcpFindOption(dv, off, end, DHCP_OPT_TYPE);
  const type = at < 0 ? 'none' : String(dv.getUint8(at + 2));
  return `dhcp op ${String(dv.getUint8(off + OP))} type ${type} ciaddr ${ipv4Text(dhcpCiaddr(dv, off))} yiaddr ${ipv4Text(dhcpYiaddr(dv, off))}`;
}
