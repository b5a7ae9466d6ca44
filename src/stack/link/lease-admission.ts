/** Whether DHCP and DHCPv6 give their one address to the client that asks, and what follows if they do not. */
import type { StackContext } from '../context';
import { isV4 } from '../ip/address';
import { SITE_DHCP_REFUSED } from '../kit/site-log';
import { macText } from '../wire/ethernet';
import { ipv4Text } from '../wire/ipv4';
import { ipv6Text } from '../wire/ipv6';
import type { LeaseHolder } from './lease-holder';

/**
 * May the client with hardware address `macHi`, `macLo` and identifier `id` have the address `words[0…3]`? If not, its
 * holder is asked whether it is still there, and the log says so once for each holder.
 */
export function admitsClient(
  ctx: StackContext,
  lease: LeaseHolder,
  words: Int32Array,
  macHi: number,
  macLo: number,
  id: Uint8Array,
): boolean {
  const { stations } = ctx.link;
  const usedMs = stations.heardMs(words, 0, lease.holderHi, lease.holderLo);
  if (lease.admits(macHi, macLo, id, usedMs, ctx.clock.nowMs)) return true;
  stations.wantAsked(words, 0);
  if (lease.isNews() && ctx.log.take(SITE_DHCP_REFUSED)) {
    const v4 = isV4(words, 0);
    const address = v4 ? ipv4Text(words[3]) : ipv6Text(words, 0);
    const holder = macText(lease.holderHi, lease.holderLo);
    const which = `${address} is leased to ${holder}, so ${macText(macHi, macLo)} gets none`;
    ctx.log.say(SITE_DHCP_REFUSED, 'warn', `${v4 ? 'DHCP' : 'DHCPv6'} has one address for one client: ${which}`);
  }
  return false;
}
