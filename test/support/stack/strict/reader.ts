/**
 * What the strict parsers share. They are written from the RFCs alone, know nothing of src/stack, and refuse by throwing
 * whatever a strict receiver might refuse: our answers must get past them whatever the question was.
 */

/** Throws unless `holds`. */
export function demand(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(`refused: ${what}`);
}

export function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

export function zero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

export function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export interface Option {
  readonly code: number;
  readonly data: Uint8Array;
}

/** Throws if a code occurs twice, `repeatable` ones aside. */
export function demandUnique(options: readonly Option[], repeatable: readonly number[] = []): void {
  const seen = new Set<number>();
  for (const { code } of options) {
    demand(!seen.has(code) || repeatable.includes(code), `option ${String(code)} twice`);
    seen.add(code);
  }
}

export function dataOf(options: readonly Option[], code: number): Uint8Array | null {
  return options.find((o) => o.code === code)?.data ?? null;
}

export interface NameRules {
  /** RFC 1035 §4.1.4 pointers allowed, to names earlier in the same bytes. */
  readonly compression: boolean;
  /** Zero bytes may follow the last name. */
  readonly padding: boolean;
}

/** Names in wire encoding (RFC 1035 §3.1) that fill `bytes`; at least one. */
export function names(bytes: Uint8Array, rules: NameRules): string[] {
  const found: string[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (rules.padding && found.length > 0 && bytes[at] === 0) {
      demand(zero(bytes.subarray(at)), 'bytes behind names that are no padding');
      break;
    }
    const { labels, end } = name(bytes, at, rules.compression);
    demand(labels.length > 0, 'an empty name');
    demand(labels.reduce((sum, label) => sum + 1 + label.length, 1) <= 255, 'a name of more than 255 bytes');
    found.push(labels.join('.'));
    at = end;
  }
  demand(found.length > 0, 'no name');
  return found;
}

function name(bytes: Uint8Array, start: number, compression: boolean): { labels: string[]; end: number } {
  const labels: string[] = [];
  let at = start;
  let end = -1;
  for (let steps = 0; ; steps++) {
    demand(at < bytes.length && steps < 128, 'a name that does not end');
    const length = bytes[at];
    if (length === 0) return { labels, end: end < 0 ? at + 1 : end };
    if (length >= 0xc0) {
      demand(compression && at + 1 < bytes.length, 'a pointer in a name');
      const target = ((length & 0x3f) << 8) | bytes[at + 1];
      demand(target < at, 'a pointer forward');
      if (end < 0) end = at + 2;
      at = target;
      continue;
    }
    demand(length < 0x40 && at + 1 + length <= bytes.length, 'a label too long');
    const label = Buffer.from(bytes.subarray(at + 1, at + 1 + length)).toString('latin1');
    demand(/^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?$/.test(label), `the label ${label}`);
    labels.push(label);
    at += 1 + length;
  }
}
