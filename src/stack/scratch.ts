/**
 * The map of the tables that the stack and the guest's port share with the addon's system calls (`HostIo`): rows,
 * messages, socket addresses, bytes. A thread has one of each; what is not named here is free.
 *
 * A part belongs to who writes it. Its use ends before that one's function returns, unless the comment names a longer
 * time; so what calls another owner's function meanwhile keeps nothing in a part of that one's. The main thread, whose
 * tables are its own, uses ADDR_SLOT_TCP, the first row of ROWS_MISC and SCRATCH_MISC at start (src/config).
 *
 *     rows       0 ROWS_IN ········· 2048 ROWS_OUT ········ 4096 ROWS_MISC ··· 5120 ROWS_PORT ··· 5376 ROWS_SPLICE ·· 5408
 *     messages   0 MSG_OUT ·· 64 MSG_PIECE ·· 128 MSG_IN ·· 160 MSG_SPLICE ·· 192 MSG_REPLY ·· 193 free ·· 256
 *     addresses  0 TCP ·· 16 UDP ·· 24 ping ·· 32 free ·· 64 UDP's messages ·· 130 the bypass's ·· 197 free ·· 256
 *     bytes      0 SCRATCH_UDP ·· 2 MiB SCRATCH_TCP ·· QUIC ·· QUERY ·· FIRST ·· 3 MiB SCRATCH_MISC ·· + 128 KiB SCRATCH_FRAGMENT ·· SCRATCH_SIZE
 */

// ---- rows: pieces of memory (region, offset, length) ------------------------------------------------------------

/** IOV_MAX: rows that one system call takes. */
export const ROWS_PER_CALL = 1024;
/** Rows of one frame to the guest: a system call takes them together with a header's and a row for what is too long. */
export const ROWS_PER_FRAME = ROWS_PER_CALL - 2;

/**
 * Frames from the guest. Written by `GuestPort.receive`, narrowed to payloads by the handlers; read by their sends, up to the
 * end of the batch.
 */
export const ROWS_IN = 0;
export const ROWS_IN_COUNT = 2048;
/**
 * Rows of ROWS_IN kept free for the next frame; when fewer are left, the batch ends first. A guest's descriptor chain may
 * be as long as its ring, and one that does not fit is a fault of the ring: so this is generous, not what a frame usually
 * takes.
 */
const ROWS_KEPT_FREE = 1024;
/** The last row at which a frame from the guest may begin. */
export const ROWS_IN_LAST = ROWS_IN + ROWS_IN_COUNT - ROWS_KEPT_FREE;

/** Frames to the guest. Written by `GuestPort.reserve` for the handler that receives into them, and by that handler. */
export const ROWS_OUT = ROWS_IN + ROWS_IN_COUNT;
export const ROWS_OUT_COUNT = 2048;

/**
 * For one call. The first row: what a handler reads to or copies from scratch memory, errors of sockets. All of them: the
 * checksums that `GuestPort.commit` completes for a guest that cannot.
 */
export const ROWS_MISC = ROWS_OUT + ROWS_OUT_COUNT;
export const ROWS_MISC_COUNT = 1024;
/** Datagrams into which UDP cuts a message. Those in front belong to the error queue, which is read between sends. */
export const ROWS_PIECE = ROWS_MISC + 16;
export const ROWS_PIECE_END = ROWS_MISC + ROWS_MISC_COUNT;

/** The stream link's own calls: what it sends, what it reads to, checksums. */
export const ROWS_PORT = ROWS_MISC + ROWS_MISC_COUNT;
export const ROWS_PORT_COUNT = 256;
/** The last of them, between those calls: where a capture copies a frame to. */
export const ROW_CAPTURE = ROWS_PORT + ROWS_PORT_COUNT - 1;

/** Datagrams past the link, for one call. */
export const ROWS_SPLICE = ROWS_PORT + ROWS_PORT_COUNT;
export const ROWS_SPLICE_COUNT = 32;

export const ROWS_TOTAL = ROWS_SPLICE + ROWS_SPLICE_COUNT;

// ---- messages: datagrams of recvMany and sendMany (rows, length, addresses, marks) --------------------------------

/** Gathered from the guest by UDP, up to the end of the batch; read by sendMany. */
export const MSG_OUT = 0;
export const MSG_OUT_COUNT = 64;
/** What one of them is cut into. */
export const MSG_PIECE = MSG_OUT + MSG_OUT_COUNT;
export const MSG_PIECE_COUNT = MSG_OUT_COUNT;
/** A batch from one host socket. Written by recvMany; what waits for the guest's buffers stays until they come. */
export const MSG_IN = MSG_PIECE + MSG_PIECE_COUNT;
export const MSG_IN_COUNT = 32;
/** Datagrams past the link, for one call. As long as ROWS_SPLICE. */
export const MSG_SPLICE = MSG_IN + MSG_IN_COUNT;
export const MSG_SPLICE_COUNT = ROWS_SPLICE_COUNT;
/** An echo reply. */
export const MSG_REPLY = 192;

export const MSGS_TOTAL = 256;

// ---- addresses: slots of socket addresses (ADDR_SLOT_SIZE bytes each, ports.ts) -----------------------------------

