/**
 * The three things the stack sees of the outside world: the guest's link (`GuestPort`), the host's sockets
 * (`HostIo`) and time (`Clock`). The stack imports nothing outside its own folder, so every protocol runs in tests
 * without a guest, a socket or a real clock.
 *
 * Nothing declared here allocates once constructed, unless its comment says so: these calls are the hot path.
 */

/**
 * A table of buffers: row i names `length[i]` bytes at `offset[i]` of memory region `region[i]`. Payload is never
 * touched by the stack: it names payload by rows, and the addon's system calls read or write it in place.
 *
 * One table a thread, shared by the port (which fills rows) and the host calls (which consume them).
 */
export interface Rows {
  readonly region: Int32Array;
  readonly offset: Float64Array;
  readonly length: Int32Array;
  readonly capacity: number;
}

/** `commit` flag: the checksum at csumStart + csumOffset holds the folded, uninverted pseudo-header sum. */
export const COMMIT_NEEDS_CSUM = 1;

/** GSO kinds, numerically virtio_net_hdr.gso_type (virtio 1.2 §5.1.6). */
export const GSO_NONE = 0;
export const GSO_TCPV4 = 1;
export const GSO_TCPV6 = 4;
export const GSO_UDP_L4 = 5;
export const GSO_ECN = 0x80;

/** Largest Ethernet frame on the link, both ways: 14 bytes of header and a 65535-byte IP packet. */
export const MAX_FRAME = 14 + 65535;

/** Frames that may be reserved and not yet committed at the most, whatever the kind of link. */
export const MAX_RESERVED = 1024;

/** Bytes a header block given to `GuestPort.reserve` may have at the most. */
export const MAX_HEADER = 4096;

/** Bytes of a received frame that `GuestPort.head` holds at once: Ethernet, IPv6 and TCP with time stamps fit. */
export const HEAD_FIRST = 96;

/**
 * Bytes of a received frame that `GuestPort.head` may hold at the most: enough for the messages the services on the link
 * must read whole (DHCP with all its options, DHCPv6, ND). Other handlers pull headers only.
 */
export const MAX_HEAD = 2048;

/**
 * The guest's end of the link. One port is one virtio-net device (one queue pair).
 *
 * **From guest.** `receive(row)` takes the next frame off the transmit queue. The frame's first bytes are copied once
 * into private memory (`head`), on which alone the stack decides; all of the frame, from its Ethernet header on, is
 * named by rows `row … row + rowCount - 1`. Rows and the guest's buffers stay valid until `releaseReceived`, which
 * gives every frame received so far back to the guest (so: send first, release after).
 *
 * **To guest.** `reserve` takes receive buffers for one frame: `headerLen` bytes for the stack to write and room for
 * up to `payloadLen` payload bytes, which it names by rows. Several frames may be reserved in a row, filled by one
 * system call, then committed oldest first: `front()` points `out`/`outOff` at the oldest reserved frame's header
 * room; the stack writes the header there; `commit` completes it with the payload length it really has. `cancel`
 * gives the remaining reservations back untouched. `flush` publishes what was committed, with one notification.
 */
export interface GuestPort {
  /** True while a front-end is connected and both rings run. `reserve` fails otherwise. */
  readonly up: boolean;
  /** Largest IP packet the stack may put into one TCP frame toward the guest without GSO marks is the link MTU;
   *  with these true, TCP frames of up to MAX_FRAME bytes may be committed with a gsoType and gsoSize. */
  readonly gsoTcp4: boolean;
  readonly gsoTcp6: boolean;
  /** With these true, several UDP datagrams of one length may be committed as one GSO_UDP_L4 frame. */
  readonly gsoUdp4: boolean;
  readonly gsoUdp6: boolean;
  /**
   * Largest Ethernet frame that `reserve` can ever give: MAX_FRAME with merged receive buffers, else what one of the
   * guest's buffers holds, or what ROWS_PER_FRAME pieces of memory do. It may shrink when a `reserve` fails for that
   * reason (`Stack.onGuestReady` follows).
   */
  readonly maxFrame: number;

  // ---- from guest: valid after receive() returned > 0, until the next receive()
  /** Private copy of the frame's first `headLen` bytes. Network byte order; offset 0 is the Ethernet destination. */
  readonly head: DataView;
  readonly headLen: number;
  /** Rows written by the last `receive`. */
  readonly rowCount: number;
  /** virtio_net_hdr fields, validated: gsoType is GSO_* (ECN bit kept), gsoSize > 0 if gsoType is not GSO_NONE. */
  readonly gsoType: number;
  readonly gsoSize: number;
  /** True if the guest left the transport checksum to us (NEEDS_CSUM): there is then nothing to verify. */
  readonly csumPartial: boolean;

  /**
   * Takes the next frame from the guest. Returns its length in bytes (14 … MAX_FRAME), or 0 if there is none.
   * Malformed chains are counted and skipped inside; a ring fault stops the ring and returns 0.
   */
  receive(row: number): number;
  /**
   * Puts a frame of the stack's own making (a datagram put together from fragments) in place of the one received last:
   * `length` bytes at `off` of `from`, which row `row` names as a whole. It has no virtio_net_hdr.
   */
  substitute(from: DataView, off: number, length: number, row: number): void;
  /** Extends `head` to min(n, frame length, MAX_HEAD) bytes. Returns the new `headLen`. */
  pull(n: number): number;
  /** Completes all frames received so far: their rows are void afterwards. */
  releaseReceived(): void;

