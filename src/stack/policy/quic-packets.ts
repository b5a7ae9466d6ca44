/**
 * Packets of QUIC that a client sends (RFC 9000 §17.2, RFC 9369), as far as the policy has to tell them apart: where the
 * Initial packets of a datagram lie, and what their frames say once they are decrypted. Lengths may lie. Allocates: no bulk
 * traffic is read, packets with a short header least of all.
 */
import { Cursor } from './client-hello';

/** The first bit of the first byte: a long header, which is what packets have until the handshake is over. */
export const LONG_HEADER = 0x80;
/** RFC 9000 §17.2. */
const MAX_CONNECTION_ID = 20;

/** What differs in the versions that are read (RFC 9001 §5.2, RFC 9369 §3). */
export interface QuicVersion {
  readonly number: number;
  readonly salt: Uint8Array;
  /** Of the labels by which keys are derived: `quic key`. */
  readonly label: string;
  /** Types in the first byte's bits 4 and 5. */
  readonly initial: number;
  readonly retry: number;
}

const hex = (text: string): Uint8Array =>
  Uint8Array.from({ length: text.length / 2 }, (_, i) => parseInt(text.slice(2 * i, 2 * i + 2), 16));

export const QUIC_VERSIONS: readonly QuicVersion[] = [
  { number: 1, salt: hex('38762cf7f55934b34d179ae6a4c80cadccbb7f0a'), label: 'quic', initial: 0, retry: 3 },
  { number: 0x6b3343cf, salt: hex('0dede3def700a6db819381be6e269dcbf9bd2ed9'), label: 'quicv2', initial: 1, retry: 0 },
];

export interface InitialPacket {
  readonly version: QuicVersion;
  readonly destination: Uint8Array;
  /** The packet, from its first byte to its end, and where its packet number begins. */
  readonly bytes: Uint8Array;
  readonly numberAt: number;
}

/** A number of 1, 2, 4 or 8 bytes (RFC 9000 §16); -1: it is not there, or too large for one of ours. */
function varint(cursor: Cursor): number {
  const first = cursor.number(1);
  if (first < 0) return -1;
  const more = (1 << (first >> 6)) - 1;
  const rest = more === 0 ? 0 : cursor.number(more);
  const value = rest < 0 ? -1 : (first & 0x3f) * 256 ** more + rest;
  return Number.isSafeInteger(value) ? value : -1;
}

/** The Initial packets in a datagram; null: it has what no client sends, or what is of no version that is read. */
export function initialsIn(datagram: Uint8Array): InitialPacket[] | null {
  const found: InitialPacket[] = [];
  let at = 0;
  // A packet with a short header goes up to the end of the datagram (RFC 9000 §12.2).
  while (at < datagram.length && (datagram[at] & LONG_HEADER) !== 0) {
    const cursor = new Cursor(datagram.subarray(at));
    const type = (cursor.number(1) >> 4) & 3;
    const number = cursor.number(4);
    const version = QUIC_VERSIONS.find((one) => one.number === number);
    const destination = cursor.vector(1);
    const source = cursor.vector(1);
    if (version === undefined || destination === null || source === null || type === version.retry) return null;
    if (destination.length > MAX_CONNECTION_ID || source.length > MAX_CONNECTION_ID) return null;
    if (type === version.initial) {
      const token = varint(cursor);
      if (token < 0 || !cursor.skip(token)) return null;
    }
    const length = varint(cursor);
    if (length < 0 || length > cursor.left) return null;
    const bytes = datagram.subarray(at, at + cursor.at + length);
    if (type === version.initial) found.push({ version, destination, bytes, numberAt: cursor.at });
    at += bytes.length;
  }
  return found;
}

const FRAME_PADDING = 0x00;
const FRAME_PING = 0x01;
const FRAME_ACK = 0x02;
const FRAME_ACK_ECN = 0x03;
const FRAME_CRYPTO = 0x06;
const FRAME_CLOSE = 0x1c;

/** Passes over an ACK frame (RFC 9000 §19.3). */
function skipAck(cursor: Cursor, ecn: boolean): boolean {
  const [largest, delay, ranges, first] = [varint(cursor), varint(cursor), varint(cursor), varint(cursor)];
  if (largest < 0 || delay < 0 || ranges < 0 || first < 0 || ranges > cursor.left) return false;
  for (let i = 0; i < 2 * ranges + (ecn ? 3 : 0); i++) if (varint(cursor) < 0) return false;
  return true;
}

/** A frame CONNECTION_CLOSE (§19.19). */
function skipClose(cursor: Cursor): boolean {
  const [error, frame, reason] = [varint(cursor), varint(cursor), varint(cursor)];
  return error >= 0 && frame >= 0 && reason >= 0 && cursor.skip(reason);
}

/**
 * Gives the CRYPTO frames of an Initial packet's plain text to `crypto`, which says whether it can go on. False: a frame is
 * damaged, or is one that may not be in an Initial packet (RFC 9000 §17.2.2).
 */
export function readFrames(plain: Uint8Array, crypto: (offset: number, data: Uint8Array) => boolean): boolean {
  const cursor = new Cursor(plain);
  while (cursor.left > 0) {
    switch (cursor.number(1)) {
      case FRAME_PADDING:
      case FRAME_PING:
        break;
      case FRAME_ACK:
        if (!skipAck(cursor, false)) return false;
        break;
      case FRAME_ACK_ECN:
        if (!skipAck(cursor, true)) return false;
        break;
      case FRAME_CRYPTO: {
        const offset = varint(cursor);
        const length = varint(cursor);
        if (offset < 0 || length < 0 || length > cursor.left) return false;
        if (!crypto(offset, plain.subarray(cursor.at, cursor.at + length))) return false;
        cursor.skip(length);
        break;
      }
      case FRAME_CLOSE:
        if (!skipClose(cursor)) return false;
        break;
      default:
        return false;
    }
  }
  return true;
}
