/** What {@link World} asks of world-server.ts, its process inside a namespace, over the IPC channel. */

export interface TransferResult {
  readonly bytes: number;
  readonly sha256: string;
  readonly milliseconds: number;
}

/** A request's arguments and its result, by name. */
export interface WorldCalls {
  /**
   * Starts the servers, each bound to every address of its namespace. `blob` sends what {@link setBlob} was told and
   * closes, `endless` sends it over and over; `sink` reads to the end and answers with the digest; `echo` echoes TCP; `reset` resets a connection at its
   * first byte; `udp` echoes datagrams.
   */
  listen: { args: Record<string, never>; result: ServerPorts };
  /** Makes the bytes the blob server sends, pseudo-random. */
  setBlob: { args: { bytes: number; seed: number }; result: { sha256: string } };
  /** What the sink got last. */
  lastSink: { args: Record<string, never>; result: TransferResult | null };
  /** How many connections to the echo server were reset by the other side. */
  echoResets: { args: Record<string, never>; result: { count: number } };
  /** Connects, sends pseudo-random bytes, half-closes, reads to the end; the two digests say whether it was an echo. */
  tcpEcho: {
    args: { address: string; port: number; bytes: number };
    result: { sent: TransferResult; received: TransferResult };
  };
  /** Sends one datagram and waits for the same one. */
  udpEcho: { args: { address: string; port: number; bytes: number; timeoutMs: number }; result: { ok: boolean } };
  /** Echoes datagrams on a port of every address of the namespace. */
  udpEchoOn: { args: { port: number }; result: { port: number } };
  /**
   * Serves TFTP on a port of every address of the namespace: what {@link setBlob} was told can be had, and what is put is
   * told by {@link lastTftpPut}.
   */
  tftpOn: { args: { port: number }; result: { port: number } };
  lastTftpPut: { args: Record<string, never>; result: { sha256: string; bytes: number } | null };
  /** Answers questions for addresses of whatever name, on a port of every address of the namespace. */
  dnsOn: { args: { port: number; a: string; aaaa: string }; result: { port: number } };
  /** Joins an IPv4 group on the interface with `address`, and echoes what is sent there, from that address. */
  groupResponder: { args: { group: string; address: string; port: number }; result: { port: number } };
  /** Binds a datagram socket and counts what comes. */
  udpSink: { args: { port: number }; result: { port: number } };
  udpSinkCount: { args: { port: number }; result: { datagrams: number; bytes: number; senders: string[] } };
  httpGet: { args: { url: string }; result: { status: number; body: string } };
  /** A free TCP port of the namespace's loopback. */
  freePort: { args: Record<string, never>; result: { port: number } };
}

export interface ServerPorts {
  readonly blob: number;
  readonly endless: number;
  readonly sink: number;
  readonly echo: number;
  readonly reset: number;
  readonly udp: number;
}

export type WorldCall = keyof WorldCalls;

export interface WorldRequest {
  readonly id: number;
  readonly call: WorldCall;
  readonly args: unknown;
}

export interface WorldReply {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: string;
}
