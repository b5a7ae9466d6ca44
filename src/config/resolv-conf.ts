/** resolv.conf(5): resolvers and search domains. */
import { readText } from '../files';
import type { AddressBytes } from '../stack/config';
import { parseIp } from './address-text';

export interface ResolvConf {
  /** In the order of the file; scope ids ("%eth0") are cut off. */
  readonly nameservers: readonly AddressBytes[];
  /** The scope id of each, null where there is none. */
  readonly zones?: readonly (string | null)[];
  readonly search: readonly string[];
}

/** As many as the C library's resolver took for long; the guest is given no more. */
export const MAX_SEARCH = 6;
/** More than that is no resolv.conf. */
const MAX_BYTES = 1 << 16;

/**
 * A keyword starts its line and blanks or tabs follow it. Of several `search` and `domain` lines the last one counts,
 * as resolv.conf(5) says. Malformed lines and names that DHCP could not carry are skipped.
 */
export function parseResolvConf(text: string): ResolvConf {
  const nameservers: AddressBytes[] = [];
  const zones: (string | null)[] = [];
  let search: string[] = [];
  for (const line of text.split('\n')) {
    const [keyword, ...words] = line.trimEnd().split(/[ \t]+/);
    if (keyword === 'nameserver' && words.length > 0) {
      const [text, zone = null] = words[0].split('%') as [string, string?];
      const addr = parseIp(text);
      if (addr === null) continue;
      nameservers.push(addr);
      zones.push(zone);
    } else if (keyword === 'search' || keyword === 'domain') {
      const names = words
        .map((word) => (word.endsWith('.') ? word.slice(0, -1) : word))
        .filter((word) => word.length <= 253 && word.split('.').every((label) => /^[!-~]{1,63}$/.test(label)));
      search = names.slice(0, keyword === 'domain' ? 1 : MAX_SEARCH);
    }
  }
  return { nameservers, zones, search };
}

/** Where the text comes from. Throws if it cannot be had. */
export interface ResolvConfSource {
  resolvConf(maxBytes: number): string;
}

const HOST_FILE: ResolvConfSource = { resolvConf: (maxBytes) => readText('/etc/resolv.conf', maxBytes) };

/** The host's file; empty if it cannot be read. */
export function readResolvConf(source: ResolvConfSource = HOST_FILE): ResolvConf {
  try {
    return parseResolvConf(source.resolvConf(MAX_BYTES));
  } catch {
    return { nameservers: [], search: [] };
  }
}
