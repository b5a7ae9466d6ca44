/**
 * Clients of a small protocol on an OwnerSocket: MAX_CLIENTS at a time, of which a new one takes the place of the oldest, and
 * CLIENT_MS for each from its connection to its end.
 */
import { Socket } from 'node:net';
import type { Forwards } from './forwards';
import type { OutwardForwards } from './outward-forwards';
import { OwnerSocket, type OwnerSocketIo, type OwnerSocketOptions } from './owner-socket';
import type { ControlParts } from './parts';

const CLIENT_MS = 5000;
const MAX_CLIENTS = 8;

export interface OwnerClientsOptions extends Omit<OwnerSocketOptions, 'onClient'> {
  readonly native: OwnerSocketIo;
}

export abstract class OwnerClients {
  private readonly native: OwnerSocketIo;
  private readonly door: OwnerSocket;
  private readonly clients = new Set<Socket>();
  private readonly allowHalfOpen: boolean;
  private forwards: Forwards | null = null;
  private outward: OutwardForwards | null = null;

  /** `allowHalfOpen`: a client may shut its side and be answered still. */
  constructor(options: OwnerClientsOptions, allowHalfOpen: boolean) {
    this.native = options.native;
    this.allowHalfOpen = allowHalfOpen;
    this.door = new OwnerSocket(options.native, {
      ...options,
      onClient: (fd) => {
        this.enter(fd);
      },
    });
  }

  serve({ forwards, outward }: ControlParts): void {
    this.forwards = forwards ?? null;
    this.outward = outward ?? null;
    this.door.serve();
  }

  close(): void {
    this.door.close();
    for (const client of this.clients) client.destroy();
  }

  /** A new client: what it says is heard from here on. `outward`: null where the guest is no namespace. */
  protected abstract welcome(socket: Socket, forwards: Forwards, outward: OutwardForwards | null): void;

  protected end(socket: Socket): void {
    this.clients.delete(socket);
    socket.destroy();
  }

  private enter(fd: number): void {
    const { forwards, clients, allowHalfOpen } = this;
    if (forwards === null) {
      this.native.close(fd);
      return;
    }
    if (clients.size >= MAX_CLIENTS) for (const oldest of [...clients].slice(0, 1)) this.end(oldest);
    const socket = new Socket({ fd, readable: true, writable: true, allowHalfOpen });
    clients.add(socket);
    const deadline = setTimeout(() => {
      this.end(socket);
    }, CLIENT_MS);
    deadline.unref();
    socket.on('error', () => undefined); // 'close' follows
    socket.once('close', () => {
      clearTimeout(deadline);
      clients.delete(socket);
    });
    this.welcome(socket, forwards, this.outward);
  }
}
