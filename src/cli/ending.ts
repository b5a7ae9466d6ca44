/** How the service ends: by a signal, by what it serves, in time whatever hangs. */
import { constants } from 'node:os';
import type { Log } from '../log';
import type { Native } from '../native';
import type { StartHooks } from './start-hooks';

/**
 * Time for the end, from the signal or the event that asks for it. The watchdog sees to it even where this thread
 * hangs; END_LOG_MS into it, what it comes to is in the log.
 */
const END_MS = 3000;
const END_LOG_MS = 2500;

/**
 * Settles when the service shall end: a signal (0), a one-off session's end (0), a data plane that cannot live (1). The
 * process then has END_MS to end, whatever hangs.
 */
export class Ending {
  readonly reached: Promise<number>;
  /** The first one that was asked for; 1 as long as none was: then the start has failed. */
  status = 1;
  private resolve: (status: number) => void = () => undefined;
  private readonly signals = ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP'] as const;
  private stopping = false;
  private readonly native: Native;
  private readonly log: Log;
  private readonly manager: StartHooks['manager'];
  /** Who takes a signal of the terminal's; returns false to let it end the service. */
  onInterrupt: ((signal: number) => boolean) | null = null;

  constructor(native: Native, log: Log, { manager, namespace }: Pick<StartHooks, 'manager' | 'namespace'>) {
    this.native = native;
    this.log = log;
    this.manager = manager;
    this.reached = new Promise((resolve) => {
      this.resolve = resolve;
    });
    for (const signal of this.signals) process.on(signal, this.onSignal);
    // Where a command decides what a signal means, a signal is no deadline.
    const deadline = namespace?.request.target.kind !== 'command';
    if (native.watchdogStart() >= 0 && deadline) native.endOnSignals(END_MS);
  }

  end(status: number): void {
    if (!this.stopping) {
      this.status = status;
      this.manager?.stopping();
      this.native.endWithin(END_MS);
      setTimeout(() => {
        this.log.error(`shutdown takes longer than ${END_LOG_MS / 1000} s: exiting without waiting for the rest`);
        this.native.exitNow(1);
      }, END_LOG_MS).unref();
    }
    this.stopping = true;
    this.resolve(status);
  }

  release(): void {
    for (const signal of this.signals) process.off(signal, this.onSignal);
  }

  private readonly onSignal = (signal: NodeJS.Signals): void => {
    // A second signal: the user does not want to wait.
    if (this.stopping) this.native.exitNow(1); // process.exit would wait for threads
    const ofTerminal = signal === 'SIGINT' || signal === 'SIGQUIT';
    if (ofTerminal && this.onInterrupt?.(constants.signals[signal]) === true) return;
    this.log.debug(`${signal}: shutting down`);
    this.end(0);
  };
}
