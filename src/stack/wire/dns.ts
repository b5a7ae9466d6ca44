/**
 * DNS queries and our answers to them, RFC 1035 §4. Offsets `off` are those of the message (the UDP payload), network byte
 * order. Cold: allocates.
 */
export const DNS_HEADER_LEN = 12;

export const DNS_A = 1;
export const DNS_PTR = 12;
export const DNS_AAAA = 28;
export const DNS_ANY = 255;
const DNS_OPT = 41;
const DNS_IN = 1;

const ID = 0;
const FLAGS = 2;
const QDCOUNT = 4;
const ANCOUNT = 6;
const NSCOUNT = 8;
const ARCOUNT = 10;

/** QR, AA and RA of an answer; RD is the question's. */
const ANSWER_FLAGS = 0x8480;
const RD = 0x0100;
/** QR, opcode, AA, TC and the bits that are zero in a plain query. */
const NOT_A_QUERY = 0xfe40;
const MAX_LABEL = 63;
const MAX_NAME = 255;
/** What an answer by UDP may take anywhere (RFC 1035 §4.2.1): more is not written. */
export const DNS_MAX_ANSWER = 512;
/** OPT of ours (RFC 6891 §6.1.2): we take as much. */
const OPT_LEN = 11;
const POINTER_TO_QUESTION = 0xc00c;
const RECORD_HEAD = 12;

export interface DnsQuestion {
  /** In lower case, without a dot at its end; empty: the root. */
  readonly name: string;
  readonly type: number;
  /** First byte behind the question. */
  readonly end: number;
  /** It has an OPT record, so the answer has one. */
  readonly edns: boolean;
}

/** The one question of a plain query of class IN, whose name is in ASCII; null: it is something else. */
export function dnsQuestion(dv: DataView, off: number, end: number): DnsQuestion | null {
  if (end - off < DNS_HEADER_LEN + 5 || (dv.getUint16(off + FLAGS) & NOT_A_QUERY) !== 0) return null;
  if (dv.getUint16(off + QDCOUNT) !== 1 || dv.getUint16(off + ANCOUNT) !== 0 || dv.getUint16(off + NSCOUNT) !== 0) {
    return null;
  }
  let at = off + DNS_HEADER_LEN;
  const labels: string[] = [];
  for (;;) {
    if (at >= end) return null;
    const length = dv.getUint8(at++);
    if (length === 0) break;
    if (length > MAX_LABEL || at + length > end || at + length - off - DNS_HEADER_LEN > MAX_NAME) return null;
    let label = '';
    for (let i = 0; i < length; i++) {
      const byte = dv.getUint8(at + i);
      // A dot inside a label is none between two.
      if (byte < 0x21 || byte > 0x7e || byte === 0x2e) return null;
      label += String.fromCharCode(byte);
    }
    labels.push(label.toLowerCase());
    at += length;
  }
  if (at + 4 > end || dv.getUint16(at + 2) !== DNS_IN) return null;
  const type = dv.getUint16(at);
  at += 4;
  const more = dv.getUint16(off + ARCOUNT);
  const edns = more > 0 && at + OPT_LEN <= end && dv.getUint8(at) === 0 && dv.getUint16(at + 1) === DNS_OPT;
  return { name: labels.join('.'), type, end: at, edns };
}

export interface DnsRecord {
  readonly type: number;
  readonly data: Uint8Array;
}

/**
 * Writes the answer to `question` of the message at `off` of `query` to `out` at `at`, with those records that fit into
 * DNS_MAX_ANSWER. None: the name is there, but has no such records. Returns its length.
 */
export function dnsWriteAnswer(
  out: DataView,
  at: number,
  query: DataView,
  off: number,
  question: DnsQuestion,
  records: readonly DnsRecord[],
  ttlSec: number,
): number {
  const length = question.end - off;
  for (let i = 0; i < length; i++) out.setUint8(at + i, query.getUint8(off + i));
  out.setUint16(at + ID, query.getUint16(off + ID));
  out.setUint16(at + FLAGS, ANSWER_FLAGS | (query.getUint16(off + FLAGS) & RD));
  const room = DNS_MAX_ANSWER - (question.edns ? OPT_LEN : 0);
  let next = at + length;
  let count = 0;
  for (const { type, data } of records) {
    if (next - at + RECORD_HEAD + data.length > room) break;
    out.setUint16(next, POINTER_TO_QUESTION);
    out.setUint16(next + 2, type);
    out.setUint16(next + 4, DNS_IN);
    out.setUint32(next + 6, ttlSec);
    out.setUint16(next + 10, data.length);
    for (let i = 0; i < data.length; i++) out.setUint8(next + RECORD_HEAD + i, data[i]);
    next += RECORD_HEAD + data.length;
    count++;
  }
  out.setUint16(at + ANCOUNT, count);
  out.setUint16(at + NSCOUNT, 0);
  out.setUint16(at + ARCOUNT, question.edns ? 1 : 0);
  if (question.edns) {
    out.setUint8(next, 0);
    out.setUint16(next + 1, DNS_OPT);
    out.setUint16(next + 3, DNS_MAX_ANSWER);
    out.setUint32(next + 5, 0);
    out.setUint16(next + 9, 0);
    next += OPT_LEN;
  }
  return next - at;
}