  // ---- to guest
  /** DataView over the memory that holds the header room of the frame last pointed at by `front`. */
  readonly out: DataView;
  readonly outOff: number;
  /**
   * Reserves receive buffers for one frame of `headerLen` (14 … MAX_HEADER) header bytes and up to `payloadLen`
   * payload bytes (header + payload at most MAX_FRAME), and writes the payload's rows from row index `row` on.
   * Returns the number of rows written (0 if payloadLen is 0; ROWS_PER_FRAME at the most), or -1 if the guest has not
   * posted enough buffers, or `maxFrame` turned out to be less (nothing is taken then; `Stack.onGuestReady` follows, at
   * the guest's kick or at once).
   */
  reserve(headerLen: number, payloadLen: number, row: number): number;
  /** Points `out`/`outOff` at the header room of the oldest reserved frame. `reserve` must have succeeded. */
  front(): void;
  /**
   * Completes the oldest reserved frame with `payloadLen` (at most what was reserved) bytes of payload. Frames under
   * 60 bytes are zero-padded. With COMMIT_NEEDS_CSUM, `csumStart` and `csumOffset` are as in virtio_net_hdr, counted
   * from the Ethernet header; the port completes the checksum itself if the guest did not negotiate to. The header
   * may be changed between `front` and `commit` only.
   */
  commit(
    payloadLen: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
    gsoType: number,
    gsoSize: number,
  ): void;
  /** Gives every reserved, uncommitted frame back. */
  cancel(): void;
  /** Publishes committed frames and notifies the guest if it wants to know. */
  flush(): void;
}

/** Families as used in `HostIo` calls. */
export const AF_INET = 2;
export const AF_INET6 = 10;

/** Kinds of socket. */
export const SOCK_TCP = 1;
export const SOCK_UDP = 2;
export const SOCK_ICMP = 3;

/** epoll bits (Linux). */
export const EPOLLIN = 0x001;
export const EPOLLOUT = 0x004;
export const EPOLLERR = 0x008;
export const EPOLLHUP = 0x010;
export const EPOLLRDHUP = 0x2000;
export const EPOLLET = 1 << 31;

/** recv/send flags (Linux). MSG_DONTWAIT and MSG_NOSIGNAL are always added by the addon. */
export const MSG_PEEK = 0x02;
export const MSG_TRUNC = 0x20;

/**
 * A table of socket addresses, 32 bytes a slot, that host calls read and write:
 * u16 family @0 (AF_INET or AF_INET6, host order), u16 port @2 (host order), u32 scope id @4 (host order),
 * address @8: 16 bytes in network order, IPv4 as v4-mapped ::ffff:a.b.c.d. The last 8 bytes are zero.
 * Multi-byte host-order fields are little-endian.
 */
export const ADDR_SLOT_SIZE = 32;
export const ADDR_SLOTS = 256;

/**
 * Indices into `HostIo.tcpInfoOut`, filled by `tcpInfo`: smoothed round-trip time, µs (0: none was measured); bytes that
 * the peer acknowledged, and that came from it. The latter two may count a SYN and a FIN; -1: the kernel does not say.
 */
export const TCPI_RTT = 0;
export const TCPI_BYTES_ACKED = 1;
export const TCPI_BYTES_RECEIVED = 2;

/** Indices into `HostIo.memInfoOut` (SO_MEMINFO), bytes. */
export const MEMINFO_SNDBUF = 0;
export const MEMINFO_WMEM_QUEUED = 1;
export const MEMINFO_RCVBUF = 2;
export const MEMINFO_RMEM_ALLOC = 3;

/** Indices into `HostIo.sockErrOut`, filled by `recvError` (struct sock_extended_err). */
export const SOCKERR_ERRNO = 0;
/** SO_EE_ORIGIN_LOCAL 1, ICMP 2, ICMP6 3. */
export const SOCKERR_ORIGIN = 1;
export const SOCKERR_TYPE = 2;
export const SOCKERR_CODE = 3;
/** MTU for "fragmentation needed" / "packet too big". */
export const SOCKERR_INFO = 4;
/** Bytes of the original datagram's payload that were returned. */
export const SOCKERR_LENGTH = 5;

/**
 * The host's system calls. Every call is non-blocking and returns a value >= 0 or `-errno`; none throws for what the
 * host or a peer does. Implemented by the addon directly (src/native.ts), so a call costs tens of nanoseconds above
 * its system call.
 */
