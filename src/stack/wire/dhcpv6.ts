/**
 * DHCPv6 messages between client and server, RFC 8415 §8, and options §21. Offsets `off` are those of the message (the
 * UDP payload). Accessors are valid once `dhcpv6Check` returned 0 for the same bytes.
 */
import type { DropCode } from '../counters';
import { dropCode } from '../counters';

/** Message type and transaction id. */
export const DHCPV6_HEADER_LEN = 4;
export const DHCPV6_OPTION_HEADER_LEN = 4;

export const DHCPV6_SERVER_PORT = 547;
export const DHCPV6_CLIENT_PORT = 546;

// Message types, RFC 8415 §7.3.
export const DHCPV6_SOLICIT = 1;
export const DHCPV6_ADVERTISE = 2;
export const DHCPV6_REQUEST = 3;
export const DHCPV6_CONFIRM = 4;
export const DHCPV6_RENEW = 5;
export const DHCPV6_REBIND = 6;
export const DHCPV6_REPLY = 7;
export const DHCPV6_RELEASE = 8;
export const DHCPV6_DECLINE = 9;
export const DHCPV6_INFORMATION_REQUEST = 11;

// Options.
export const DHCPV6_OPT_CLIENTID = 1;
export const DHCPV6_OPT_SERVERID = 2;
export const DHCPV6_OPT_IA_NA = 3;
export const DHCPV6_OPT_IA_TA = 4;
export const DHCPV6_OPT_IAADDR = 5;
export const DHCPV6_OPT_STATUS_CODE = 13;
export const DHCPV6_OPT_RAPID_COMMIT = 14;
/** Vendor class; and where to boot from (RFC 5970). */
export const DHCPV6_OPT_CLASS = 16;
export const DHCPV6_OPT_BOOT_URL = 59;
export const DHCPV6_OPT_DNS = 23;
export const DHCPV6_OPT_SEARCH = 24;
export const DHCPV6_OPT_IA_PD = 25;
export const DHCPV6_OPT_FQDN = 39;

// Status codes, RFC 8415 §21.13.
export const DHCPV6_STATUS_SUCCESS = 0;
export const DHCPV6_STATUS_NO_ADDRS_AVAIL = 2;
export const DHCPV6_STATUS_NO_BINDING = 3;
export const DHCPV6_STATUS_NOT_ON_LINK = 4;
export const DHCPV6_STATUS_NO_PREFIX_AVAIL = 6;

/** Fixed parts in front of the encapsulated options: IAID, T1, T2; IAID alone. */
export const DHCPV6_IA_LEN = 12;
export const DHCPV6_IA_TA_LEN = 4;
/** Address, preferred and valid lifetime. */
export const DHCPV6_IAADDR_LEN = 24;

const DROP_DHCPV6_MALFORMED = dropCode('dhcpv6_malformed');

/** The header is there and the options tile [off + 4, end) exactly. */
export function dhcpv6Check(dv: DataView, off: number, end: number): DropCode {
  if (end - off < DHCPV6_HEADER_LEN) return DROP_DHCPV6_MALFORMED;
  return dhcpv6OptionsCheck(dv, off + DHCPV6_HEADER_LEN, end);
}

/** As `dhcpv6Check`, for options alone: also those inside an IA. */
export function dhcpv6OptionsCheck(dv: DataView, from: number, end: number): DropCode {
  let i = from;
  while (i < end) {
    if (end - i < DHCPV6_OPTION_HEADER_LEN) return DROP_DHCPV6_MALFORMED;
    const length = dhcpv6OptionLen(dv, i);
    if (length > end - i - DHCPV6_OPTION_HEADER_LEN) return DROP_DHCPV6_MALFORMED;
    i += DHCPV6_OPTION_HEADER_LEN + length;
  }
  return i === end ? 0 : DROP_DHCPV6_MALFORMED;
}

export function dhcpv6Type(dv: DataView, off: number): number {
  return dv.getUint8(off);
}

/** Transaction id, 24 bits. */
export function dhcpv6Xid(dv: DataView, off: number): number {
  return dv.getUint32(off) & 0xffffff;
}

/** Code of the option at `at`. */
export function dhcpv6OptionCode(dv: DataView, at: number): number {
  return dv.getUint16(at);
}

/** A copy of the option's data. Allocates. */
export function dhcpv6Data(dv: DataView, at: number): Uint8Array {
  const from = dv.byteOffset + at + DHCPV6_OPTION_HEADER_LEN;
  return Uint8Array.from(new Uint8Array(dv.buffer, from, dhcpv6OptionLen(dv, at)));
}

/** Bytes of the option's data. */
export function dhcpv6OptionLen(dv: DataView, at: number): number {
  return dv.getUint16(at + 2);
}

/** Offset after the option at `at`. */
export function dhcpv6OptionNext(dv: DataView, at: number): number {
  return at + DHCPV6_OPTION_HEADER_LEN + dhcpv6OptionLen(dv, at);
}

/** Offset of the first option `code` at or after option boundary `from`, or -1. Only after the check. */
export function dhcpv6FindOption(dv: DataView, from: number, end: number, code: number): number {
  for (let i = from; i < end; i = dhcpv6OptionNext(dv, i)) {
    if (dhcpv6OptionCode(dv, i) === code) return i;
  }
  return -1;
}

export function dhcpv6Write(dv: DataView, off: number, type: number, xid: number): void {
  dv.setInt32(off, (type << 24) | (xid & 0xffffff));
}

export function dhcpv6WriteOptionHeader(dv: DataView, at: number, code: number, length: number): void {
  dv.setUint16(at, code);
  dv.setUint16(at + 2, length);
}

/** For traces and tests; allocates. */
export function dhcpv6Describe(dv: DataView, off: number, end: number): string {
  const codes: string[] = [];
  for (let i = off + DHCPV6_HEADER_LEN; i < end; i = dhcpv6OptionNext(dv, i))
    codes.push(String(dhcpv6OptionCode(dv, i)));
  return `dhcpv6 type ${String(dhcpv6Type(dv, off))} xid ${dhcpv6Xid(dv, off).toString(16)} options ${codes.join(' ')}`;
}
