/**
 * The server's name in a ClientHello of TLS (RFC 8446 §4.1.2, RFC 6066 §3), found in the first bytes of a stream, or in the
 * handshake messages of QUIC (quic-client.ts).
 *
 * In TLS's own stream the handshake message may be cut into records, and those into segments, anywhere. Extensions that are not known (GREASE,
 * RFC 8701) are passed over. With Encrypted ClientHello (RFC 9849) the outer message's name counts: it is the one that the
 * network is shown. Allocates: once a connection.
 */
const RECORD_HEADER = 5;
const CONTENT_HANDSHAKE = 22;
/** RFC 8446 §5.1. */
const MAX_RECORD = 1 << 14;
export const HANDSHAKE_HEADER = 4;
/** Bytes of the longest ClientHello that is read, its header included. */
export const MAX_HELLO = MAX_RECORD;
const CLIENT_HELLO = 1;
const RANDOM = 32;
const EXTENSION_SERVER_NAME = 0;
const NAME_HOST = 0;
/** RFC 1035 §3.1, as text. */
const MAX_NAME = 253;

/** The hello has more bytes than have come. */
export const HELLO_MORE = 1;
/** It is no ClientHello, or one that names no server, or not one server. */
export const HELLO_NONE = 2;

/** What is found: the name in lower case without a final dot, HELLO_MORE or HELLO_NONE. */
export type Hello = string | typeof HELLO_MORE | typeof HELLO_NONE;

/** Cursor over a message whose lengths may lie. */
export class Cursor {
  at = 0;
  private readonly bytes: Uint8Array;
  private readonly end: number;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.end = bytes.length;
  }

  get left(): number {
    return this.end - this.at;
  }

  /** A number of `size` bytes; -1: it is not there. */
  number(size: number): number {
    if (this.left < size) return -1;
    let value = 0;
    for (let i = 0; i < size; i++) value = value * 256 + this.bytes[this.at++];
    return value;
  }

  /** The bytes behind a length of `size` bytes; null: they are not there. */
  vector(size: number): Uint8Array | null {
    const length = this.number(size);
    if (length < 0 || this.left < length) return null;
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  skip(count: number): boolean {
    this.at += count;
    return this.at <= this.end;
  }
}

/**
 * The bytes, header included, of the handshake message that begins in `bytes`; 0: its header is not there yet; -1: it is
 * no ClientHello, or too long.
 */
export function helloLength(bytes: Uint8Array): number {
  if (bytes.length > 0 && bytes[0] !== CLIENT_HELLO) return -1;
  if (bytes.length < HANDSHAKE_HEADER) return 0;
  const length = HANDSHAKE_HEADER + ((bytes[1] << 16) | (bytes[2] << 8) | bytes[3]);
  return length > MAX_HELLO ? -1 : length;
}

/** The handshake message at the beginning of the records in `bytes`, without its header. */
function clientHello(bytes: Uint8Array): Uint8Array | typeof HELLO_MORE | typeof HELLO_NONE {
  const parts: Uint8Array[] = [];
  let have = 0;
  for (let at = 0; ;) {
    if (at < bytes.length && bytes[at] !== CONTENT_HANDSHAKE) return HELLO_NONE;
    if (at + 1 < bytes.length && bytes[at + 1] !== 3) return HELLO_NONE;
    if (at + RECORD_HEADER > bytes.length) return HELLO_MORE;
    const length = (bytes[at + 3] << 8) | bytes[at + 4];
    if (length === 0 || length > MAX_RECORD) return HELLO_NONE;
    const part = bytes.subarray(at + RECORD_HEADER, at + RECORD_HEADER + length);
    parts.push(part);
    have += part.length;
    const message = parts.length === 1 ? parts[0] : Uint8Array.from(parts.flatMap((one) => [...one]));
    const want = helloLength(message);
    if (want < 0) return HELLO_NONE;
    if (want > 0 && have >= want) return message.subarray(HANDSHAKE_HEADER, want);
    if (part.length < length) return HELLO_MORE;
    at += RECORD_HEADER + length;
  }
}

/** The one host name of a server_name extension; null: there is not exactly one. */
function hostName(extension: Uint8Array): string | null {
  const outer = new Cursor(extension);
  const list = outer.vector(2);
  if (list === null || outer.left !== 0) return null;
  const cursor = new Cursor(list);
  if (cursor.number(1) !== NAME_HOST) return null;
  const name = cursor.vector(2);
  if (name === null || cursor.left !== 0) return null;
  const text = String.fromCharCode(...name.subarray(0, MAX_NAME + 1))
    .replace(/\.$/, '')
    .toLowerCase();
  return text.length > MAX_NAME || !/^[a-z0-9_.-]+$/.test(text) ? null : text;
}

/** Looks at the first bytes of a client's stream. */
export function readHello(bytes: Uint8Array): Hello {
  const message = clientHello(bytes);
  return typeof message === 'number' ? message : serverNameIn(message);
}

/** The name that a whole ClientHello has, given without its header. */
export function serverNameIn(message: Uint8Array): string | typeof HELLO_NONE {
  const cursor = new Cursor(message);
  if (!cursor.skip(2 + RANDOM)) return HELLO_NONE;
  // Session, cipher suites, compression methods.
  if (cursor.vector(1) === null || cursor.vector(2) === null || cursor.vector(1) === null) return HELLO_NONE;
  const extensions = cursor.vector(2);
  if (extensions === null) return HELLO_NONE;
  const list = new Cursor(extensions);
  let found: string | null = null;
  while (list.left > 0) {
    const type = list.number(2);
    const data = list.vector(2);
    if (type < 0 || data === null) return HELLO_NONE;
    if (type !== EXTENSION_SERVER_NAME) continue;
    const name = hostName(data);
    // Twice (RFC 8446 §4.2 forbids it): a server may take either.
    if (name === null || found !== null) return HELLO_NONE;
    found = name;
  }
  return found ?? HELLO_NONE;
}
