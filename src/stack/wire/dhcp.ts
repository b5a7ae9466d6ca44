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
const FILE = 108;
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
export const DHCP_OPT_DOMAIN = 15;
export const DHCP_OPT_MTU = 26;
export const DHCP_OPT_BROADCAST = 28;
export const DHCP_OPT_ROUTER_DISCOVERY = 31;
export const DHCP_OPT_REQUESTED_ADDRESS = 50;
export const DHCP_OPT_LEASE = 51;
export const DHCP_OPT_OVERLOAD = 52;
export const DHCP_OPT_TYPE = 53;
export const DHCP_OPT_SERVER_ID = 54;
export const DHCP_OPT_PARAMETERS = 55;
export const DHCP_OPT_MESSAGE = 56;
export const DHCP_OPT_MAX_SIZE = 57;
/** When to renew with the server that leased, and when with any (RFC 2132 §9.11, §9.12). */
export const DHCP_OPT_T1 = 58;
export const DHCP_OPT_T2 = 59;
export const DHCP_OPT_CLASS = 60;
export const DHCP_OPT_CLIENT_ID = 61;
export const DHCP_OPT_TFTP_SERVER = 66;
export const DHCP_OPT_BOOT_FILE = 67;
export const DHCP_OPT_RAPID_COMMIT = 80;
export const DHCP_OPT_FQDN = 81;
export const DHCP_OPT_SEARCH = 119;
export const DHCP_OPT_ROUTES = 121;
/** Microsoft's number for the same, from before RFC 3442. */
export const DHCP_OPT_ROUTES_MS = 249;
export const DHCP_OPT_END = 255;

const DROP_DHCP_MALFORMED = dropCode('dhcp_malformed');

// Values of the overload option: which fields hold options (RFC 2132 §9.3).
const OVERLOAD_FILE = 1;
const OVERLOAD_SNAME = 2;

/** Options of one length: if one comes twice, the first counts. Of others the parts are put together (RFC 3396 §7). */
const OF_ONE_LENGTH: ReadonlySet<number> = new Set([
  DHCP_OPT_REQUESTED_ADDRESS,
  DHCP_OPT_LEASE,
  DHCP_OPT_OVERLOAD,
  DHCP_OPT_TYPE,
  DHCP_OPT_SERVER_ID,
  DHCP_OPT_MAX_SIZE,
  DHCP_OPT_RAPID_COMMIT,
]);

/** Options of a message by their codes, each with its data. */
export type DhcpOptions = ReadonlyMap<number, Uint8Array>;

/** A request from a client: fixed part present, op 1, hardware address of at most 16 bytes. Options: `dhcpOptions`. */
export function dhcpCheck(dv: DataView, off: number, end: number): DropCode {
  if (end - off < DHCP_HEADER_LEN) return DROP_DHCP_MALFORMED;
  return dv.getUint8(off + OP) !== DHCP_OP_REQUEST || dv.getUint8(off + HLEN) > 16 ? DROP_DHCP_MALFORMED : 0;
}

/**
 * All options of a message that `dhcpCheck` passed, copied: those of the options field, then those of `file` and `sname`
 * if option 52 says that these hold some (RFC 2131 §4.1). A field's options end with END or with the field. None if the
 * cookie is not DHCP's. Null if an option is cut short or option 52 says what it cannot.
 */
export function dhcpOptions(dv: DataView, off: number, end: number): DhcpOptions | null {
  const options = new Map<number, number[]>();
  if (dhcpMagic(dv, off) !== DHCP_MAGIC) return new Map();
  if (!readOptions(dv, off + DHCP_OPTIONS, end, options)) return null;
  const overload = options.get(DHCP_OPT_OVERLOAD);
  if (overload !== undefined) {
    const fields = overload.length === 1 ? overload[0] : 0;
    if (fields < 1 || fields > (OVERLOAD_FILE | OVERLOAD_SNAME)) return null;
    if ((fields & OVERLOAD_FILE) !== 0 && !readOptions(dv, off + FILE, off + MAGIC, options)) return null;
    if ((fields & OVERLOAD_SNAME) !== 0 && !readOptions(dv, off + SNAME, off + FILE, options)) return null;
  }
  return new Map([...options].map(([code, data]) => [code, Uint8Array.from(data)]));
}

/** Adds the options of [from, end) to `options`. False if one is cut short. */
function readOptions(dv: DataView, from: number, end: number, options: Map<number, number[]>): boolean {
  let i = from;
  while (i < end) {
    const code = dv.getUint8(i);
    if (code === DHCP_OPT_END) return true;
    if (code === DHCP_OPT_PAD) {
      i++;
      continue;
    }
    if (i + 2 > end || i + 2 + dv.getUint8(i + 1) > end) return false;
    const data = new Uint8Array(dv.buffer, dv.byteOffset + i + 2, dv.getUint8(i + 1));
    const before = options.get(code);
    if (before === undefined) options.set(code, [...data]);
    else if (!OF_ONE_LENGTH.has(code)) before.push(...data);
    i += 2 + data.length;
  }
  return true;
}

/** High 16 bits of a hardware address of 6 bytes, as Ethernet's are. */
export function dhcpChaddrHi(dv: DataView, off: number): number {
  return dv.getUint16(off + CHADDR);
}

/** Its low 32 bits, as int32. */
export function dhcpChaddrLo(dv: DataView, off: number): number {
  return dv.getInt32(off + CHADDR + 2);
}

export function dhcpHlen(dv: DataView, off: number): number {
  return dv.getUint8(off + HLEN);
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

/** Writes the server that the guest boots from (int32) and its file, at most 127 bytes, into a reply. */
export function dhcpWriteBoot(dv: DataView, off: number, server: number, file: Uint8Array): void {
  dv.setInt32(off + SIADDR, server);
  for (let i = 0; i < file.length && i < MAGIC - FILE - 1; i++) dv.setUint8(off + FILE + i, file[i]);
}

/** For traces and tests; allocates. */
export function dhcpDescribe(dv: DataView, off: number, end: number): string {
  const data = dhcpOptions(dv, off, end)?.get(DHCP_OPT_TYPE);
  const type = data === undefined ? 'none' : String(data[0]);
  return `dhcp op ${String(dv.getUint8(off + OP))} type ${type} ciaddr ${ipv4Text(dhcpCiaddr(dv, off))} yiaddr ${ipv4Text(dhcpYiaddr(dv, off))}`;
}
