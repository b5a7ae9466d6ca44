/** Messages of DNS for tests, written from RFC 1035. */
import { ip } from './addresses';

export interface DnsRecord {
  readonly name: string;
  readonly ttl?: number;
  /** The record's data: an address, or the name that this one stands for. */
  readonly a?: string;
  readonly cname?: string;
}

const be16 = (n: number): number[] => [(n >> 8) & 0xff, n & 0xff];
const be32 = (n: number): number[] => [...be16(n >>> 16), ...be16(n & 0xffff)];

export function dnsName(name: string): number[] {
  const labels = name === '' ? [] : name.split('.');
  return [...labels.flatMap((label) => [label.length, ...Buffer.from(label, 'latin1')]), 0];
}

export function dnsQuery(id: number, name: string, type = 1): Uint8Array {
  return Uint8Array.from([
    ...be16(id),
    ...be16(0x0100),
    ...be16(1),
    0,
    0,
    0,
    0,
    0,
    0,
    ...dnsName(name),
    ...be16(type),
    0,
    1,
  ]);
}

export function dnsAnswer(id: number, name: string, records: readonly DnsRecord[], type = 1, rcode = 0): Uint8Array {
  const data = records.flatMap(({ name: owner, ttl = 300, a, cname }) => {
    const bytes = a !== undefined ? [...ip(a)] : dnsName(cname ?? '');
    const kind = a === undefined ? 5 : a.includes(':') ? 28 : 1;
    // The question's name, where it is the owner, as a pointer.
    const at = owner === name ? [0xc0, 12] : dnsName(owner);
    return [...at, ...be16(kind), 0, 1, ...be32(ttl), ...be16(bytes.length), ...bytes];
  });
  const header = [...be16(id), ...be16(0x8180 | rcode), ...be16(1), ...be16(records.length), 0, 0, 0, 0];
  return Uint8Array.from([...header, ...dnsName(name), ...be16(type), 0, 1, ...data]);
}
