/** Runs checks one by one, each against the back-end as it is then, and looks after each whether it still serves. */
import { type Check, Failure, type Probe, Skip } from './check';
import type { Session, SessionOptions } from './session';
import { describeEnd, type Target } from './target';

export type Status = 'pass' | 'fail' | 'skip';

export interface Result {
  readonly check: Check;
  readonly status: Status;
  /** Why it failed or was skipped; '' if it passed. */
  readonly reason: string;
  /** What was seen besides. */
  readonly notes: readonly string[];
  readonly ms: number;
}

/** How much longer than one wait the next front-end may have to wait, as a former session ends. */
const RECOVERY_FACTOR = 3;
/** A process that dies of a message does so soon: how long to look, in ms. */
const DEATH_MS = 30;

/** A whole good session: negotiated, both rings run, a frame is taken, both rings are stopped again. */
async function serveNext(target: Target, waitMs: number): Promise<void> {
  const session = await target.open({}, waitMs);
  try {
    await session.run();
    await session.transmit();
    for (const ring of session.rings) await session.stopRing(ring);
  } finally {
    session.close();
  }
}

/** The message of what a check, or the look after it, was rejected with. */
function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export class Runner {
  private readonly target: Target;
  private readonly timeoutMs: number;
  /** Why no further check can be run, once that is so. */
  private gone = '';

  constructor(target: Target, timeoutMs: number) {
    this.target = target;
    this.timeoutMs = timeoutMs;
  }

  /** Never rejects for what the back-end does. */
  async run(check: Check): Promise<Result> {
    const start = performance.now();
    const notes: string[] = [];
    const result = (status: Status, reason: string): Result => ({
      check,
      status,
      reason,
      notes,
      ms: Math.round(performance.now() - start),
    });
    if (this.gone !== '') return result('skip', this.gone);
    this.target.start();
    let [status, reason] = await this.judge(check, notes);
    const after = await this.aftermath(notes);
    if (after !== '') {
      reason = status === 'fail' ? `${after}; ${reason}` : after;
      status = 'fail';
    }
    return result(status, reason);
  }

  /** Ends what was started. */
  async end(): Promise<void> {
    await this.target.stop();
  }

  private async judge(check: Check, notes: string[]): Promise<[Status, string]> {
    const sessions: Session[] = [];
    const probe: Probe = {
      path: this.target.path,
      timeoutMs: this.timeoutMs,
      open: async (options?: SessionOptions) => {
        const waitMs = this.timeoutMs * RECOVERY_FACTOR;
        const session = await this.target.open(options, waitMs);
        sessions.push(session);
        return session;
      },
      note: (text) => {
        if (!notes.includes(text)) notes.push(text);
      },
    };
    try {
      await check.run(probe);
      return ['pass', ''];
    } catch (error) {
      if (error instanceof Skip) return ['skip', error.message];
      return ['fail', reasonOf(error)];
    } finally {
      for (const session of sessions) session.close();
    }
  }

  /** What is wrong with the back-end now that the check's front-end has left; '' if nothing. */
  private async aftermath(notes: string[]): Promise<string> {
    const target = this.target;
    await target.settle(DEATH_MS);
    if (target.howEnded() !== null) return this.afterEnd(notes);
    try {
      await serveNext(target, this.timeoutMs * RECOVERY_FACTOR);
      await target.settle(1);
      return target.howEnded() === null ? '' : this.afterEnd(notes);
    } catch (error) {
      // A command that ends with its front-end may have done so only now.
      await target.settle(DEATH_MS);
      if (target.howEnded() !== null) return this.afterEnd(notes);
      const reason = `the next front-end is not served: ${reasonOf(error)}`;
      if (target.spawned) await target.stop();
      else if (!(await this.serves())) this.gone = 'the back-end is gone';
      return reason;
    }
  }

  /** An end by a signal is a crash; any other may be how a program for one front-end closes its connection. */
  private afterEnd(notes: string[]): string {
    const { lastWords } = this.target;
    const ended = this.target.howEnded();
    if (ended === null) return '';
    if (ended.signal !== null)
      return `back-end died: signal ${ended.signal}${lastWords === '' ? '' : ` (${lastWords})`}`;
    if (ended.status !== 0) notes.push(`the back-end ended${describeEnd(ended)}`);
    return '';
  }

  private async serves(): Promise<boolean> {
    try {
      (await this.target.open({}, this.timeoutMs)).close();
      return true;
    } catch (error) {
      if (error instanceof Failure) return false;
      return false;
    }
  }
}
