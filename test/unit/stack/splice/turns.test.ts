/** Which of the connections past the link has its turn when. What moves their bytes is scripted. */
import { KEY_INDEX_MASK } from '../../../../src/stack/context';
import { EINPROGRESS } from '../../../../src/stack/kit/linux';
import { EPOLLIN, EPOLLOUT } from '../../../../src/stack/ports';
import { ADDR_SLOT_TCP } from '../../../../src/stack/scratch';
import { addrSlotWrite } from '../../../../src/stack/ip/address';
import { BypassEnds } from '../../../../src/stack/splice/ends';
import { SPLICE_FROM_A, SPLICE_MORE, SPLICE_WAITS, type SpliceIo } from '../../../../src/stack/splice/io';
import { NamespaceSockets } from '../../../../src/stack/splice/sockets';
import { SpliceTcp } from '../../../../src/stack/splice/tcp';
import { words } from '../../../support/stack/addresses';
import { SpliceRig } from '../../../support/stack/splice-rig';

const MIB = 1 << 20;
/** Calls that a stream has one after the other, of 2 MiB each. */
const CALLS_OF_A_TURN = 4;

interface Call {
  readonly slot: number;
  readonly ofA: number;
  readonly ofB: number;
}

let rig: SpliceRig;
let tcp: SpliceTcp;
let calls: Call[];
/** Of a slot: bytes and answer of each call for it. */
let answers: Map<number, { readonly bytes: number; readonly result: number }>;
/** Of a key's index: what its events come with. */
let generations: Map<number, number>;

beforeEach(() => {
  generations = new Map();
  rig = new SpliceRig();
  calls = [];
  answers = new Map();
  const none = (): number => 0;
  const io = Object.create(rig.native) as SpliceIo;
  Object.assign(io, {
    socket: none,
    setsockopt: none,
    watch: (_fd: number, _events: number, key: number, generation: number) => {
      generations.set(key & KEY_INDEX_MASK, generation);
      return 0;
    },
    spliceOpen: none,
    spliceClose: none,
    connect: () => -EINPROGRESS,
    getsockname: (_: number, slot: number) => {
      addrSlotWrite(io.addrs, slot, 2, 80, 0, words('127.0.0.1'), 0);
      return 0;
    },
    spliceMove: (slot: number, ofA: number, ofB: number) => {
      calls.push({ slot, ofA, ofB });
      const { bytes, result } = answers.get(slot) ?? { bytes: 1, result: SPLICE_WAITS };
      io.spliceOut.fill(0);
      io.spliceOut[SPLICE_FROM_A] = bytes;
      return result;
    },
  });
  const ends = new BypassEnds(rig.ctx, true);
  tcp = new SpliceTcp(rig.ctx, io, 8, new NamespaceSockets(io, []), ends);
  for (let n = 0; n < 3; n++) {
    addrSlotWrite(io.addrs, ADDR_SLOT_TCP, 2, 40000 + n, 0, words('127.0.0.1'), 0);
    tcp.fromGuest(100 + n, 9, 80, 0);
  }
});
afterEach(() => {
  rig.stop();
});

function event(slot: number, side: number, events: number): void {
  const index = (slot << 1) | side;
  tcp.onSocket(index, generations.get(index) ?? -1, events);
}

function slots(): number[] {
  return calls.splice(0).map(({ slot }) => slot);
}

test('streams are served one after the other, and all others between two calls for them', () => {
  answers.set(0, { bytes: 2 * MIB, result: SPLICE_MORE });
  answers.set(1, { bytes: 2 * MIB, result: SPLICE_MORE });
  event(0, 0, EPOLLIN);
  event(1, 0, EPOLLIN);
  // What they are shows with their first calls only.
  expect(slots()).toEqual([0, 1]);
  tcp.resume();
  expect(slots()).toEqual([0]);
  event(2, 0, EPOLLIN);
  expect(slots()).toEqual([2]);
  for (let n = 2; n < CALLS_OF_A_TURN; n++) tcp.resume();
  expect(slots()).toEqual([0, 0]);
  for (let n = 1; n < CALLS_OF_A_TURN; n++) tcp.resume();
  expect(slots()).toEqual([1, 1, 1]);
  tcp.resume();
  expect(slots()).toEqual([0]);
});

test('events of a stream wait for its turn, those of both sockets together', () => {
  answers.set(0, { bytes: MIB, result: SPLICE_WAITS });
  event(0, 0, EPOLLIN);
  expect(slots()).toEqual([0]);
  event(0, 0, EPOLLIN);
  event(0, 1, EPOLLOUT);
  expect(slots()).toEqual([]);
  tcp.resume();
  expect(calls.splice(0)).toEqual([{ slot: 0, ofA: EPOLLIN, ofB: EPOLLOUT }]);
  tcp.resume();
  expect(slots()).toEqual([]);
});

test('several short turns of streams fit between two looks at the sockets', () => {
  for (const slot of [0, 1, 2]) {
    answers.set(slot, { bytes: MIB, result: SPLICE_WAITS });
    event(slot, 0, EPOLLIN);
  }
  slots();
  for (const slot of [0, 1, 2]) event(slot, 0, EPOLLIN);
  tcp.resume();
  expect(slots()).toEqual([0, 1]);
  tcp.resume();
  expect(slots()).toEqual([2]);
});

test('a stream that moves little is one no more', () => {
  answers.set(0, { bytes: MIB, result: SPLICE_WAITS });
  event(0, 0, EPOLLIN);
  answers.set(0, { bytes: 1, result: SPLICE_WAITS });
  event(0, 0, EPOLLIN);
  tcp.resume();
  event(0, 0, EPOLLIN);
  expect(slots()).toEqual([0, 0, 0]);
});
