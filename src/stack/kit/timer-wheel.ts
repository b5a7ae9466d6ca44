/**
 * A timer wheel over typed arrays: `capacity` timers known by number, each set or not.
 *
 * Theory of operation. Time is cut into ticks of TICK_MS; tick t belongs to slot t mod SLOTS; each slot is a doubly
 * linked list of timers. A timer due more than a round (SLOTS ticks, 33 s) ahead waits in one of the FAR slots, each a
 * round long, and is moved to its tick's slot when its round begins: thousands of timers hours ahead (idle connections)
 * cost one visit in that time, not one in each round. What lies beyond the last far slot waits there and is moved on.
 *
 * Setting and cancelling are O(1). Putting a deadline off, which TCP does at every acknowledgement, is a single store:
 * the timer stays in the slot of the earlier deadline and is moved on when that slot is visited.
 *
 * A timer never fires early, and at most one tick late. `nextDeadline` is a lower bound of the earliest deadline: a
 * caller that sleeps until then and calls `expire` may find nothing due, but never sleeps over a timer.
 */
export const TICK_MS = 8;
const SLOT_BITS = 12;
const SLOTS = 1 << SLOT_BITS;
const MASK = SLOTS - 1;
const WORDS = SLOTS >> 5;
/** Rounds ahead that have a slot of their own: 4.6 hours. */
const FAR_SLOTS = 512;
const FAR_MASK = FAR_SLOTS - 1;

export class TimerWheel {
  /** Timers set. */
  count: number;
  private readonly deadline: Float64Array;
  private readonly slot: Int32Array; // slot + 1 the timer is linked in; 0: not set
  private readonly next: Int32Array; // timer + 1; 0: none
  private readonly prev: Int32Array;
  private readonly heads: Int32Array; // timer + 1; 0: empty
  private readonly occupied: Int32Array; // bit per slot
  private farCount: number; // timers in far slots
  private tick: number; // next tick to be visited
  private resume: number; // timer + 1 to look at next within the slot of `tick`; 0: from the head
  private dirty: boolean; // a timer was linked into the slot of `tick` since its scan began

  constructor(capacity: number, nowMs: number) {
    this.count = 0;
    this.deadline = new Float64Array(capacity);
    this.slot = new Int32Array(capacity);
    this.next = new Int32Array(capacity);
    this.prev = new Int32Array(capacity);
    this.heads = new Int32Array(SLOTS + FAR_SLOTS);
    this.occupied = new Int32Array(WORDS);
    this.farCount = 0;
    this.tick = Math.floor(nowMs / TICK_MS);
    this.resume = 0;
    this.dirty = false;
  }

  isSet(id: number): boolean {
    return this.slot[id] !== 0;
  }

  /** Deadline of a timer that is set, in ms. */
  deadlineOf(id: number): number {
    return this.deadline[id];
  }

  /** Sets timer `id`, or changes its deadline. A deadline in the past is due at the next `expire`. */
  set(id: number, atMs: number): void {
    if (this.slot[id] !== 0) {
      if (atMs >= this.deadline[id]) {
        this.deadline[id] = atMs;
        return;
      }
      this.unlink(id);
      this.count--;
    }
    this.deadline[id] = atMs;
    this.link(id);
    this.count++;
  }

  cancel(id: number): void {
    if (this.slot[id] === 0) return;
    this.unlink(id);
    this.count--;
  }

  /**
   * Takes one timer whose deadline is `nowMs` or earlier off the wheel and returns its number; -1 if none is left.
   * Call until -1. Timers may be set and cancelled between calls; one set meanwhile to a time not after `nowMs` is
   * returned too, so a handler must not re-arm for now.
   */
  expire(nowMs: number): number {
    const last = Math.floor(nowMs / TICK_MS);
    if (this.count === 0) {
      if (this.tick < last) this.tick = last;
      this.resume = 0;
      return -1;
    }
    // More than a whole turn behind: one visit of each slot finds all.
    if (last - this.tick >= SLOTS) {
      this.resume = 0;
      this.moveTo(last - SLOTS + 1);
    }
    while (this.tick <= last) {
      const slot = this.tick & MASK;
      if (this.resume === 0) this.dirty = false;
      let id = (this.resume !== 0 ? this.resume : this.heads[slot]) - 1;
      while (id >= 0) {
        const after = this.next[id];
        if (this.deadline[id] <= nowMs) {
          this.resume = after;
          this.unlink(id);
          this.count--;
          return id;
        }
        if (this.tickOf(this.deadline[id]) !== this.tick) {
          this.unlink(id);
          this.link(id);
        }
        id = after - 1;
        if (id < 0 && this.dirty) {
          this.dirty = false;
          id = this.heads[slot] - 1;
        }
      }
      this.resume = 0;
      this.dirty = false;
      // The current tick stays open: a timer may be due later within it.
      if (this.tick === last) break;
      this.moveTo(this.tick + 1);
    }
    return -1;
  }

