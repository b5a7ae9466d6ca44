/** A client of QUIC's Initial packets (RFC 9000 §17.2.2, RFC 9001 §5, RFC 9369), sealed as the standards say. */
import { createCipheriv, createHmac } from 'node:crypto';
import { hello, serverName } from './client-hello';

export const QUIC_V1 = 1;
export const QUIC_V2 = 0x6b3343cf;

const SALTS = new Map([
  [QUIC_V1, { salt: '38762cf7f55934b34d179ae6a4c80cadccbb7f0a', label: 'quic', initial: 0 }],
  [QUIC_V2, { salt: '0dede3def700a6db819381be6e269dcbf9bd2ed9', label: 'quicv2', initial: 1 }],
]);

export interface Initial {
  readonly version?: number;
  /** Destination and source connection IDs. */
  readonly destination: Uint8Array;
  readonly source?: Uint8Array;
  /** Keys are those of another destination: of the first packet, where this is a later one. */
  readonly keysOf?: Uint8Array;
  readonly token?: Uint8Array;
  readonly number?: number;
  readonly numberSize?: number;
  readonly frames: readonly Uint8Array[];
  /** Bytes of the whole packet, by PADDING; default 1200. */
  readonly size?: number;
}

function expand(secret: Uint8Array, label: string, length: number): Buffer {
  const name = Buffer.from(`tls13 ${label}`);
  const info = Buffer.concat([Buffer.from([0, length, name.length]), name, Buffer.from([0, 1])]);
  return createHmac('sha256', secret).update(info).digest().subarray(0, length);
}

export function varint(value: number): Buffer {
  if (value < 64) return Buffer.from([value]);
  if (value < 16384) return Buffer.from([0x40 | (value >> 8), value & 0xff]);
  return Buffer.from([0x80 | (value >>> 24), (value >> 16) & 0xff, (value >> 8) & 0xff, value & 0xff]);
}

export function cryptoFrame(data: Uint8Array, offset = 0): Buffer {
  return Buffer.concat([Buffer.from([6]), varint(offset), varint(data.length), data]);
}

export const PING = Buffer.from([1]);
/** Acknowledges packet 0. */
export const ACK = Buffer.from([2, 0, 0, 0, 0]);

export function initialPacket(packet: Initial): Buffer {
  const { version = QUIC_V1, destination, source = new Uint8Array(0), keysOf = destination, token } = packet;
  const { number = 0, numberSize = 1, frames, size = 1200 } = packet;
  const made = SALTS.get(version);
  const { salt, label, initial } = made ?? { salt: '00', label: 'quic', initial: 0 };
  const secret = createHmac('sha256', Buffer.from(salt, 'hex')).update(keysOf).digest();
  const client = expand(secret, 'client in', 32);
  const numberBytes = Buffer.alloc(4);
  numberBytes.writeUInt32BE(number >>> 0);
  const head = (length: number): Buffer => {
    const versionBytes = Buffer.alloc(4);
    versionBytes.writeUInt32BE(version);
    return Buffer.concat([
      ...[Buffer.from([0xc0 | (initial << 4) | (numberSize - 1)]), versionBytes],
      ...[Buffer.from([destination.length]), destination, Buffer.from([source.length]), source],
      ...[varint(token?.length ?? 0), token ?? Buffer.alloc(0), varint(length), numberBytes.subarray(4 - numberSize)],
    ]);
  };
  let plain = Buffer.concat(frames);
  const least = Math.max(plain.length, 4 - numberSize);
  const padded = Math.max(least, size - head(1200).length - 16);
  plain = Buffer.concat([plain, Buffer.alloc(padded - plain.length)]);
  const header = head(numberSize + plain.length + 16);
  const nonce = expand(client, `${label} iv`, 12);
  nonce.writeUInt32BE((nonce.readUInt32BE(8) ^ number) >>> 0, 8);
  const sealer = createCipheriv('aes-128-gcm', expand(client, `${label} key`, 16), nonce);
  sealer.setAAD(header);
  const sealed = Buffer.concat([sealer.update(plain), sealer.final(), sealer.getAuthTag()]);
  const numberAt = header.length - numberSize;
  const sampled = Buffer.concat([header, sealed]);
  const protection = createCipheriv('aes-128-ecb', expand(client, `${label} hp`, 16), null);
  const mask = protection.update(sampled.subarray(numberAt + 4, numberAt + 20));
  sampled[0] ^= mask[0] & 0x0f;
  for (let i = 0; i < numberSize; i++) sampled[numberAt + i] ^= mask[1 + i];
  return sampled;
}

/** A ClientHello without TLS's record. */
export function helloMessage(name: string | null, more: readonly number[] = []): Uint8Array {
  return hello([...more, ...(name === null ? [] : serverName(name))]).slice(5);
}

/** The first packet of a client that names a server. */
export function quicHello(name: string, destination: Uint8Array, version = QUIC_V1): Buffer {
  return initialPacket({ version, destination, frames: [cryptoFrame(helloMessage(name))] });
}
