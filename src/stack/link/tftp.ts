/**
 * A TFTP server on the link (`--tftp`), for reading only: RFC 1350, 2347 to 2349, 7440. Nothing of it is seen on the host's
 * network, and no process of the host can ask it.
 *
 * Theory of operation. Port 69 of our own addresses takes requests; each transfer has a port of its own (its TID), and
 * only datagrams of its client to that port are taken for it. Files are read by the control plane: the stack asks for
 * pieces of CHUNK bytes and holds one for each transfer, from its first block that is not acknowledged on; while it waits
 * for one the transfer rests, and nothing else does. States: opening (the first piece is awaited), oack (options were
 * answered), data. A block that is not acknowledged in time is sent again, RETRIES times.
 *
 * Bounds: TRANSFERS transfers, each with one piece of its file and one question to the control plane; a window is at most
 * half a piece; one answer a datagram of the guest, but for the blocks of a window.
 */
import { FILE_ABSENT, FILE_OK, type FileAnswer, type FileRequest, type StackConfig, TFTP_IID } from '../config';
import type { FrameInfo, StackContext } from '../context';
import { addressWords, copyWords, isUnspecified, wordsEqual } from '../ip/address';
import { GSO_NONE } from '../ports';
import {
  TFTP_ACK,
  TFTP_DATA_HEADER_LEN,
  TFTP_DEFAULT_BLOCK,
  TFTP_ERR_ACCESS,
  TFTP_ERR_ILLEGAL,
  TFTP_ERR_NOT_FOUND,
  TFTP_ERR_UNDEFINED,
  TFTP_ERROR,
  TFTP_PORT,
  TFTP_RRQ,
  tftpBlock,
  tftpOpcode,
  tftpRequest,
  type TftpRequest,
  tftpWriteData,
  tftpWriteError,
  tftpWriteOack,
} from '../wire/tftp';
import { UDP_HEADER_LEN, udpLength, udpSrcPort } from '../wire/udp';
import { LINK_UDP_PAYLOAD4, LINK_UDP_PAYLOAD6, linkUdpPull, linkUdpSend } from './small-datagram';

export const TRANSFERS = 8;
export const CHUNK = 128 * 1024;
const RETRIES = 5;
const TIMEOUT_MS = 1000;
/** For the control plane's first answer. */
const OPEN_MS = 10_000;
const MAX_WINDOW = 32;
/** What `linkUdpSend` takes, with its headers. */
const MAX_BLOCK = 4000;
const MIN_BLOCK = 8;
/** IP, UDP and TFTP's own header, of the longer family. */
const HEADERS = 40 + UDP_HEADER_LEN + TFTP_DATA_HEADER_LEN;
/** First of our ports (RFC 6335 §6: dynamic ones), and how many of them. */
const FIRST_TID = 49152;
const TIDS = 16384;

/** Asks the control plane, which answers by `Stack.fileRead`. */
export type FileSource = (request: FileRequest) => void;

const FREE = 0;
const OPENING = 1;
const OACK = 2;
const DATA = 3;
const NONE = new Uint8Array(0);

class Transfer {
  state = FREE;
  id = 0;
  name = '';
  version = 4;
  /** Ours and the client's, four words each. */
  readonly addr = new Int32Array(8);
  peerPort = 0;
  port = 0;
  block = TFTP_DEFAULT_BLOCK;
  window = 1;
  timeoutMs = TIMEOUT_MS;
  /** Answered in the OACK; empty: there is none. `tsize` gets its value with the file. */
  options = new Map<string, number>();
  size = 0;
  stamp = 0;
  /** Blocks acknowledged and sent, which count from 1 on. */
  acked = 0;
  sent = 0;
  tries = 0;
  deadlineMs = Infinity;
  chunk: Uint8Array = NONE;
  chunkAt = 0;
  waiting = false;

  get last(): number {
    return Math.floor(this.size / this.block) + 1;
  }
}