  /** Goes on to `tick`; timers of the rounds that begin on the way get slots of their own. */
  private moveTo(tick: number): void {
    const from = Math.floor(this.tick / SLOTS);
    const to = Math.floor(tick / SLOTS);
    this.tick = tick;
    if (from === to || this.farCount === 0) return;
    const rounds = Math.min(to - from, FAR_SLOTS);
    for (let n = 1; n <= rounds; n++) {
      const slot = SLOTS + ((to - rounds + n) & FAR_MASK);
      // A timer that is linked again goes to the head of another slot, or of this one: it is not met twice.
      for (let id = this.heads[slot] - 1; id >= 0;) {
        const after = this.next[id] - 1;
        this.unlink(id);
        this.link(id);
        id = after;
      }
    }
  }

  /** A time in ms not after the earliest deadline; Infinity if no timer is set. */
  nextDeadline(): number {
    if (this.count === 0) return Infinity;
    const near = this.nextNear();
    return this.farCount === 0 ? near : Math.min(near, this.nextFar());
  }

  /** When the first round begins that has timers. */
  private nextFar(): number {
    const round = Math.floor(this.tick / SLOTS);
    for (let n = 1; n <= FAR_SLOTS; n++) {
      if (this.heads[SLOTS + ((round + n) & FAR_MASK)] !== 0) return (round + n) * SLOTS * TICK_MS;
    }
    return Infinity;
  }

  private nextNear(): number {
    const start = this.tick & MASK;
    let word = start >> 5;
    let bits = this.occupied[word] & (-1 << (start & 31));
    for (let i = 0; i <= WORDS; i++) {
      if (bits !== 0) {
        const slot = (word << 5) + (31 - Math.clz32(bits & -bits));
        const tick = this.tick + ((slot - start) & MASK);
        return tick === this.tick ? this.earliestIn(slot) : tick * TICK_MS;
      }
      word = (word + 1) & (WORDS - 1);
      bits = this.occupied[word];
      if (i === WORDS - 1) bits &= ~(-1 << (start & 31));
    }
    return Infinity;
  }

  /** Exact earliest of the slot being visited: else a caller would poll through the rest of the tick. */
  private earliestIn(slot: number): number {
    let at = Infinity;
    for (let id = this.heads[slot] - 1; id >= 0; id = this.next[id] - 1) {
      // A deadline put off, or of a later round, is looked at again one tick on.
      const due = Math.min(this.deadline[id], (this.tick + 1) * TICK_MS);
      if (due < at) at = due;
    }
    return at;
  }

  private tickOf(atMs: number): number {
    const tick = Math.floor(atMs / TICK_MS);
    return tick > this.tick ? tick : this.tick;
  }

  private link(id: number): void {
    const tick = this.tickOf(this.deadline[id]);
    if (tick - this.tick >= SLOTS) {
      const round = Math.floor(this.tick / SLOTS);
      // At least the next round, at most the last that has a slot.
      const ahead = Math.min(Math.floor(tick / SLOTS) - round, FAR_SLOTS - 1);
      this.push(id, SLOTS + ((round + ahead) & FAR_MASK));
      this.farCount++;
      return;
    }
    const slot = tick & MASK;
    this.push(id, slot);
    if (slot === (this.tick & MASK)) this.dirty = true;
    this.occupied[slot >> 5] |= 1 << (slot & 31);
  }

  private push(id: number, slot: number): void {
    const head = this.heads[slot];
    this.slot[id] = slot + 1;
    this.next[id] = head;
    this.prev[id] = 0;
    if (head !== 0) this.prev[head - 1] = id + 1;
    this.heads[slot] = id + 1;
  }

  private unlink(id: number): void {
    const slot = this.slot[id] - 1;
    const next = this.next[id];
    const prev = this.prev[id];
    if (this.resume === id + 1) this.resume = next;
    if (next !== 0) this.prev[next - 1] = prev;
    if (prev !== 0) {
      this.next[prev - 1] = next;
    } else {
      this.heads[slot] = next;
      if (next === 0 && slot < SLOTS) this.occupied[slot >> 5] &= ~(1 << (slot & 31));
    }
    if (slot >= SLOTS) this.farCount--;
    this.slot[id] = 0;
  }
}
