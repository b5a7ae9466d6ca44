/**
 * Whether the front-end shares the guest's memory, without which there is no vhost-user. One that does not cannot say
 * so in the protocol: QEMU with ordinary memory sends the features that the guest's driver has accepted, and then
 * neither memory nor rings.
 */
import type { LogFunction } from './log';

/** What the user has to change. */
export const SHARE_MEMORY =
  'share the memory of the guest (QEMU: -object memory-backend-memfd,id=mem,size=SIZE,share=on -numa node,memdev=mem; ' +
  "libvirt: <source type='memfd'/><access mode='shared'/> in <memoryBacking>)";

/** Time for a front-end to follow its features with memory, ms. */
export const MEMORY_MS = 5000;

/** Waits for the memory of a session, and says once that there is none. */
export class MemoryWatch {
  private readonly log: LogFunction;
  private timer: NodeJS.Timeout | null = null;
  private done = false;

  constructor(log: LogFunction) {
    this.log = log;
  }

  /** SET_FEATURES: a driver of the guest's starts. */
  expect(): void {
    if (this.done || this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.settle();
      const text = `the front-end started the device ${MEMORY_MS / 1000} s ago, but has sent no guest memory: `;
      this.log('warn', text + SHARE_MEMORY, 'vhost.no-memory');
    }, MEMORY_MS).unref();
  }

  /** There is memory, or the session ends. */
  settle(): void {
    this.done = true;
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }
}
