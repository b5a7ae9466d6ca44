/** The vhost-user service: front-ends one after the other, each served in a `Session`. */
import { FrontEndServer, type FrontEndServerOptions } from '../front-end/server';
import type { VhostDevice } from './device';
import type { LogFunction } from './log';
import type { SessionEnd } from './session';
import { Session } from './session';

export interface VhostServerOptions extends FrontEndServerOptions {
  readonly device: VhostDevice;
  readonly log: LogFunction;
  /** MTU to show in a configuration space, which is offered only then: for front-ends other than QEMU. */
  readonly configMtu?: number | null;
}

export class VhostServer extends FrontEndServer<SessionEnd> {
  constructor(options: VhostServerOptions) {
    const { native, device, log, configMtu } = options;
    const backendRequests = !('fd' in options.source);
    super(options, (fd) => new Session({ native, device, log, configMtu: configMtu ?? null, backendRequests, fd }));
  }
}
