/** Who waits for front-ends, by the protocol that they speak. */
import type { Log } from '../log';
import type { Native } from '../native';
import type { Broker } from '../sandbox/broker';
import { StreamServer } from '../stream/server';
import type { DataPlane } from '../supervisor/data-plane';
import { VhostServer } from '../vhost/server';
import type { Options } from './options';
import type { Endpoint } from './summary';

export interface ServerParts {
  /** A socket: a namespace has no front-ends. */
  readonly endpoint: Endpoint;
  readonly plane: DataPlane;
  /** Who removes the socket's file at the end, and connects to others' sockets; null: we do. */
  readonly broker: Broker | null;
}

export function serverOf(
  { frontEnd, oneOff }: Options,
  native: Native,
  log: Log,
  { endpoint, plane, broker }: ServerParts,
): StreamServer | VhostServer {
  if (endpoint.kind === 'namespace') throw new Error('a namespace has no front-ends');
  const source =
    endpoint.kind === 'fd'
      ? { fd: endpoint.fd }
      : endpoint.kind === 'listen'
        ? { listen: endpoint.path, opened: endpoint.opened }
        : { connect: endpoint.path };
  const paths = broker === null ? {} : { paths: broker };
  const options = { native, device: plane, log: log.log, source, oneOff, ...paths };
  return frontEnd === 'stream' ? new StreamServer(options) : new VhostServer(options);
}
