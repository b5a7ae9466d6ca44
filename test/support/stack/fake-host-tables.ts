/**
 * What every host in memory has: the tables of `HostIo` over a `FakeMemory`, a count of the calls made, sums and copies. A
 * call that a host does not model throws: the stack's protocol in the test has no use for it.
 */
import { MSGS_TOTAL, SCRATCH_SIZE } from '../../../src/stack/scratch';
import { ADDR_SLOTS, ADDR_SLOT_SIZE } from '../../../src/stack/ports';
import type { HostIo, Rows } from '../../../src/stack/ports';
import type { FakeMemory } from './fake-guest-port';
import { onesComplementSum } from './rows';

export abstract class FakeHostTables implements HostIo {
  readonly rows: Rows;
  readonly addrs = new DataView(new ArrayBuffer(ADDR_SLOTS * ADDR_SLOT_SIZE));
  readonly tcpInfoOut = new Float64Array(3);
  readonly memInfoOut = new Float64Array(4);
  readonly sockErrOut = new Int32Array(6);
  readonly msgRow = new Int32Array(MSGS_TOTAL);
  readonly msgRows = new Int32Array(MSGS_TOTAL);
  readonly msgLen = new Int32Array(MSGS_TOTAL);
  readonly msgPeer = new Int32Array(MSGS_TOTAL);
  readonly msgLocal = new Int32Array(MSGS_TOTAL);
  readonly msgTtl = new Int32Array(MSGS_TOTAL);
  readonly msgTos = new Int32Array(MSGS_TOTAL);
  readonly msgSegment = new Int32Array(MSGS_TOTAL);
  readonly scratch: DataView;
  readonly scratchRegion: number;
  readonly memory: FakeMemory;
  /** System calls made, by name. */
  readonly calls = new Map<string, number>();

  constructor(memory: FakeMemory) {
    this.memory = memory;
    this.rows = memory.rows;
    this.scratchRegion = memory.add(SCRATCH_SIZE);
    this.scratch = memory.regions[this.scratchRegion];
  }

  /** Counts a call. */
  protected note(name: string): void {
    this.calls.set(name, (this.calls.get(name) ?? 0) + 1);
  }

  checksum(row: number, rowCount: number, initial: number): number {
    return onesComplementSum(this.memory.gather(row, rowCount), initial);
  }

  copyRows(from: number, fromCount: number, to: number, toCount: number): number {
    this.note('copyRows');
    return this.memory.scatter(to, toCount, this.memory.gather(from, fromCount));
  }

  socket(_family: number, _kind: number): number {
    return refuse('socket');
  }
  bind(_fd: number, _slot: number): number {
    return refuse('bind');
  }
  connect(_fd: number, _slot: number): number {
    return refuse('connect');
  }
  listen(_fd: number, _backlog: number): number {
    return refuse('listen');
  }
  accept(_fd: number, _slot: number): number {
    return refuse('accept');
  }
  getsockname(_fd: number, _slot: number): number {
    return refuse('getsockname');
  }
  setsockopt(_fd: number, _level: number, _name: number, _value: number): number {
    return refuse('setsockopt');
  }
  bindToDevice(_fd: number, _ifname: string): number {
    return refuse('bindToDevice');
  }
  shutdown(_fd: number, _how: number): number {
    return refuse('shutdown');
  }
  close(_fd: number): number {
    return refuse('close');
  }
  abort(_fd: number): number {
    return refuse('abort');
  }
  recv(_fd: number, _row: number, _rowCount: number, _flags: number): number {
    return refuse('recv');
  }
  discard(_fd: number, _bytes: number): number {
    return refuse('discard');
  }
  send(_fd: number, _row: number, _rowCount: number, _flags: number): number {
    return refuse('send');
  }
  recvMany(_fd: number, _first: number, _count: number, _flags: number): number {
    return refuse('recvMany');
  }
  sendMany(_fd: number, _first: number, _count: number): number {
    return refuse('sendMany');
  }
  recvError(_fd: number, _offenderSlot: number, _destSlot: number, _row: number, _rowCount: number): number {
    return refuse('recvError');
  }
  tcpInfo(_fd: number): number {
    return refuse('tcpInfo');
  }
  memInfo(_fd: number): number {
    return refuse('memInfo');
  }
  outq(_fd: number): number {
    return refuse('outq');
  }
  watch(_fd: number, _events: number, _key: number, _generation: number): number {
    return refuse('watch');
  }
  rewatch(_fd: number, _events: number, _key: number, _generation: number): number {
    return refuse('rewatch');
  }
  unwatch(_fd: number): number {
    return refuse('unwatch');
  }
}

/** Throws: the host does not model this call. */
export function refuse(call: string): never {
  throw new Error(`${call}: not a call of the protocol under test`);
}
