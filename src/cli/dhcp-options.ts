/**
 * `--dhcp-option`, `--dhcp6-option` and their like: from what dnsmasq's users write (`option:ntp-server,192.0.2.1`,
 * `42=192.0.2.1`) to bytes. Codes and formats: IANA's registries of DHCP (RFC 2132 and what it lists) and DHCPv6 options.
 */
import { nearestName } from './getopt';
import { parseIp, parseIp4, parseIp6 } from '../config/address-text';
import { type ExtraOption, INFINITE_SEC } from '../stack/config';
import { encodeName } from '../stack/wire/domain-name';
import { badValue, parseNumber } from './option-values';

/** How the value of an option is written, and what it becomes. */
type Format = 'addresses' | 'text' | 'u8' | 'u16' | 'u32' | 'names' | 'routes' | 'ntp6' | 'params' | 'hex';

interface Known {
  readonly code: number;
  readonly name: string;
  readonly format: Format;
}

interface Family {
  readonly version: 4 | 6;
  /** Before a name, and optional: `option:`, `option6:`. */
  readonly prefix: string;
  readonly maxCode: number;
  readonly maxBytes: number;
  readonly known: readonly Known[];
  /** Codes that are ours to send, with what to do instead. */
  readonly own: ReadonlyMap<number, string>;
}

function table(rows: string): Known[] {
  return rows
    .trim()
    .split(/\s*\n\s*/)
    .map((row) => row.split(' '))
    .map(([code, name, format]) => ({ code: Number(code), name, format: format as Format }));
}

/** Names as dnsmasq has them (`dnsmasq --help dhcp`). */
const KNOWN4 = table(`
  1 netmask addresses
  2 time-offset u32
  3 router addresses
  6 dns-server addresses
  7 log-server addresses
  9 lpr-server addresses
  12 hostname text
  13 boot-file-size u16
  15 domain-name text
  16 swap-server addresses
  17 root-path text
  18 extension-path text
  19 ip-forward-enable u8
  23 default-ttl u8
  26 mtu u16
  28 broadcast addresses
  31 router-discovery u8
  33 static-route addresses
  40 nis-domain text
  41 nis-server addresses
  42 ntp-server addresses
  43 vendor-encap hex
  44 netbios-ns addresses
  45 netbios-dd addresses
  46 netbios-nodetype u8
  47 netbios-scope text
  58 T1 u32
  59 T2 u32
  60 vendor-class text
  64 nis+-domain text
  65 nis+-server addresses
  66 tftp-server text
  67 bootfile-name text
  69 smtp-server addresses
  70 pop3-server addresses
  71 nntp-server addresses
  74 irc-server addresses
  100 posix-timezone text
  101 tzdb-timezone text
  114 captive-portal text
  119 domain-search names
  121 classless-static-route routes
  150 tftp-server-address addresses
  209 config-file text
  210 path-prefix text
  252 wpad text`);

const KNOWN6 = table(`
  16 vendor-class hex
  23 dns-server addresses
  24 domain-search names
  27 nis-server addresses
  28 nis+-server addresses
  31 sntp-server addresses
  32 information-refresh-time u32
  41 posix-timezone text
  42 tzdb-timezone text
  56 ntp-server ntp6
  59 bootfile-url text
  60 bootfile-param params
  103 captive-portal text`);

const PROTOCOL = 'the server sets this option itself, leave it out';

const DHCP: Family = {
  version: 4,
  prefix: 'option:',
  maxCode: 254,
  maxBytes: 255,
  known: KNOWN4,
  own: new Map([
    ...[50, 52, 53, 54, 55, 57, 61, 80, 82].map((code) => [code, PROTOCOL] as const),
    [51, 'give --lease-time'],
    [81, 'give --fqdn'],
  ]),
};

const DHCPV6: Family = {
  version: 6,
  prefix: 'option6:',
  maxCode: 65535,
  maxBytes: 1024,
  known: KNOWN6,
  own: new Map([
    ...[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 18, 19, 20, 25, 26].map((code) => [code, PROTOCOL] as const),
    [39, 'give --fqdn'],
  ]),
};

