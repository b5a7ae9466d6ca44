/**
 * The broker (addon/launch/broker.cc): what the service has others do that it cannot do itself behind its door. It is a
 * process that the launcher started, and ends with us.
 */
import { closeSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import { FileRefused } from '../files';
import type { Native } from '../native';

// BrokerOp of addon/broker_protocol.h.
const OP_SOCKET = 2;
const OP_CONNECT_TO = 3;
const OP_SEAL = 4;
const OP_CONNECT = 5;
const OP_SYSLOG = 6;
const OP_RESOLVERS = 7;
const OP_WATCH = 8;
const OP_REMOVE = 9;
const OP_BIND_PATH = 12;

/** What a socket with a file is for; the broker keeps apart FIRST_FORWARD + MAX_UNIX_FORWARDS of them. 0: front-ends. */
export type SocketUse = number;
export const FOR_SCRAPERS = 1;
export const FOR_CONTROL = 2;
export const FOR_PESTO = 3;
export const FOR_SLIRP = 4;
/** Those that are forwarded into the guest begin here. */
export const FIRST_FORWARD = 5;
export const MAX_UNIX_FORWARDS = 64;

const POLL_IN = 1;
const NOTHING = new Uint8Array(0);

/** struct inotify_event (inotify(7)): wd, mask, cookie, length of the name that follows; native byte order. */
const EVENT_HEADER = 16;
const EVENTS_MAX = 4096;

const RESOLV_CONF = '/etc/resolv.conf';

export type BrokerIo = Pick<Native, 'brokerUse' | 'brokerCall' | 'read' | 'close' | 'pollStart' | 'pollStop'>;

/** The name in an event, or null for one of the watched file itself. */
function* namesIn(events: Buffer): Generator<string | null> {
  for (let at = 0; at + EVENT_HEADER <= events.length;) {
    const length = events.readUInt32LE(at + 12);
    const name = events.toString('utf8', at + EVENT_HEADER, at + EVENT_HEADER + length).replace(/\0+$/, '');
    yield name === '' ? null : name;
    at += EVENT_HEADER + length;
  }
}

export class Broker {
  private readonly native: BrokerIo;

  /** `fd`: the socket to it; `mayBind`: it has ports below 1024 to give. */
  constructor(native: BrokerIo, fd: number, mayBind: boolean) {
    this.native = native;
    native.brokerUse(fd, mayBind ? 1 : 0);
  }

  /** The front-ends' socket file is there: to be removed at our end. */
  listensOn(path: string): void {
    this.ask(OP_SOCKET, path);
  }

  /** The file of another socket of ours is. */
  listensFor(use: SocketUse, path: string): void {
    this.ask(OP_SOCKET, path, use);
  }

  /**
   * A unix stream socket with a file at `path`, bound, for us to listen on; or -errno. A stale file is replaced. -EPERM: not in
   * a directory where we had a socket for control, or one that is forwarded, at the start.
   */
  bindsPath(use: SocketUse, path: string): number {
    return this.ask(OP_BIND_PATH, path, use);
  }

  /** Where `connect` connects to. */
  connectsTo(path: string): void {
    this.ask(OP_CONNECT_TO, path);
  }

  /** No more paths, and no more rights than those of the user, if we change it. 0 or -errno. */
  seal(user: { readonly uid: number; readonly gid: number } | null): number {
    if (user === null) return this.ask(OP_SEAL);
    return this.native.brokerCall(OP_SEAL, user.gid, user.uid, 'become', NOTHING);
  }

  /** As `Native.unixConnect` of the path that was named. */
  connect(): number {
    return this.ask(OP_CONNECT);
  }

  /** As `Native.unixDatagram` of the system log's socket. */
  syslog(): number {
    return this.ask(OP_SYSLOG);
  }

  /** Removes the front-ends' socket file, if it is still ours. */
  remove(): number {
    return this.ask(OP_REMOVE);
  }

  /** Removes that of another socket of ours. */
  removeSocket(use: SocketUse): number {
    return this.ask(OP_REMOVE, '', use);
  }

  /** The text of resolv.conf. Throws as `readText` does. */
  resolvConf(maxBytes: number): string {
    const fd = this.ask(OP_RESOLVERS);
    if (fd < 0) throw new FileRefused(`the broker cannot open it (errno ${-fd})`);
    try {
      const buffer = Buffer.alloc(maxBytes + 1);
      let got = 0;
      for (let n = -1; n !== 0 && got <= maxBytes; got += n) n = readSync(fd, buffer, got, buffer.length - got, null);
      if (got > maxBytes) throw new FileRefused(`it has more than ${maxBytes} bytes`);
      return buffer.toString('utf8', 0, got);
    } finally {
      closeSync(fd);
    }
  }

  /**
   * Calls back when resolv.conf, or what it links to, changes or is replaced. Returns what ends that; null: no descriptor,
   * memory or watch is left.
   */
  watchResolvConf(changed: () => void): (() => void) | null {
    const { native } = this;
    const reply = Buffer.alloc(256);
    const fd = native.brokerCall(OP_WATCH, 0, 0, '', reply);
    if (fd < 0) return null;
    const target = reply.toString('utf8', 0, reply.indexOf(0));
    const ours = new Set<string | null>([null, basename(RESOLV_CONF), target]);
    const events = Buffer.alloc(EVENTS_MAX);
    const poll = native.pollStart(fd, POLL_IN, () => {
      const got = native.read(fd, events, 0, events.length);
      for (const name of namesIn(events.subarray(0, Math.max(0, got)))) {
        if (!ours.has(name)) continue;
        changed();
        return;
      }
    });
    if (poll < 0) {
      native.close(fd);
      return null;
    }
    return () => {
      native.pollStop(poll);
      native.close(fd);
    };
  }

  private ask(op: number, text = '', which = 0): number {
    return this.native.brokerCall(op, which, 0, text, NOTHING);
  }
}
