/**
 * The stack's log. A guest or a remote host can provoke most of its lines, so each place that logs (a site) has a
 * budget, which is spent before the line is built: a flood costs a comparison a frame, no string, no message to the
 * control plane and no memory.
 */
import type { Clock } from '../ports';

export type StackLogLevel = 'debug' | 'info' | 'warn';

/** Lines of one site in a second. */
export const SITE_LINES_PER_SECOND = 5;

/** The sites: a constant for each place that logs. Never derived from what a guest or a remote host sent. */
export const SITE_GUEST_MAC = 0;
export const SITE_TCP_OUTBOUND_IF = 1;
export const SITE_TCP_OUTBOUND_ADDR = 2;
export const SITE_UDP_LISTENER = 3;
export const SITE_PING_REFUSED = 4;
export const SITE_TCP_LISTENER = 5;
export const SITE_GUEST_MTU = 8;
export const SITE_DHCP_REFUSED = 9;
export const SITE_IP_PROTOCOL = 10;
export const SITE_FIRST_USE = 11;
export const SITE_VLAN = 12;
export const SITE_GUEST_MTU_LARGE = 13;
export const SITE_POLICY = 20;
export const SITE_POLICY_NAME = 21;
export const SITES = 32;

export class SiteLog {
  private readonly clock: Clock;
  private readonly write: (level: StackLogLevel, message: string) => void;
  /** Second in which the site last logged, lines it logged then, and lines left out since its last one. */
  private readonly second = new Int32Array(SITES).fill(-1);
  private readonly lines = new Int32Array(SITES);
  private readonly leftOut = new Float64Array(SITES);

  /** `clock.nowMs` says which second it is; `write` gets every line that the budget allows. */
  constructor(clock: Clock, write: (level: StackLogLevel, message: string) => void) {
    this.clock = clock;
    this.write = write;
  }

  /** Spends one line of the site's budget. False if it is spent: build and log nothing then. Does not allocate. */
  take(site: number): boolean {
    const now = Math.floor(this.clock.nowMs / 1000) | 0;
    if (this.second[site] !== now) {
      this.second[site] = now;
      this.lines[site] = 0;
    }
    if (this.lines[site] >= SITE_LINES_PER_SECOND) {
      this.leftOut[site]++;
      return false;
    }
    this.lines[site]++;
    return true;
  }

  /** Logs a line that `take` allowed, with a note of how many lines of the site were left out before it. */
  say(site: number, level: StackLogLevel, message: string): void {
    const leftOut = this.leftOut[site];
    this.leftOut[site] = 0;
    this.write(level, leftOut === 0 ? message : `${message} (${String(leftOut)} similar messages suppressed)`);
  }

  /** `take` and `say` in one, for places where the message costs nothing to build. */
  line(site: number, level: StackLogLevel, message: string): void {
    if (this.take(site)) this.say(site, level, message);
  }
}
