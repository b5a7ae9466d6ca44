/**
 * A TFTP server (RFC 1350, octet mode, no options): one file to be had, under any name, and what is put is digested. As the
 * protocol wants it, every transfer is answered from a port of its own.
 */
import { createHash } from 'node:crypto';
import { createSocket, type RemoteInfo } from 'node:dgram';

const RRQ = 1;
const WRQ = 2;
const DATA = 3;
const ACK = 4;
const BLOCK = 512;
const RETRY_MS = 1000;
const TRIES = 5;

export interface TftpFiles {
  /** What a client that reads gets. */
  readonly content: () => Buffer;
  /** What a client wrote, when it is there as a whole. */
  readonly onPut: (sha256: string, bytes: number) => void;
}

/** Listens at `address`; resolves with the port. */
export function listenTftp(address: string, port: number, files: TftpFiles): Promise<number> {
  const type = address.includes(':') ? 'udp6' : 'udp4';
  return new Promise((settle, fail) => {
    const requests = createSocket(type);
    requests.once('error', fail);
    requests.on('message', (message, client) => {
      const code = message.readUInt16BE(0);
      if (code === RRQ) transfer(type, address, client, files, true);
      if (code === WRQ) transfer(type, address, client, files, false);
    });
    requests.bind(port, address, () => {
      settle(requests.address().port);
    });
  });
}

function header(code: number, block: number): Buffer {
  return Buffer.from([code >> 8, code & 0xff, (block >> 8) & 0xff, block & 0xff]);
}

/** One transfer, over a socket of its own: each packet is sent until it is answered, a few times. */
function transfer(
  type: 'udp4' | 'udp6',
  address: string,
  client: RemoteInfo,
  files: TftpFiles,
  reading: boolean,
): void {
  const socket = createSocket(type);
  const content = reading ? files.content() : Buffer.alloc(0);
  const hash = createHash('sha256');
  let bytes = 0;
  let block = reading ? 1 : 0;
  let tries = 0;
  let timer: NodeJS.Timeout | undefined;
  let packet: Buffer = Buffer.alloc(0);

  const end = (): void => {
    clearTimeout(timer);
    socket.close();
  };
  const send = (then?: () => void): void => {
    clearTimeout(timer);
    if (tries++ === TRIES) {
      end();
      return;
    }
    timer = setTimeout(() => {
      send();
    }, RETRY_MS);
    socket.send(packet, client.port, client.address, then);
  };
  const next = (then?: () => void): void => {
    tries = 0;
    packet = reading
      ? Buffer.concat([header(DATA, block), content.subarray((block - 1) * BLOCK, block * BLOCK)])
      : header(ACK, block);
    send(then);
  };

  socket.on('message', (message, from) => {
    if (from.port !== client.port || message.length < 4) return;
    const code = message.readUInt16BE(0);
    if (reading && code === ACK && message.readUInt16BE(2) === (block & 0xffff)) {
      if (content.length < block * BLOCK) {
        end();
        return;
      }
      block++;
      next();
    }
    if (!reading && code === DATA && message.readUInt16BE(2) === ((block + 1) & 0xffff)) {
      const data = message.subarray(4);
      hash.update(data);
      bytes += data.length;
      block++;
      if (data.length < BLOCK) {
        files.onPut(hash.digest('hex'), bytes);
        next(end);
      } else {
        next();
      }
    }
  });
  socket.bind(0, address, () => {
    next();
  });
}
