/**
 * Messages of DNS (RFC 1035 §4), as far as the policy needs them: the question of a query, and what the answer section of
 * an answer says about the question's name. Everything is checked against the message's length; a name that compression
 * leads round in circles, or that is longer than names can be, makes the message unreadable. Allocates: a message is
 * read once, and is no bulk traffic.
 */
const HEADER = 12;
const FLAG_RESPONSE = 0x8000;
const MASK_OPCODE = 0x7800;
const FLAG_RECURSION_DESIRED = 0x0100;
const FLAG_RECURSION_AVAILABLE = 0x0080;
const MASK_RCODE = 0x000f;

export const RCODE_NXDOMAIN = 3;
export const RCODE_REFUSED = 5;

const TYPE_A = 1;
const TYPE_CNAME = 5;
const TYPE_AAAA = 28;
const CLASS_IN = 1;

/** RFC 1035 §3.1: bytes of a name, its zero byte included. */
const MAX_NAME = 255;
/** Records of an answer that are looked at, and steps of a chain of aliases. */
const MAX_RECORDS = 512;
const MAX_ALIASES = 16;

/** A name at `at` of a message: its text in lower case, and the offset behind it. */
interface Name {
  readonly text: string;
  readonly end: number;
}

/** Letters, digits, "-" and "_" as they are, in lower case; all else, dots in labels above all, as RFC 1035 §5.1 escapes. */
function characterText(byte: number): string {
  if (byte >= 0x41 && byte <= 0x5a) return String.fromCharCode(byte + 0x20);
  const plain = (byte >= 0x61 && byte <= 0x7a) || (byte >= 0x30 && byte <= 0x39) || byte === 0x2d || byte === 0x5f;
  return plain ? String.fromCharCode(byte) : `\\${byte.toString().padStart(3, '0')}`;
}

/** The name at `at` of the message in `view[start, end)`; null: it is none. */
function nameAt(view: DataView, start: number, end: number, at: number): Name | null {
  const labels: string[] = [];
  let bytes = 1;
  let behind = -1;
  let lowest = at;
  for (;;) {
    if (at >= end) return null;
    const length = view.getUint8(at);
    if (length === 0) return { text: labels.join('.'), end: behind < 0 ? at + 1 : behind };
    if (length >= 0xc0) {
      if (at + 2 > end) return null;
      if (behind < 0) behind = at + 2;
      // Only backwards, past everything read before (RFC 1035 §4.1.4: "a prior occurrence"): that ends.
      at = start + (view.getUint16(at) & 0x3fff);
      if (at >= lowest || at < start + HEADER) return null;
      lowest = at;
      continue;
    }
    bytes += length + 1;
    if (length > 63 || bytes > MAX_NAME || at + 1 + length > end) return null;
    let label = '';
    for (let i = at + 1; i <= at + length; i++) label += characterText(view.getUint8(i));
    labels.push(label);
    at += 1 + length;
  }
}

export interface Question {
  readonly id: number;
  /** Lower case, without a final dot; '' for the root. */
  readonly name: string;
  readonly type: number;
  /** Offset behind the question. */
  readonly end: number;
}

function questionOf(view: DataView, at: number, length: number, response: boolean): Question | null {
  if (length < HEADER) return null;
  const flags = view.getUint16(at + 2);
  if ((flags & FLAG_RESPONSE) !== (response ? FLAG_RESPONSE : 0) || (flags & MASK_OPCODE) !== 0) return null;
  if (view.getUint16(at + 4) !== 1) return null;
  const name = nameAt(view, at, at + length, at + HEADER);
  if (name === null || name.end + 4 > at + length) return null;
  if (view.getUint16(name.end + 2) !== CLASS_IN) return null;
  return { id: view.getUint16(at), name: name.text, type: view.getUint16(name.end), end: name.end + 4 };
}

/** The question of the query in `view[at, at + length)`; null: it is not a query with one question of class IN. */
export function readQuery(view: DataView, at: number, length: number): Question | null {
  const question = questionOf(view, at, length, false);
  // A query answers nothing (RFC 1035 §4.1.1), so it says nothing of where names lead.
  if (question === null || view.getUint16(at + 6) !== 0) return null;
  return question;
}

