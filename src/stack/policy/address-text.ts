/** Addresses as text, for lines of the log. Allocates. */
import { isV4 } from '../ip/address';

/** Dotted quad, or RFC 5952. */
export function addressText(words: Int32Array, at: number): string {
  if (isV4(words, at)) {
    const w = words[at + 3];
    return `${w >>> 24}.${(w >>> 16) & 0xff}.${(w >>> 8) & 0xff}.${w & 0xff}`;
  }
  const groups: number[] = [];
  for (let i = 0; i < 4; i++) groups.push(words[at + i] >>> 16, words[at + i] & 0xffff);
  // §4.2: the longest run of two or more zero groups, the first of equals.
  let best = -1;
  let bestLength = 1;
  for (let i = 0; i < 8; i++) {
    let length = 0;
    while (i + length < 8 && groups[i + length] === 0) length++;
    if (length > bestLength) {
      best = i;
      bestLength = length;
    }
  }
  const hex = groups.map((group) => group.toString(16));
  if (best < 0) return hex.join(':');
  return `${hex.slice(0, best).join(':')}::${hex.slice(best + bestLength).join(':')}`;
}

/** As in a URL; a negative port: none. */
export function endText(words: Int32Array, at: number, port: number): string {
  const address = addressText(words, at);
  if (port < 0) return address;
  return isV4(words, at) ? `${address}:${port}` : `[${address}]:${port}`;
}
