/** Checksums of datagrams from the guest. */
import type { FrameInfo } from '../context';
import type { RowSpan } from '../kit/rows';
import type { HostIo } from '../ports';
import { checksumOk, pseudoHeaderSum } from '../wire/checksum';
import { IP_PROTO_UDP } from '../wire/ipv4';

/**
 * `span` names UDP header and payload of `frame`, `length` bytes, in whose header stands `checksum`. 0 means none in IPv4
 * and is invalid in IPv6.
 */
export function isSumGood(io: HostIo, span: RowSpan, frame: FrameInfo, length: number, checksum: number): boolean {
  if (checksum === 0) return frame.version === 4;
  const sum = pseudoHeaderSum(frame.version === 4, frame.addr, 0, IP_PROTO_UDP, length);
  return checksumOk(io.checksum(span.first, span.count, sum));
}
