/** ICMP and ICMPv6 errors, as RFC 792, RFC 1122 §3.2.2, RFC 4443 §2.4 and §3 have them. */
import { internetChecksum, type Dissected } from '../link-rig';
import { demand, same, view } from './reader';

const ERRORS4: readonly number[] = [3, 11, 12];
const ERRORS6: readonly number[] = [1, 2, 3, 4];

const isError = (protocol: number, type: number): boolean =>
  protocol === 58 ? type < 128 : protocol === 1 && ![0, 8, 13, 14].includes(type);

/** True if the frame is an ICMP error: then it has been verified. Throws if a strict host would not take it. */
export function strictIcmpError(d: Dissected): boolean {
  const v4 = d.type === 0x0800;
  const m = d.payload;
  if (d.protocol !== (v4 ? 1 : 58)) return false;
  if (!isError(d.protocol, m[0])) return false;
  const v = view(m);
  const [type, code] = m;
  if (v4) demand(internetChecksum(m) === 0, 'the checksum');
  // Codes are the network's, and hosts take one they do not know for the type's general case.
  demand((v4 ? ERRORS4 : ERRORS6).includes(type), `an error of type ${String(type)}`);
  demand(v4 || type !== 2 || code === 0, 'packet too big with a code');
  demand(m.length + (v4 ? 20 : 40) <= (v4 ? 576 : 1280), 'too long');

  const quoted = m.subarray(8);
  const header = v4 ? 4 * (quoted[0] & 15) : 40;
  const whole = v4 ? view(quoted).getUint16(2) : 40 + view(quoted).getUint16(4);
  // RFC 792: the header and 64 bits of what follows, if there are as many; IPv6 wants as much as fits.
  demand(quoted.length >= Math.min(header + 8, whole), 'too little of the packet');
  demand(quoted[0] >> 4 === (v4 ? 4 : 6), 'quotes something else');
  const q = view(quoted);
  const src = v4 ? quoted.subarray(12, 16) : quoted.subarray(8, 24);
  const dst = v4 ? quoted.subarray(16, 20) : quoted.subarray(24, 40);
  const protocol = quoted[v4 ? 9 : 6];
  demand(same(src, d.dst), 'quotes a packet of somebody else');
  const mayBeToGroup = !v4 && (type === 2 || (type === 4 && code === 2));
  demand(mayBeToGroup || (dst[0] !== 0xff && !(v4 && dst[0] >= 224)), 'about a packet to a group');
  demand(!isError(protocol, quoted[header]), 'about an error');
  const total = v4 ? q.getUint16(2) : 40 + q.getUint16(4);
  if (v4) {
    demand(header >= 20 && internetChecksum(quoted.subarray(0, header)) === 0, 'the header of the packet');
    demand((q.getUint16(6) & 0x1fff) === 0, 'about a fragment that is not the first');
  }
  demand(quoted.length <= total, 'more than the packet had');
  demandRest(v4, type, code, v, total);
  return true;
}

/** The second word: unused, an MTU, or a pointer into the packet. */
function demandRest(v4: boolean, type: number, code: number, v: DataView, total: number): void {
  if (v4 && type === 12) {
    demand((v.getUint32(4) & 0xffffff) === 0 && v.getUint8(4) < total, 'the pointer');
  } else if (v4 && type === 3 && code === 4) {
    demand(v.getUint16(4) === 0, 'unused bytes');
  } else if (!v4 && type === 2) {
    demand(v.getUint32(4) > 0, 'no MTU');
  } else if (!v4 && type === 4) {
    demand(v.getUint32(4) < total, 'the pointer');
  } else {
    demand(v.getUint32(4) === 0, 'unused bytes');
  }
}
