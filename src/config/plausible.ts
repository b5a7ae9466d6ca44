/** Addresses from the command line that no host can have, or that contradict each other. */
import { ConfigError } from '../errors';
import type { AddressBytes, Ip4Config, Ip6Config } from '../stack/config';
import { formatIp, isLinkLocal6, sameAddress } from './address-text';
import type { FamilyRequest } from './host-config';

function refuse(option: string, value: string, why: string): ConfigError {
  return new ConfigError('CFG_ERR_VALUE', `${option} ${value}: ${why}`);
}

/** What `addr` means to its subnet, if that is not a host: RFC 1122 §3.2.1.3. With /31 and /32 all are (RFC 3021). */
function roleIn(addr: AddressBytes, prefixLen: number): string | null {
  if (prefixLen > 30) return null;
  const hostBits = 32 - prefixLen;
  const word = new DataView(addr.buffer, addr.byteOffset, 4).getUint32(0);
  // 2 ** 32 - 1 is all that a shift of 32 bits would not give.
  const most = 2 ** hostBits - 1;
  const host = word % (most + 1);
  const network = new Uint8Array(4);
  new DataView(network.buffer).setUint32(0, word - host);
  const subnet = `${formatIp(network)}/${String(prefixLen)}`;
  if (host === 0) return `the address of the network ${subnet} itself`;
  return host === most ? `the broadcast address of ${subnet}` : null;
}

function inSubnet(a: AddressBytes, b: AddressBytes, prefixLen: number): boolean {
  const bits = (addr: AddressBytes): number =>
    Math.floor(new DataView(addr.buffer, addr.byteOffset, 4).getUint32(0) / 2 ** (32 - prefixLen));
  return bits(a) === bits(b);
}

function checkGateway(wish: FamilyRequest, config: Ip4Config | Ip6Config): void {
  if (wish.gateway === null && wish.addr === null) return;
  if (config.guestAddr === null || !sameAddress(config.guestAddr, config.gateway)) return;
  if (wish.gateway !== null) {
    throw refuse('--gateway', formatIp(wish.gateway), "this is the guest's own address, give another");
  }
  throw refuse('--address', formatIp(config.guestAddr), "this is the gateway's address, give another or --gateway too");
}

/** Checks only addresses given on the command line. Throws ConfigError CFG_ERR_VALUE. */
export function checkPlausible4(wish: FamilyRequest, config: Ip4Config): void {
  const { guestAddr, prefixLen } = config;
  const role = roleIn(guestAddr, prefixLen);
  if (wish.addr !== null) {
    const shown = `${formatIp(guestAddr)}/${String(prefixLen)}`;
    if (guestAddr[0] === 0)
      throw refuse('--address', shown, 'a host cannot have an address in 0.0.0.0/8, give another');
    if (role !== null) throw refuse('--address', shown, `this is ${role}, give a host address in that subnet`);
  } else if ((wish.prefixLen ?? 0) !== 0 && role !== null) {
    const why = `the host's address ${formatIp(guestAddr)} would be ${role}, give another mask or --address`;
    throw refuse('--netmask', String(prefixLen), why);
  }
  if (wish.gateway !== null && inSubnet(wish.gateway, guestAddr, prefixLen)) {
    const gatewayRole = roleIn(wish.gateway, prefixLen);
    if (gatewayRole !== null) {
      throw refuse('--gateway', formatIp(wish.gateway), `this is ${gatewayRole}, give the address of a router in it`);
    }
  }
  checkGateway(wish, config);
}

/**
 * As `checkPlausible4`. IPv6 has no broadcast, but the first address of a subnet is all its routers' (RFC 4291 §2.6.1).
 */
export function checkPlausible6(wish: FamilyRequest, config: Ip6Config): void {
  const { addr } = wish;
  if (addr !== null) {
    const shown = formatIp(addr);
    if (isLinkLocal6(addr)) {
      throw refuse(
        '--address',
        shown,
        'the guest forms its own link-local address, give a global or unique local (fc00::/7) one',
      );
    }
    if (addr.subarray(8).every((byte) => byte === 0)) {
      throw refuse(
        '--address',
        shown,
        `this is the routers' anycast address of ${shown}/64, give a host address in that subnet`,
      );
    }
  }
  checkGateway(wish, config);
}
