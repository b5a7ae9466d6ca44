/** A UDP or ping socket in memory: what waits in it, its error queue, its options. The host is in fake-host-io-udp.ts. */

export interface Address {
  readonly address: string;
  readonly port: number;
}

/** What left the host's sockets. */
export interface SentDatagram {
  readonly fd: number;
  readonly from: Address;
  readonly to: Address;
  readonly data: Uint8Array;
  /** From control data; null: none given. */
  readonly ttl: number | null;
  readonly tos: number | null;
  readonly scope: number;
}

/** One entry of a socket's error queue. */
export interface FakeError {
  readonly errno: number;
  readonly origin: number;
  readonly type: number;
  readonly code: number;
  readonly info?: number;
  readonly offender: string;
  readonly dest: Address;
  readonly payload?: Uint8Array;
}

export interface Received {
  readonly from: Address;
  readonly to: string;
  readonly data: Uint8Array;
  /** Told only to sockets that asked for it. */
  readonly ttl: number;
  readonly tos: number;
}

export class FakeDatagramSocket {
  local: Address | null = null;
  peer: Address | null = null;
  scope = 0;
  device: string | null = null;
  readonly options = new Map<string, number>();
  readonly queue: Received[] = [];
  readonly errors: FakeError[] = [];
  /** Reported by the next send or receive, as sk_err is. */
  pendingError = 0;
  watched: { key: number; generation: number; events: number } | null = null;
  /** epoll edges not yet fetched. */
  edge = 0;

  constructor(
    readonly fd: number,
    readonly family: number,
    readonly kind: number,
    readonly dual: boolean,
  ) {}

  option(level: number, name: number): number | undefined {
    return this.options.get(`${String(level)}/${String(name)}`);
  }
}

/** How many of the datagrams at the head UDP_GRO joins: of one flow and length, the last perhaps shorter. */
export function joinable(queue: readonly Received[]): number {
  const [head] = queue;
  let bytes = head.data.length;
  let n = 1;
  while (n < Math.min(queue.length, 64)) {
    const next = queue[n];
    const same = next.from.address === head.from.address && next.from.port === head.from.port && next.to === head.to;
    if (!same || next.ttl !== head.ttl || next.tos !== head.tos) break;
    if (next.data.length === 0 || next.data.length > head.data.length) break;
    bytes += next.data.length;
    if (bytes > 65_535 - 28) break;
    n++;
    if (next.data.length < head.data.length) break;
  }
  return n;
}
