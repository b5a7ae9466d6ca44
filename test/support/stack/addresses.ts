/** Addresses as text in tests. */
import { SocketAddress } from 'node:net';
import { addressWords } from '../../../src/stack/ip/address';
import { IpFields } from '../../../src/stack/wire/ip-fields';

/** What was read lately: tests use few addresses, and use them often. */
const known = new Map<string, Uint8Array>();

/** Address bytes (4 or 16) from text. */
export function ip(address: string): Uint8Array {
  let found = known.get(address);
  if (found === undefined) {
    found = parse(address);
    if (known.size > 1000) known.clear();
    known.set(address, found);
  }
  return found.slice();
}

function parse(address: string): Uint8Array {
  if (!address.includes(':')) return Uint8Array.from(address.split('.').map(Number));
  const [head, tail] = address.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const groups =
    tail === undefined ? left : [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right];
  return Uint8Array.from(
    groups.flatMap((group) => {
      const value = parseInt(group, 16);
      return [value >> 8, value & 0xff];
    }),
  );
}

/** Four words from text. */
export function words(address: string): Int32Array {
  const out = new Int32Array(4);
  addressWords(ip(address), out, 0);
  return out;
}

/** Text from four words at `at`, IPv4 dotted, IPv6 shortened. */
export function text(w: Int32Array, at = 0): string {
  const v = Array.from(w.subarray(at, at + 4), (word) => word >>> 0);
  if (v[0] === 0 && v[1] === 0 && v[2] === 0xffff) {
    return [v[3] >>> 24, (v[3] >>> 16) & 0xff, (v[3] >>> 8) & 0xff, v[3] & 0xff].join('.');
  }
  const groups = v.flatMap((word) => [(word >>> 16).toString(16), (word & 0xffff).toString(16)]);
  return new SocketAddress({ address: groups.join(':'), family: 'ipv6' }).address;
}

/** What the header of a packet between two addresses (four words each) says. */
export function ipFields(
  v4: boolean,
  src: ArrayLike<number>,
  dst: ArrayLike<number>,
  rest: Partial<Pick<IpFields, 'protocol' | 'ttl' | 'tos' | 'flowLabel'>>,
): IpFields {
  const fields = Object.assign(new IpFields(0, 64), rest);
  fields.between(v4, Int32Array.from([...Array.from(src), ...Array.from(dst)]), 0, 4);
  return fields;
}
