/**
 * Queries of the guest to its resolvers, and their answers, read as they pass: what may be looked up, and where names lead.
 *
 * The caller gives private copies: memory of the guest may change while it is read. Only answers to questions that the
 * guest has asked are believed, and only those of resolvers that the policy trusts (`PolicyGate.trustsResolver`).
 */
import { addressWords } from '../ip/address';
import type { StackContext } from '../context';
import { SITE_POLICY_NAME } from '../kit/site-log';
import { MARK_ALIAS, MARK_ASKED } from './rules';
import { makeRefusal, RCODE_NXDOMAIN, RCODE_REFUSED, readAnswer, readQuery } from './dns-message';

/** What becomes of a query. */
export const QUERY_PASS = 0;
/** It is a refusal now, to go back to the guest. */
export const QUERY_REFUSED = 1;
/** It cannot be read. */
export const QUERY_BAD = 2;

/** Questions that wait for their answers: what a resolver library has under way, many times over. The oldest go. */
const QUESTIONS = 1024;
/** How long an answer may take, ms. */
const ANSWER_MS = 30_000;

interface Asked {
  readonly name: string;
  readonly type: number;
  readonly atMs: number;
}

export class DnsWatch {
  /** Length of the refusal that a query became. */
  refusalLength = 0;
  private readonly ctx: StackContext;
  /** By flow and identifier of the message; the oldest first. */
  private readonly questions = new Map<string, Asked>();
  private readonly words = new Int32Array(4);

  constructor(ctx: StackContext) {
    this.ctx = ctx;
  }

  /** The guest was reset. */
  reset(): void {
    this.questions.clear();
  }

  /**
   * A query of flow `flow` (a text that no other flow has) in `view[at, at + length)`. Remembers what is asked, or makes it
   * a refusal.
   */
  query(flow: string, view: DataView, at: number, length: number): number {
    const question = readQuery(view, at, length);
    const { policy } = this.ctx.link;
    if (question === null) return policy.policy.audit ? QUERY_PASS : QUERY_BAD;
    const { name, type, id } = question;
    if (!policy.maySeek(name)) {
      this.say(name);
      const rcode = policy.policy.deniedNames === 'nxdomain' ? RCODE_NXDOMAIN : RCODE_REFUSED;
      this.refusalLength = makeRefusal(view, at, question, rcode);
      return QUERY_REFUSED;
    }
    const key = `${flow}/${id}`;
    this.questions.delete(key);
    this.questions.set(key, { name, type, atMs: this.ctx.clock.nowMs });
    if (this.questions.size > QUESTIONS) {
      for (const oldest of this.questions.keys()) {
        this.questions.delete(oldest);
        break;
      }
    }
    return QUERY_PASS;
  }

  /** An answer to flow `flow`. */
  answer(flow: string, view: DataView, at: number, length: number): void {
    const answer = readAnswer(view, at, length);
    if (answer === null) return;
    const { id, name, type } = answer.question;
    const asked = this.questions.get(`${flow}/${id}`);
    const { nowMs } = this.ctx.clock;
    if (asked?.name !== name || asked.type !== type || nowMs - asked.atMs > ANSWER_MS) return;
    const { policy } = this.ctx.link;
    for (const found of answer.addresses) {
      addressWords(new Uint8Array(view.buffer, view.byteOffset + found.at, found.length), this.words, 0);
      policy.names.learn(found.name, found.asked ? MARK_ASKED : MARK_ALIAS, this.words, 0, nowMs, found.ttlSec * 1000);
    }
    if (answer.addresses.length > 0) policy.learnt();
  }

  private say(name: string): void {
    const { log } = this.ctx;
    if (log.take(SITE_POLICY_NAME)) {
      log.say(SITE_POLICY_NAME, 'info', `policy refused to look up ${name === '' ? '.' : name}: no rule allows it`);
    }
  }
}
