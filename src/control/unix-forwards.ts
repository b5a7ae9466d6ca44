/**
 * UNIX sockets of the host's that lead into the guest (`-t unix:PATH:PORT`).
 *
 * Theory of operation. The data plane reads TCP sockets in ways that UNIX sockets do not know (SO_PEEK_OFF with MSG_TRUNC,
 * TCP_INFO, resets), so connections are accepted here, and each is carried by a connection over the host's loopback that the
 * data plane adopts (guest-pipe.ts). The guest sees them come from where it sees the host's loopback. Bytes go as fast as the
 * slower side takes them; the end of one direction leaves the other open (half-open.ts).
 *
 * Bounds: MAX_CARRIED connections at a time, of which those of one socket may be SHARE times what is free: 128 where it is the
 * only one, and its clients always leave room for those of another. Those that come then wait in the kernel's backlog.
 */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Native } from '../native';
import type { Adoption, ForwardListener } from '../stack/config';
import { HalfOpen } from './half-open';
import { join } from './joined';
import { isRefusal } from './problem';
import { UnixDoor, type UnixDoorIo } from './unix-door';

const MAX_CARRIED = 160;
/** Of the free places, times this: what one socket's clients may hold, as with TCP ports (stack/tcp/admission.ts). */
const SHARE = 4;

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
  private readonly halfOpen: HalfOpen;
  private serving = false;

  constructor(options: UnixForwardsOptions) {
    this.options = options;
    this.halfOpen = new HalfOpen(options.io);
  }

  /** Connections are accepted from now on; those that came before have waited. */
  serve(): void {
    this.serving = true;
    this.admit();
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
    this.admit();
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
    this.halfOpen.close();
  }

  /** Each socket is accepted on as long as its clients have less than their share. */
  private admit(): void {
    if (!this.serving) return;
    const room = SHARE * (MAX_CARRIED - this.carried);
    for (const { door, clients } of this.doors.values()) {
      if (clients.size < room) door.serve();
      else door.stop();
    }
  }

  private async carry(fd: number, clients: Set<Duplex>, target: PipeTarget): Promise<void> {
    const client = new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
    client.on('error', () => undefined); // 'close' follows
    clients.add(client);
    this.halfOpen.watch(client, fd);
    client.once('close', () => {
      clients.delete(client);
      this.carried--;
      this.admit();
    });
    this.carried++;
    this.admit();
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
