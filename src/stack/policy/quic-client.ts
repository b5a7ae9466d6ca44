/**
 * What a client of QUIC says in its Initial packets (RFC 9000, RFC 9001 §5, RFC 9369): the servers that its ClientHellos name.
 *
 * Theory of operation. Initial packets are encrypted by keys that everybody who sees the first of them can derive: from its
 * version and its destination connection ID. A flow may hold several tries to connect, each with keys of its own: after a
 * Retry, or because a guest wants to hide one behind another. So every Initial packet of a flow is read, for as long as
 * the flow lives. One that no known keys open must begin a try, and that a hello.
 *
 * A hello may come in any order and more than once. What comes again has to be the same: a server may have missed what was
 * read here (a datagram that is too short, say), and must not get another hello in its place. After a HelloRetryRequest a
 * second hello follows the first one, and is read as that.
 */
import { HANDSHAKE_HEADER, HELLO_NONE, helloLength, MAX_HELLO, serverNameIn } from './client-hello';
import { type InitialPacket, initialsIn, type QuicVersion, readFrames } from './quic-packets';

/** Keys of a client's Initial packets. */
export interface InitialKeys {
  /** The mask for header protection of a sample of 16 bytes (RFC 9001 §5.4.3), five bytes of it at least. */
  mask(sample: Uint8Array): Uint8Array;
  /** The plain text of `sealed`, which ends with its tag; null: it does not belong to `header`, or to these keys. */
  open(packetNumber: number, header: Uint8Array, sealed: Uint8Array): Uint8Array | null;
}

/** Derives keys, as RFC 9001 §5.2 has it. */
export type DeriveKeys = (salt: Uint8Array, label: string, connectionId: Uint8Array) => InitialKeys;

/** A flow cannot be read, or contradicts itself. */
export const QUIC_NONE = 0;
/** Of a hello only a part has come. */
export const QUIC_MORE = 1;
/** All hellos that have begun are complete. */
export const QUIC_DONE = 2;

/** Tries of a flow that are remembered: the first, after a Retry, and one more. */
const MAX_TRIES = 3;
/** Two hellos, of which the second is nearly the first. */
const MAX_CRYPTO = 2 * MAX_HELLO;
const SAMPLE = 16;
const TAG = 16;

const same = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((byte, i) => byte === b[i]);

/** The stream of CRYPTO frames of one try. */
class HelloStream {
  private bytes = new Uint8Array(0);
  /** 1: the byte is known. */
  private known = new Uint8Array(0);
  /** Behind the last byte that is known, and behind the last one before which all are. */
  private end = 0;
  private whole = 0;
  /** Behind the last complete hello. */
  private read = 0;

  get complete(): boolean {
    return this.read > 0 && this.end === this.read;
  }

  /** False: it contradicts what was said before, or is too much. */
  add(offset: number, data: Uint8Array): boolean {
    const end = offset + data.length;
    if (end > MAX_CRYPTO) return false;
    this.grow(end);
    for (let i = 0; i < data.length; i++) {
      const at = offset + i;
      if (this.known[at] === 1 && this.bytes[at] !== data[i]) return false;
      this.bytes[at] = data[i];
      this.known[at] = 1;
    }
    if (data.length > 0) this.end = Math.max(this.end, end);
    while (this.whole < this.end && this.known[this.whole] === 1) this.whole++;
    return true;
  }

  /** Adds the names of hellos that have become complete to `names`. False: one has none. */
  names(names: string[]): boolean {
    for (;;) {
      const rest = this.bytes.subarray(this.read, this.whole);
      const length = helloLength(rest);
      if (length < 0) return false;
      if (length === 0 || rest.length < length) return true;
      const name = serverNameIn(rest.subarray(HANDSHAKE_HEADER, length));
      if (name === HELLO_NONE) return false;
      this.read += length;
      names.push(name);
    }
  }

