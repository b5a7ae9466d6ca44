/** UDP for the services on the link: small datagrams, checksummed in full, both ways. */
import type { FrameInfo, StackContext } from '../context';
import type { DropCode } from '../counters';
import { dropCode } from '../counters';
import {
  CLASS_UDP,
  OUTPUT_HEADER_LEN4,
  OUTPUT_HEADER_LEN6,
  OUTPUT_TTL,
  outputHeadersTo,
  sendSmall,
} from '../ip/to-guest';
import { GSO_NONE } from '../ports';
import { checksumAdd, checksumFinishUdp, checksumOk, pseudoHeaderSum } from '../wire/checksum';
import { ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethernetWrite } from '../wire/ethernet';
import { IpFields } from '../wire/ip-fields';
import { IP_PROTO_UDP } from '../wire/ipv4';
import { UDP_HEADER_LEN, udpCheck, udpChecksum, udpLength, udpSetChecksum, udpWrite } from '../wire/udp';

const DROP_UDP_MALFORMED = dropCode('udp_malformed');
const DROP_UDP_CHECKSUM = dropCode('udp_checksum');
const DROP_HEAD_TOO_SHORT = dropCode('head_too_short');

/** Where the payload of a datagram for `linkUdpSend` begins in the frame. */
export const LINK_UDP_PAYLOAD4 = OUTPUT_HEADER_LEN4 + UDP_HEADER_LEN;
export const LINK_UDP_PAYLOAD6 = OUTPUT_HEADER_LEN6 + UDP_HEADER_LEN;

/** Header of the datagram being sent. */
const ip = new IpFields(IP_PROTO_UDP, OUTPUT_TTL);

/**
 * Pulls the whole datagram into `port.head` and verifies lengths and checksum. After 0 the payload is
 * [l4Off + 8, l4Off + udpLength) of `port.head`.
 */
export function linkUdpPull(ctx: StackContext, frame: FrameInfo): DropCode {
  const port = ctx.port;
  const off = frame.l4Off;
  const a = frame.addr;
  const drop = udpCheck(port.head, off, off + frame.l4Len);
  if (drop !== 0) return drop;
  if (port.gsoType !== GSO_NONE) return DROP_UDP_MALFORMED;
  const length = udpLength(port.head, off);
  if (port.pull(off + length) < off + length) return DROP_HEAD_TOO_SHORT;
  if (port.csumPartial) return 0;
  if (udpChecksum(port.head, off) === 0) return frame.version === 4 ? 0 : DROP_UDP_CHECKSUM;
  const pseudo = pseudoHeaderSum(frame.version === 4, a, 0, IP_PROTO_UDP, length);
  return checksumOk(checksumAdd(port.head, off, length, pseudo)) ? 0 : DROP_UDP_CHECKSUM;
}

/**
 * Sends the datagram whose payload of `payloadLen` bytes is in `dv` at LINK_UDP_PAYLOAD4 or …6. `addr` holds source and
 * destination as four words each. Headers and checksum are written here. False if the guest has no buffer for it.
 */
export function linkUdpSend(
  ctx: StackContext,
  dv: DataView,
  version: number,
  addr: Int32Array,
  srcPort: number,
  dstPort: number,
  payloadLen: number,
  flowLabel: number,
): boolean {
  const length = UDP_HEADER_LEN + payloadLen;
  ip.between(version === 4, addr, 0, 4);
  ip.flowLabel = flowLabel;
  const l4 = outputHeadersTo(ctx, dv, 0, ip, length);
  // These datagrams are ours, whoever the gateway's address belongs to on the host's link; and they go back to where the
  // question came from, whoever had the address that it is about before.
  const { guestMacHi, guestMacLo, ourMacHi, ourMacLo } = ctx.link;
  ethernetWrite(dv, 0, guestMacHi, guestMacLo, ourMacHi, ourMacLo, version === 4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
  udpWrite(dv, l4, srcPort, dstPort, length, 0);
  const pseudo = pseudoHeaderSum(ip.v4, addr, 0, IP_PROTO_UDP, length);
  udpSetChecksum(dv, l4, checksumFinishUdp(checksumAdd(dv, l4, length, pseudo)));
  return sendSmall(ctx, dv, l4 + length, CLASS_UDP);
}
