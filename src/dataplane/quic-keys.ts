/**
 * Keys of QUIC's Initial packets (RFC 9001 §5) from Node's own crypto, which is loaded when the first of them is wanted: it would
 * cost every data plane a tenth of its memory, and few need it. The thread may open no files by then; this module of Node's
 * is none.
 */
import type * as Crypto from 'node:crypto';
import type { DeriveKeys, InitialKeys } from '../stack/policy/quic-client';

const CIPHER = 'aes-128-gcm';
const TAG = 16;

let loaded: typeof Crypto | null = null;

function crypto(): typeof Crypto {
  // eslint-disable-next-line @typescript-eslint/no-require-imports -- see above; import() would make keys async
  loaded ??= require('node:crypto') as typeof Crypto;
  return loaded;
}

const hmac = (key: Uint8Array, ...data: readonly Uint8Array[]): Uint8Array => {
  const hash = crypto().createHmac('sha256', key);
  for (const part of data) hash.update(part);
  return hash.digest();
};

/** HKDF-Expand-Label (RFC 8446 §7.1) for at most 32 bytes: one block of HKDF-Expand (RFC 5869 §2.3). */
function expand(secret: Uint8Array, label: string, length: number): Uint8Array {
  const name = Buffer.from(`tls13 ${label}`, 'latin1');
  const info = [Uint8Array.of(length >> 8, length & 0xff, name.length), name, Uint8Array.of(0)];
  return hmac(secret, ...info, Uint8Array.of(1)).subarray(0, length);
}

/** RFC 9001 §5.2. */
export const deriveQuicKeys: DeriveKeys = (salt, label, connectionId): InitialKeys => {
  const client = expand(hmac(salt, connectionId), 'client in', 32);
  const key = expand(client, `${label} key`, 16);
  const iv = expand(client, `${label} iv`, 12);
  const protection = expand(client, `${label} hp`, 16);
  return {
    mask: (sample) => crypto().createCipheriv('aes-128-ecb', protection, null).update(sample),
    open: (packetNumber, header, sealed) => {
      const nonce = Buffer.from(iv);
      // RFC 9001 §5.3: the number, in 62 bits, is part of the nonce's end.
      const high = Math.floor(packetNumber / 2 ** 32);
      nonce.writeUInt32BE((nonce.readUInt32BE(4) ^ high) >>> 0, 4);
      nonce.writeUInt32BE((nonce.readUInt32BE(8) ^ packetNumber) >>> 0, 8);
      const opener = crypto().createDecipheriv(CIPHER, key, nonce, { authTagLength: TAG });
      opener.setAAD(header);
      opener.setAuthTag(sealed.subarray(sealed.length - TAG));
      const plain = opener.update(sealed.subarray(0, sealed.length - TAG));
      try {
        opener.final();
      } catch {
        return null;
      }
      return plain;
    },
  };
};
