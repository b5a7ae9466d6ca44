/**
 * The process that stays inside the guest's namespaces (addon/launch/namespace.cc), which the launcher has started before it
 * gave anything up: what must be done in there it does for us. One request at a time; what it says by itself comes between.
 */
import type { Native } from '../native';
import { EAGAIN } from '../errors';

// HolderOp of addon/namespace_protocol.h.
const OP_ENTER = 1;
const OP_TAP = 2;
const OP_NETLINK = 3;
const OP_SEND = 4;
const OP_SETTING = 5;
const OP_SOCKET = 6;
const OP_START = 7;
const OP_SEAL = 8;
const OP_INTERRUPT = 9;
const OP_PROC = 10;
const OP_LISTEN = 11;
const OP_POOL = 12;
const OP_ENDED = 100;
const OP_GONE = 101;

/** Flags of `enter`. */
export const ENTER_CREATE = 1;
export const ENTER_NEW_USER = 2;
export const ENTER_NEW_PID = 4;
export const ENTER_WATCH = 8;

/** Filters of `seal`. */
export const SEAL_NO_FILTER = 0;
export const SEAL_FILTER = 1;
export const SEAL_FILTER_LOG = 2;
/** Or'ed to it: ports below 1024 can be bound from now on as well. */
export const SEAL_KEEP_PORTS = 4;

/** Flags of `listen`: on the loopback interface, else on the loopback address only; of IPv6 that takes IPv4, too. */
export const LISTEN_ON_LOOPBACK = 1;
export const LISTEN_DUAL = 2;

const POLL_IN = 1;
/** struct HolderAsk: i32 op, flags, a, b, c, then text. */
const ASK_HEADER = 20;
/** struct HolderReply: i32 op, result, value, then 300 bytes of text. */
const REPLY_HEADER = 12;
const REPLY_TEXT = 300;
const EPIPE = 32;

export interface HolderAnswer {
  /** 0 or -errno. */
  readonly result: number;
  readonly value: number;
  /** What an error is about, or a name. */
  readonly text: string;
  /** The descriptor that came along, or -1. Close-on-exec. */
  readonly fd: number;
}

export interface Entry {
  /** ENTER_*. */
  readonly flags: number;
  /** The user to become first; null: stay. */
  readonly user: { readonly uid: number; readonly gid: number } | null;
  /** Paths of namespaces; '': none. */
  readonly userNamespace: string;
  readonly netNamespace: string;
  /** Name of the host in the command's namespace; '': as it is. */
  readonly hostname: string;
  /** The process whose end is the namespace's; 0: the path is watched. */
  readonly process: number;
}

interface Waiting {
  readonly op: number;
  readonly resolve: (answer: HolderAnswer) => void;
}

type HolderIo = Pick<Native, 'sendFds' | 'recvFds' | 'pollStart' | 'pollStop' | 'close'>;

const NO_FDS = new Int32Array(0);
const encoder = new TextEncoder();

export class Holder {
  /** The command ended with this status (128 + the signal that killed it). Set by namespace.ts. */
  onEnded: ((status: number) => void) | null = null;
  /** The namespace is gone, or the process that holds it. */
  onGone: ((why: string) => void) | null = null;

  private readonly native: HolderIo;
  private readonly fd: number;
  private readonly poll: number;
  private readonly reply = new Uint8Array(REPLY_HEADER + REPLY_TEXT);
  private readonly fds = new Int32Array(2);
  private readonly waiting: Waiting[] = [];
  private open = true;

  /** `fd`: the socket to it, ours from now on. */
  constructor(native: HolderIo, fd: number) {
    this.native = native;
    this.fd = fd;
    this.poll = native.pollStart(fd, POLL_IN, () => {
      this.take();
    });
  }

  enter(entry: Entry): Promise<HolderAnswer> {
    const text = `${entry.userNamespace}\0${entry.netNamespace}\0${entry.hostname}\0`;
    return this.ask(OP_ENTER, encoder.encode(text), {
      flags: entry.flags,
      a: entry.user?.uid ?? -1,
      b: entry.user?.gid ?? -1,
      c: entry.process,
    });
  }

  /** Makes the tap: its descriptor, its name, and TUN_F_* that the kernel took (-1: it has no virtio_net_hdr). */
  tap(name: string): Promise<HolderAnswer> {
    return this.ask(OP_TAP, encoder.encode(name));
  }

  /** An rtnetlink socket inside. Dumps may be asked for by it; changes must be sent by `send`. */
  netlink(): Promise<HolderAnswer> {
    return this.ask(OP_NETLINK);
  }

