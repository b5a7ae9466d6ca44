/** Values of options: text to typed value, or a ConfigError that names option, value and what would be right. */
import { ConfigError } from '../errors';
import {
  addressFamily,
  isBroadcast,
  isLoopback,
  isMulticast,
  isUnspecified,
  isV4Mapped,
  parseIp,
  parseIp4,
  parseMac,
  prefixOf,
} from '../config/address-text';
import { isInterfaceName } from '../config/port-spec';
import type { AddressBytes } from '../stack/config';

/** Names the option in messages: `--mtu` or `-m`. */
export type Shown = string;

export function badValue(shown: Shown, value: string, right: string): ConfigError {
  return new ConfigError('CFG_ERR_VALUE', `${shown} ${value === '' ? '""' : value}: ${right}`);
}

/** Base-0 number as strtoul(3) reads it: decimal, 0x hexadecimal, 0 octal. No sign, no blanks. */
export function parseNumber(text: string): number | null {
  if (/^0x[0-9a-f]+$/i.test(text)) return parseInt(text.slice(2), 16);
  if (/^0[0-7]+$/.test(text)) return parseInt(text, 8);
  if (/^(0|[1-9][0-9]*)$/.test(text)) return parseInt(text, 10);
  return null;
}

export function numberValue(shown: Shown, value: string, min: number, max: number): number {
  const number = parseNumber(value);
  if (number === null || number < min || number > max)
    throw badValue(shown, value, `give a number from ${min} to ${max}`);
  return number;
}

/** Slowest and fastest limit, bit/s. */
const MIN_RATE = 10_000;
const MAX_RATE = 1e12;

/** Bits in a second, with k, M or G for powers of 1000; "0": no limit. */
export function rateValue(shown: Shown, value: string): number {
  const match = /^([0-9]{1,12}(?:\.[0-9]{1,6})?)([kKMG]?)$/.exec(value);
  const rate = match === null ? NaN : Number(match[1]) * 1000 ** ' kMG'.indexOf(match[2].replace('K', 'k') || ' ');
  if (rate === 0) return 0;
  if (!(rate >= MIN_RATE && rate <= MAX_RATE))
    throw badValue(shown, value, 'give bits per second, 10k to 1000G, like 800k, 50M or 2.5G; 0 for no limit');
  return Math.round(rate);
}

/** One of a few words. */
export function wordValue<T extends string>(shown: Shown, value: string, words: readonly T[]): T {
  const word = words.find((one) => one === value);
  if (word === undefined) throw badValue(shown, value, `give one of ${words.join(', ')}`);
  return word;
}

/** Kinds of address that an option refuses. */
export type AddressRefusal = 'unspecified' | 'loopback' | 'multicast' | 'broadcast' | 'mapped';

function refused(addr: AddressBytes, kind: AddressRefusal): boolean {
  switch (kind) {
    case 'unspecified':
      return isUnspecified(addr);
    case 'loopback':
      return isLoopback(addr);
    case 'multicast':
      return isMulticast(addr);
    case 'broadcast':
      return isBroadcast(addr);
    case 'mapped':
      return isV4Mapped(addr);
  }
}

export function addressValue(shown: Shown, value: string, refuse: readonly AddressRefusal[]): AddressBytes {
  const addr = parseIp(value);
  if (addr === null) throw badValue(shown, value, 'give an IPv4 or IPv6 address');
  for (const kind of refuse) {
    if (refused(addr, kind))
      throw badValue(shown, value, `the ${kind === 'mapped' ? 'v4-mapped' : kind} address cannot be used here`);
  }
  return addr;
}

/** ADDR[/PLEN]. */
export function prefixedAddressValue(shown: Shown, value: string): { addr: AddressBytes; prefixLen: number | null } {
  const slash = value.indexOf('/');
  const text = slash < 0 ? value : value.slice(0, slash);
  const addr = addressValue(shown, text, ['unspecified', 'loopback', 'multicast', 'broadcast', 'mapped']);
  if (slash < 0) return { addr, prefixLen: null };
  const max = addressFamily(addr) === 4 ? 32 : 128;
  const length = value.slice(slash + 1);
  if (!/^[0-9]{1,3}$/.test(length) || Number(length) > max) {
    throw badValue(shown, value, `give a prefix length from 0 to ${max} after the slash`);
  }
  return { addr, prefixLen: Number(length) };
}

/** Dotted contiguous mask, or 0–32. */
export function netmaskValue(shown: Shown, value: string): number {
  const mask = parseIp4(value);
  const prefix = mask !== null ? prefixOf(mask) : /^[0-9]{1,2}$/.test(value) ? Number(value) : -1;
  if (prefix < 0 || prefix > 32)
    throw badValue(shown, value, 'give a prefix length from 0 to 32 or a mask like 255.255.255.0');
  return prefix;
}

