import fc from 'fast-check';
import { ProtocolError } from '../../../src/vhost/protocol-errors';
import * as m from '../../../src/vhost/messages';
import { config, logBase, memTable, singleRegion, u64, vringAddr } from '../../support/vhost/payloads';

function hex(text: string): Uint8Array {
  return Uint8Array.from(text.split(/\s+/).map((byte) => parseInt(byte, 16)));
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof ProtocolError) return error.code;
    throw error;
  }
  return 'none';
}

function header(request: number, flags: number, size: number): DataView {
  const dv = new DataView(new ArrayBuffer(12));
  dv.setUint32(0, request, true);
  dv.setUint32(4, flags, true);
  dv.setUint32(8, size, true);
  return dv;
}

describe('header', () => {
  test('GET_FEATURES as bytes', () => {
    const dv = view(hex('01 00 00 00 01 00 00 00 00 00 00 00'));
    m.validateHeader(dv);
    expect(m.decodeHeader(dv)).toEqual({ request: 1, needReply: false, size: 0 });
  });

  test('its reply as bytes', () => {
    expect(m.encodeU64Reply(1, 0x15460bb8bn)).toEqual(
      hex('01 00 00 00 05 00 00 00 08 00 00 00 8b bb 60 54 01 00 00 00'),
    );
  });

  test('SET_VRING_ENABLE of ring 2 that wants an acknowledgement, as bytes', () => {
    const bytes = hex('12 00 00 00 09 00 00 00 08 00 00 00 02 00 00 00 01 00 00 00');
    m.validateHeader(view(bytes));
    expect(m.decodeHeader(view(bytes))).toEqual({ request: 18, needReply: true, size: 8 });
    expect(m.decodeVringState(view(bytes.subarray(12)))).toEqual({ index: 2, num: 1 });
    expect(m.encodeU64Reply(18, 0n)).toEqual(hex('12 00 00 00 05 00 00 00 08 00 00 00 00 00 00 00 00 00 00 00'));
  });

  test('SET_VRING_KICK of ring 1 as bytes', () => {
    const bytes = hex('0c 00 00 00 01 00 00 00 08 00 00 00 01 00 00 00 00 00 00 00');
    expect(m.decodeHeader(view(bytes)).request).toBe(12);
    expect(m.decodeVringFd(view(bytes.subarray(12)))).toEqual({ index: 1, hasFd: true });
  });

  test.each([
    ['version 0', 0x0, 0],
    ['version 2', 0x2, 0],
    ['version 3', 0x3, 0],
    ['a reply', 0x5, 0],
    ['a reply that wants a reply', 0xd, 0],
    ['a reserved flag', 0x11, 0],
    ['the top flag', 0x8000_0001, 0],
    ['one byte too many', 0x1, 4097],
    ['4 GiB', 0x1, 0xffff_ffff],
  ])('refuses %s', (_name, flags, size) => {
    expect(codeOf(() => m.validateHeader(header(1, flags, size)))).toBe('VU_ERR_HEADER');
  });

  test('takes the longest payload', () => {
    expect(codeOf(() => m.validateHeader(header(1, 0x9, 4096)))).toBe('none');
  });
});

