/**
 * A UNIX socket for the user that the service runs as, and for root: accepts connections from no one else. What is said on
 * them is the caller's business.
 *
 * The mode of the file (0600) keeps others out already; who was let in all the same (a user who changed it, a
 * descriptor that was handed on) is told apart by SO_PEERCRED.
 */
import type { Native } from '../native';
import { UnixDoor, type UnixDoorIo, type UnixDoorOptions } from './unix-door';

export type OwnerSocketIo = UnixDoorIo & Pick<Native, 'peerUid' | 'getuid'>;

const ROOT = 0;

/** `fd` is closed by `close`. */
export interface OwnerSocketOptions extends UnixDoorOptions {
  /** The user who started the service, whom the file belongs to. */
  readonly startedAs: number;
}

export class OwnerSocket {
  private readonly native: OwnerSocketIo;
  private readonly options: OwnerSocketOptions;
  private readonly door: UnixDoor;
  private closed = false;

  constructor(native: OwnerSocketIo, options: OwnerSocketOptions) {
    this.native = native;
    this.options = options;
    this.door = new UnixDoor(native, {
      ...options,
      onClient: (fd) => {
        this.admit(fd);
      },
    });
  }

  /** Accepts from now on. Those who came before have waited. */
  serve(): void {
    this.door.serve();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.door.close();
    this.native.close(this.options.fd);
  }

  private admit(fd: number): void {
    const { native, options } = this;
    const uid = native.peerUid(fd);
    if (uid !== ROOT && uid !== native.getuid() && uid !== options.startedAs) {
      options.warn(
        `${options.shown}: a connection of user ${uid} was closed: only the service's own user and root may`,
        'control.peer',
      );
      native.close(fd);
      return;
    }
    options.onClient(fd);
  }
}
