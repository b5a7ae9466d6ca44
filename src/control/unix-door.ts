/** A UNIX socket that listens: accepts connections, and rests where there is no descriptor or memory for one. */
import { describeErrno, EAGAIN } from '../errors';
import type { Native } from '../native';

export type UnixDoorIo = Pick<Native, 'unixAccept' | 'close' | 'pollStart' | 'pollStop'>;

const POLL_IN = 1;
/** Connections taken in one turn of the loop. */
const ACCEPT_BUDGET = 16;
/** How long nothing is accepted when there is no descriptor or memory for it. */
const PAUSE_MS = 200;

export interface UnixDoorOptions {
  /** Listens. */
  readonly fd: number;
  /** Gets each connection's descriptor, which becomes its own. */
  readonly onClient: (fd: number) => void;
  /** `--control /run/x`, for messages. */
  readonly shown: string;
  readonly warn: (message: string, site: string) => void;
}

export class UnixDoor {
  private readonly io: UnixDoorIo;
  private readonly options: UnixDoorOptions;
  private poll = -1;
  private pause: NodeJS.Timeout | null = null;
  private closed = false;

  constructor(io: UnixDoorIo, options: UnixDoorOptions) {
    this.io = io;
    this.options = options;
  }

  /** Accepts from now on. Those who came before have waited. */
  serve(): void {
    if (this.closed || this.poll >= 0 || this.pause !== null) return;
    this.poll = this.io.pollStart(this.options.fd, POLL_IN, () => {
      this.accept();
    });
    if (this.poll < 0) this.rest(this.poll);
  }

  /** Accepts nobody until it is to serve again: who comes waits. */
  stop(): void {
    if (this.poll >= 0) this.io.pollStop(this.poll);
    this.poll = -1;
  }

  /** Accepts nobody any more. The descriptor stays the caller's. */
  close(): void {
    this.closed = true;
    if (this.pause !== null) clearTimeout(this.pause);
    this.stop();
  }

  private accept(): void {
    for (let n = 0; n < ACCEPT_BUDGET && this.poll >= 0; n++) {
      const fd = this.io.unixAccept(this.options.fd);
      if (fd === -EAGAIN) return;
      if (fd < 0) {
        this.rest(fd);
        return;
      }
      this.options.onClient(fd);
    }
  }

  /** Nothing can be accepted now; a ready socket would wake us again at once. */
  private rest(error: number): void {
    const { shown, warn } = this.options;
    warn(`${shown}: cannot accept: ${describeErrno(error)}`, 'control.accept');
    this.stop();
    this.pause = setTimeout(() => {
      this.pause = null;
      this.serve();
    }, PAUSE_MS);
    this.pause.unref();
  }
}