export class TftpService {
  private readonly ctx: StackContext;
  private readonly files: FileSource;
  private readonly transfers: readonly Transfer[];
  private readonly words: Int32Array;
  private readonly out: DataView;

  constructor(ctx: StackContext, files: FileSource) {
    this.ctx = ctx;
    this.files = files;
    this.transfers = Array.from({ length: TRANSFERS }, () => new Transfer());
    this.words = new Int32Array(8);
    this.out = new DataView(new ArrayBuffer(LINK_UDP_PAYLOAD6 + TFTP_DATA_HEADER_LEN + MAX_BLOCK));
  }

  /** A datagram of the guest's. True if it was ours. Its UDP header is in `port.head`. */
  fromGuest(frame: FrameInfo, dstPort: number): boolean {
    const { ctx } = this;
    const from = udpSrcPort(ctx.port.head, frame.l4Off);
    const transfer = this.transferOf(frame.addr, from, dstPort);
    if (transfer === null && (dstPort !== TFTP_PORT || !this.isOurs(frame))) return false;
    if (ctx.port.gsoType !== GSO_NONE || linkUdpPull(ctx, frame) !== 0) return true;
    const { head } = ctx.port;
    const off = frame.l4Off + UDP_HEADER_LEN;
    const end = frame.l4Off + udpLength(head, frame.l4Off);
    if (transfer === null) this.request(frame, from, off, end);
    else this.continue(transfer, head, off, end);
    return true;
  }

  /** What the control plane found. Of a transfer that is over: nothing. */
  fileRead({ slot, id, offset, status, size, stamp, data }: FileAnswer): void {
    const t = this.transfers[slot];
    if (t.state === FREE || t.id !== id || !t.waiting) return;
    t.waiting = false;
    if (status !== FILE_OK) {
      const [code, text] =
        status === FILE_ABSENT ? [TFTP_ERR_NOT_FOUND, 'File not found'] : [TFTP_ERR_ACCESS, 'Access violation'];
      this.fail(t, code, text);
      return;
    }
    if (t.state !== OPENING && (t.size !== size || t.stamp !== stamp)) {
      this.fail(t, TFTP_ERR_UNDEFINED, 'File changed');
      return;
    }
    t.size = size;
    t.stamp = stamp;
    t.chunk = data;
    t.chunkAt = offset;
    if (t.state === OPENING) this.begin(t);
    else this.pump(t);
  }

  onTimer(): void {
    const now = this.ctx.clock.nowMs;
    for (const t of this.transfers) {
      if (t.state === FREE || now < t.deadlineMs) continue;
      t.tries++;
      if (t.state === OPENING || t.tries > RETRIES) this.free(t);
      else if (t.state === OACK) this.sendOack(t);
      else {
        t.sent = t.acked;
        t.deadlineMs = now + t.timeoutMs;
        this.pump(t);
      }
    }
  }

  nextDeadline(): number {
    let next = Infinity;
    for (const t of this.transfers) if (t.state !== FREE && t.deadlineMs < next) next = t.deadlineMs;
    return next;
  }

  reset(): void {
    for (const t of this.transfers) this.free(t);
  }

  private transferOf(addr: Int32Array, from: number, port: number): Transfer | null {
    for (const t of this.transfers) {
      if (t.state === FREE || t.port !== port || t.peerPort !== from) continue;
      if (wordsEqual(t.addr, 4, addr, 0) && wordsEqual(t.addr, 0, addr, 4)) return t;
    }
    return null;
  }

  /** Was the datagram sent to one of our own addresses? */
  private isOurs({ version, addr }: FrameInfo): boolean {
    const { link, config } = this.ctx;
    if (version === 4) return addr[7] === link.ours4 && link.ours4 !== 0;
    tftpAddress6(config, this.words);
    return wordsEqual(link.ours6, 0, addr, 4) || (!isUnspecified(this.words, 0) && wordsEqual(this.words, 0, addr, 4));
  }

