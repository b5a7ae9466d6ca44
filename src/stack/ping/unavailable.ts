/** What the echo handler needs once. Allocates. */
import { addressWords } from '../ip/address';
import { EACCES, EPERM } from '../kit/linux';

/** Why the host gives no ping socket, for the log; `error` is -errno. */
export function refusedText(error: number): string {
  const why =
    error === -EACCES || error === -EPERM
      ? 'the group of this process is not in net.ipv4.ping_group_range (sysctl "net.ipv4.ping_group_range=0 2147483647" allows every group)'
      : `errno ${String(-error)}`;
  return `no ICMP echo for the guest beyond the gateway: ${why}`;
}

/** An address as four words; null: none. */
export function makeWords(bytes: Uint8Array | null): Int32Array | null {
  if (bytes === null) return null;
  const words = new Int32Array(4);
  addressWords(bytes, words, 0);
  return words;
}
