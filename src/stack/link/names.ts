/**
 * Names that the user gave for the guest (`--dns-name`): queries for them to an advertised resolver are answered here, by
 * UDP; all other queries go on to the resolver. A name is answered with what it has: of a type that it has not, it has
 * nothing, and no resolver of the world is asked (it would say that the name is not there). What is answered opens addresses
 * for a policy's rules of the name, as the answers of resolvers do.
 */
import type { AddressBytes, StaticName } from '../config';
import type { FrameInfo, StackContext } from '../context';
import { addressWords, wordsEqual } from '../ip/address';
import { GSO_NONE } from '../ports';
import { encodeName } from '../wire/domain-name';
import {
  DNS_A,
  DNS_AAAA,
  DNS_ANY,
  DNS_MAX_ANSWER,
  DNS_PTR,
  dnsQuestion,
  type DnsRecord,
  dnsWriteAnswer,
} from '../wire/dns';
import { UDP_HEADER_LEN, udpLength, udpSrcPort } from '../wire/udp';
import { LINK_UDP_PAYLOAD4, LINK_UDP_PAYLOAD6, linkUdpPull, linkUdpSend } from './small-datagram';

export const DNS_PORT = 53;
/** The service may be started again with other names. */
const TTL_SEC = 60;

export class NameService {
  private readonly ctx: StackContext;
  private readonly records: ReadonlyMap<string, readonly DnsRecord[]>;
  /** Addresses at which a resolver was advertised, four words each. */
  private readonly resolvers: Int32Array;
  private readonly addr: Int32Array;
  /** One of the addresses that are answered. */
  private readonly given: Int32Array;
  private readonly out: DataView;

  private constructor(ctx: StackContext, names: readonly StaticName[]) {
    const { ip4, ip6 } = ctx.config;
    this.ctx = ctx;
    this.records = recordsOf(names);
    const resolvers = [ip4, ip6].flatMap((ip) =>
      ip === null ? [] : [...ip.dns, ...(ip.dnsMatch === null ? [] : [ip.dnsMatch])],
    );
    this.resolvers = new Int32Array(4 * resolvers.length);
    resolvers.forEach((addr, i) => {
      addressWords(addr, this.resolvers, 4 * i);
    });
    this.addr = new Int32Array(8);
    this.given = new Int32Array(4);
    this.out = new DataView(new ArrayBuffer(LINK_UDP_PAYLOAD6 + DNS_MAX_ANSWER));
  }

  /** Null: there are no names. */
  static create(ctx: StackContext): NameService | null {
    const { names } = ctx.config.extras;
    return names.length === 0 ? null : new NameService(ctx, names);
  }

  /** A datagram to port 53 from the guest. True if it was answered; else it is to go on. */
  fromGuest(frame: FrameInfo): boolean {
    const { ctx } = this;
    if (ctx.port.gsoType !== GSO_NONE || !this.isResolver(frame.addr, 4) || linkUdpPull(ctx, frame) !== 0) return false;
    const { head } = ctx.port;
    const off = frame.l4Off + UDP_HEADER_LEN;
    const question = dnsQuestion(head, off, frame.l4Off + udpLength(head, frame.l4Off));
    if (question === null) return false;
    const all = this.records.get(question.name);
    if (all === undefined) return false;
    const records = all.filter(({ type }) => type === question.type || question.type === DNS_ANY);
    for (let i = 0; i < 4; i++) {
      this.addr[i] = frame.addr[4 + i];
      this.addr[4 + i] = frame.addr[i];
    }
    const at = frame.version === 4 ? LINK_UDP_PAYLOAD4 : LINK_UDP_PAYLOAD6;
    const length = dnsWriteAnswer(this.out, at, head, off, question, records, TTL_SEC);
    for (const { type, data } of records) {
      if (type === DNS_PTR) continue;
      addressWords(data, this.given, 0);
      ctx.link.policy.given(ctx, question.name, this.given, 0, TTL_SEC * 1000);
    }
    const to = udpSrcPort(head, frame.l4Off);
    // Without a buffer it is lost, as any datagram is: the guest asks again.
    linkUdpSend(ctx, this.out, frame.version, this.addr, DNS_PORT, to, length, 0);
    return true;
  }

  private isResolver(words: Int32Array, at: number): boolean {
    for (let i = 0; i < this.resolvers.length; i += 4) if (wordsEqual(this.resolvers, i, words, at)) return true;
    return false;
  }
}

function recordsOf(names: readonly StaticName[]): Map<string, DnsRecord[]> {
  const records = new Map<string, DnsRecord[]>();
  const add = (name: string, record: DnsRecord): void => {
    records.set(name, [...(records.get(name) ?? []), record]);
  };
  for (const { name, addr } of names) {
    add(name, { type: addr.length === 4 ? DNS_A : DNS_AAAA, data: addr });
    const wire = encodeName(name);
    if (wire !== null) add(reverseName(addr), { type: DNS_PTR, data: wire });
  }
  return records;
}

/** RFC 1035 §3.5, RFC 3596 §2.5. */
function reverseName(addr: AddressBytes): string {
  if (addr.length === 4) return `${[...addr].reverse().join('.')}.in-addr.arpa`;
  const nibbles = [...addr].flatMap((byte) => [byte >> 4, byte & 15]).reverse();
  return `${nibbles.map((nibble) => nibble.toString(16)).join('.')}.ip6.arpa`;
}
