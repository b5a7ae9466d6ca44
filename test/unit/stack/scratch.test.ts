/** The map of the tables shared with the addon: no two parts overlap, and each table has room for its parts. */
import * as map from '../../../src/stack/scratch';
import { ADDR_SLOTS } from '../../../src/stack/ports';

/** Name, first element, and how many. */
type Part = readonly [name: string, first: number, count: number];

const TABLES: readonly (readonly [table: string, size: number, parts: readonly Part[]])[] = [
  [
    'rows',
    map.ROWS_TOTAL,
    [
      ['ROWS_IN', map.ROWS_IN, map.ROWS_IN_COUNT],
      ['ROWS_OUT', map.ROWS_OUT, map.ROWS_OUT_COUNT],
      ['ROWS_MISC', map.ROWS_MISC, map.ROWS_MISC_COUNT],
      ['ROWS_PORT', map.ROWS_PORT, map.ROWS_PORT_COUNT],
    ],
  ],
  [
    'messages',
    map.MSGS_TOTAL,
    [
      ['MSG_OUT', map.MSG_OUT, map.MSG_OUT_COUNT],
      ['MSG_PIECE', map.MSG_PIECE, map.MSG_PIECE_COUNT],
      ['MSG_IN', map.MSG_IN, map.MSG_IN_COUNT],
      ['MSG_REPLY', map.MSG_REPLY, 1],
    ],
  ],
  [
    'addresses',
    ADDR_SLOTS,
    [
      ['TCP', map.ADDR_SLOT_TCP, map.ADDR_SLOT_TCP_COUNT],
      ['UDP', map.ADDR_SLOT_UDP, 1],
      ['UDP error', map.ADDR_SLOT_UDP_ERROR, 2],
      ['UDP was', map.ADDR_SLOT_UDP_WAS, 1],
      ['UDP now', map.ADDR_SLOT_UDP_NOW, 1],
      ['ping', map.ADDR_SLOT_PING, 1],
      ['ping error', map.ADDR_SLOT_PING_ERROR, 2],
      ['ping was', map.ADDR_SLOT_PING_WAS, 1],
      ['ping now', map.ADDR_SLOT_PING_NOW, 1],
      ['out peer', map.ADDR_SLOT_OUT_PEER, 1],
      ['out local', map.ADDR_SLOT_OUT_LOCAL, 1],
      ['in', map.ADDR_SLOT_IN, map.ADDR_SLOT_IN_COUNT],
    ],
  ],
  [
    'bytes',
    map.SCRATCH_SIZE,
    [
      ['SCRATCH_UDP', map.SCRATCH_UDP, map.SCRATCH_UDP_SIZE],
      ['SCRATCH_TCP', map.SCRATCH_TCP, map.SCRATCH_TCP_SIZE],
      ['SCRATCH_QUIC', map.SCRATCH_QUIC, map.SCRATCH_QUIC_SIZE],
      ['SCRATCH_QUERY', map.SCRATCH_QUERY, map.SCRATCH_QUERY_SIZE],
      ['SCRATCH_FIRST', map.SCRATCH_FIRST, map.SCRATCH_FIRST_SLOT * map.SCRATCH_FIRST_SLOTS],
      ['SCRATCH_MISC', map.SCRATCH_MISC, map.SCRATCH_MISC_SIZE],
      ['SCRATCH_FRAGMENT', map.SCRATCH_FRAGMENT, map.SCRATCH_FRAGMENT_SLOT * map.SCRATCH_FRAGMENT_SLOTS],
    ],
  ],
];

test.each(TABLES)('no two parts of the %s overlap, and all lie inside', (_table, size, parts) => {
  const sorted = [...parts].sort((a, b) => a[1] - b[1]);
  let end = 0;
  let before = 'the start';
  for (const [name, first, count] of sorted) {
    expect([name, 'behind', before, first >= end]).toEqual([name, 'behind', before, true]);
    expect(count).toBeGreaterThan(0);
    end = first + count;
    before = name;
  }
  expect(end).toBeLessThanOrEqual(size);
});

test('peer and local address of each message of a batch have slots of their own, inside the part', () => {
  const slots = Array.from({ length: map.MSG_IN_COUNT }, (_, i) => map.MSG_IN + i).flatMap((m) => [
    map.slotPeer(m),
    map.slotLocal(m),
  ]);
  expect(new Set(slots).size).toBe(map.ADDR_SLOT_IN_COUNT);
  expect(Math.min(...slots)).toBe(map.ADDR_SLOT_IN);
  expect(Math.max(...slots)).toBe(map.ADDR_SLOT_IN + map.ADDR_SLOT_IN_COUNT - 1);
});

test.each([
  ['UDP', map.ADDR_SLOT_UDP, map.ADDR_SLOT_UDP_COUNT, map.ADDR_SLOT_UDP_ERROR + 1, map.ADDR_SLOT_UDP_NOW],
  ['ping', map.ADDR_SLOT_PING, map.ADDR_SLOT_PING_COUNT, map.ADDR_SLOT_PING_ERROR + 1, map.ADDR_SLOT_PING_NOW],
])('the addresses of %s stay in their part', (_name, first, count, ...used) => {
  for (const slot of used) expect([slot > first, slot < first + count]).toEqual([true, true]);
});

test('pieces of a message leave the first rows of their part to the error queue', () => {
  expect(map.ROWS_PIECE).toBeGreaterThan(map.ROWS_MISC);
  expect(map.ROWS_PIECE_END).toBe(map.ROWS_MISC + map.ROWS_MISC_COUNT);
});

test('a frame to the guest, its header and a row for what is too long go to one system call', () => {
  expect(map.ROWS_PER_FRAME + 2).toBeLessThanOrEqual(map.ROWS_PER_CALL);
  expect(map.ROWS_IN_LAST + 1024).toBeLessThanOrEqual(map.ROWS_IN + map.ROWS_IN_COUNT);
});
