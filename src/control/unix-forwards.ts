/**
 * UNIX sockets of the host's that lead into the guest (`-t unix:PATH:PORT`).
 *
 * Theory of operation. The data plane reads TCP sockets in ways that UNIX sockets do not know (SO_PEEK_OFF with MSG_TRUNC,
 * TCP_INFO, resets), so connections are accepted here, and each is carried by a connection over the host's loopback that the
 * data plane adopts (guest-pipe.ts). The guest sees them come from where it sees the host's loopback. Bytes go as fast as the
 * slower side takes them; the end of one direction leaves the other open. A client that has closed its socket looks as one that
 * has ended its direction only, until something is written to it: a message without bytes tells, every HALF_OPEN_MS.
 *
 * Bounds: MAX_CARRIED connections at a time, those that come then wait in the kernel's backlog.
 */
import { Socket } from 'node:net';
import { constants } from 'node:os';
import type { Duplex } from 'node:stream';
import type { Native } from '../native';
import type { Adoption, ForwardListener } from '../stack/config';
import { join } from './joined';
import { isRefusal } from './problem';
import { UnixDoor, type UnixDoorIo } from './unix-door';

export const MAX_CARRIED = 128;
const HALF_OPEN_MS = 1000;
const NOTHING = new Uint8Array(1);
const NO_FDS = new Int32Array(0);

const { EPIPE } = constants.errno;

/** Where a connection shall lead. */
export type PipeTarget = Pick<Adoption, 'targetPort' | 'targetAddr' | 'rule'>;

export interface UnixForwardsOptions {
  readonly io: UnixDoorIo & Pick<Native, 'sendFds'>;
  /** A connection into the guest. Throws Refused. */
  readonly connect: (target: PipeTarget) => Promise<Duplex>;
  readonly warn: (message: string, site: string) => void;
}

interface Carried {
  readonly door: UnixDoor;
  readonly clients: Set<Duplex>;
}

export class UnixForwards {
  private readonly options: UnixForwardsOptions;
  private readonly doors = new Map<number, Carried>();
  private carried = 0;
  /** Clients that have said all they had to say, and their descriptors. */
  private readonly halfOpen = new Map<Socket, number>();
  private watch: NodeJS.Timeout | null = null;
  private serving = false;

  constructor(options: UnixForwardsOptions) {
    this.options = options;
  }

  /** Connections are accepted from now on; those that came before have waited. */
  serve(): void {
    this.serving = true;
    this.openDoors();
  }

  /** Accepts on a socket that listens. */
  add({ fd, path = '', targetPort, targetAddr, rule = 0 }: ForwardListener): void {
    const { io, warn } = this.options;
    const clients = new Set<Duplex>();
    const target = { targetPort, targetAddr, rule };
    const door = new UnixDoor(io, {
      ...{ fd, warn, shown: `unix:${path}` },
      onClient: (client) => {
        void this.carry(client, clients, target);
      },
    });
    this.doors.set(fd, { door, clients });
    this.openDoors();
  }

  /** Accepts nothing there any more. The descriptor stays the caller's. */
  remove(fd: number, closeFlows: boolean): void {
    const carried = this.doors.get(fd);
    if (carried === undefined) return;
    this.doors.delete(fd);
    carried.door.close();
    if (closeFlows) for (const client of carried.clients) client.destroy();
  }

  close(): void {
    for (const fd of [...this.doors.keys()]) this.remove(fd, true);
    if (this.watch !== null) clearInterval(this.watch);
  }

  private watchHalfOpen(client: Socket, fd: number): void {
    this.halfOpen.set(client, fd);
    this.watch ??= setInterval(() => {
      for (const [each, descriptor] of this.halfOpen) {
        if (this.options.io.sendFds(descriptor, NOTHING, 0, 0, NO_FDS, 0) === -EPIPE) each.destroy();
      }
    }, HALF_OPEN_MS).unref();
  }

  private openDoors(): void {
    if (!this.serving || this.carried >= MAX_CARRIED) return;
    for (const { door } of this.doors.values()) door.serve();
  }

  private async carry(fd: number, clients: Set<Duplex>, target: PipeTarget): Promise<void> {
    const client = new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
    client.on('error', () => undefined); // 'close' follows
    clients.add(client);
    client.once('end', () => {
      this.watchHalfOpen(client, fd);
    });
    client.once('close', () => {
      clients.delete(client);
      this.halfOpen.delete(client);
      if (this.halfOpen.size === 0 && this.watch !== null) {
        clearInterval(this.watch);
        this.watch = null;
      }
      this.carried--;
      this.openDoors();
    });
    if (++this.carried >= MAX_CARRIED) for (const { door } of this.doors.values()) door.stop();
    try {
      const guest = await this.options.connect(target);
      if (client.destroyed) guest.destroy();
      else join(client, guest);
    } catch (error) {
      client.destroy();
      if (!isRefusal(error)) throw error;
    }
  }
}