export interface HostIo {
  readonly rows: Rows;
  /** ADDR_SLOTS × ADDR_SLOT_SIZE bytes. */
  readonly addrs: DataView;
  readonly tcpInfoOut: Float64Array;
  readonly memInfoOut: Float64Array;
  readonly sockErrOut: Int32Array;
  /** Columns of the mmsg calls: message i uses rows msgRow[i] … + msgRows[i] - 1. */
  readonly msgRow: Int32Array;
  readonly msgRows: Int32Array;
  /** Out: bytes received or sent for message i (real datagram length if MSG_TRUNC). */
  readonly msgLen: Int32Array;
  /** In/out: address slot of the peer of message i, -1 none (connected socket). */
  readonly msgPeer: Int32Array;
  /** Out (recv): address slot that takes the local address from PKTINFO; -1: not wanted. In (send): source to use. */
  readonly msgLocal: Int32Array;
  /** In (send): TTL/hop limit ≥ 1, or -1 for the socket's default. Out (recv): TTL received, -1 unknown. */
  readonly msgTtl: Int32Array;
  /** As msgTtl, for TOS / traffic class. */
  readonly msgTos: Int32Array;
  /** In (send): UDP_SEGMENT size, 0 none. Out (recv): UDP_GRO segment size, 0 none. */
  readonly msgSegment: Int32Array;

  /** Opens a non-blocking, close-on-exec socket; TCP_NODELAY is set on TCP sockets, IPV6_V6ONLY on AF_INET6 ones. */
  socket(family: number, kind: number): number;
  /** Binds to address slot `slot` (port 0: kernel's choice). */
  bind(fd: number, slot: number): number;
  /** 0, or -EINPROGRESS (TCP), or another -errno. */
  connect(fd: number, slot: number): number;
  listen(fd: number, backlog: number): number;
  /** Accepts a connection (non-blocking, close-on-exec, TCP_NODELAY) and fills `slot` with the peer's address. */
  accept(fd: number, slot: number): number;
  getsockname(fd: number, slot: number): number;
  setsockopt(fd: number, level: number, name: number, value: number): number;
  /** SO_BINDTODEVICE; `ifname` is at most 15 bytes. Cold. */
  bindToDevice(fd: number, ifname: string): number;
  /** how: 0 read, 1 write, 2 both. */
  shutdown(fd: number, how: number): number;
  close(fd: number): number;
  /** SO_LINGER {1, 0} then close: a TCP peer sees RST. */
  abort(fd: number): number;

  /** recvmsg into rows; returns bytes (0 = end of stream on TCP) or -errno. */
  recv(fd: number, row: number, rowCount: number, flags: number): number;
  /** recv(NULL, bytes, MSG_TRUNC): throws received TCP bytes away. Returns how many. */
  discard(fd: number, bytes: number): number;
  /** sendmsg from rows; returns bytes accepted or -errno. */
  send(fd: number, row: number, rowCount: number, flags: number): number;
  /** recvmmsg / sendmmsg over messages first … first + count - 1 of the msg columns. Returns the count done. */
  recvMany(fd: number, first: number, count: number, flags: number): number;
  sendMany(fd: number, first: number, count: number): number;
  /**
   * recvmsg(MSG_ERRQUEUE): one queued error into `sockErrOut`; the offender's address to `offenderSlot`, the
   * original destination to `destSlot`, the returned payload to the rows. 1 if one was read, 0 if none, else -errno.
   */
  recvError(fd: number, offenderSlot: number, destSlot: number, row: number, rowCount: number): number;
  /** TCP_INFO into tcpInfoOut. */
  tcpInfo(fd: number): number;
  /** SO_MEMINFO into memInfoOut. */
  memInfo(fd: number): number;
  /** SIOCOUTQ: bytes in the send queue, sent or not, that the peer has not acknowledged. */
  outq(fd: number): number;

  /**
   * Folded (16 bits, uninverted, network order value) one's complement sum of the bytes named by the rows, starting
   * from `initial`. Rows may have odd lengths.
   */
  checksum(row: number, rowCount: number, initial: number): number;
  /**
   * Copies what rows `from … from + fromCount - 1` name to what rows `to … to + toCount - 1` name, as far as both go.
   * Returns the bytes copied or -errno. Not for the hot path: payload is received and sent in place there.
   */
  copyRows(from: number, fromCount: number, to: number, toCount: number): number;

  /**
   * Watches `fd`: an event is later given to `Stack.onSocket(key, generation, events)`. `events` are EPOLL* bits,
   * edge-triggered if EPOLLET is among them. A closed descriptor needs no unwatch.
   */
  watch(fd: number, events: number, key: number, generation: number): number;
  /** Changes the events of a watched descriptor. */
  rewatch(fd: number, events: number, key: number, generation: number): number;
  unwatch(fd: number): number;

  /**
   * A private block of memory that rows can name (for datagrams or headers built by the stack): `scratch` over
   * region `scratchRegion`. Offsets 0 … scratch.byteLength - 1; who uses which part is in stack/scratch.ts.
   */
  readonly scratch: DataView;
  readonly scratchRegion: number;
}

/** Monotonic time. `nowMs` is an integer below 2^53, taken once a turn of the loop (cheap to read many times). */
export interface Clock {
  readonly nowMs: number;
  /** Monotonic microseconds, read afresh. */
  nowUs(): number;
}

/** Random bits for ISNs, keys and transaction ids: uint32 as int32. Cryptographic strength. */
export interface Random {
  u32(): number;
}
