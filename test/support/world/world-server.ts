/** The process behind {@link World}: small servers and clients inside a network namespace, commanded over IPC. */
import { createHash } from 'node:crypto';
import { createSocket, type Socket as DatagramSocket } from 'node:dgram';
import { get } from 'node:http';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { dnsAnswer } from '../stack/dns';
import { listenTftp } from './tftp-server';
import type { TransferResult, WorldCall, WorldCalls, WorldReply, WorldRequest } from './world-protocol';

const CHUNK = 1 << 20;
/** Types of RFC 1035 §3.2.2 and RFC 3596 §2.1. */
const DNS_A = 1;
const DNS_AAAA = 28;

type Handlers = { [C in WorldCall]: (args: WorldCalls[C]['args']) => Promise<WorldCalls[C]['result']> };

let blob: Buffer[] = [];
let lastSink: TransferResult | null = null;
let lastTftpPut: { sha256: string; bytes: number } | null = null;
let echoResets = 0;
const udpSinks = new Map<number, { datagrams: number; bytes: number; senders: Set<string> }>();

const handlers: Handlers = {
  listen: async () => ({
    blob: await listen(createServer(serveBlob)),
    endless: await listen(createServer(serveEndless)),
    sink: await listen(createServer({ allowHalfOpen: true }, serveSink)),
    echo: await listen(createServer({ allowHalfOpen: true }, serveEcho)),
    reset: await listen(
      createServer((socket) => socket.on('error', ignore).once('data', () => socket.resetAndDestroy())),
    ),
    udp: await listenUdpEcho(),
  }),

  setBlob: ({ bytes, seed }) => {
    blob = randomChunks(bytes, seed);
    const hash = createHash('sha256');
    for (const chunk of blob) hash.update(chunk);
    return Promise.resolve({ sha256: hash.digest('hex') });
  },

  lastSink: () => Promise.resolve(lastSink),

  echoResets: () => Promise.resolve({ count: echoResets }),

  tcpEcho: async ({ address, port, bytes }) => {
    const chunks = randomChunks(bytes, port);
    const hash = createHash('sha256');
    const started = Date.now();
    const socket = connect({ host: address, port, allowHalfOpen: true });
    const received = receive(socket);
    for (const chunk of chunks) {
      hash.update(chunk);
      if (!socket.write(chunk)) await Promise.race([onceDrained(socket), received]);
    }
    socket.end();
    const milliseconds = Date.now() - started;
    return { sent: { bytes, sha256: hash.digest('hex'), milliseconds }, received: await received };
  },

  udpEcho: ({ address, port, bytes, timeoutMs }) =>
    new Promise((settle, fail) => {
      const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
      const message = randomChunks(bytes, port)[0] ?? Buffer.alloc(0);
      const end = (ok: boolean): void => {
        clearTimeout(timer);
        socket.close();
        settle({ ok });
      };
      const timer = setTimeout(() => {
        end(false);
      }, timeoutMs);
      socket.on('message', (answer) => {
        end(answer.equals(message));
      });
      socket.on('error', fail);
      socket.send(message, port, address);
    }),

  udpEchoOn: async ({ port }) => ({ port: await listenUdpEcho(port) }),

  tftpOn: async ({ port }) => {
    const files = {
      content: () => Buffer.concat(blob),
      onPut: (sha256: string, bytes: number): void => {
        lastTftpPut = { sha256, bytes };
      },
    };
    let bound = port;
    for (const address of globalAddresses()) bound = await listenTftp(address, bound, files);
    return { port: bound };
  },

  lastTftpPut: () => Promise.resolve(lastTftpPut),

  dnsOn: async ({ port, a, aaaa }) => {
    let bound = port;
    for (const address of globalAddresses()) {
      bound = await bindUdp(address, bound, (socket, query, remotePort, remote) => {
        // Behind the header: labels with their lengths up to an empty one, then the type.
        let end = 12;
        while (end < query.length && query[end] !== 0) end += 1 + query[end];
        if (end + 5 > query.length) return;
        const name = query
          .toString('latin1', 12, end)
          .replace(/[^-\w]/g, '.')
          .slice(1);
        const type = query.readUInt16BE(end + 1);
        const records = type === DNS_A ? [{ name, a }] : type === DNS_AAAA ? [{ name, a: aaaa }] : [];
        socket.send(dnsAnswer(query.readUInt16BE(0), name, records, type), remotePort, remote);
      });
    }
    return { port: bound };
  },

  groupResponder: ({ group, address, port }) =>
    new Promise((settle, fail) => {
      const socket = createSocket({ type: 'udp4', reuseAddr: true });
      socket.on('message', (message, remote) => {
        socket.send(message, remote.port, remote.address);
      });
      socket.once('error', fail);
      socket.bind(port, () => {
        socket.addMembership(group, address);
        settle({ port: socket.address().port });
      });
    }),

  udpSink: async ({ port }) => {
    const state = { datagrams: 0, bytes: 0, senders: new Set<string>() };
    const bound = await bindUdp('::', port, (_socket, message, senderPort, sender) => {
      state.datagrams++;
      state.bytes += message.length;
      if (state.senders.size < 100) state.senders.add(`${sender}#${String(senderPort)}`);
    });
    udpSinks.set(bound, state);
    return { port: bound };
  },

  udpSinkCount: ({ port }) => {
    const state = udpSinks.get(port);
    if (state === undefined) return Promise.reject(new Error(`no sink on port ${String(port)}`));
    return Promise.resolve({ datagrams: state.datagrams, bytes: state.bytes, senders: [...state.senders] });
  },

  httpGet: ({ url }) =>
    new Promise((settle, fail) => {
      const request = get(url, { timeout: 5000 }, (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (text: string) => {
          body += text;
        });
        response.on('end', () => {
          settle({ status: response.statusCode ?? 0, body });
        });
      });
      request.on('timeout', () => request.destroy(new Error(`${url}: no answer in 5 s`)));
      request.on('error', fail);
    }),

  freePort: async () => {
    const server = createServer();
    const port = await listen(server);
    await new Promise((settle) => server.close(settle));
    return { port };
  },
};

