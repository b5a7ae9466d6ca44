/** Frames: valid ones of every protocol that the stack speaks, damaged at random, with random virtio_net_hdrs. */
import { be16, concat, eui64, multicastMac, parseAddr, parseMac, solicitedNode } from '../support/guest/bytes';
import { dhcp6Request, dhcpRequest } from '../support/guest/dhcp';
import { PLAIN_HEADER, type NetHeader } from '../support/guest/net-driver';
import {
  ETHER_ARP,
  ETHER_IPV4,
  ETHER_IPV6,
  PROTO_ICMP,
  PROTO_ICMPV6,
  PROTO_TCP,
  PROTO_UDP,
  arp,
  ethernet,
  icmp,
  ipHeader,
  transportChecksum,
  udp,
} from '../support/guest/packets';
import {
  GATEWAY_4,
  GATEWAY_6,
  HOST_ADDRESS_4,
  HOST_ADDRESS_6,
  REMOTE_ADDRESS_4,
  REMOTE_ADDRESS_6,
} from '../support/world/host-world';
import type { Seeded } from './random';

export const GUEST_MAC = '52:54:00:12:34:56';
const MAC = parseMac(GUEST_MAC);
const ROUTER_MAC = parseMac('9a:55:9a:55:9a:55');
const GUEST_4 = parseAddr(HOST_ADDRESS_4);
const GUEST_6 = parseAddr(HOST_ADDRESS_6);
const LINK_LOCAL = eui64(parseAddr('fe80::'), MAC);
const ANY_4 = new Uint8Array(4);
const BROADCAST_4 = parseAddr('255.255.255.255');
/** Hosts that answer, that are silent, and that must not be reached. */
const PEERS_4 = [GATEWAY_4, REMOTE_ADDRESS_4, HOST_ADDRESS_4, '203.0.113.9', '127.0.0.1', '224.0.0.251'].map(parseAddr);
const PEERS_6 = [GATEWAY_6, REMOTE_ADDRESS_6, '2001:db8:ffff::9', '::1', 'ff02::fb', 'fe80::1'].map(parseAddr);

interface Ends {
  readonly src: Uint8Array;
  readonly dst: Uint8Array;
}

function ends(random: Seeded): Ends {
  return random.oneIn(2)
    ? { src: GUEST_4, dst: random.pick(PEERS_4) }
    : { src: random.oneIn(3) ? LINK_LOCAL : GUEST_6, dst: random.pick(PEERS_6) };
}

function inFrame({ src, dst }: Ends, protocol: number, segment: Uint8Array, ttl = 64): Uint8Array {
  const type = src.length === 4 ? ETHER_IPV4 : ETHER_IPV6;
  return ethernet(ROUTER_MAC, MAC, type, concat(ipHeader(src, dst, protocol, segment.length, ttl), segment));
}

function payload(random: Seeded): Uint8Array {
  const sizes = [0, 1, 8, 100, 536, 1400, 1472, 3000];
  const bytes = new Uint8Array(random.pick(sizes));
  for (let i = 0; i < bytes.length; i += 97) bytes[i] = random.below(256);
  return bytes;
}

/** A few ports, so that frames meet flows that others opened. */
const port = (random: Seeded): number => random.pick([22, 53, 67, 547, 1024, 5353, 20_000 + random.below(64)]);

const tcp = (random: Seeded): Uint8Array => {
  const at = ends(random);
  const options = random.pick([
    [],
    [2, 4, 5, 180],
    [2, 4, 0, 1, 3, 3, 14, 0],
    [8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1],
    [2, 0],
    [254, 255, 1, 0],
  ]);
  const flags = random.pick([2, 2, 16, 24, 17, 4, 20, 18, 0, 0x3f, 0x29, random.below(256)]);
  const head = new Uint8Array(20 + options.length);
  const dv = new DataView(head.buffer);
  dv.setUint16(0, port(random));
  dv.setUint16(2, port(random));
  dv.setUint32(4, random.oneIn(2) ? 1000 : random.edge32());
  dv.setUint32(8, random.oneIn(2) ? 1 : random.edge32());
  dv.setUint16(12, (head.length << 10) | flags);
  dv.setUint16(14, random.edge16());
  head.set(options, 20);
  const segment = concat(head, flags === 2 ? new Uint8Array(0) : payload(random));
  new DataView(segment.buffer).setUint16(16, transportChecksum(at.src, at.dst, PROTO_TCP, segment));
  return inFrame(at, PROTO_TCP, segment);
};

