/** Rows of one message each, and what it may lead to. */
import { type Check, Failure, type Probe, type Severity, Skip } from '../check';
import * as vu from '../constants';
import { EMPTY } from '../payloads';
import { ConnectionClosed } from '../raw-front-end';
import type { Session, SessionOptions } from '../session';

/**
 * `done`: it has to be done. `refused`: it cannot be done, so an acknowledgement must not say that it was; closing the
 * connection is right as well. `survives`: any answer is right. `leaves`: as that, and nothing is awaited, as the back-end
 * may wait for more of the message.
 */
export type Expectation = 'done' | 'refused' | 'survives' | 'leaves';

/** How far the front-end has come: connected, negotiated (memory not known yet), or both rings run. */
export type State = 'open' | 'negotiated' | 'running';

export interface MessageRow {
  readonly id: string;
  readonly title: string;
  /** Default: that of the table. */
  readonly spec?: string;
  /** Default: MUST for `done` and `refused`, else robustness. */
  readonly severity?: Severity;
  /** Default: negotiated. */
  readonly state?: State;
  readonly options?: SessionOptions;
  /** Protocol feature without which the row is skipped. */
  readonly needs?: bigint;
  readonly request: number;
  readonly payload?: Uint8Array | ((s: Session) => Uint8Array);
  readonly fds?: (s: Session) => readonly number[];
  /** Header fields other than right. */
  readonly flags?: number;
  readonly size?: number;
  readonly expect: Expectation;
}

export async function arrive(probe: Probe, state: State, options?: SessionOptions): Promise<Session> {
  const session = await probe.open(options);
  if (state === 'negotiated') await session.negotiate();
  if (state === 'running') await session.run();
  return session;
}

/** Skips the check if the back-end does not offer this protocol feature. */
export function need(session: Session, protocolFeature: bigint, name: string): void {
  if ((session.protocolOffered & protocolFeature) !== protocolFeature) throw new Skip(`${name} is not offered`);
}

/** Skips the check if the back-end does not offer this virtio feature. */
export function needFeature(session: Session, feature: bigint, name: string): void {
  if (!session.offers(feature)) throw new Skip(`${name} is not offered`);
}

async function say(probe: Probe, session: Session, row: MessageRow): Promise<void> {
  const { request, fds, flags, size, expect } = row;
  const payload = typeof row.payload === 'function' ? row.payload(session) : (row.payload ?? EMPTY);
  const header = { ...(flags === undefined ? {} : { flags }), ...(size === undefined ? {} : { size }) };
  const options = { ...header, fds: fds?.(session) ?? [] };
  if (expect === 'leaves') {
    session.front.send(request, payload, options);
    return;
  }
  // A request with an answer of its own, sent where it should not be, may have that answer: leave the order aside.
  if (expect === 'survives') {
    session.front.send(request, payload, { ...options, needReply: session.hasAcks });
    probe.note(await settle(session));
    return;
  }
  const outcome = await session.ask(request, payload, options);
  if (expect === 'done' && (outcome === 'closed' || outcome === 'refused')) throw new Failure(`it was ${outcome}`);
  if (expect === 'refused' && outcome === 'done') throw new Failure('acknowledged as done, which it cannot be');
  if (expect === 'refused') probe.note(outcome === 'silent' ? 'nothing said: no acknowledgements' : outcome);
}

/** What a message that should not be sent led to, in words, once the connection is closed or goes on. */
export async function settle(session: Session): Promise<string> {
  session.front.send(vu.VHOST_USER_GET_FEATURES);
  let word = 'passed over';
  for (;;) {
    try {
      const { request, payload } = await session.front.receive(session.timeoutMs);
      if (request === vu.VHOST_USER_GET_FEATURES) return word;
      const refused = payload.byteLength === 8 && payload.getBigUint64(0, true) !== 0n;
      word = refused ? 'refused, or answered with a number' : 'done, or answered';
    } catch (error) {
      if (error instanceof ConnectionClosed) return 'closed';
      throw error;
    }
  }
}

/** Checks of one message each. */
export function messages(spec: string, rows: readonly MessageRow[]): Check[] {
  return rows.map((row) => ({
    id: row.id,
    spec: row.spec ?? spec,
    title: row.title,
    severity: row.severity ?? (row.expect === 'done' || row.expect === 'refused' ? 'MUST' : 'robustness'),
    run: async (probe) => {
      const session = await arrive(probe, row.state ?? 'negotiated', row.options);
      if (row.needs !== undefined) need(session, row.needs, 'its protocol feature');
      await say(probe, session, row);
    },
  }));
}

/** A check by steps of its own. */
export function check(
  id: string,
  spec: string,
  severity: Severity,
  title: string,
  run: (probe: Probe) => Promise<void>,
): Check {
  return { id, spec, title, severity, run };
}
