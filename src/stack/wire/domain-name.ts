/** Domain names on the wire, RFC 1035 §3.1 and §4.1.4. Built at start from configuration: these functions allocate. */

const MAX_LABEL = 63;
const MAX_NAME = 255;

/** The labels of `name` as bytes; a trailing dot is ignored. Null if the name is empty or breaks the limits. */
function labelsOf(name: string): Uint8Array[] | null {
  const bare = name.endsWith('.') ? name.slice(0, -1) : name;
  if (bare === '') return null;
  const labels: Uint8Array[] = [];
  let total = 1;
  for (const label of bare.split('.')) {
    const bytes = new TextEncoder().encode(label);
    if (bytes.length === 0 || bytes.length > MAX_LABEL) return null;
    total += 1 + bytes.length;
    labels.push(bytes);
  }
  return total > MAX_NAME ? null : labels;
}

/** The name uncompressed, with the root label; null if it is no valid name. */
export function encodeName(name: string): Uint8Array | null {
  const labels = labelsOf(name);
  if (labels === null) return null;
  return Uint8Array.from([...labels.flatMap((l) => [l.length, ...l]), 0]);
}

/** The names one after the other, uncompressed, while they fit into `limit` bytes; invalid names are left out. */
export function encodeNames(names: readonly string[], limit: number): Uint8Array {
  const out: number[] = [];
  for (const name of names) {
    const bytes = encodeName(name);
    if (bytes !== null && out.length + bytes.length <= limit) out.push(...bytes);
  }
  return Uint8Array.from(out);
}

/**
 * The search list of DHCP option 119 (RFC 3397 §2): names that share an ending with an earlier one point to it
 * (pointers count from the start of the option's data). Names that do not fit into `limit` bytes and invalid ones are
 * left out.
 */
export function encodeSearchList(names: readonly string[], limit: number): Uint8Array {
  const out: number[] = [];
  const known = new Map<string, number>();
  for (const name of names) {
    const labels = labelsOf(name);
    if (labels === null) continue;
    const bytes: number[] = [];
    const added = new Map<string, number>();
    let pointer = -1;
    for (let i = 0; i < labels.length && pointer < 0; i++) {
      // Names compare without regard to case (RFC 1035 §2.3.3).
      const ending = labels
        .slice(i)
        .map((l) => new TextDecoder().decode(l).toLowerCase())
        .join('.');
      const at = known.get(ending);
      if (at !== undefined) {
        pointer = at;
      } else {
        added.set(ending, out.length + bytes.length);
        bytes.push(labels[i].length, ...labels[i]);
      }
    }
    if (pointer < 0) bytes.push(0);
    else bytes.push(0xc0 | (pointer >> 8), pointer & 0xff);
    if (out.length + bytes.length > limit) continue;
    out.push(...bytes);
    for (const [ending, at] of added) known.set(ending, at);
  }
  return Uint8Array.from(out);
}