  /** Sends a request over the socket that `netlink` gave last; the answer is to be read from that. */
  send(message: Uint8Array): Promise<HolderAnswer> {
    return this.ask(OP_SEND, message);
  }

  /** Writes a setting below /proc/sys/net. */
  setting(name: string, value: string): Promise<HolderAnswer> {
    return this.ask(OP_SETTING, encoder.encode(`${name}\0${value}\0`));
  }

  /** socket(2) inside. */
  socket(family: number, type: number, protocol: number): Promise<HolderAnswer> {
    return this.ask(OP_SOCKET, new Uint8Array(0), { a: family, b: type, c: protocol });
  }

  /** A table of /proc/net inside: 0 tcp, 1 tcp6, 2 udp, 3 udp6. */
  proc(which: number): Promise<HolderAnswer> {
    return this.ask(OP_PROC, new Uint8Array(0), { a: which });
  }

  /** A socket that is bound to a port of the loopback inside; one of SOCK_STREAM listens. */
  listen(family: number, type: number, port: number, flags: number): Promise<HolderAnswer> {
    return this.ask(OP_LISTEN, new Uint8Array(0), { flags, a: family, b: type, c: port });
  }

  /** A socket over which the data plane asks for sockets inside, many at a time (stack/splice/sockets.ts). */
  pool(): Promise<HolderAnswer> {
    return this.ask(OP_POOL);
  }

  /** Executes the words of the command line from `first` on, counted behind the script's name; -1: a shell. */
  start(first: number): Promise<HolderAnswer> {
    return this.ask(OP_START, new Uint8Array(0), { a: first });
  }

  /** Gives up all rights, and becomes `user` unless that is null. `filter`: SEAL_*, how its system calls are filtered. */
  seal(user: { readonly uid: number; readonly gid: number } | null, filter: number): Promise<HolderAnswer> {
    return this.ask(OP_SEAL, new Uint8Array(0), { flags: filter, a: user?.uid ?? -1, b: user?.gid ?? -1 });
  }

  /** The terminal sent a signal: the command is killed if it neither catches nor ignores it. */
  interrupt(signal: number): void {
    void this.ask(OP_INTERRUPT, new Uint8Array(0), { a: signal });
  }

  /** It ends, and with it all that it kept open. */
  close(): void {
    if (!this.open) return;
    this.open = false;
    if (this.poll >= 0) this.native.pollStop(this.poll);
    this.native.close(this.fd);
    this.fail();
  }

  private ask(
    op: number,
    text: Uint8Array = new Uint8Array(0),
    { flags = 0, a = 0, b = 0, c = 0 }: { flags?: number; a?: number; b?: number; c?: number } = {},
  ): Promise<HolderAnswer> {
    const bytes = new Uint8Array(ASK_HEADER + text.length);
    const view = new DataView(bytes.buffer);
    [op, flags, a, b, c].forEach((value, i) => {
      view.setInt32(4 * i, value, true);
    });
    bytes.set(text, ASK_HEADER);
    const sent = this.open ? this.native.sendFds(this.fd, bytes, 0, bytes.length, NO_FDS, 0) : -EPIPE;
    if (sent < 0) return Promise.resolve({ result: sent, value: 0, text: '', fd: -1 });
    return new Promise((resolve) => {
      this.waiting.push({ op, resolve });
    });
  }

  private take(): void {
    while (this.open) {
      const got = this.native.recvFds(this.fd, this.reply, 0, this.reply.length, this.fds);
      if (got === -EAGAIN) return;
      if (got <= 0) {
        this.close();
        this.onGone?.('the process that holds the namespace has ended');
        return;
      }
      this.heard(got);
    }
  }

  private heard(length: number): void {
    const fd = this.fds[0] > 0 ? this.fds[1] : -1;
    const view = new DataView(this.reply.buffer);
    const op = length < REPLY_HEADER ? 0 : view.getInt32(0, true);
    const value = view.getInt32(8, true);
    if (op === OP_ENDED) this.onEnded?.(value);
    else if (op === OP_GONE) this.onGone?.('');
    else {
      const text = Buffer.from(this.reply.buffer, REPLY_HEADER, REPLY_TEXT);
      const end = text.indexOf(0);
      const answer = { result: view.getInt32(4, true), value, text: text.toString('utf8', 0, end < 0 ? 0 : end), fd };
      const next = this.waiting.shift();
      if (next !== undefined) {
        next.resolve(answer);
        return;
      }
    }
    if (fd >= 0) this.native.close(fd);
  }

  private fail(): void {
    for (const { resolve } of this.waiting.splice(0)) resolve({ result: -EPIPE, value: 0, text: '', fd: -1 });
  }
}
