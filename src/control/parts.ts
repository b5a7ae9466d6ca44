/** What the faces have to work with. A part that is missing is answered with "unsupported". */
import type { Duplex } from 'node:stream';
import type { Captures } from './captures';
import type { Events } from './events';
import type { Forwards } from './forwards';
import type { OutwardForwards } from './outward-forwards';
import type { PolicyPart, RatesPart } from './policy-routes';
import type { Addresses, Flows, ServiceStatus } from './types';

export interface ControlParts {
  readonly status?: () => Promise<ServiceStatus>;
  readonly addresses?: () => Promise<Addresses>;
  readonly flows?: Flows;
  readonly forwards?: Forwards;
  /** Of a namespace. */
  readonly outward?: OutwardForwards;
  readonly events?: Events;
  readonly policy?: PolicyPart;
  readonly rates?: RatesPart;
  readonly captures?: Captures;
  /** A connection to a TCP port of the guest. Throws Refused. */
  readonly connect?: (port: number) => Promise<Duplex>;
  /** Ends the service, once the answer was given. */
  readonly end?: () => void;
}
