/**
 * What the loop has to do: how long its turns take, and how many frames they move. A turn lasts from the end of one wait to
 * the beginning of the next, or to the next turn where nothing is waited for: as long as that, something that happens in
 * it may wait. Its times are those that the loop reads anyway.
 */
import {
  C_FRAMES_FROM_GUEST,
  C_FRAMES_TO_GUEST,
  type Counters,
  H_BATCH_FROM_GUEST,
  H_BATCH_TO_GUEST,
  H_TURN_US,
} from '../stack/counters';
import { MOST, observe } from '../stack/kit/histogram';

const FROM = 0;
const TO = 1;
const BEGAN = 0;
const RESTED = 1;

export class Load {
  private readonly counters: Counters;
  /** CLOCK_MONOTONIC in µs, as the loop read it last. */
  private readonly now: Float64Array;
  /** When the turn began, and when it came to rest (0: it has not), µs. */
  private readonly turn = new Float64Array(2);
  /** Frames that were counted before the turn. */
  private readonly frames = new Float64Array(2);

  /** \`now[0]\`: the loop's clock. */
  constructor(counters: Counters, now: Float64Array) {
    this.counters = counters;
    this.now = now;
    this.frames[FROM] = counters[C_FRAMES_FROM_GUEST];
    this.frames[TO] = counters[C_FRAMES_TO_GUEST];
  }

  /** The loop is about to wait. */
  rests(): void {
    this.turn[RESTED] = this.now[0];
  }

  /** The wait is over: the former turn's time is known. */
  begins(): void {
    const { turn } = this;
    const now = this.now[0];
    if (turn[BEGAN] !== 0) {
      const us = (turn[RESTED] === 0 ? now : turn[RESTED]) - turn[BEGAN];
      observe(this.counters, H_TURN_US, us < MOST ? us | 0 : MOST);
    }
    turn[BEGAN] = now;
    turn[RESTED] = 0;
  }

  /** All frames of the turn have been moved. */
  ends(): void {
    const { counters, frames } = this;
    const from = (counters[C_FRAMES_FROM_GUEST] - frames[FROM]) | 0;
    const to = (counters[C_FRAMES_TO_GUEST] - frames[TO]) | 0;
    if (from > 0) {
      frames[FROM] = counters[C_FRAMES_FROM_GUEST];
      observe(counters, H_BATCH_FROM_GUEST, from);
    }
    if (to > 0) {
      frames[TO] = counters[C_FRAMES_TO_GUEST];
      observe(counters, H_BATCH_TO_GUEST, to);
    }
  }
}
