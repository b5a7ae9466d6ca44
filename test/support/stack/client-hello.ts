/** ClientHellos of a real TLS library, and made by hand. */
import { Duplex } from 'node:stream';
import { connect } from 'node:tls';

/** What OpenSSL sends first to a server of this name. */
export function realHello(servername: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const wire = new Duplex({
      read: () => undefined,
      write: (chunk: Buffer) => {
        resolve(chunk);
      },
    });
    const socket = connect({ socket: wire, servername });
    socket.on('error', reject);
  });
}

const be16 = (n: number): number[] => [(n >> 8) & 0xff, n & 0xff];
const vector16 = (bytes: readonly number[]): number[] => [...be16(bytes.length), ...bytes];

export const GREASE = [0x0a, 0x0a, ...vector16([0])];

export function serverName(name: string): number[] {
  return [0, 0, ...vector16(vector16([0, ...vector16([...Buffer.from(name, 'latin1')])]))];
}

/** A hello with these extensions; `recordSize`: bytes of the message in a record. */
export function hello(extensions: readonly number[], recordSize = 1 << 14): Uint8Array {
  const body = [3, 3, ...Array<number>(32).fill(7), 0, ...vector16([0x13, 0x01]), 1, 0, ...vector16(extensions)];
  const message = [1, 0, ...be16(body.length), ...body];
  const out: number[] = [];
  for (let at = 0; at < message.length; at += recordSize) {
    out.push(22, 3, 1, ...vector16(message.slice(at, at + recordSize)));
  }
  return Uint8Array.from(out);
}
