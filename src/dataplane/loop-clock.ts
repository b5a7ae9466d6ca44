/** Time of the data plane's loop: read from the system once a turn, and wherever the loop updates it. */
import type { Native } from '../native';
import type { Clock } from '../stack/ports';

export class LoopClock implements Clock {
  nowMs: number;
  private readonly native: Pick<Native, 'nowUs'>;

  constructor(native: Pick<Native, 'nowUs'>) {
    this.native = native;
    this.nowMs = 0;
    this.update();
  }

  update(): void {
    this.nowMs = Math.floor(this.native.nowUs() / 1000);
  }

  nowUs(): number {
    return this.native.nowUs();
  }
}
