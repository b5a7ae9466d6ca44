/**
 * TFTP, RFC 1350, with options RFC 2347 to 2349 and RFC 7440. Offsets `off` are those of the message (the UDP payload),
 * network byte order. Cold: allocates.
 */
export const TFTP_PORT = 69;

export const TFTP_RRQ = 1;
export const TFTP_WRQ = 2;
export const TFTP_DATA = 3;
export const TFTP_ACK = 4;
export const TFTP_ERROR = 5;
export const TFTP_OACK = 6;

export const TFTP_ERR_UNDEFINED = 0;
export const TFTP_ERR_NOT_FOUND = 1;
export const TFTP_ERR_ACCESS = 2;
export const TFTP_ERR_ILLEGAL = 4;
export const TFTP_ERR_OPTION = 8;

/** Opcode and block number. */
export const TFTP_DATA_HEADER_LEN = 4;
export const TFTP_DEFAULT_BLOCK = 512;
/** RFC 2347 §2: a request with its options. */
const MAX_REQUEST = 512;
const MAX_STRINGS = 24;

/** Opcode; 0 if there is none. */
export function tftpOpcode(dv: DataView, off: number, end: number): number {
  return end - off < 2 ? 0 : dv.getUint16(off);
}

/** Block number of an ACK; -1: cut short. */
export function tftpBlock(dv: DataView, off: number, end: number): number {
  return end - off < TFTP_DATA_HEADER_LEN ? -1 : dv.getUint16(off + 2);
}

export interface TftpRequest {
  readonly name: string;
  /** In lower case. */
  readonly mode: string;
  /** By their names in lower case; the first of each counts. */
  readonly options: ReadonlyMap<string, string>;
}

/** A read request; null: it is malformed. Its strings are printable ASCII. */
export function tftpRequest(dv: DataView, off: number, end: number): TftpRequest | null {
  if (end - off > MAX_REQUEST) return null;
  const strings: string[] = [];
  let text = '';
  for (let at = off + 2; at < end; at++) {
    const byte = dv.getUint8(at);
    if (byte === 0) {
      strings.push(text);
      text = '';
      if (strings.length > MAX_STRINGS) return null;
    } else if (byte < 0x20 || byte > 0x7e) return null;
    else text += String.fromCharCode(byte);
  }
  // Some clients pad their request with zeros: an option without a name ends them.
  if (text !== '' || strings.length < 2 || strings[0] === '') return null;
  const options = new Map<string, string>();
  for (let i = 2; i + 1 < strings.length && strings[i] !== ''; i += 2) {
    const name = strings[i].toLowerCase();
    if (!options.has(name)) options.set(name, strings[i + 1]);
  }
  return { name: strings[0], mode: strings[1].toLowerCase(), options };
}

/** Writes text and a zero; returns the offset after it. */
function writeText(dv: DataView, at: number, text: string): number {
  for (let i = 0; i < text.length; i++) dv.setUint8(at + i, text.charCodeAt(i));
  dv.setUint8(at + text.length, 0);
  return at + text.length + 1;
}

/** Returns the message's length. */
export function tftpWriteError(dv: DataView, at: number, code: number, text: string): number {
  dv.setUint16(at, TFTP_ERROR);
  dv.setUint16(at + 2, code);
  return writeText(dv, at + 4, text) - at;
}

/** Returns the message's length. */
export function tftpWriteOack(dv: DataView, at: number, options: ReadonlyMap<string, number>): number {
  dv.setUint16(at, TFTP_OACK);
  let next = at + 2;
  for (const [name, value] of options) next = writeText(dv, writeText(dv, next, name), String(value));
  return next - at;
}

/** Returns the message's length. `block` counts on beyond 65535; clients see its low 16 bits. */
export function tftpWriteData(
  dv: DataView,
  at: number,
  block: number,
  from: Uint8Array,
  start: number,
  length: number,
): number {
  dv.setUint16(at, TFTP_DATA);
  dv.setUint16(at + 2, block & 0xffff);
  for (let i = 0; i < length; i++) dv.setUint8(at + TFTP_DATA_HEADER_LEN + i, from[start + i]);
  return TFTP_DATA_HEADER_LEN + length;
}