/** At most as many of each: the rest of a message is what the guest needs. */
export const MAX_EXTRA_OPTIONS = 64;

/** One option of DHCP (`version` 4) or DHCPv6: CODE=VALUE. Nothing behind the sign: it is not to be sent. */
export function dhcpOptionValue(version: 4 | 6, shown: string, value: string): ExtraOption {
  const family = version === 4 ? DHCP : DHCPV6;
  const parts = /^([^=,]+)[=,](.*)$/s.exec(value);
  if (parts === null) throw badValue(shown, value, `give CODE=VALUE, the code a number or ${family.prefix}NAME`);
  const [, left, text] = parts;
  const { code, format } = optionOf(family, left, shown, value);
  const own = family.own.get(code);
  if (own !== undefined) throw badValue(shown, value, own);
  if (text === '') return { code, data: null };
  const wrong = (right: string): Error => badValue(shown, value, right);
  const data = encoded(format, family, text, wrong);
  if (data.length > family.maxBytes) throw wrong(`give a value of at most ${family.maxBytes} bytes`);
  return { code, data };
}

function optionOf(family: Family, left: string, shown: string, value: string): { code: number; format: Format | null } {
  const word = left.startsWith(family.prefix) ? left.slice(family.prefix.length) : left;
  const number = /^[0-9]+$/.test(word) ? Number(word) : null;
  const known = family.known.find(({ code, name }) =>
    number === null ? name.toLowerCase() === word.toLowerCase() : code === number,
  );
  if (known !== undefined) return known;
  if (number === null) {
    const names = family.known.map(({ name }) => name);
    const part = word.length < 2 ? undefined : names.find((name) => name.includes(word.toLowerCase()));
    const near = part ?? nearestName(word, names, 2);
    const right = near === null ? `give its number, or one of ${names.join(', ')}` : `did you mean "${near}"?`;
    throw badValue(shown, value, `there is no option "${word}", ${right}`);
  }
  if (number < 1 || number > family.maxCode) throw badValue(shown, value, `give a code from 1 to ${family.maxCode}`);
  return { code: number, format: null };
}

type Wrong = (right: string) => Error;

function encoded(format: Format | null, family: Family, text: string, wrong: Wrong): Uint8Array {
  if (format !== null && /^0x/i.test(text) && format !== 'u8' && format !== 'u16' && format !== 'u32') {
    return hex(text.slice(2), wrong);
  }
  switch (format) {
    case null:
      return guessed(family, text, wrong);
    case 'addresses':
      return addresses(family.version, text, wrong);
    case 'text':
      return new TextEncoder().encode(text);
    case 'u8':
      return integer(text, 1, wrong);
    case 'u16':
      return integer(text, 2, wrong);
    case 'u32':
      return integer(text, 4, wrong);
    case 'names':
      return names(text, wrong);
    case 'routes':
      return routes(text, wrong);
    case 'ntp6':
      return ntp6(text, wrong);
    case 'params':
      return params(text);
    case 'hex':
      return isHexPairs(text) ? hex(text.replaceAll(':', ''), wrong) : new TextEncoder().encode(text);
  }
}

/** Of an option that is not in the table: hexadecimal, addresses, or else text, as dnsmasq guesses. */
function guessed(family: Family, text: string, wrong: Wrong): Uint8Array {
  if (/^0x/i.test(text)) return hex(text.slice(2), wrong);
  if (isHexPairs(text)) return hex(text.replaceAll(':', ''), wrong);
  const isAddress = (word: string): boolean => parseIp(unbracketed(word))?.length === (family.version === 4 ? 4 : 16);
  if (text.split(',').every(isAddress)) return addresses(family.version, text, wrong);
  return new TextEncoder().encode(text);
}

/** `01:02:ab`. One pair alone is text. */
function isHexPairs(text: string): boolean {
  return /^[0-9a-f]{2}(:[0-9a-f]{2})+$/i.test(text);
}

function hex(digits: string, wrong: Wrong): Uint8Array {
  if (!/^([0-9a-f]{2})+$/i.test(digits)) throw wrong('give pairs of hexadecimal digits: 0x0102ab or 01:02:ab');
  return Uint8Array.from(Buffer.from(digits, 'hex'));
}

