/** A TFTP client over frames, written from the RFCs alone: it reads a file as a firmware does. */
import { bytes, datagram, dissect, u16 } from './link-rig';

export interface TftpLink {
  /** Of the client and the server. */
  readonly from: string;
  readonly to: string;
  send(frame: Uint8Array): void;
  /** The next datagram to port `port` of the client's. */
  receive(port: number): Promise<Uint8Array>;
}

export interface TftpResult {
  /** Null: refused. */
  readonly data: Buffer | null;
  readonly error: string;
  /** What the server took of the options. */
  readonly options: ReadonlyMap<string, string>;
  readonly blocks: number;
}

const text = (...words: readonly string[]): Uint8Array =>
  bytes(...words.map((word) => [...Buffer.from(`${word}\0`, 'latin1')]));

export function readRequest(name: string, options: Readonly<Record<string, number>> = {}, mode = 'octet'): Uint8Array {
  return bytes([0, 1], text(name, mode, ...Object.entries(options).flatMap(([key, value]) => [key, String(value)])));
}

export async function tftpGet(
  link: TftpLink,
  name: string,
  options: Readonly<Record<string, number>> = {},
  port = 2000,
): Promise<TftpResult> {
  const { from, to } = link;
  link.send(datagram(from, port, to, 69, readRequest(name, options)));
  const parts: Buffer[] = [];
  let taken = new Map<string, string>();
  let expected = 1;
  for (;;) {
    const d = dissect(await link.receive(port));
    const message = Buffer.from(d.payload);
    const ack = (block: number): void => {
      link.send(datagram(from, port, to, d.srcPort, bytes([0, 4], u16(block & 0xffff))));
    };
    switch (message.readUInt16BE(0)) {
      case 3: {
        const block = message.readUInt16BE(2);
        if (block !== (expected & 0xffff)) break;
        parts.push(message.subarray(4));
        const last = message.length - 4 < Number(taken.get('blksize') ?? 512);
        const window = Number(taken.get('windowsize') ?? 1);
        if (last || expected % window === 0) ack(expected);
        if (last) return { data: Buffer.concat(parts), error: '', options: taken, blocks: expected };
        expected++;
        break;
      }
      case 5:
        return {
          data: null,
          error: `${message.readUInt16BE(2)} ${message.toString('latin1', 4, message.length - 1)}`,
          options: taken,
          blocks: 0,
        };
      case 6: {
        const words = message.toString('latin1', 2).split('\0');
        taken = new Map(
          words.slice(0, -1).flatMap((word, i) => (i % 2 === 0 ? [[word, words[i + 1]]] : []) as [string, string][]),
        );
        ack(0);
        break;
      }
      default:
        throw new Error(`opcode ${message.readUInt16BE(0)}`);
    }
  }
}
