/**
 * What happens when a worker dies. If it served a front-end, that front-end's messages may have been the cause, and its
 * successor gets the same ones: after SESSION_DEATHS deaths the session ends, and the service continues with others.
 * Only deaths without a front-end's state show that the service itself cannot be kept alive.
 */
export const SESSION_DEATHS = 3;
export const SERVICE_DEATHS = 6;
/** Deaths longer ago do not count. */
export const WINDOW_MS = 10_000;
/** The same of hangs: that a system call does not return is known after 5 s, and a busy machine takes longer for all of it. */
export const HUNG_WINDOW_MS = 60_000;

/** Another worker with the same state; another one without it, and the session ends; none. */
export type Verdict = 'replace' | 'end-session' | 'give-up';

class Deaths {
  private readonly times: number[] = [];

  add(now: number, windowMs: number): number {
    this.times.push(now);
    while (now - this.times[0] > windowMs) this.times.shift();
    return this.times.length;
  }

  forget(): void {
    this.times.length = 0;
  }
}

export class RestartPolicy {
  private readonly ofSession = new Deaths();
  private readonly ofService = new Deaths();

  /** Another front-end: it has nothing to do with the deaths before it. */
  newSession(): void {
    this.ofSession.forget();
  }

  /** A worker died, or was found to hang, at `now` (ms), with or without a front-end's state. */
  died(ofFrontEnd: boolean, now: number, hung = false): Verdict {
    const windowMs = hung ? HUNG_WINDOW_MS : WINDOW_MS;
    if (!ofFrontEnd) return this.ofService.add(now, windowMs) < SERVICE_DEATHS ? 'replace' : 'give-up';
    if (this.ofSession.add(now, windowMs) < SESSION_DEATHS) return 'replace';
    this.ofSession.forget();
    return 'end-session';
  }
}
