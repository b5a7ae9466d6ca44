/**
 * What the scrapers of main.ts scrape instead of the service: `stand-in.ts PORT|PATH`. A server that makes nothing: it
 * answers every request with the bytes of its standard input, and keeps as many connections as the service does, for as long.
 * Says "ready" and the port.
 */
import { createServer, type Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';

const MOST = 16;
const CONNECTION_MS = 5000;
const [, , at] = process.argv;

async function main(): Promise<void> {
  const answer = await buffer(process.stdin);
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    if (sockets.size >= MOST) {
      for (const oldest of sockets) {
        sockets.delete(oldest);
        oldest.destroy();
        break;
      }
    }
    sockets.add(socket);
    const deadline = setTimeout(() => socket.destroy(), CONNECTION_MS);
    socket.on('error', () => undefined);
    socket.once('close', () => {
      clearTimeout(deadline);
      sockets.delete(socket);
    });
    socket.once('data', () => socket.end(answer).resume());
  });
  const where = at.startsWith('/') ? { path: at } : { port: Number(at), host: '127.0.0.1' };
  server.listen(where, () => {
    const bound = server.address()!;
    process.stdout.write(`ready ${typeof bound === 'string' ? bound : String(bound.port)}\n`);
  });
}

void main();
