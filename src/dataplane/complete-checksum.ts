/** The checksum that stack and guest leave to the other side (COMMIT_NEEDS_CSUM), for a link that cannot pass it on. */
import type { HostIo } from '../stack/ports';
import { checksumFinishUdp } from '../stack/wire/checksum';

/**
 * Completes the checksum field at `at` of `view`, which holds the sum of the pseudo-header, over what the rows name: from
 * the transport's header to the end of the frame (RFC 1071). 0 means "none" in UDP (RFC 768); for TCP 0 and 0xffff are the
 * same sum, so one rule serves both.
 */
export function completeChecksum(
  io: Pick<HostIo, 'checksum'>,
  row: number,
  count: number,
  view: DataView,
  at: number,
): void {
  view.setUint16(at, checksumFinishUdp(io.checksum(row, count, 0)));
}