  private request(frame: FrameInfo, from: number, off: number, end: number): void {
    const { head } = this.ctx.port;
    const opcode = tftpOpcode(head, off, end);
    // An error is not answered (RFC 1350 §7), nor what belongs to no request.
    if (opcode === TFTP_ERROR || opcode === TFTP_ACK || opcode === 0) return;
    const request = opcode === TFTP_RRQ ? tftpRequest(head, off, end) : null;
    if (opcode !== TFTP_RRQ) this.refuse(frame, from, TFTP_ERR_ACCESS, 'This server is for reading only');
    else if (request === null) this.refuse(frame, from, TFTP_ERR_ILLEGAL, 'Malformed request');
    else if (request.mode !== 'octet') this.refuse(frame, from, TFTP_ERR_UNDEFINED, 'Only mode octet is supported');
    else if (!this.isKnown(frame, from)) this.open(frame, from, request);
  }

  /** A request that comes again, because the client has not heard the answer, has its transfer already. */
  private isKnown(frame: FrameInfo, from: number): boolean {
    return this.transfers.some((t) => t.state !== FREE && t.peerPort === from && wordsEqual(t.addr, 4, frame.addr, 0));
  }

  private open(frame: FrameInfo, from: number, { name, options }: TftpRequest): void {
    const { random, clock } = this.ctx;
    const slot = this.transfers.findIndex(({ state }) => state === FREE);
    if (slot < 0) {
      this.refuse(frame, from, TFTP_ERR_UNDEFINED, 'Too many transfers');
      return;
    }
    const t = this.transfers[slot];
    t.state = OPENING;
    t.id = random.u32();
    t.name = name;
    t.version = frame.version;
    copyWords(frame.addr, 4, t.addr, 0);
    copyWords(frame.addr, 0, t.addr, 4);
    t.peerPort = from;
    do t.port = FIRST_TID + ((random.u32() >>> 0) % TIDS);
    while (this.transfers.some((other) => other !== t && other.state !== FREE && other.port === t.port));
    t.acked = 0;
    t.sent = 0;
    t.tries = 0;
    this.negotiate(t, options);
    t.deadlineMs = clock.nowMs + OPEN_MS;
    this.ask(t, slot, 0);
  }

  /** What of the options is taken; others are passed over (RFC 2347 §3). */
  private negotiate(t: Transfer, options: ReadonlyMap<string, string>): void {
    const number = (name: string, least: number, most: number): number | null => {
      const text = options.get(name);
      const value = text !== undefined && /^[0-9]{1,9}$/.test(text) ? Number(text) : -1;
      return value < least || value > most ? null : value;
    };
    t.options = new Map<string, number>();
    t.block = TFTP_DEFAULT_BLOCK;
    t.window = 1;
    t.timeoutMs = TIMEOUT_MS;
    const block = number('blksize', MIN_BLOCK, 65464);
    if (block !== null) {
      t.block = Math.max(MIN_BLOCK, Math.min(block, MAX_BLOCK, this.ctx.link.mtu.bound(t.version === 4) - HEADERS));
      t.options.set('blksize', t.block);
    }
    const timeout = number('timeout', 1, 255);
    if (timeout !== null) {
      t.timeoutMs = timeout * 1000;
      t.options.set('timeout', timeout);
    }
    if (number('tsize', 0, 999_999_999) !== null) t.options.set('tsize', 0);
    const window = number('windowsize', 1, 65535);
    if (window !== null) {
      t.window = Math.max(1, Math.min(window, MAX_WINDOW, Math.floor(CHUNK / 2 / t.block)));
      t.options.set('windowsize', t.window);
    }
  }

  private begin(t: Transfer): void {
    if (t.options.size === 0) {
      t.state = DATA;
      this.pump(t);
      return;
    }
    if (t.options.has('tsize')) t.options.set('tsize', t.size);
    t.state = OACK;
    this.sendOack(t);
  }

