/** ARP for IPv4 over Ethernet, RFC 826. Accessors are valid once `arpCheck` returned 0 for the same bytes. */
import type { DropCode } from '../counters';
import { dropCode } from '../counters';
import { macText, type Mac } from './ethernet';
import { ipv4Text } from './ipv4';

export const ARP_LEN = 28;

const HTYPE = 0;
const PTYPE = 2;
const HLEN = 4;
const PLEN = 5;
const OPERATION = 6;
const SENDER_MAC = 8;
const SENDER_IP = 14;
const TARGET_MAC = 18;
const TARGET_IP = 24;

const HTYPE_ETHERNET = 1;
const PTYPE_IPV4 = 0x0800;

export const ARP_REQUEST = 1;
export const ARP_REPLY = 2;

const DROP_ARP_MALFORMED = dropCode('arp_malformed');

/** `end` is the first byte past the frame; padding after the packet is allowed. */
export function arpCheck(dv: DataView, off: number, end: number): DropCode {
  if (end - off < ARP_LEN) return DROP_ARP_MALFORMED;
  const ok =
    dv.getUint16(off + HTYPE) === HTYPE_ETHERNET &&
    dv.getUint16(off + PTYPE) === PTYPE_IPV4 &&
    dv.getUint8(off + HLEN) === 6 &&
    dv.getUint8(off + PLEN) === 4;
  return ok ? 0 : DROP_ARP_MALFORMED;
}

export function arpOperation(dv: DataView, off: number): number {
  return dv.getUint16(off + OPERATION);
}

export function arpSenderMacHi(dv: DataView, off: number): number {
  return dv.getUint16(off + SENDER_MAC);
}

export function arpSenderMacLo(dv: DataView, off: number): number {
  return dv.getInt32(off + SENDER_MAC + 2);
}

export function arpSenderIp(dv: DataView, off: number): number {
  return dv.getInt32(off + SENDER_IP);
}

export function arpTargetMacHi(dv: DataView, off: number): number {
  return dv.getUint16(off + TARGET_MAC);
}

export function arpTargetMacLo(dv: DataView, off: number): number {
  return dv.getInt32(off + TARGET_MAC + 2);
}

export function arpTargetIp(dv: DataView, off: number): number {
  return dv.getInt32(off + TARGET_IP);
}

export function arpWrite(
  dv: DataView,
  off: number,
  operation: number,
  senderMac: Mac,
  senderIp: number,
  targetMac: Mac,
  targetIp: number,
): void {
  dv.setUint16(off + HTYPE, HTYPE_ETHERNET);
  dv.setUint16(off + PTYPE, PTYPE_IPV4);
  dv.setUint8(off + HLEN, 6);
  dv.setUint8(off + PLEN, 4);
  dv.setUint16(off + OPERATION, operation);
  dv.setUint16(off + SENDER_MAC, senderMac.hi);
  dv.setInt32(off + SENDER_MAC + 2, senderMac.lo);
  dv.setInt32(off + SENDER_IP, senderIp);
  dv.setUint16(off + TARGET_MAC, targetMac.hi);
  dv.setInt32(off + TARGET_MAC + 2, targetMac.lo);
  dv.setInt32(off + TARGET_IP, targetIp);
}

/** For traces and tests; allocates. */
export function arpDescribe(dv: DataView, off: number): string {
  const op = arpOperation(dv, off) === ARP_REQUEST ? 'request' : 'reply';
  const sender = `${ipv4Text(arpSenderIp(dv, off))} at ${macText(arpSenderMacHi(dv, off), arpSenderMacLo(dv, off))}`;
  return `arp ${op} who ${ipv4Text(arpTargetIp(dv, off))} from ${sender}`;
}