const datagram = (random: Seeded): Uint8Array => {
  const at = ends(random);
  return inFrame(at, PROTO_UDP, udp(at.src, at.dst, port(random), port(random), payload(random)));
};

const echo = (random: Seeded): Uint8Array => {
  const at = ends(random);
  const v4 = at.src.length === 4;
  const rest = concat(be16(random.below(64)), be16(random.below(64)), payload(random));
  return inFrame(at, v4 ? PROTO_ICMP : PROTO_ICMPV6, icmp(at.src, at.dst, v4 ? 8 : 128, 0, rest));
};

/** An ICMP error that quotes one of our own frames as if a router behind the guest had sent it. */
const icmpError = (random: Seeded): Uint8Array => {
  const at = ends(random);
  const v4 = at.src.length === 4;
  const quoted = random
    .pick([tcp, datagram, echo])(random)
    .subarray(14, 14 + random.pick([20, 28, 48, 200]));
  const [type, code] = random.pick(
    v4
      ? [
          [3, 4],
          [3, 3],
          [11, 0],
          [12, 0],
        ]
      : [
          [2, 0],
          [1, 4],
          [3, 0],
          [4, 1],
        ],
  );
  const rest = concat(be16(0), be16(random.edge16()), quoted);
  return inFrame(at, v4 ? PROTO_ICMP : PROTO_ICMPV6, icmp(at.src, at.dst, type, code, rest));
};

const arpFrame = (random: Seeded): Uint8Array => {
  const [senderIp, targetIp] = [random.pick([GUEST_4, ANY_4, ...PEERS_4]), random.pick(PEERS_4)];
  const op = random.pick([1, 1, 2, 3]);
  return ethernet(BROADCAST, MAC, ETHER_ARP, arp({ op, senderMac: MAC, senderIp, targetMac: ROUTER_MAC, targetIp }));
};
const BROADCAST = Uint8Array.of(255, 255, 255, 255, 255, 255);

const dhcp = (random: Seeded): Uint8Array => {
  const list = Uint8Array.from({ length: random.below(20) }, () => random.below(256));
  const options: [number, Uint8Array][] = [[55, list]];
  for (let n = random.below(4); n > 0; n--) {
    const value = Uint8Array.from({ length: random.pick([0, 1, 4, 6, 30]) }, () => random.below(256));
    options.push([random.pick([12, 50, 51, 52, 54, 57, 61, 80, 81]), value]);
  }
  const message = dhcpRequest(random.pick([1, 3, 4, 7, 8, random.below(20)]), random.u32(), MAC, options);
  const at = { src: ANY_4, dst: BROADCAST_4 };
  return inFrame(at, PROTO_UDP, udp(at.src, at.dst, 68, 67, message));
};

const dhcp6 = (random: Seeded): Uint8Array => {
  const at = { src: LINK_LOCAL, dst: parseAddr('ff02::1:2') };
  const message = dhcp6Request(random.pick([1, 3, 5, 6, 8, 11, random.below(20)]), random.below(1 << 24), MAC);
  return inFrame(at, PROTO_UDP, udp(at.src, at.dst, 546, 547, message), 1);
};

const ndp = (random: Seeded): Uint8Array => {
  const dst = random.pick([parseAddr('ff02::2'), solicitedNode(random.pick(PEERS_6)), ...PEERS_6]);
  const at = { src: random.pick([LINK_LOCAL, GUEST_6, new Uint8Array(16)]), dst };
  const option = random.pick([[1, 1, ...MAC], [2, 1, ...MAC], [1, 0], [14, 1, 1, 2, 3, 4, 5, 6], []]);
  const target = random.oneIn(2) ? random.pick(PEERS_6) : GUEST_6;
  const type = random.pick([133, 135, 136, 134, 137]);
  const body = type === 133 ? new Uint8Array(4) : concat(new Uint8Array(4), target);
  const message = icmp(at.src, at.dst, type, 0, concat(body, Uint8Array.from(option)));
  return ethernet(
    multicastMac(dst),
    MAC,
    ETHER_IPV6,
    concat(ipHeader(at.src, at.dst, PROTO_ICMPV6, message.length, 255), message),
  );
};

