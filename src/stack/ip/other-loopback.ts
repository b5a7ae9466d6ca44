/**
 * The host's own loopback may be reached in either family, whatever the guest speaks: `ssh localhost` tries ::1 first. So a
 * loopback peer comes in the other family if the guest, or the rule's target, has only that. A remote peer does not: it has
 * an address which the guest must see.
 */
import { isLoopback, isV4, V4_MAPPED } from './address';
import { SEEN_V4, SEEN_V6 } from '../context';
import type { LinkState } from '../context';

/** 127.0.0.1 becomes ::1, and any other way round. */
export function toOtherLoopback(words: Int32Array): void {
  const v4 = isV4(words, 0);
  words[0] = 0;
  words[1] = 0;
  words[2] = v4 ? 0 : V4_MAPPED;
  words[3] = v4 ? 1 : 0x7f000001;
}

/** Must the peer `words[at…]` of a listener with the fixed address `target` (null: none) come in the other family? */
export function comesInOtherFamily(link: LinkState, target: Int32Array | null, words: Int32Array, at: number): boolean {
  if (!isLoopback(words, at)) return false;
  const v4 = isV4(words, at);
  // With a target, that decides; else, whether the guest was heard, but only in the other family.
  return target === null ? speaksOnlyOther(link, v4) : isV4(target, 0) !== v4;
}

/** Has the guest been heard, but only in the family that is not this one? */
export function speaksOnlyOther(link: LinkState, v4: boolean): boolean {
  return link.seen === (v4 ? SEEN_V6 : SEEN_V4);
}
