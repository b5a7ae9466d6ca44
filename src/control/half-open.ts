/**
 * Clients of UNIX sockets that have said all they had to say. One that has closed its socket looks the same as one that has
 * ended its direction only, until something is written to it: a message without bytes tells, every LOOK_MS.
 */
import type { Socket } from 'node:net';
import { constants } from 'node:os';
import type { Native } from '../native';

const LOOK_MS = 1000;
const NOTHING = new Uint8Array(1);
const NO_FDS = new Int32Array(0);

const { EPIPE } = constants.errno;

export class HalfOpen {
  private readonly io: Pick<Native, 'sendFds'>;
  private readonly clients = new Map<Socket, number>();
  private timer: NodeJS.Timeout | null = null;

  constructor(io: Pick<Native, 'sendFds'>) {
    this.io = io;
  }

  /** Destroys the client, whose descriptor is `fd`, once it has closed its socket. */
  watch(client: Socket, fd: number): void {
    client.once('end', () => {
      if (client.destroyed) return;
      this.clients.set(client, fd);
      this.timer ??= setInterval(() => {
        this.look();
      }, LOOK_MS).unref();
    });
    client.once('close', () => {
      this.clients.delete(client);
      if (this.clients.size === 0) this.close();
    });
  }

  close(): void {
    if (this.timer !== null) clearInterval(this.timer);
    this.timer = null;
  }

  private look(): void {
    for (const [client, fd] of this.clients) {
      if (this.io.sendFds(fd, NOTHING, 0, 0, NO_FDS, 0) === -EPIPE) client.destroy();
    }
  }
}
