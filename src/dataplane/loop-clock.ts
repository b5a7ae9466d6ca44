/** Time of the data plane's loop: read from the system once a turn, and wherever the loop updates it. */
import type { Native } from '../native';
import type { Clock } from '../stack/ports';

export class LoopClock implements Clock {
  nowMs: number;
  /** `[0]`: the µs at the last update. */
  readonly us = new Float64Array(1);
  private readonly native: Pick<Native, 'nowUs'>;

  constructor(native: Pick<Native, 'nowUs'>) {
    this.native = native;
    this.nowMs = 0;
    this.update();
  }

  update(): void {
    const us = this.native.nowUs();
    this.us[0] = us;
    this.nowMs = Math.floor(us / 1000);
  }

  nowUs(): number {
    return this.native.nowUs();
  }
}
