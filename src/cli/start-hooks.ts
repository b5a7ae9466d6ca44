/** What the program (main.ts) has to do with the start of the service (start.ts). */
import type { Broker } from '../sandbox/broker';
import type { Layer } from '../sandbox/layer';
import type { Holder } from '../pasta/holder';
import type { NamespaceRequest } from '../pasta/request';
import type { Change } from '../metrics/stats';
import type { Filters } from '../sandbox/seccomp';
import type { HandedOver } from './handed-over';
import type { ServiceManager } from './service-manager';

/** What the program does at some moments of the start; what these throw ends it. */
export interface StartHooks {
  /** The data plane's thread boots, nothing else is to be done for a while: time for what `bound` and `filter` need. */
  readonly prepare: () => void;
  /** The guest is a namespace: which one, who goes there, and the user that the service becomes. */
  readonly namespace: {
    readonly request: NamespaceRequest;
    readonly holder: Holder;
    readonly user: { readonly uid: number; readonly gid: number } | null;
  } | null;
  /** All that needs the first user's rights is open, no front-end was served yet. */
  readonly bound: () => void;
  /** All of the start was done that needs other system calls than the service does; still none was served. */
  readonly filter: () => void;
  /** What `filter` and the data plane install. */
  readonly filters: Filters;
  /** What became of the data plane's own filter. */
  readonly confined: (layer: Layer) => void;
  /** The service is ready. */
  readonly ready: () => void;
  /** Who does what we cannot do behind the door. */
  readonly broker: Broker | null;
  /** Sockets that systemd has passed for forwards. */
  readonly handedOver: HandedOver;
  /** What the sandbox consists of by now. */
  readonly layers: () => readonly Layer[];
  /** Writes counters (`--stats`) to standard error. */
  readonly show: (changes: readonly Change[]) => void;
  /** Who is told what the service does; null: nobody. */
  readonly manager: Pick<ServiceManager, 'status' | 'stopping'> | null;
}
