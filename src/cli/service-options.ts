/** Options of the services on the link: what they do to the draft, and what becomes of them all. */
import { addressFamily, isMulticast, isUnspecified, parseIp } from '../config/address-text';
import { ConfigError } from '../errors';
import type { AddressBytes, Boot, ExtraOption, LinkExtras } from '../stack/config';
import { dhcpOptionValue, leaseTimeValue, MAX_EXTRA_OPTIONS } from './dhcp-options';
import type { DraftServices } from './draft';
import type { Apply } from './option-spec';
import * as values from './option-values';

const NTP4 = 42;
const SNTP6 = 31;
const NTP6 = 56;
const MAX_NTP = 8;
const MAX_NAMES = 256;
/** They fit into an answer of 512 bytes, whatever the name. */
const MAX_ADDRESSES = 7;
/** The `file` field of DHCP with the zero at its end. */
const MAX_BOOT_FILE = 127;

export function applyDhcpOption(version: 4 | 6): Apply {
  return ({ services }, value, shown) => {
    const given = dhcpOptionValue(version, shown, value);
    const options = version === 4 ? services.options4 : services.options6;
    if (options.some(({ code }) => code === given.code))
      throw values.badValue(shown, value, `option ${given.code} is given twice`);
    if (options.length === MAX_EXTRA_OPTIONS)
      throw values.badValue(shown, value, `give at most ${MAX_EXTRA_OPTIONS} options`);
    options.push(given);
  };
}

export const applyLeaseTime: Apply = ({ services }, value, shown) => {
  services.leaseSec = leaseTimeValue(shown, value);
};

export const applyNtp: Apply = ({ services }, value, shown) => {
  const addr = values.addressValue(shown, value, ['unspecified', 'loopback', 'broadcast', 'mapped']);
  const servers = addressFamily(addr) === 4 ? services.ntp4 : services.ntp6;
  if (servers.length === MAX_NTP) throw values.badValue(shown, value, `give at most ${MAX_NTP} servers of a family`);
  servers.push(addr);
};

export const applyBootFile: Apply = ({ services }, value, shown) => {
  if (value === '' || Buffer.byteLength(value) > MAX_BOOT_FILE || !/^[!-~]+$/.test(value))
    throw values.badValue(
      shown,
      value,
      `give a path or a URL of 1 to ${MAX_BOOT_FILE} ASCII characters without blanks`,
    );
  services.bootFile = value;
};

export const applyNextServer: Apply = ({ services }, value, shown) => {
  const refuse = ['unspecified', 'loopback', 'multicast', 'broadcast', 'mapped'] as const;
  const addr = values.addressValue(shown, value, refuse);
  if (addressFamily(addr) === 4) services.nextServer4 = addr;
  else services.nextServer6 = addr;
};

export const applyTftp: Apply = ({ services }, value, shown) => {
  services.tftp = values.fileValue(shown, value);
};

/** NAME=ADDR, with further addresses behind commas. */
export const applyDnsName: Apply = ({ services: { names } }, value, shown) => {
  const equals = value.indexOf('=');
  if (equals < 1) throw values.badValue(shown, value, 'give NAME=ADDR, such as printer=192.0.2.9');
  const name = values.nameValue(shown, value.slice(0, equals)).toLowerCase();
  for (const text of value.slice(equals + 1).split(',')) {
    const addr = parseIp(text);
    if (addr === null || isUnspecified(addr) || isMulticast(addr))
      throw values.badValue(shown, value, `"${text}" is not an address that a name can have, give IPv4 or IPv6`);
    const same = names.filter((one) => one.name === name && one.addr.length === addr.length);
    if (same.length === MAX_ADDRESSES)
      throw values.badValue(shown, value, `give a name at most ${MAX_ADDRESSES} addresses of a family`);
    if (names.length === MAX_NAMES) throw values.badValue(shown, value, `give at most ${MAX_NAMES} addresses of names`);
    names.push({ name, addr });
  }
};

/** The option with that code, unless the user gave one himself. */
function added(options: readonly ExtraOption[], code: number, data: readonly number[]): readonly ExtraOption[] {
  if (data.length === 0 || options.some((option) => option.code === code)) return options;
  return [...options, { code, data: Uint8Array.from(data) }];
}

function bootOf({ bootFile, nextServer4, nextServer6, tftp }: DraftServices): Boot | null {
  if (bootFile === null) return null;
  if (!bootFile.includes('://') && nextServer4 === null && nextServer6 === null && tftp === null) {
    throw new ConfigError(
      'CFG_ERR_CONFLICT',
      `--boot-file ${bootFile}: nobody has it; add --tftp DIR or --next-server ADDR, or give a URL`,
    );
  }
  return { file: bootFile, server4: nextServer4, server6: nextServer6 };
}

/** @throws ConfigError where options do not go together. */
export function linkExtras(services: DraftServices): LinkExtras {
  const flat = (list: readonly AddressBytes[]): number[] => list.flatMap((addr) => [...addr]);
  // RFC 5908 §4: a sub-option of type 1 for each address. RFC 4075: clients that know only that one.
  const ntp6 = services.ntp6.flatMap((addr) => [0, 1, 0, addr.length, ...addr]);
  return {
    options4: added(services.options4, NTP4, flat(services.ntp4)),
    options6: added(added(services.options6, SNTP6, flat(services.ntp6)), NTP6, ntp6),
    boot: bootOf(services),
    names: services.names,
    tftp: services.tftp !== null,
  };
}
