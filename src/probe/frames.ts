/** Unsolicited, harmless frames that a network back-end may answer. */

/** Locally administered, and of nobody else. */
const MAC = [0x02, 0x74, 0x75, 0x62, 0x65, 0x01];

function ethernet(destination: readonly number[], type: number, body: Uint8Array): Uint8Array {
  const frame = new Uint8Array(Math.max(60, 14 + body.length));
  frame.set([...destination, ...MAC, type >> 8, type & 0xff]);
  frame.set(body, 14);
  return frame;
}

const BROADCAST = [255, 255, 255, 255, 255, 255];

/** Who has 192.0.2.1? Asked as 192.0.2.77 (addresses for documentation, RFC 5737). */
export function arpRequest(): Uint8Array {
  const body = Uint8Array.of(0, 1, 8, 0, 6, 4, 0, 1, ...MAC, 192, 0, 2, 77, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1);
  return ethernet(BROADCAST, 0x0806, body);
}

function internetSum(bytes: Uint8Array, start = 0): number {
  let sum = start;
  for (let i = 0; i < bytes.length; i++) sum += i % 2 === 0 ? bytes[i] << 8 : bytes[i];
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** DHCPDISCOVER (RFC 2131 §4.4.1): most back-ends with a network of their own answer it. */
export function dhcpDiscover(): Uint8Array {
  const dhcp = new Uint8Array(240 + 60);
  dhcp.set([1, 1, 6, 0, 0x74, 0x75, 0x62, 0x65]);
  dhcp.set([0x80, 0], 10); // answer by broadcast
  dhcp.set(MAC, 28);
  dhcp.set([99, 130, 83, 99, 53, 1, 1, 55, 3, 1, 3, 6, 255], 236);
  const udp = new Uint8Array(8 + dhcp.length);
  udp.set([0, 68, 0, 67, udp.length >> 8, udp.length & 0xff]);
  udp.set(dhcp, 8);
  const ip = new Uint8Array(20 + udp.length);
  ip.set([0x45, 0, ip.length >> 8, ip.length & 0xff, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
  const sum = internetSum(ip.subarray(0, 20));
  ip.set([sum >> 8, sum & 0xff], 10);
  ip.set(udp, 20);
  return ethernet(BROADCAST, 0x0800, ip);
}

/** Router solicitation from the unspecified address (RFC 4861 §4.1). */
export function routerSolicitation(): Uint8Array {
  const icmp = Uint8Array.of(133, 0, 0, 0, 0, 0, 0, 0);
  const destination = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
  const pseudo = Uint8Array.of(...new Array<number>(16).fill(0), ...destination, 0, 0, 0, 8, 0, 0, 0, 58, ...icmp);
  const sum = internetSum(pseudo);
  icmp.set([sum >> 8, sum & 0xff], 2);
  const ip = Uint8Array.of(0x60, 0, 0, 0, 0, 8, 58, 255, ...new Array<number>(16).fill(0), ...destination, ...icmp);
  return ethernet([0x33, 0x33, 0, 0, 0, 2], 0x86dd, ip);
}

/** A broadcast frame of `length` bytes of an EtherType nobody uses (IEEE 802 local experimental, RFC 9542). */
export function blankFrame(length: number): Uint8Array {
  const frame = new Uint8Array(length);
  frame.set([...BROADCAST, ...MAC, 0x88, 0xb5].slice(0, length));
  return frame;
}
