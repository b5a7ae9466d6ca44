/**
 * Prefixes and resolvers that router advertisements no longer contain. Their lifetimes are long, so what is no
 * longer true must be taken back: with lifetimes of zero, in every advertisement to come, for any of them may be lost
 * (RFC 4861 §6.2.3, RFC 8106 §5.3.1, RFC 9096 §3.5).
 */
import { type AddressBytes, MAX_DNS, type StackConfig } from '../config';

/** The most that is remembered of each kind; the oldest is forgotten. */
const MOST_PREFIXES = 4;
const MOST_RESOLVERS = 6;
const MOST_NAMES = 6;

export class Withdrawn {
  /** Addresses of which the first 64 bits are the prefix. */
  private pendingPrefixes: readonly AddressBytes[] = [];
  private pendingDns: readonly AddressBytes[] = [];
  private pendingSearch: readonly string[] = [];

  get prefixes(): readonly AddressBytes[] {
    return this.pendingPrefixes;
  }

  get dns(): readonly AddressBytes[] {
    return this.pendingDns;
  }

  get search(): readonly string[] {
    return this.pendingSearch;
  }

  get empty(): boolean {
    return this.pendingPrefixes.length + this.pendingDns.length + this.pendingSearch.length === 0;
  }

  /** What `old` advertised and `now` does not is taken back; what `now` advertises is so no longer. */
  supersede(old: StackConfig, now: StackConfig): void {
    const was = advertised(old);
    const is = advertised(now);
    this.pendingPrefixes = rest([...this.pendingPrefixes, ...was.prefixes], is.prefixes, prefixKey, MOST_PREFIXES);
    this.pendingDns = rest([...this.pendingDns, ...was.dns], is.dns, String, MOST_RESOLVERS);
    this.pendingSearch = rest([...this.pendingSearch, ...was.search], is.search, String, MOST_NAMES);
  }

  clear(): void {
    this.pendingPrefixes = [];
    this.pendingDns = [];
    this.pendingSearch = [];
  }
}

/** What a router advertisement says. One that withdraws a prefix says so itself. */
function advertised(config: StackConfig): {
  prefixes: readonly AddressBytes[];
  dns: readonly AddressBytes[];
  search: readonly string[];
} {
  const { ip6 } = config;
  if (ip6 === null || !config.ra) return { prefixes: [], dns: [], search: [] };
  const names = !ip6.withdrawn;
  return {
    prefixes: ip6.guestAddr === null ? [] : [ip6.guestAddr],
    dns: names && config.advertiseDns ? ip6.dns.slice(0, MAX_DNS) : [],
    search: names && config.advertiseSearch ? config.search : [],
  };
}

function prefixKey(address: AddressBytes): string {
  return String(address.subarray(0, 8));
}

/** The last `most` of `before` that are not in `now`, each once. */
function rest<T>(before: readonly T[], now: readonly T[], key: (item: T) => string, most: number): readonly T[] {
  const current = new Set(now.map(key));
  const left = new Map(before.filter((item) => !current.has(key(item))).map((item) => [key(item), item]));
  return [...left.values()].slice(-most);
}
