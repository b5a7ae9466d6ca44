/** Detects that the host's network has changed since a socket was connected. */
import { EADDRNOTAVAIL, EHOSTUNREACH, EINVAL, ENETDOWN, ENETUNREACH } from '../kit/linux';

/**
 * Is -errno of a send that of a connected socket whose address or route is gone? Linux says EINVAL where the source
 * address is the host's no more, and the others where there is no way from there. IPv6 checks no source address: that
 * is found out by looking, see UdpHandler and PingSockets.
 */
export function isMoved(error: number): boolean {
  return (
    error === -EINVAL ||
    error === -ENETUNREACH ||
    error === -EADDRNOTAVAIL ||
    error === -EHOSTUNREACH ||
    error === -ENETDOWN
  );
}
