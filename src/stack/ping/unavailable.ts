/** What the log says of hosts without ping sockets. Allocates. */
import { EACCES, EPERM } from '../kit/linux';

/** Why the host gives no ping socket, for the log; `error` is -errno. */
export function refusedText(error: number): string {
  const why =
    error === -EACCES || error === -EPERM
      ? 'the group of this process is not in net.ipv4.ping_group_range (sysctl "net.ipv4.ping_group_range=0 2147483647" allows every group)'
      : `errno ${String(-error)}`;
  return `no ICMP echo for the guest beyond the gateway: ${why}`;
}