  private continue(t: Transfer, head: DataView, off: number, end: number): void {
    const opcode = tftpOpcode(head, off, end);
    if (opcode === TFTP_ERROR) {
      this.free(t);
      return;
    }
    const block = tftpBlock(head, off, end);
    if (opcode !== TFTP_ACK || block < 0) return;
    if (t.state === OACK) {
      if (block !== 0) return;
      t.state = DATA;
      t.tries = 0;
      this.pump(t);
      return;
    }
    if (t.state !== DATA) return;
    const ahead = (block - t.acked) & 0xffff;
    // What was acknowledged before says in a window that the rest was lost; block by block it says nothing (RFC 1123
    // §4.2.3.1).
    if (ahead > t.sent - t.acked || (ahead === 0 && t.window === 1)) return;
    t.acked += ahead;
    t.sent = t.acked;
    if (ahead > 0) t.tries = 0;
    if (t.acked >= t.last) this.free(t);
    else this.pump(t);
  }

  /** Sends what the window allows and the piece has; asks for the next piece where it ends. */
  private pump(t: Transfer): void {
    const { clock } = this.ctx;
    while (t.sent < t.last && t.sent - t.acked < t.window) {
      const at = t.sent * t.block;
      const length = Math.min(t.block, t.size - at);
      const start = at - t.chunkAt;
      if (length > 0 && (start < 0 || start + length > t.chunk.length)) {
        if (!t.waiting) this.ask(t, this.transfers.indexOf(t), t.acked * t.block);
        break;
      }
      const out = payloadAt(t.version);
      if (!this.send(t, tftpWriteData(this.out, out, t.sent + 1, t.chunk, start, length))) break;
      t.sent++;
    }
    t.deadlineMs = clock.nowMs + t.timeoutMs;
  }

  private ask(t: Transfer, slot: number, offset: number): void {
    t.waiting = true;
    this.files({ slot, id: t.id, name: t.name, offset, length: CHUNK });
  }

  private sendOack(t: Transfer): void {
    this.send(t, tftpWriteOack(this.out, payloadAt(t.version), t.options));
    t.deadlineMs = this.ctx.clock.nowMs + t.timeoutMs;
  }

  private send(t: Transfer, length: number): boolean {
    return linkUdpSend(this.ctx, this.out, t.version, t.addr, t.port, t.peerPort, length, 0);
  }

  private fail(t: Transfer, code: number, text: string): void {
    this.send(t, tftpWriteError(this.out, payloadAt(t.version), code, text));
    this.free(t);
  }

  /** An answer to what is no transfer. */
  private refuse(frame: FrameInfo, to: number, code: number, text: string): void {
    copyWords(frame.addr, 4, this.words, 0);
    copyWords(frame.addr, 0, this.words, 4);
    const length = tftpWriteError(this.out, payloadAt(frame.version), code, text);
    linkUdpSend(this.ctx, this.out, frame.version, this.words, TFTP_PORT, to, length, 0);
  }

  private free(t: Transfer): void {
    t.state = FREE;
    t.chunk = NONE;
    t.waiting = false;
    t.deadlineMs = Infinity;
  }
}

function payloadAt(version: number): number {
  return version === 4 ? LINK_UDP_PAYLOAD4 : LINK_UDP_PAYLOAD6;
}

/**
 * Our address for TFTP in IPv6 as four words: one of the guest's own /64, because firmware has no use for link-local
 * addresses in URLs. All zero: the guest gets no address.
 */
export function tftpAddress6({ ip6 }: StackConfig, words: Int32Array): void {
  words.fill(0, 0, 4);
  if (!ip6?.guestAddr) return;
  addressWords(ip6.guestAddr, words, 0);
  words[2] = 0;
  words[3] = TFTP_IID;
}
