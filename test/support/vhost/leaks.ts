/** Proof that nothing was left behind: descriptors of the process, regions of the addon's table. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Native } from '../../../src/native';
import { openFdsOf } from '../open-fds';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as (options?: { type: 'minor' }) => void;

/**
 * Turns of the loop (each with a garbage collection for regions) that things may take to go. The buffers are young: a few
 * collections of young objects find them mostly, which take a hundredth of the time of one of all in jest's large heap.
 */
const TURNS = 40;
const MINOR_TURNS = 4;

/** Regions at the end of the last check: then nothing was left over. */
let regionsChecked = -1;

export class LeakCheck {
  private readonly native: Native;
  private readonly fds: number;
  private readonly regions: number;

  constructor(native: Native) {
    this.native = native;
    native.closerWait(1000); // what an earlier test left to the closing thread
    if (native.regionCount() !== regionsChecked) collectGarbage(); // and to the garbage collector
    this.fds = openFdsOf('self');
    this.regions = native.regionCount();
  }

  /**
   * Waits until as many descriptors and regions exist as at the beginning. A retired region leaves the table when
   * the last buffer over it is collected, and the sweeper does that when it likes.
   */
  async verify(): Promise<void> {
    this.native.closerWait(1000);
    for (let turn = 0; turn < TURNS; turn++) {
      if (openFdsOf('self') <= this.fds && this.native.regionCount() <= this.regions) break;
      if (turn < MINOR_TURNS) collectGarbage({ type: 'minor' });
      else collectGarbage();
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect({
      // Fewer than at the beginning: jest itself, or the runtime, closed one of its own in the meantime.
      fds: Math.max(0, openFdsOf('self') - this.fds),
      regions: Math.max(0, this.native.regionCount() - this.regions),
    }).toEqual({
      fds: 0,
      regions: 0,
    });
    regionsChecked = this.native.regionCount();
  }
}
