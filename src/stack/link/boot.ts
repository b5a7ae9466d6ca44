/**
 * What the service says to a guest that boots by network: in DHCP the server and file of the fixed part with the options 66 and 67, in
 * DHCPv6 a URL (RFC 5970). HTTP boot of UEFI takes an offer only if it names its own class again (UEFI 2.10 §24.7.3).
 */
import type { Boot, StackConfig } from '../config';
import { addressWords, isUnspecified } from '../ip/address';
import { DHCP_OPT_BOOT_FILE, DHCP_OPT_CLASS, DHCP_OPT_TFTP_SERVER, type DhcpOptions } from '../wire/dhcp';
import { ipv4Text } from '../wire/ipv4';
import { ipv6Text } from '../wire/ipv6';
import { tftpAddress6 } from './tftp';

const text = new TextEncoder();
const HTTP_CLASS = text.encode('HTTPClient');
/** Of Intel, as UEFI has it in vendor classes; then the length of one piece. */
const HTTP_CLASS6 = Uint8Array.from([0, 0, 0x01, 0x57, 0, HTTP_CLASS.length, ...HTTP_CLASS]);

function isHttp(boot: Boot): boolean {
  return /^https?:/.test(boot.file);
}

function startsWith(data: Uint8Array, prefix: Uint8Array): boolean {
  return prefix.every((byte, i) => data[i] === byte);
}

/** DHCP: the file's name; empty: none. */
export function bootFile4(boot: Boot | null): Uint8Array {
  return boot === null ? new Uint8Array(0) : text.encode(boot.file);
}

/** DHCP's `siaddr`, as int32; 0: none. Ours, if we have the files and no other server is named. */
export function bootServer4({ extras: { boot, tftp }, ip4 }: StackConfig): number {
  const words = new Int32Array(4);
  const server = boot?.server4 ?? (tftp ? ip4?.gateway : null) ?? null;
  if (server !== null) addressWords(server, words, 0);
  return words[3];
}

/** Options of DHCP, which are sent on request. */
export function bootOptions4(config: StackConfig): (readonly [number, Uint8Array])[] {
  const { boot } = config.extras;
  const server = bootServer4(config);
  return [
    ...(server === 0 ? [] : [[DHCP_OPT_TFTP_SERVER, text.encode(ipv4Text(server))] as const]),
    ...(boot === null ? [] : [[DHCP_OPT_BOOT_FILE, text.encode(boot.file)] as const]),
  ];
}

/** The class that a client of HTTP boot must hear again; null: it is none. */
export function bootClass4(boot: Boot | null, sent: DhcpOptions): Uint8Array | null {
  const asked = sent.get(DHCP_OPT_CLASS);
  return boot !== null && isHttp(boot) && asked !== undefined && startsWith(asked, HTTP_CLASS) ? HTTP_CLASS : null;
}

/** DHCPv6's URL; empty: there is none for this family. */
export function bootUrl6(config: StackConfig): Uint8Array {
  const { boot, tftp } = config.extras;
  if (boot === null) return new Uint8Array(0);
  if (boot.file.includes('://')) return text.encode(boot.file);
  const words = new Int32Array(4);
  if (boot.server6 !== null) addressWords(boot.server6, words, 0);
  else if (tftp) tftpAddress6(config, words);
  if (isUnspecified(words, 0)) return new Uint8Array(0);
  return text.encode(`tftp://[${ipv6Text(words, 0)}]/${boot.file.replace(/^\/+/, '')}`);
}

/** As `bootClass4`; `asked` is the client's vendor class option. */
export function bootClass6(boot: Boot | null, asked: Uint8Array): Uint8Array {
  const http = boot !== null && isHttp(boot) && startsWith(asked.subarray(6), HTTP_CLASS);
  return http ? HTTP_CLASS6 : new Uint8Array(0);
}
