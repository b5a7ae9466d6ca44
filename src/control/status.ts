/**
 * What the service says of itself while it runs (`ServiceStatus`): one object for all who show it. It is made when it is
 * asked for; the data plane is asked for the guest's addresses then, and for nothing else.
 */
import { formatIp, formatMac, isV4Mapped } from '../config/address-text';
import type { Layer } from '../sandbox/layer';
import type { NumberedRule } from '../stack/config';
import { C_RULES, type Counters } from '../stack/counters';
import { SEEN_ADDRESSES, SEEN_MAC_HI, SEEN_MAC_LO, SEEN_MTU } from '../stack/link/seen';
import type { ForwardInfo, ServiceStatus } from './types';

/** Of the data plane's handle (supervisor/mirrored-device.ts). */
export interface GuestView {
  /** Names of the negotiated virtio features, as TUBETTI_FEATURES takes them. */
  readonly negotiated: readonly string[];
  /** Writes what is known of the guest to `out` (stack/link/seen.ts); settles with the number of addresses. */
  describeGuest(out: Int32Array): Promise<number>;
}

export interface StatusSources {
  readonly version: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly frontEnd: ServiceStatus['frontEnd'];
  readonly endpoint: string;
  /** Is a front-end connected at this moment? */
  readonly connected: () => boolean;
  readonly guest: GuestView;
  /** The forwarding rules of this moment. */
  readonly forwards: () => readonly ForwardInfo[];
  /** Ports of a namespace that lead to the host. */
  readonly outward: () => readonly ForwardInfo[];
  readonly layers: () => readonly Layer[];
}

/** Forwarding rules as they were given, with what came by each. */
export function forwardInfos(rules: readonly NumberedRule[], counters: Counters): ForwardInfo[] {
  return rules.map(({ number, rule: { protocol, spec, listeners } }) => ({
    protocol,
    spec,
    listeners,
    connections: counters[C_RULES + number],
  }));
}

/** Addresses of the guest that are told at the most. */
const MOST_ADDRESSES = 32;
/** First 16 bits of an Ethernet address that is none. */
const NO_MAC = 0xffff;

/** Four words; IPv4 as v4-mapped. */
function addressText(words: Int32Array, at: number): string {
  const bytes = new DataView(new ArrayBuffer(16));
  for (let i = 0; i < 4; i++) bytes.setInt32(4 * i, words[at + i]);
  const address = new Uint8Array(bytes.buffer);
  return formatIp(isV4Mapped(address) ? address.subarray(12) : address);
}

/** What the data plane knows of the guest at this moment. */
async function seen(guest: GuestView): Promise<Pick<ServiceStatus['guest'], 'mac' | 'addresses' | 'mtu'>> {
  const words = new Int32Array(new SharedArrayBuffer(4 * (SEEN_ADDRESSES + 4 * MOST_ADDRESSES)));
  words[SEEN_MAC_HI] = NO_MAC;
  const count = await guest.describeGuest(words);
  const mac = new DataView(new ArrayBuffer(6));
  mac.setUint16(0, words[SEEN_MAC_HI]);
  mac.setInt32(2, words[SEEN_MAC_LO]);
  return {
    mac: words[SEEN_MAC_HI] === NO_MAC ? null : formatMac(new Uint8Array(mac.buffer)),
    addresses: Array.from({ length: count }, (_, i) => addressText(words, SEEN_ADDRESSES + 4 * i)),
    mtu: words[SEEN_MTU],
  };
}

/** ms since the epoch. */
const STARTED_AT = Math.round(Date.now() - process.uptime() * 1000);

/** The status of this moment. */
export async function statusOf(sources: StatusSources): Promise<ServiceStatus> {
  const { mac, addresses, mtu } = await seen(sources.guest);
  return {
    version: sources.version,
    node: process.version,
    labels: sources.labels,
    startedAt: STARTED_AT,
    frontEnd: sources.frontEnd,
    endpoint: sources.endpoint,
    guest: {
      connected: sources.connected(),
      mac,
      addresses,
      features: sources.guest.negotiated,
      mtu,
    },
    forwards: sources.forwards(),
    outward: sources.outward(),
    sandbox: sources.layers().map(({ name, state }) => ({ layer: name, state })),
  };
}
