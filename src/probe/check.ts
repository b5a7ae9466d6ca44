/** What a check is: a row of the tables in checks/, and how it says what it found. */
import type { Session, SessionOptions } from './session';

/** What a failed check means: a rule of a specification broken, advice not taken, or a back-end that can be upset. */
export type Severity = 'MUST' | 'SHOULD' | 'robustness';

export interface Check {
  /** Stable, lower case: `area.what`. */
  readonly id: string;
  /** Paragraph of the specification, as `vhost-user "Header"`, or `virtio 1.2 §2.7.5.3.1`. */
  readonly spec: string;
  readonly title: string;
  readonly severity: Severity;
  /** Settles if the back-end passed; rejects with `Failure` or `Skip`. */
  readonly run: (probe: Probe) => Promise<void>;
}

/** What a check may do. */
export interface Probe {
  /** Longest wait for one thing, in ms. */
  readonly timeoutMs: number;
  /** The socket. */
  readonly path: string;
  /** A new front-end, of which GET_FEATURES was answered. Closed when the check is over. */
  open(options?: SessionOptions): Promise<Session>;
  /** Says something about the back-end that is neither right nor wrong. */
  note(text: string): void;
}

/** The back-end did not pass. */
export class Failure extends Error {}

/** The check does not apply to this back-end. */
export class Skip extends Error {}
