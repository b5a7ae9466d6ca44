/** The host's addresses as they are shown: those of its networks that can be used. */
import type { HostAddress } from '../control/types';
import { formatIp } from './address-text';
import { type HostNetwork, IFA_F_DADFAILED, IFA_F_TENTATIVE } from './netlink';

/** Of `lo`. */
const LOOPBACK_INDEX = 1;

/** In the kernel's order, the loopback's left out. */
export function hostAddresses({ addresses, links }: Pick<HostNetwork, 'addresses' | 'links'>): HostAddress[] {
  return addresses
    .filter(({ flags, index }) => index !== LOOPBACK_INDEX && (flags & (IFA_F_DADFAILED | IFA_F_TENTATIVE)) === 0)
    .map(({ addr, prefixLen, index }) => ({
      interface: links.find((link) => link.index === index)?.name ?? `${index}`,
      address: formatIp(addr),
      prefix: prefixLen,
    }));
}
