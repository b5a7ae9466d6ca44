/** `--trace`: a line for every frame, like tcpdump's. Allocates. */
import { COMMIT_NEEDS_CSUM, GSO_NONE } from '../../stack/ports';
import {
  ETHERNET_HEADER_LEN,
  ETHERTYPE_ARP,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  ethernetHeaderLen,
  ethernetInnerType,
  ethernetVlan,
} from '../../stack/wire/ethernet';
import { IP_PROTO_TCP, IP_PROTO_UDP, ipv4HeaderLen, ipv4Protocol } from '../../stack/wire/ipv4';
import { IPV6_HEADER_LEN, ipv6PayloadLen, ipv6Walk } from '../../stack/wire/ipv6';
import type { GuestPort } from '../../stack/ports';
import { PortDecorator } from './port-decorator';

const FLAGS = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'W'];
const PROTOCOLS: Readonly<Record<number, string>> = { 1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'icmp6' };

function ip4(dv: DataView, at: number): string {
  return [0, 1, 2, 3].map((i) => dv.getUint8(at + i)).join('.');
}

function ip6(dv: DataView, at: number): string {
  return [0, 1, 2, 3, 4, 5, 6, 7].map((i) => dv.getUint16(at + 2 * i).toString(16)).join(':');
}

/**
 * Ports and what else the transport header says. `l4`: its offset in `dv`, of which the first `end` bytes are there.
 */
function transport(dv: DataView, l4: number, end: number, protocol: number, from: string, to: string): string {
  const name = PROTOCOLS[protocol] ?? `protocol ${protocol}`;
  if (protocol === IP_PROTO_TCP && l4 + 20 <= end) {
    const bits = dv.getUint8(l4 + 13);
    const flags = FLAGS.filter((_, i) => (bits & (1 << i)) !== 0).join('');
    const numbers = `seq ${dv.getUint32(l4 + 4)} ack ${dv.getUint32(l4 + 8)} win ${dv.getUint16(l4 + 14)}`;
    return `${name} ${from}.${dv.getUint16(l4)} > ${to}.${dv.getUint16(l4 + 2)} [${flags}] ${numbers}`;
  }
  if (protocol === IP_PROTO_UDP && l4 + 8 <= end) {
    return `${name} ${from}.${dv.getUint16(l4)} > ${to}.${dv.getUint16(l4 + 2)} length ${dv.getUint16(l4 + 4) - 8}`;
  }
  const type = l4 + 2 <= end ? ` type ${dv.getUint8(l4)} code ${dv.getUint8(l4 + 1)}` : '';
  return `${name} ${from} > ${to}${protocol === 1 || protocol === 58 ? type : ''}`;
}

/** The frame at `at` of `dv`, of which `length` bytes are there, in a line. Never reads past them. */
export function frameText(dv: DataView, at: number, length: number): string {
  const end = at + length;
  if (length < ETHERNET_HEADER_LEN) return 'cut short';
  const headerLen = ethernetHeaderLen(dv, at, length);
  const l3 = at + headerLen;
  const type = ethernetInnerType(dv, at, headerLen);
  // A tag of VLAN 0 is as none.
  if (headerLen > ETHERNET_HEADER_LEN && ethernetVlan(dv, at) !== 0) {
    return `vlan ${ethernetVlan(dv, at)}, ethertype 0x${type.toString(16).padStart(4, '0')}`;
  }
  if (type === ETHERTYPE_ARP && l3 + 28 <= end) {
    const asks = dv.getUint16(l3 + 6) === 1;
    return asks ? `arp who has ${ip4(dv, l3 + 24)}, tell ${ip4(dv, l3 + 14)}` : `arp ${ip4(dv, l3 + 14)} is here`;
  }
  if (type === ETHERTYPE_IPV4 && l3 + 20 <= end) {
    const l4 = l3 + ipv4HeaderLen(dv, l3);
    return transport(dv, l4, end, ipv4Protocol(dv, l3), ip4(dv, l3 + 12), ip4(dv, l3 + 16));
  }
  if (type === ETHERTYPE_IPV6 && l3 + IPV6_HEADER_LEN <= end) {
    const stop = l3 + IPV6_HEADER_LEN + ipv6PayloadLen(dv, l3);
    const found = ipv6Walk(dv, l3, stop, end);
    const l4 = found < 0 ? end : l3 + (found & 0xffff);
    return transport(dv, l4, end, found < 0 ? dv.getUint8(l3 + 6) : found >>> 16, ip6(dv, l3 + 8), ip6(dv, l3 + 24));
  }
  return `ethertype 0x${type.toString(16).padStart(4, '0')}`;
}

export class TracingPort extends PortDecorator {
  private readonly say: (lines: readonly string[]) => void;
  private lines: string[] = [];
  /** Header bytes of the frames reserved, oldest first. */
  private headers: number[] = [];

  /** `say` gets a turn's lines. */
  constructor(inner: GuestPort, say: (lines: readonly string[]) => void) {
    super(inner);
    this.say = say;
  }

  override receive(row: number): number {
    const length = this.inner.receive(row);
    if (length > 0) {
      const text = frameText(this.inner.head, 0, this.inner.headLen);
      this.add('from guest', text, length, this.inner.gsoType, this.inner.gsoSize, this.inner.csumPartial);
    }
    return length;
  }

  override reserve(headerLen: number, payloadLen: number, row: number): number {
    const rows = this.inner.reserve(headerLen, payloadLen, row);
    if (rows >= 0) this.headers.push(headerLen);
    return rows;
  }

  override commit(
    payloadLen: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
    gsoType: number,
    gsoSize: number,
  ): void {
    const headerLen = this.headers.shift() ?? 0;
    const text = frameText(this.inner.out, this.inner.outOff, headerLen);
    this.add('to guest', text, headerLen + payloadLen, gsoType, gsoSize, (flags & COMMIT_NEEDS_CSUM) !== 0);
    this.inner.commit(payloadLen, flags, csumStart, csumOffset, gsoType, gsoSize);
  }

  override cancel(): void {
    this.headers = [];
    this.inner.cancel();
  }

  override flush(): void {
    this.inner.flush();
    if (this.lines.length === 0) return;
    const { lines } = this;
    this.lines = [];
    this.say(lines);
  }

  private add(way: string, text: string, length: number, gsoType: number, gsoSize: number, partial: boolean): void {
    const segments = gsoType === GSO_NONE ? '' : `, segments of ${gsoSize}`;
    this.lines.push(`${way}: ${text} (${length} bytes${segments}${partial ? ', checksum left to the receiver' : ''})`);
  }
}
