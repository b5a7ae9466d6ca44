/**
 * The scrapers of main.ts, in the host's world: `client.ts SCRAPES-PER-SECOND IDLE`. By a line on standard input: `go
 * PORT|PATH` connects the idle clients, says "ready", and scrapes from then on; `halt` ends all of it, and says how many
 * pages came, and how long each took (median and longest, ms). An idle client that is cut off comes again. As little of
 * HTTP as will do: its own time on the processor is not the service's.
 */
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { percentile } from './figures';

const [, , scrapes, idle] = process.argv;
/** Most of the pause before a client that was cut off comes again, ms: they are to sit there, not to be a flood. */
const AGAIN_MS = 60_000;
const REQUEST = 'GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n';

/** The clients of one `go`. */
class Crowd {
  private readonly at: string;
  private readonly sockets = new Set<Socket>();
  private readonly timers = new Set<NodeJS.Timeout>();
  private readonly times: number[] = [];
  private halted = false;

  constructor(at: string) {
    this.at = at;
  }

  async go(): Promise<void> {
    for (let left = Number(idle); left > 0; left -= 50) {
      await Promise.all(Array.from({ length: Math.min(50, left) }, () => this.sit()));
    }
    const began = performance.now();
    let asked = 0;
    this.timers.add(
      setInterval(() => {
        const due = ((performance.now() - began) / 1000) * Number(scrapes);
        for (; asked < due; asked++) this.scrape();
      }, 5),
    );
  }

  halt(): string {
    this.halted = true;
    for (const timer of this.timers) clearInterval(timer);
    for (const socket of this.sockets) socket.destroy();
    const { times } = this;
    return [times.length, percentile(times, 0.5), percentile(times, 1)].join(' ');
  }

  private open(): Socket {
    const socket = this.at.startsWith('/') ? connect(this.at) : connect(Number(this.at), '127.0.0.1');
    this.sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => {
      this.sockets.delete(socket);
    });
    return socket;
  }

  private sit(): Promise<void> {
    return new Promise((resolve) => {
      const socket = this.open();
      socket.once('connect', resolve);
      socket.once('close', () => {
        if (!this.halted) this.timers.add(setTimeout(() => void this.sit(), AGAIN_MS * Math.random()));
        resolve();
      });
    });
  }

  private scrape(): void {
    const began = performance.now();
    const socket = this.open();
    let isPage = false;
    socket.write(REQUEST);
    socket.on('data', (chunk: Buffer) => {
      isPage ||= chunk.toString('latin1', 0, 15) === 'HTTP/1.1 200 OK';
    });
    socket.once('end', () => {
      if (isPage && !this.halted) this.times.push(performance.now() - began);
    });
  }
}

let crowd: Crowd | null = null;
createInterface({ input: process.stdin })
  .on('line', (line) => {
    const [order, at] = line.split(' ');
    if (order === 'go') {
      crowd = new Crowd(at);
      void crowd.go().then(() => process.stdout.write('ready\n'));
    } else process.stdout.write(`${crowd?.halt() ?? ''}\n`);
  })
  .once('close', () => process.exit(0));