describe('rings', () => {
  test.each([0, 3, 255, 32767, 32769, 65536, 0x8000_0000, 0xffff_ffff])('size %d is refused', (num) => {
    expect(codeOf(() => m.validateVringNum({ index: 0, num }))).toBe('VU_ERR_RING_VALUE');
  });

  test.each([1, 2, 256, 1024, 32768])('size %d is taken', (num) => {
    expect(codeOf(() => m.validateVringNum({ index: 0, num }))).toBe('none');
  });

  test('an index is compared whole', () => {
    expect(codeOf(() => m.validateVringIndex(1, 2))).toBe('none');
    for (const index of [2, 0x100, 0x1_0001, 0xffff_ffff]) {
      expect(codeOf(() => m.validateVringIndex(index, 2))).toBe('VU_ERR_RING_INDEX');
    }
  });

  test('a base is 16 bits, an enable one', () => {
    expect(codeOf(() => m.validateVringBase({ index: 0, num: 0xffff }))).toBe('none');
    expect(codeOf(() => m.validateVringBase({ index: 0, num: 0x1_0000 }))).toBe('VU_ERR_RING_VALUE');
    expect(codeOf(() => m.validateVringEnable({ index: 0, num: 1 }))).toBe('none');
    expect(codeOf(() => m.validateVringEnable({ index: 0, num: 2 }))).toBe('VU_ERR_RING_VALUE');
  });

  test('the address message has desc, used, avail in this order', () => {
    const bytes = vringAddr({ index: 1, flags: 1, desc: 0x1000n, used: 0x3000n, avail: 0x2000n, log: 0x44n });
    expect(view(bytes).getBigUint64(8, true)).toBe(0x1000n);
    expect(view(bytes).getBigUint64(16, true)).toBe(0x3000n);
    expect(view(bytes).getBigUint64(24, true)).toBe(0x2000n);
    expect(m.decodeVringAddr(view(bytes))).toEqual({
      index: 1,
      flags: 1,
      desc: 0x1000n,
      used: 0x3000n,
      avail: 0x2000n,
      log: 0x44n,
    });
  });

  test.each([
    [0x1008n, 0x2000n, 0x3000n],
    [0x1000n, 0x2001n, 0x3000n],
    [0x1000n, 0x2000n, 0x3002n],
  ])('misaligned: desc %d avail %d used %d', (desc, avail, used) => {
    expect(codeOf(() => m.validateVringAddr({ index: 0, flags: 0, log: 0n, desc, avail, used }))).toBe(
      'VU_ERR_RING_ADDRESS',
    );
  });

  test('least alignments are 16, 2 and 4', () => {
    const addr = { index: 0, flags: 0, log: 0n, desc: 0x10n, avail: 0x22n, used: 0x34n };
    expect(codeOf(() => m.validateVringAddr(addr))).toBe('none');
  });

  test('a log address is exact as a number', () => {
    const addr = { index: 0, flags: 1, desc: 0n, avail: 0n, used: 0n };
    expect(m.validateVringLog({ ...addr, log: 0x1_2345_6780n })).toBe(0x1_2345_6780);
    for (const log of [2n ** 53n, 2n ** 64n - 1n, 6n]) {
      expect(codeOf(() => m.validateVringLog({ ...addr, log }))).toBe('VU_ERR_LOG');
    }
  });

  test('ring descriptors: index, no-descriptor bit, nothing else', () => {
    expect(m.decodeVringFd(view(u64(0x101)))).toEqual({ index: 1, hasFd: false });
    expect(m.decodeVringFd(view(u64(0xff)))).toEqual({ index: 255, hasFd: true });
    for (const value of [0x200n, 0x1_0000_0001n, 2n ** 64n - 1n]) {
      expect(codeOf(() => m.decodeVringFd(view(u64(value))))).toBe('VU_ERR_RING_INDEX');
    }
  });

  test('GET_VRING_BASE reply', () => {
    expect(m.encodeVringStateReply(11, { index: 1, num: 0xfffe })).toEqual(
      hex('0b 00 00 00 05 00 00 00 08 00 00 00 01 00 00 00 fe ff 00 00'),
    );
  });
});

