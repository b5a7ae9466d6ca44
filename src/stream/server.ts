/**
 * The service for hypervisors that speak QEMU's stream protocol (`-netdev stream`, `-netdev socket`) and not
 * vhost-user. There is nothing to negotiate: once a client is connected, its socket is the data plane's.
 */
import {
  type FrontEndEnd,
  FrontEndServer,
  type FrontEndServerOptions,
  type FrontEndSession,
} from '../front-end/server';
import { closeConnection, whenClosed } from '../front-end/unclosed';
import type { Native } from '../native';
import type { StreamDevice } from './device';

const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
/** Linux 6.16: 0 keeps descriptors out of a unix socket. */
const SO_PASSRIGHTS = 83;
/** As much as the kernel gives: it cuts this down to net.core.wmem_max and rmem_max, without an error. */
const ALL_IT_GIVES = 0x3fffffff;

class StreamSession implements FrontEndSession<FrontEndEnd> {
  readonly done: Promise<FrontEndEnd>;
  private readonly native: Native;
  private readonly device: StreamDevice;
  private readonly fd: number;
  private resolveDone: (end: FrontEndEnd) => void = () => undefined;
  private isEnding = false;

  constructor(native: Native, device: StreamDevice, fd: number) {
    this.native = native;
    this.device = device;
    this.fd = fd;
    this.done = new Promise((resolve) => {
      this.resolveDone = resolve;
    });
  }

  get ending(): boolean {
    return this.isEnding;
  }

  start(): void {
    this.native.setNonBlocking(this.fd); // one that was given may block
    // Nobody wants descriptors here, and the thread that reads would have to close them. Older kernels refuse.
    this.native.setsockopt(this.fd, SOL_SOCKET, SO_PASSRIGHTS, 0);
    this.native.setsockopt(this.fd, SOL_SOCKET, SO_SNDBUF, ALL_IT_GIVES);
    this.native.setsockopt(this.fd, SOL_SOCKET, SO_RCVBUF, ALL_IT_GIVES);
    this.device.onStreamEnded = ({ reason, detail }) => {
      switch (reason) {
        case 'left':
          this.end({ reason: 'left' });
          break;
        case 'protocol':
          this.end({ reason: 'protocol', error: new Error(detail) });
          break;
        case 'failed':
          this.end({ reason: 'internal', error: detail });
          break;
      }
    };
    void this.device.openStream(this.fd);
  }

  async stop(): Promise<void> {
    if (!this.isEnding) {
      await this.device.closeStream();
      this.end({ reason: 'stopped' });
    }
    await this.done;
  }

  whenIdle(callback: () => void): void {
    void this.device.probeStream().then(callback);
  }

  private end(end: FrontEndEnd): void {
    if (this.isEnding) return;
    this.isEnding = true;
    this.device.onStreamEnded = null;
    closeConnection(this.native, this.fd);
    void whenClosed(this.native).then(() => {
      this.resolveDone(end);
    });
  }
}

export interface StreamServerOptions extends FrontEndServerOptions {
  readonly device: StreamDevice;
}

export class StreamServer extends FrontEndServer<FrontEndEnd> {
  constructor(options: StreamServerOptions) {
    super(options, (fd) => new StreamSession(options.native, options.device, fd));
  }
}