/** An address that an answer gives to a name. */
export interface AnswerAddress {
  /** The name that was asked for, or what it stands for. */
  readonly name: string;
  readonly asked: boolean;
  /** Offset of the address, and its bytes: 4 or 16. */
  readonly at: number;
  readonly length: number;
  readonly ttlSec: number;
}

export interface Answer {
  readonly question: Question;
  readonly addresses: readonly AnswerAddress[];
}

/** RFC 2181 §8: a time to live with the highest bit set is none. */
const ttlOf = (value: number): number => (value > 0x7fffffff ? 0 : value);

/** The answer in `view[at, at + length)`; null: it cannot be read. What follows an unreadable record is not looked at. */
export function readAnswer(view: DataView, at: number, length: number): Answer | null {
  const question = questionOf(view, at, length, true);
  if (question === null) return null;
  const none = { question, addresses: [] };
  if ((view.getUint16(at + 2) & MASK_RCODE) !== 0) return none;
  const end = at + length;
  const aliases = new Map<string, { to: string; ttlSec: number }>();
  const found: { owner: string; at: number; length: number; ttlSec: number }[] = [];
  let next = question.end;
  for (let n = Math.min(view.getUint16(at + 6), MAX_RECORDS); n > 0; n--) {
    const owner = nameAt(view, at, end, next);
    if (owner === null || owner.end + 10 > end) break;
    const type = view.getUint16(owner.end);
    const ttlSec = ttlOf(view.getUint32(owner.end + 4));
    const dataLength = view.getUint16(owner.end + 8);
    const data = owner.end + 10;
    next = data + dataLength;
    if (next > end) break;
    if (view.getUint16(owner.end + 2) !== CLASS_IN) continue;
    if (type === TYPE_CNAME) {
      const to = nameAt(view, at, end, data);
      if (to?.end === next) aliases.set(owner.text, { to: to.text, ttlSec });
    } else if ((type === TYPE_A && dataLength === 4) || (type === TYPE_AAAA && dataLength === 16)) {
      found.push({ owner: owner.text, at: data, length: dataLength, ttlSec });
    }
  }
  return { question, addresses: alongAliases(question.name, aliases, found) };
}

/** Addresses of `name` and of what it stands for, each by all names on the way to it, with the shortest of their times. */
function alongAliases(
  name: string,
  aliases: ReadonlyMap<string, { readonly to: string; readonly ttlSec: number }>,
  found: readonly { readonly owner: string; readonly at: number; readonly length: number; readonly ttlSec: number }[],
): AnswerAddress[] {
  const addresses: AnswerAddress[] = [];
  const way = [name];
  let ttlSec = 0x7fffffff;
  for (let current = name, n = 0; n <= MAX_ALIASES; n++) {
    for (const record of found) {
      if (record.owner !== current) continue;
      for (const one of way) {
        const { at, length } = record;
        addresses.push({ name: one, asked: one === name, at, length, ttlSec: Math.min(ttlSec, record.ttlSec) });
      }
    }
    const alias = aliases.get(current);
    if (alias === undefined || way.includes(alias.to)) break;
    ttlSec = Math.min(ttlSec, alias.ttlSec);
    current = alias.to;
    way.push(current);
  }
  return addresses;
}

/**
 * Makes an answer without records and with `rcode` of the query in `view[at, …)` whose question is `question`, in place.
 * Returns its length.
 */
export function makeRefusal(view: DataView, at: number, question: Question, rcode: number): number {
  const desired = view.getUint16(at + 2) & FLAG_RECURSION_DESIRED;
  view.setUint16(at + 2, FLAG_RESPONSE | desired | FLAG_RECURSION_AVAILABLE | rcode);
  view.setUint16(at + 4, 1);
  for (let i = 6; i < HEADER; i += 2) view.setUint16(at + i, 0);
  return question.end - at;
}