  private grow(size: number): void {
    if (size <= this.bytes.length) return;
    const length = Math.max(size, Math.min(MAX_CRYPTO, 2 * this.bytes.length));
    const [bytes, known] = [new Uint8Array(length), new Uint8Array(length)];
    bytes.set(this.bytes);
    known.set(this.known);
    this.bytes = bytes;
    this.known = known;
  }
}

/** A try to connect: the destination connection ID of its first packet, and what follows from that. */
class Try {
  readonly hello = new HelloStream();
  readonly id: Uint8Array;
  /** The largest packet number that was opened. */
  private largest = -1;
  private readonly derive: DeriveKeys;
  private readonly keys = new Map<QuicVersion, InitialKeys>();

  constructor(id: Uint8Array, derive: DeriveKeys) {
    this.id = Uint8Array.from(id);
    this.derive = derive;
  }

  /** The plain text of a packet; null: it is not of this try. */
  open({ version, bytes, numberAt }: InitialPacket): Uint8Array | null {
    // RFC 9001 §5.4.2: the sample lies as if the number had four bytes.
    const sampleAt = numberAt + 4;
    if (sampleAt + SAMPLE > bytes.length) return null;
    const keys = this.keysOf(version);
    const mask = keys.mask(bytes.subarray(sampleAt, sampleAt + SAMPLE));
    const first = bytes[0] ^ (mask[0] & 0x0f);
    const size = (first & 3) + 1;
    const header = Uint8Array.from(bytes.subarray(0, numberAt + size));
    header[0] = first;
    let number = 0;
    for (let i = 0; i < size; i++) {
      header[numberAt + i] ^= mask[1 + i];
      number = number * 256 + header[numberAt + i];
    }
    const full = fullNumber(this.largest, number, size);
    if (numberAt + size + TAG > bytes.length) return null;
    const plain = keys.open(full, header, bytes.subarray(numberAt + size));
    if (plain !== null) this.largest = Math.max(this.largest, full);
    return plain;
  }

  private keysOf(version: QuicVersion): InitialKeys {
    const known = this.keys.get(version);
    if (known !== undefined) return known;
    const keys = this.derive(version.salt, version.label, this.id);
    this.keys.set(version, keys);
    return keys;
  }
}

/** The packet number of which `size` bytes are `number`, where `largest` came before (RFC 9000 §A.3). */
function fullNumber(largest: number, number: number, size: number): number {
  const expected = largest + 1;
  const window = 256 ** size;
  const candidate = Math.floor(expected / window) * window + number;
  if (candidate <= expected - window / 2) return candidate + window;
  if (candidate > expected + window / 2 && candidate >= window) return candidate - window;
  return candidate;
}

export class QuicClient {
  /** Names in hellos that the last datagram has made complete. */
  readonly found: string[] = [];
  private readonly derive: DeriveKeys;
  private tries: Try[] = [];

  constructor(derive: DeriveKeys) {
    this.derive = derive;
  }

  /** Reads a datagram of the client's that has a long header. Returns QUIC_NONE, QUIC_MORE or QUIC_DONE. */
  read(datagram: Uint8Array): number {
    this.found.length = 0;
    const packets = initialsIn(datagram);
    if (packets === null) return QUIC_NONE;
    for (const packet of packets) if (!this.readInitial(packet)) return QUIC_NONE;
    return this.tries.length > 0 && this.tries.every(({ hello }) => hello.complete) ? QUIC_DONE : QUIC_MORE;
  }

  private readInitial(packet: InitialPacket): boolean {
    for (const known of this.tries) {
      const plain = known.open(packet);
      if (plain !== null) return this.take(known, plain);
    }
    const begun = new Try(packet.destination, this.derive);
    if (this.tries.some(({ id }) => same(id, begun.id))) return false;
    const plain = begun.open(packet);
    if (plain === null) return false;
    if (this.tries.length === MAX_TRIES) this.tries = this.tries.slice(1);
    this.tries.push(begun);
    return this.take(begun, plain);
  }

  private take({ hello }: Try, plain: Uint8Array): boolean {
    return readFrames(plain, (offset, data) => hello.add(offset, data)) && hello.names(this.found);
  }
}