function serveBlob(socket: Socket): void {
  socket.on('error', ignore);
  // Who does not read is not told of the peer's end, and keeps the descriptor.
  socket.resume();
  void (async () => {
    for (const chunk of blob) {
      if (socket.destroyed) return;
      if (!socket.write(chunk)) await onceDrained(socket);
    }
    socket.end();
  })();
}

/** The blob over and over, until the peer leaves. */
function serveEndless(socket: Socket): void {
  socket.on('error', ignore);
  socket.resume();
  void (async () => {
    while (!socket.destroyed && blob.length > 0) {
      for (const chunk of blob) {
        if (socket.destroyed) return;
        if (!socket.write(chunk)) await onceDrained(socket);
      }
    }
  })();
}

function serveEcho(socket: Socket): void {
  socket.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'ECONNRESET') echoResets++;
  });
  socket.pipe(socket);
}

/** Reads to the peer's FIN and answers "sha256 bytes". */
function serveSink(socket: Socket): void {
  void receive(socket).then(
    (result) => {
      lastSink = result;
      socket.end(`${result.sha256} ${String(result.bytes)}\n`);
    },
    () => socket.destroy(),
  );
}

/** Resolves when the peer has closed its side. Rejects on a reset. */
function receive(socket: Socket): Promise<TransferResult> {
  return new Promise((settle, fail) => {
    const hash = createHash('sha256');
    const started = Date.now();
    let bytes = 0;
    socket.on('data', (chunk) => {
      bytes += chunk.length;
      hash.update(chunk);
    });
    socket.on('error', fail);
    socket.on('end', () => {
      settle({ bytes, sha256: hash.digest('hex'), milliseconds: Date.now() - started });
    });
  });
}

function onceDrained(socket: Socket): Promise<void> {
  return new Promise((settle) => {
    const done = (): void => {
      socket.off('drain', done).off('close', done);
      settle();
    };
    socket.on('drain', done).on('close', done);
  });
}

/** Pseudo-random bytes in chunks: one random chunk, changed at places that depend on its number. */
function randomChunks(bytes: number, seed: number): Buffer[] {
  const base = Buffer.alloc(CHUNK);
  let state = (seed ^ 0x9e3779b9) | 1;
  for (let at = 0; at < CHUNK; at += 4) {
    // xorshift32
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    base.writeInt32LE(state, at);
  }
  const chunks: Buffer[] = [];
  for (let at = 0, number = 0; at < bytes; at += CHUNK, number++) {
    const chunk = Buffer.from(base.subarray(0, Math.min(CHUNK, bytes - at)));
    for (let place = 0; place + 4 <= chunk.length; place += 4093)
      chunk.writeUInt32LE((number * 2654435761) >>> 0, place);
    chunks.push(chunk);
  }
  return chunks;
}

function listen(server: Server): Promise<number> {
  return new Promise((settle, fail) => {
    server.once('error', fail);
    server.listen(0, '::', () => {
      settle((server.address() as AddressInfo).port);
    });
  });
}

/** One socket for each address, on one port: an unbound socket would answer from the address of the route back. */
async function listenUdpEcho(wanted = 0): Promise<number> {
  let port = wanted;
  for (const address of globalAddresses()) {
    port = await bindUdp(address, port, (socket, message, remotePort, remote) => {
      socket.send(message, remotePort, remote);
    });
  }
  return port;
}

/** All addresses of the namespace but link-local ones. */
function globalAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((each) => each ?? [])
    .filter(({ scopeid }) => scopeid === undefined || scopeid === 0)
    .map(({ address }) => address);
}

function bindUdp(
  local: string,
  port: number,
  onMessage: (socket: DatagramSocket, message: Buffer, port: number, address: string) => void,
): Promise<number> {
  return new Promise((settle, fail) => {
    const socket = createSocket({ type: local.includes(':') ? 'udp6' : 'udp4', recvBufferSize: 1 << 22 });
    socket.on('message', (message, remote) => {
      onMessage(socket, message, remote.port, remote.address);
    });
    socket.once('error', fail);
    socket.bind(port, local, () => {
      settle(socket.address().port);
    });
  });
}

function ignore(): void {
  // A reset by the other side is seen where it matters.
}

async function answer(request: WorldRequest): Promise<WorldReply> {
  const handler = handlers[request.call] as (args: unknown) => Promise<unknown>;
  try {
    return { id: request.id, result: await handler(request.args) };
  } catch (error) {
    return { id: request.id, error: error instanceof Error ? error.message : String(error) };
  }
}

process.on('message', (request) => {
  void answer(request as WorldRequest).then((reply) => process.send?.(reply));
});
process.on('disconnect', () => process.exit(0));
