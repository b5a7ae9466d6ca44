/**
 * What the watchdog's thread (addon/watchdog.cc) reports of data planes: one waits in a system call, or its loop does not
 * come round. The host may have no thread, descriptor, memory or watch left to listen with: that is said once, and tried
 * again.
 */
import { type Native, POLL_IN } from '../native';

/** Pause before another attempt to start. */
const AGAIN_MS = 1000;

/** Pairs of `Native.watchdogRead`. */
const NEWS = 16;

type WatchdogIo = Pick<Native, 'watchdogStart' | 'watchdogRead' | 'pollStart' | 'pollStop'>;

export class Watchdog {
  private readonly native: WatchdogIo;
  private readonly warn: (message: string) => void;
  private readonly onNews: (id: number, stage: number) => void;
  private readonly news = new Int32Array(2 * NEWS);
  private poll = -1;
  private timer: NodeJS.Timeout | null = null;
  /** It was said that the watchdog is not heard, and it is not yet. */
  private said = false;

  /** `onNews` gets the number of a worker and WATCHDOG_STALLED or WATCHDOG_HUNG. */
  constructor(native: WatchdogIo, warn: (message: string) => void, onNews: (id: number, stage: number) => void) {
    this.native = native;
    this.warn = warn;
    this.onNews = onNews;
  }

  /** Listens from now on, or as soon as the host has what that takes. */
  start(): void {
    const { native } = this;
    const fd = native.watchdogStart();
    if (fd < 0) {
      this.startLater(`no watchdog (errno ${-fd})`);
      return;
    }
    this.poll = native.pollStart(fd, POLL_IN, () => {
      const count = native.watchdogRead(this.news);
      for (let i = 0; i < count; i++) this.onNews(this.news[2 * i], this.news[2 * i + 1]);
    });
    if (this.poll < 0) this.startLater(`cannot listen to the watchdog (errno ${-this.poll})`);
    else this.said = false;
  }

  /** Does not listen any more. */
  stop(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    if (this.poll >= 0) this.native.pollStop(this.poll);
    this.poll = -1;
  }

  private startLater(why: string): void {
    if (!this.said) this.warn(`${why}: a data plane that hangs is not replaced until this works`);
    this.said = true;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.start();
    }, AGAIN_MS);
  }
}