export function macValue(shown: Shown, value: string): Uint8Array {
  const mac = parseMac(value);
  if (mac === null) throw badValue(shown, value, 'give a MAC address like 9a:55:9a:55:9a:55');
  if ((mac[0] & 1) !== 0)
    throw badValue(shown, value, 'a multicast MAC address cannot be used, give one whose first byte is even');
  if (mac.every((byte) => byte === 0)) throw badValue(shown, value, 'the all-zero MAC address cannot be used');
  return mac;
}

export function interfaceValue(shown: Shown, value: string): string {
  if (!isInterfaceName(value)) throw badValue(shown, value, 'give the name of a network interface, 1 to 15 characters');
  return value;
}

export function fileValue(shown: Shown, value: string): string {
  if (value === '') throw badValue(shown, value, 'give the path of a file');
  return value;
}

/** Longest path a unix socket can have: sun_path without its terminating zero byte. */
export const MAX_SOCKET_PATH = 107;

export function socketPathValue(shown: Shown, value: string): string {
  const length = Buffer.byteLength(value);
  if (length === 0 || length > MAX_SOCKET_PATH)
    throw badValue(shown, value, `give a path of 1 to ${MAX_SOCKET_PATH} bytes`);
  return value;
}

/**
 * A domain name that DHCP can carry: labels of 1 to 63 bytes, 253 in all, no blanks or control characters. A dot at
 * the end is taken off.
 */
export function nameValue(shown: Shown, value: string): string {
  const name = value.endsWith('.') ? value.slice(0, -1) : value;
  const labels = name.split('.');
  const good =
    name.length <= 253 && labels.every((label) => label.length >= 1 && label.length <= 63 && /^[!-~]+$/.test(label));
  if (!good) throw badValue(shown, value, 'give a domain name: labels of 1 to 63 characters, 253 in all');
  return name;
}

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** A UNIX socket for scrapers. */
export interface SocketAt {
  readonly path: string;
  /** Of its file. */
  readonly mode: number;
}

/** A socket that somebody else listens on. */
export interface OpenedAt {
  readonly fd: number;
}

export type MetricsAt = HostPort | SocketAt | OpenedAt;

const SOCKET_MODE = 0o600;
/** Who reads and writes; nothing else means anything for a socket. */
const SOCKET_MODES = 0o666;

/** unix:PATH[,mode=OCTAL], or as `hostPortValue`. */
export function metricsValue(shown: Shown, value: string): MetricsAt {
  if (!value.startsWith('unix:')) return hostPortValue(shown, value);
  const [, path, octal] = /^unix:(.*?)(?:,mode=([0-9]+))?$/s.exec(value) as unknown as [string, string, string?];
  const mode = octal === undefined ? SOCKET_MODE : /^0?[0-7]{3}$/.test(octal) ? parseInt(octal, 8) : -1;
  if (mode < 0 || (mode & ~SOCKET_MODES) !== 0 || (mode & SOCKET_MODE) !== SOCKET_MODE)
    throw badValue(shown, value, 'give a mode from 600 to 666 in octal, of reading and writing only');
  if (path === '' || Buffer.byteLength(path) > MAX_SOCKET_PATH)
    throw badValue(shown, value, `give a path of 1 to ${MAX_SOCKET_PATH} bytes after "unix:"`);
  return { path, mode };
}

/** [ADDR:]PORT with IPv6 in brackets; the address defaults to 127.0.0.1. Port 0: the kernel's choice. */
export function hostPortValue(shown: Shown, value: string): HostPort {
  const right = 'give PORT, ADDR:PORT, [IPV6]:PORT or unix:PATH';
  const match = /^(?:(?:\[([^\]]+)\]|([^:[\]]+)):)?([0-9]{1,5})$/.exec(value) as (string | undefined)[] | null;
  if (match === null) throw badValue(shown, value, right);
  const host = match[1] ?? match[2] ?? '127.0.0.1';
  const port = Number(match[3]);
  const addr = parseIp(host);
  if (addr === null || (match[1] !== undefined) !== (addr.length === 16) || port > 65535)
    throw badValue(shown, value, right);
  return { host, port };
}

export interface Label {
  readonly name: string;
  readonly value: string;
}

const MAX_LABEL_BYTES = 1024;

/** NAME=VALUE for a constant label of the metrics (prometheus.io, "Metric names and labels"). */
export function labelValue(shown: Shown, value: string): Label {
  const equals = value.indexOf('=');
  const name = value.slice(0, Math.max(0, equals));
  const text = value.slice(equals + 1);
  if (!/^[a-zA-Z_][a-zA-Z0-9_]*$/.test(name))
    throw badValue(shown, value, 'give NAME=VALUE, the name of letters, digits and "_", not beginning with a digit');
  if (name.startsWith('__')) throw badValue(shown, value, 'names that begin with "__" are Prometheus\'s own');
  if (text === '') throw badValue(shown, value, 'give a value: Prometheus takes a label without one for none');
  if (Buffer.byteLength(text) > MAX_LABEL_BYTES || /\p{Cs}/u.test(text))
    throw badValue(shown, value, `give a value of at most ${MAX_LABEL_BYTES} bytes of UTF-8`);
  return { name, value: text };
}
