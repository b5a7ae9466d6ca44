/**
 * The data plane's side of the control plane's commands when the guest is a namespace: which tap device carries the link,
 * and how that ended. What StreamControl is for stream sockets. Cold: allocates.
 */
import { getSystemErrorName } from 'node:util';
import type { MessagePort } from 'node:worker_threads';
import type { Native } from '../../native';
import { KEY_DATAPLANE, KEY_KIND_SHIFT } from '../../stack/context';
import type { Counters } from '../../stack/counters';
import { EPOLLIN } from '../../stack/ports';
import { LinkControl, type LinkCommand } from '../link-control';
import { allocateBlock } from '../private-block';
import { TAP_INPUT_BLOCK } from './input';
import { TAP_OUTPUT_BLOCK } from './output';
import { TapGuestPort } from './port';

export const KIND_TAP = KEY_DATAPLANE + 3;

export class TapControl extends LinkControl {
  readonly port: TapGuestPort;
  /** The device's generation: events of an earlier one are stale. */
  generation: number;
  /** A device was given since the loop last looked. */
  opened: boolean;

  private fd: number;

  constructor(native: Native, messages: MessagePort, wakeFd: number, counters: Counters) {
    super(native, messages, wakeFd, counters);
    const input = allocateBlock(native, TAP_INPUT_BLOCK);
    this.port = new TapGuestPort(native, input, allocateBlock(native, TAP_OUTPUT_BLOCK), counters);
    this.generation = 0;
    this.opened = false;
    this.fd = -1;
  }

  /** The device is gone: -errno. Tells the control plane, which closes it. */
  finish(error: number): void {
    if (this.fd < 0) return;
    this.close();
    this.post({ kind: 'streamEnded', end: { reason: 'failed', detail: getSystemErrorName(error) } });
  }

  protected executeOwn(command: LinkCommand): number {
    switch (command.kind) {
      case 'tapOpen':
        this.open(command.fd, command.offloads);
        return 0;
      default:
        return 0; // about other kinds of link
    }
  }

  protected end(): void {
    this.close();
  }

  private open(fd: number, offloads: number): void {
    this.close();
    this.fd = fd;
    this.generation = (this.generation + 1) & 0x7fffffff;
    this.opened = true;
    this.port.start(fd, offloads);
    const watched = this.native.watch(fd, EPOLLIN, KIND_TAP << KEY_KIND_SHIFT, this.generation);
    if (watched < 0) {
      this.finish(watched);
      return;
    }
    this.stack?.onLinkUp();
  }

  private close(): void {
    if (this.fd < 0) return;
    this.native.unwatch(this.fd);
    this.port.stop();
    this.fd = -1;
  }
}