/** To bind and to connect to; the peer that was accepted. */
export const ADDR_SLOT_TCP = 0;
export const ADDR_SLOT_TCP_COUNT = 16;

/** To bind and to connect to. */
export const ADDR_SLOT_UDP = ADDR_SLOT_TCP + ADDR_SLOT_TCP_COUNT;
export const ADDR_SLOT_UDP_COUNT = 8;
/** Of an error: who reported it; the slot behind it: where the datagram had been sent to. */
export const ADDR_SLOT_UDP_ERROR = ADDR_SLOT_UDP + 1;
/** The address that a flow's socket has, and the one that it would have now. Errors of the socket use those before. */
export const ADDR_SLOT_UDP_WAS = ADDR_SLOT_UDP + 4;
export const ADDR_SLOT_UDP_NOW = ADDR_SLOT_UDP + 5;

/** As those of UDP. */
export const ADDR_SLOT_PING = ADDR_SLOT_UDP + ADDR_SLOT_UDP_COUNT;
export const ADDR_SLOT_PING_COUNT = 8;
export const ADDR_SLOT_PING_ERROR = ADDR_SLOT_PING + 1;
export const ADDR_SLOT_PING_WAS = ADDR_SLOT_PING + 6;
export const ADDR_SLOT_PING_NOW = ADDR_SLOT_PING + 7;

/** The peer of the flow whose datagrams are gathered, and the address that they leave from. As long as MSG_OUT. */
export const ADDR_SLOT_OUT_PEER = 64;
export const ADDR_SLOT_OUT_LOCAL = ADDR_SLOT_OUT_PEER + 1;
/** A peer and a local address for each message of MSG_IN (`slotPeer`, `slotLocal`). As long as that. */
export const ADDR_SLOT_IN = ADDR_SLOT_OUT_LOCAL + 1;
export const ADDR_SLOT_IN_COUNT = 2 * MSG_IN_COUNT;

/** The same for MSG_SPLICE; the peer that answers go to, the address that they leave from, an address to bind and connect to. */
export const ADDR_SLOT_SPLICE = ADDR_SLOT_IN + ADDR_SLOT_IN_COUNT;
export const ADDR_SLOT_SPLICE_PEER = ADDR_SLOT_SPLICE + 2 * MSG_SPLICE_COUNT;
export const ADDR_SLOT_SPLICE_LOCAL = ADDR_SLOT_SPLICE_PEER + 1;
export const ADDR_SLOT_SPLICE_TO = ADDR_SLOT_SPLICE_PEER + 2;

/** Address slots of message `m` of MSG_IN. */
export const slotPeer = (m: number): number => ADDR_SLOT_IN + 2 * (m - MSG_IN);
export const slotLocal = (m: number): number => ADDR_SLOT_IN + 1 + 2 * (m - MSG_IN);

// ---- bytes: `HostIo.scratch`, which rows name as region `scratchRegion` -------------------------------------------

/**
 * A step for each message of MSG_IN: what of its datagram does not fit the guest's buffers that were reserved for it. As
 * long as the message.
 */
export const SCRATCH_UDP = 0;
export const SCRATCH_UDP_STEP = 1 << 16;
export const SCRATCH_UDP_SIZE = SCRATCH_UDP_STEP * MSG_IN_COUNT;
/** Bytes that TCP reads again only to skip them (no SO_PEEK_OFF), never looked at; answers of resolvers. */
export const SCRATCH_TCP = SCRATCH_UDP + SCRATCH_UDP_SIZE;
export const SCRATCH_TCP_SIZE = 1 << 18;
/**
 * Datagrams of the guest's that the policy reads (udp/server-names.ts), up to the end of the batch, or until those that were
 * gathered are sent.
 */
export const SCRATCH_QUIC = SCRATCH_TCP + SCRATCH_TCP_SIZE;
export const SCRATCH_QUIC_SIZE = 1 << 18;
/** A query to a resolver, up to the end of the function that sends it: where the policy speaks of names. */
export const SCRATCH_QUERY = SCRATCH_QUIC + SCRATCH_QUIC_SIZE;
export const SCRATCH_QUERY_SIZE = 4096;
/**
 * What a TCP flow of the guest has sent first, a slot each (tcp/first-bytes.ts): until it has gone to the host's socket.
 */
export const SCRATCH_FIRST = SCRATCH_QUERY + SCRATCH_QUERY_SIZE;
export const SCRATCH_FIRST_SLOT = 16_896; // a TLS record with its header, rounded up
export const SCRATCH_FIRST_SLOTS = 30;
/** ICMP messages of ping sockets, and what errors of sockets quote. */
export const SCRATCH_MISC = SCRATCH_TCP + (1 << 20);
export const SCRATCH_MISC_SIZE = 1 << 17;
/** Datagrams that are put together from fragments (Reassembly), a slot each: for as long as that takes. */
export const SCRATCH_FRAGMENT = SCRATCH_MISC + SCRATCH_MISC_SIZE;
export const SCRATCH_FRAGMENT_SLOT = 66_560; // Ethernet and IPv6 header, 65 535 bytes, rounded up
export const SCRATCH_FRAGMENT_SLOTS = 64;

export const SCRATCH_SIZE = SCRATCH_FRAGMENT + SCRATCH_FRAGMENT_SLOT * SCRATCH_FRAGMENT_SLOTS;
