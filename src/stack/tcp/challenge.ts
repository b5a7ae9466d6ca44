/**
 * Bounds on answers to segments that are no part of a connection, or not in its window. Such an answer may provoke the
 * next segment: a guest restored from a snapshot, and a flow that went on without it, contradict each other for ever.
 *
 * A segment without payload is answered once in CHALLENGE_MS and flow (RFC 5961 §7, RFC 9293 §3.10.7.4; Linux:
 * net.ipv4.tcp_invalid_ratelimit), and all flows together CHALLENGES times a second. One with payload or FIN is always
 * answered, once a batch: its sender may have lost the acknowledgement, and sends by its timers, not at our answers.
 *
 * A segment of no flow gets an RST, which nobody answers; RESETS a second bound what a flood costs.
 */
import { dropCode } from '../counters';
import { countDrop } from './flow';
import type { TcpEngine } from './flow';

const DROP_ANSWER_LIMIT = dropCode('tcp_answer_limit');

const CHALLENGE_MS = 500;
const CHALLENGES = 1000;
const RESETS = 10_000;

/** May a segment of the flow that needs an answer, but has no payload, be answered now? If not, that is counted. */
export function mayChallenge(t: TcpEngine, flow: number): boolean {
  const now = t.clock.nowMs;
  newSecond(t, now);
  if (now - t.challengedAt[flow] < CHALLENGE_MS || t.challenges >= CHALLENGES) {
    countDrop(t, DROP_ANSWER_LIMIT);
    return false;
  }
  t.challengedAt[flow] = now;
  t.challenges++;
  return true;
}

/** May a segment be answered by an RST now? If not, that is counted. */
export function mayReset(t: TcpEngine): boolean {
  newSecond(t, t.clock.nowMs);
  if (t.resets >= RESETS) {
    countDrop(t, DROP_ANSWER_LIMIT);
    return false;
  }
  t.resets++;
  return true;
}

function newSecond(t: TcpEngine, now: number): void {
  if (now - t.answersAt < 1000) return;
  t.answersAt = now;
  t.challenges = 0;
  t.resets = 0;
}
