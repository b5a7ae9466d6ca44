/** What an IP header says, in either family: the argument of `ipv4Write` and `ipv6Write`. A sender has one and reuses it. */
export class IpFields {
  v4: boolean;
  /** Four words each, IPv4 as v4-mapped: the source at `words[src…]`, the destination at `words[dst…]`. */
  words: Int32Array;
  src: number;
  dst: number;
  /** Protocol of the transport. */
  protocol: number;
  /** TTL or hop limit; TOS or traffic class. */
  ttl: number;
  tos: number;
  /** IPv6 only. */
  flowLabel: number;

  constructor(protocol: number, ttl: number) {
    this.v4 = true;
    this.words = new Int32Array(8);
    this.src = 0;
    this.dst = 4;
    this.protocol = protocol;
    this.ttl = ttl;
    this.tos = 0;
    this.flowLabel = 0;
  }

  /** Family and addresses of the next header. They are not copied. */
  between(v4: boolean, words: Int32Array, src: number, dst: number): void {
    this.v4 = v4;
    this.words = words;
    this.src = src;
    this.dst = dst;
  }
}
