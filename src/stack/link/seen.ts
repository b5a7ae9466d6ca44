/** What is known of the guest, as words for people to look at (src/control/status.ts). */
import type { LinkState } from '../context';

/** Words: Ethernet address (two, see wire/ethernet.ts), the MTU told, one that is free; then four for each IP address. */
export const SEEN_MAC_HI = 0;
export const SEEN_MAC_LO = 1;
export const SEEN_MTU = 2;
export const SEEN_ADDRESSES = 4;

/**
 * Writes to `out` the Ethernet address that spoke last (a group address: none did), the MTU that is advertised (0: none
 * is), and the IP addresses, the one heard of last first, IPv4 as v4-mapped. Returns how many of these there are.
 */
export function describeGuest(link: LinkState, out: Int32Array): number {
  out[SEEN_MAC_HI] = link.guestMacHi;
  out[SEEN_MAC_LO] = link.guestMacLo;
  out[SEEN_MTU] = link.mtu.told;
  return link.stations.list(out, SEEN_ADDRESSES);
}