function unbracketed(word: string): string {
  return /^\[.*\]$/.test(word) ? word.slice(1, -1) : word;
}

function addresses(version: 4 | 6, text: string, wrong: Wrong): Uint8Array {
  const all = text.split(',').map((word) => (version === 4 ? parseIp4(word) : parseIp6(unbracketed(word))));
  const bytes = all.flatMap((addr) => (addr === null ? [] : [...addr]));
  if (all.includes(null)) throw wrong(`give IPv${version} addresses, with commas between them`);
  return Uint8Array.from(bytes);
}

function integer(text: string, size: 1 | 2 | 4, wrong: Wrong): Uint8Array {
  const most = 2 ** (8 * size) - 1;
  const negative = size === 4 && /^-[0-9]{1,10}$/.test(text) ? Number(text) : null;
  const number = negative ?? parseNumber(text);
  if (number === null || number > most || number < -(2 ** 31)) throw wrong(`give a number from 0 to ${most}`);
  const out = new DataView(new ArrayBuffer(4));
  out.setInt32(0, number | 0);
  return new Uint8Array(out.buffer).slice(4 - size);
}

/** Domain names without compression (RFC 3397 §2 allows it, RFC 8415 §10 forbids it). */
function names(text: string, wrong: Wrong): Uint8Array {
  const all = text.split(',').map(encodeName);
  if (all.includes(null)) throw wrong('give domain names, with commas between them');
  return Uint8Array.from(all.flatMap((name) => [...(name ?? [])]));
}

/** RFC 3442: NETWORK/LENGTH,GATEWAY and so on. */
function routes(text: string, wrong: Wrong): Uint8Array {
  const words = text.split(',');
  const out: number[] = [];
  for (let i = 0; i < words.length; i += 2) {
    const [network, length = '32'] = words[i].split('/') as [string, string?];
    const net = parseIp4(network);
    const gateway = i + 1 < words.length ? parseIp4(words[i + 1]) : null;
    const bits = /^[0-9]{1,2}$/.test(length) ? Number(length) : 33;
    if (net === null || gateway === null || bits > 32) throw wrong('give NETWORK/LENGTH,GATEWAY pairs');
    out.push(bits, ...net.subarray(0, Math.ceil(bits / 8)), ...gateway);
  }
  return Uint8Array.from(out);
}

/** RFC 5908 §4: a sub-option for each server, 1 for an address, 3 for a name. */
function ntp6(text: string, wrong: Wrong): Uint8Array {
  return Uint8Array.from(
    text.split(',').flatMap((word) => {
      const addr = parseIp6(unbracketed(word));
      const data = addr ?? encodeName(word);
      if (data === null) throw wrong('give IPv6 addresses or names, with commas between them');
      return [0, addr === null ? 3 : 1, 0, data.length, ...data];
    }),
  );
}

/** RFC 5970 §3.2: each parameter behind its length. */
function params(text: string): Uint8Array {
  return Uint8Array.from(
    text.split(',').flatMap((word) => {
      const bytes = new TextEncoder().encode(word);
      return [bytes.length >> 8, bytes.length & 0xff, ...bytes];
    }),
  );
}

const UNIT_SEC: Readonly<Record<string, number>> = { '': 1, s: 1, m: 60, h: 3600, d: 86400, w: 604800 };
/** RFC 2131 has no least; a guest that renews more often than this is only noise. */
const MIN_LEASE_SEC = 60;

/** Seconds, or a number with s, m, h, d or w; "infinite". */
export function leaseTimeValue(shown: string, value: string): number {
  if (value === 'infinite') return INFINITE_SEC;
  const parts = /^([0-9]{1,10})([smhdw]?)$/.exec(value);
  const seconds = parts === null ? 0 : Number(parts[1]) * UNIT_SEC[parts[2]];
  if (seconds < MIN_LEASE_SEC || seconds >= INFINITE_SEC)
    throw badValue(shown, value, `give at least ${MIN_LEASE_SEC} seconds, such as 3600, 45m, 12h, 7d, or "infinite"`);
  return seconds;
}