describe('memory', () => {
  const region = { gpa: 0x1_0000_0000n, size: 0x10_0000n, uva: 0x7fff_ffff_f000n, offset: 0x8000_0000n };
  const decoded = { gpa: region.gpa, size: region.size, uva: region.uva, mmapOffset: region.offset };

  test('a table, and one that is longer than it needs to be', () => {
    expect(m.decodeMemTable(view(memTable([region, region])))).toEqual([decoded, decoded]);
    expect(m.decodeMemTable(view(memTable([region], { size: 72 })))).toEqual([decoded]);
  });

  test('a single region', () => {
    expect(m.decodeSingleRegion(view(singleRegion(region)))).toEqual(decoded);
  });

  test.each([
    ['no region', [], { count: 0 }, 'VU_ERR_MEMORY'],
    ['nine regions', Array.from({ length: 9 }, () => region), {}, 'VU_ERR_MEMORY'],
    ['a count above what came', [region], { count: 2 }, 'VU_ERR_SIZE'],
    ['a huge count', [region], { count: 0xffff_ffff }, 'VU_ERR_MEMORY'],
    ['half a head', [], { size: 4 }, 'VU_ERR_SIZE'],
    ['nothing', [], { size: 0 }, 'VU_ERR_SIZE'],
  ] as const)('refuses %s', (_name, regions, options, code) => {
    const bytes = 'size' in options && options.size < 8 ? new Uint8Array(options.size) : memTable(regions, options);
    expect(codeOf(() => m.decodeMemTable(view(bytes)))).toBe(code);
  });

  test.each([
    ['empty', { size: 0n }],
    ['gpa wraps', { gpa: 2n ** 64n - 0x1000n }],
    ['gpa beyond exact numbers', { gpa: 2n ** 53n }],
    ['uva wraps', { uva: 2n ** 64n - 0x1000n }],
    ['file offset wraps', { mmapOffset: 2n ** 64n - 0x1000n }],
    ['size and all wrap', { size: 2n ** 64n - 0x1000n }],
    ['gpa inside a page', { gpa: 0x1_0000_0010n }],
    ['uva inside a page', { uva: 0x7fff_ffff_f008n }],
    ['size inside a page', { size: 0x10_0001n }],
    ['offset inside a page', { mmapOffset: 1n }],
  ])('refuses a region: %s', (_name, change) => {
    expect(codeOf(() => m.validateMemoryRegion({ ...decoded, ...change }))).toBe('VU_ERR_MEMORY');
  });

  test('takes a region up to the very end of the user address space', () => {
    const uva = 2n ** 64n - decoded.size;
    expect(codeOf(() => m.validateMemoryRegion({ ...decoded, uva }))).toBe('none');
  });

  test('overlap in guest-physical or in user addresses, against a naive model', () => {
    const small = fc.bigInt(0n, 12n);
    const any = fc.record({ gpa: small, uva: small, size: fc.bigInt(1n, 5n), mmapOffset: fc.constant(0n) });
    const covers = (start: bigint, size: bigint, at: bigint): boolean => at >= start && at < start + size;
    fc.assert(
      fc.property(any, any, (a, b) => {
        let shared = false;
        for (let at = 0n; at < 20n; at++) {
          shared ||= covers(a.gpa, a.size, at) && covers(b.gpa, b.size, at);
          shared ||= covers(a.uva, a.size, at) && covers(b.uva, b.size, at);
        }
        expect(m.regionsOverlap(a, b)).toBe(shared);
        expect(m.regionsOverlap(b, a)).toBe(shared);
      }),
    );
  });

  test('a dirty log', () => {
    expect(m.decodeLogBase(view(logBase(0x1000n, 0x2000n)))).toEqual({ size: 0x1000, offset: 0x2000 });
    for (const [size, offset] of [
      [0n, 0n],
      [2n ** 64n - 1n, 1n],
      [2n ** 53n, 1n],
    ]) {
      expect(codeOf(() => m.decodeLogBase(view(logBase(size, offset))))).toBe('VU_ERR_LOG');
    }
  });
});

describe('configuration space', () => {
  test('the reply has what was asked for, zeros past the end', () => {
    const space = m.netConfigSpace(9000);
    const bytes = m.encodeConfigReply(24, { offset: 10, size: 32, flags: 0 }, space);
    expect(bytes.length).toBe(12 + 12 + 32);
    expect(view(bytes).getUint32(8, true)).toBe(44);
    expect(view(bytes).getUint32(12, true)).toBe(10);
    expect(view(bytes).getUint32(16, true)).toBe(32);
    expect(view(bytes).getUint16(24, true)).toBe(9000);
    expect(bytes.subarray(26).every((byte) => byte === 0)).toBe(true);
  });

  test('out of range: an empty payload says so', () => {
    const bytes = m.encodeConfigReply(24, { offset: 250, size: 8, flags: 0 }, m.netConfigSpace(1500));
    expect(bytes).toEqual(hex('18 00 00 00 05 00 00 00 00 00 00 00'));
  });

  test('a message must be as long as it says', () => {
    expect(m.decodeConfigRange(view(config(0, 6)))).toEqual({ offset: 0, size: 6, flags: 0 });
    expect(m.decodeConfigRange(view(config(0, 6, 7)))).toBeNull();
    expect(m.decodeConfigRange(view(config(0, 0xffff_ffff, 4)))).toBeNull();
    expect(m.decodeConfigRange(view(new Uint8Array(11)))).toBeNull();
  });
});