/** A piece of a datagram, IPv4 or IPv6, of a few identifications, so that pieces meet. */
const fragment = (random: Seeded): Uint8Array => {
  const whole = datagram(random);
  const v4 = (whole[14] ?? 0) >> 4 === 4;
  const header = v4 ? 20 : 40;
  const offset = random.pick([0, 0, 8, 1480, 1448, 65_528, 8 * random.below(8192)]);
  const more = random.below(2);
  const id = random.below(8);
  const data = whole.subarray(14 + header, 14 + header + 8 * random.below(180) + (more === 0 ? random.below(8) : 0));
  const ip = whole.slice(14, 14 + header);
  const dv = new DataView(ip.buffer);
  if (v4) {
    dv.setUint16(2, 20 + data.length);
    dv.setUint16(4, id);
    dv.setUint16(6, (offset >> 3) | (more << 13));
    dv.setUint16(10, 0);
    let sum = 0;
    for (let i = 0; i < 20; i += 2) sum += dv.getUint16(i);
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    dv.setUint16(10, ~sum & 0xffff);
    return concat(whole.subarray(0, 14), ip, data);
  }
  const extension = concat(Uint8Array.of(ip[6] ?? 0, 0), be16(offset | more), new Uint8Array(3), Uint8Array.of(id));
  dv.setUint16(4, 8 + data.length);
  ip[6] = 44;
  return concat(whole.subarray(0, 14), ip, extension, data);
};

const noise = (random: Seeded): Uint8Array =>
  Uint8Array.from({ length: random.pick([0, 1, 13, 14, 15, 33, 34, 60, 1514, 3000]) }, () => random.below(256));

const KINDS = [
  tcp,
  tcp,
  tcp,
  datagram,
  datagram,
  echo,
  icmpError,
  arpFrame,
  dhcp,
  dhcp6,
  ndp,
  fragment,
  fragment,
  noise,
];

/** What the driver's slots hold. */
const MAX_FRAME = 65_500;

/** Changes bytes, words, the length; now and then the addresses on the Ethernet or its type. */
function damaged(random: Seeded, frame: Uint8Array): Uint8Array {
  let bytes = frame;
  for (let n = random.pick([0, 0, 0, 1, 1, 2, 5]); n > 0 && bytes.length > 0; n--) {
    // Mostly where headers are.
    const at = random.below(random.oneIn(4) ? bytes.length : Math.min(bytes.length, 90));
    switch (random.below(8)) {
      case 0:
        bytes = bytes.slice(0, at);
        break;
      case 1:
        bytes = concat(bytes, new Uint8Array(random.pick([1, 7, 46, 1000, 60_000])).subarray(0, 65_000 - bytes.length));
        break;
      case 2:
        bytes[at] ^= 1 << random.below(8);
        break;
      case 3:
        if (at + 2 <= bytes.length) bytes.set(be16(random.edge16()), at);
        break;
      case 4:
        if (bytes.length >= 12) bytes[11] = random.below(256); // another source on the Ethernet
        break;
      case 5:
        // A priority tag (IEEE 802.1Q).
        if (bytes.length >= 14)
          bytes = concat(bytes.subarray(0, 12), be16(0x8100), be16(random.edge16()), bytes.subarray(12));
        break;
      default:
        bytes[at] = random.below(256);
    }
  }
  return bytes.subarray(0, MAX_FRAME);
}

function header(random: Seeded): NetHeader {
  if (!random.oneIn(3)) return PLAIN_HEADER;
  return {
    flags: random.pick([0, 1, 2, 3, random.below(256)]),
    gsoType: random.pick([0, 1, 3, 4, 5, 0x81, random.below(256)]),
    hdrLen: random.edge16(),
    gsoSize: random.oneIn(2) ? 1460 : random.edge16(),
    csumStart: random.oneIn(2) ? random.pick([34, 54]) : random.edge16(),
    csumOffset: random.oneIn(2) ? random.pick([6, 16]) : random.edge16(),
    numBuffers: random.edge16(),
  };
}

/** The next frame and its header. */
export function nextFrame(random: Seeded): { readonly frame: Uint8Array; readonly header: NetHeader } {
  return { frame: damaged(random, random.pick(KINDS)(random)), header: header(random) };
}
