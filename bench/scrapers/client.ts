/**
 * The scrapers of main.ts, in the host's world: `client.ts PORT|PATH SCRAPES-PER-SECOND IDLE`. Says "ready" when all idle
 * clients were connected once, and, when its standard input ends, how many pages it got. An idle client that is cut off
 * comes again.
 */
import { get } from 'node:http';
import { connect, type Socket } from 'node:net';

const [, , at, scrapes, idle] = process.argv;
const isPath = at.startsWith('/');
/** Most of the pause before a client that was cut off comes again, ms: they are to sit there, not to be a flood. */
const AGAIN_MS = 60_000;

let pages = 0;
const sockets = new Set<Socket>();

function sit(): Promise<void> {
  return new Promise((resolve) => {
    const socket = isPath ? connect(at) : connect(Number(at), '127.0.0.1');
    sockets.add(socket);
    socket.once('connect', () => {
      resolve();
    });
    socket.on('error', () => undefined);
    socket.once('close', () => {
      sockets.delete(socket);
      setTimeout(() => {
        void sit();
      }, AGAIN_MS * Math.random());
      resolve();
    });
  });
}

function scrape(): void {
  const where = isPath ? { socketPath: at } : { host: '127.0.0.1', port: Number(at) };
  get({ ...where, path: '/metrics', agent: false }, (response) => {
    response.resume().on('end', () => {
      if (response.statusCode === 200) pages++;
    });
  }).on('error', () => undefined);
}

async function main(): Promise<void> {
  for (let left = Number(idle); left > 0; left -= 50) {
    await Promise.all(Array.from({ length: Math.min(50, left) }, sit));
  }
  process.stdout.write('ready\n');
  const began = performance.now();
  let asked = 0;
  setInterval(() => {
    const due = ((performance.now() - began) / 1000) * Number(scrapes);
    for (; asked < due; asked++) scrape();
  }, 5);
  process.stdin.resume().once('end', () => {
    process.stdout.write(`${String(pages)}\n`, () => {
      process.exit(0);
    });
  });
}

void main();
