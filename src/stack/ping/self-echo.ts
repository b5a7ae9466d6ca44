/** Echo replies sent by the stack itself (RFC 792, RFC 4443 §4.2), where the host permits no ping sockets. */
import type { FrameInfo, StackContext } from '../context';
import { CLASS_ICMP, OUTPUT_TTL, outputHeadersTo, sendSmall } from '../ip/to-guest';
import { MAX_HEAD } from '../ports';
import { checksumAdd, checksumFinish, pseudoHeaderSum6 } from '../wire/checksum';
import { ICMP_ECHO_REPLY, ICMPV6_ECHO_REPLY, icmpSetChecksum } from '../wire/icmp';
import { IpFields } from '../wire/ip-fields';
import { copyBytes } from '../kit/bytes';
import { IP_PROTO_ICMP, IP_PROTO_ICMPV6 } from '../wire/ipv4';

export class SelfEcho {
  private readonly ctx: StackContext;
  private readonly frame: DataView;
  private readonly ip: IpFields;

  constructor(ctx: StackContext) {
    this.ctx = ctx;
    this.ip = new IpFields(IP_PROTO_ICMP, OUTPUT_TTL);
    this.frame = new DataView(new ArrayBuffer(MAX_HEAD));
  }

  /**
   * Answers the echo request in `frame`. Only what can be copied from `port.head` is: a request whose frame is longer
   * than MAX_HEAD bytes is refused with false (nothing else in the stack reads payload).
   */
  answer(frame: FrameInfo): boolean {
    const { ctx } = this;
    const { port } = ctx;
    const v4 = frame.version === 4;
    const a = frame.addr;
    const out = this.frame;
    const end = frame.l4Off + frame.l4Len;
    if (port.pull(end) < end) return false;
    const { ip } = this;
    ip.between(v4, a, 4, 0);
    ip.protocol = v4 ? IP_PROTO_ICMP : IP_PROTO_ICMPV6;
    const at = outputHeadersTo(ctx, out, 0, ip, frame.l4Len);
    const head = port.head;
    copyBytes(head, frame.l4Off, out, at, frame.l4Len);
    out.setUint8(at, v4 ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY);
    icmpSetChecksum(out, at, 0);
    const sum = v4 ? 0 : pseudoHeaderSum6(a, 0, IP_PROTO_ICMPV6, frame.l4Len);
    icmpSetChecksum(out, at, checksumFinish(checksumAdd(out, at, frame.l4Len, sum)));
    sendSmall(ctx, out, at + frame.l4Len, CLASS_ICMP);
    return true;
  }
}
