/** Classifies a flow's traffic: whether a user may be waiting for the guest's next frames (../ip/guest-hints.ts). */
import type { TcpEngine } from './flow';

/** What comes from the guest in one go is bulk from here on, bytes. */
const BULK_BATCH = 16 * 1024;
/** With less it is a message, unless it is the rest of bulk. */
const MESSAGE = 1024;
/** For so long a flow is what it was, ms. */
const MEMORY_MS = 10;
/** A guest that had so large a window has enough to read while its acknowledgements wait, bytes. */
const WIDE_WINDOW = 512 * 1024;

/** Payload came from the guest, of which the socket took so much (or `taken` is an error). */
export function noteFromGuest(t: TcpEngine, flow: number, bytes: number, taken: number): void {
  const { traffic } = t.ctx;
  if (taken > 0) traffic.fromGuest += taken;
  const now = t.clock.nowMs;
  t.payloadAt[flow] = now;
  if (bytes >= BULK_BATCH) {
    t.bulkAt[flow] = now;
  } else if (bytes < MESSAGE && now - t.bulkAt[flow] > MEMORY_MS) {
    traffic.light = true;
    traffic.message = true;
  }
}

/** All that the host had went to the guest: if it answers what the guest sent, the guest may be about to go on. */
export function noteAllSent(t: TcpEngine, flow: number): void {
  if (t.clock.nowMs - t.payloadAt[flow] <= MEMORY_MS) t.ctx.traffic.light = true;
}

/** There is more for the guest, but its window is used up. */
export function noteWindowUsedUp(t: TcpEngine, flow: number): void {
  if (t.maxWnd[flow] < WIDE_WINDOW) t.ctx.traffic.light = true;
}
