/** The TFTP server on the link, by a client of the tests' own; files are answered at once, unless a test holds them back. */
import { FILE_ABSENT, FILE_OK, type FileRequest, NO_EXTRAS } from '../../../../src/stack/config';
import { CHUNK, TRANSFERS } from '../../../../src/stack/link/tftp';
import { tftpRequest } from '../../../../src/stack/wire/tftp';
import { bytes, datagram, dissect, linkRig, u16 } from '../../../support/stack/link-rig';
import type { LinkRig } from '../../../support/stack/link-rig';
import { readRequest, tftpGet, type TftpLink } from '../../../support/stack/tftp-client';

const G4 = '192.0.2.10';
const OURS4 = '192.0.2.1';
const G6 = '2001:db8::10';
const OURS6 = '2001:db8::69';

const content = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 8)) & 0xff);

interface Rig extends LinkRig {
  readonly asked: FileRequest[];
  /** Answers the oldest question. */
  answer(): void;
  stamp: number;
  link(version?: 4 | 6, lose?: (frame: number) => boolean): TftpLink;
}

function rigWith(files: Readonly<Record<string, Uint8Array>>, held = false): Rig {
  const asked: FileRequest[] = [];
  const base = linkRig({ extras: { ...NO_EXTRAS, tftp: true } }, {}, {}, {}, (request) => {
    asked.push(request);
  });
  const rig: Rig = {
    ...base,
    asked,
    stamp: 1,
    answer: () => {
      const { slot, id, name, offset, length } = asked.shift()!;
      const file = files[name];
      const status = file === undefined ? FILE_ABSENT : FILE_OK;
      const data = file?.subarray(offset, offset + length) ?? new Uint8Array(0);
      base.stack.fileRead({ slot, id, offset, status, size: file?.length ?? 0, stamp: rig.stamp, data });
    },
    link: (version = 4, lose = () => false) => {
      const inbox: Uint8Array[] = [];
      let count = 0;
      const collect = (frames: readonly Uint8Array[]): void => {
        for (const frame of frames) if (!lose(count++)) inbox.push(frame);
      };
      const step = (): void => {
        if (asked.length > 0 && !held) rig.answer();
        else {
          base.clock.advance(1000);
          base.stack.onTimer();
        }
        collect(base.port.sent());
      };
      return {
        from: version === 4 ? G4 : G6,
        to: version === 4 ? OURS4 : OURS6,
        send: (frame) => {
          collect(base.exchange(frame));
        },
        receive: async (port) => {
          for (let i = 0; i < 1000; i++) {
            const frame = inbox.shift();
            if (frame === undefined) step();
            else if (dissect(frame).dstPort === port) return frame;
          }
          throw new Error('nothing came');
        },
      };
    },
  };
  return rig;
}

describe.each([4, 6] as const)('IPv%d', (version) => {
  test.each([0, 1, 511, 512, 513, 1024, 70_000])('a file of %d bytes, block by block', async (length) => {
    const file = content(length);
    const { data, blocks, options } = await tftpGet(rigWith({ f: file }).link(version), 'f');
    expect([data?.equals(file), blocks, options.size]).toEqual([true, Math.floor(length / 512) + 1, 0]);
  });

  test('with all options, over several pieces', async () => {
    const file = content(3 * CHUNK + 17);
    const rig = rigWith({ f: file });
    const asked = { blksize: 1468, tsize: 0, timeout: 3, windowsize: 16 };
    const { data, options } = await tftpGet(rig.link(version), 'f', asked);
    expect(data?.equals(file)).toBe(true);
    expect(Object.fromEntries(options)).toEqual({
      blksize: '1468',
      tsize: String(file.length),
      timeout: '3',
      windowsize: '16',
    });
    expect(rig.stack.nextDeadline()).toBe(Infinity);
  });

  test('every seventh frame is lost', async () => {
    const file = content(100_000);
    const link = rigWith({ f: file }).link(version, (frame) => frame % 7 === 6);
    expect((await tftpGet(link, 'f', { windowsize: 4 })).data?.equals(file)).toBe(true);
    expect((await tftpGet(link, 'f', {}, 2001)).data?.equals(file)).toBe(true);
  });
});

test('block numbers begin again after 65535', async () => {
  const file = content(8 * 70_000);
  const { data, blocks } = await tftpGet(rigWith({ f: file }).link(), 'f', { blksize: 8, windowsize: 32 });
  expect([data?.equals(file), blocks]).toEqual([true, 70_001]);
});

test('options are bounded, and unknown ones passed over', async () => {
  const { options } = await tftpGet(rigWith({ f: content(10) }).link(), 'f', {
    blksize: 65464,
    windowsize: 65535,
    multicast: 1,
  });
  expect(Object.fromEntries(options)).toEqual({ blksize: '4000', windowsize: '16' });
  expect((await tftpGet(rigWith({ f: content(10) }).link(), 'f', { blksize: 7, timeout: 0 })).options.size).toBe(0);
  const small = rigWith({ f: content(10) });
  small.stack.setMtu(1500);
  small.port.sent();
  expect((await tftpGet(small.link(), 'f', { blksize: 1500 })).options.get('blksize')).toBe('1448');
});

test.each<[string, Uint8Array, string]>([
  ['a file that is not there', readRequest('nothing'), '1 File not found'],
  ['to write', bytes([0, 2], readRequest('f').subarray(2)), '2 This server is for reading only'],
  ['text mode', readRequest('f', {}, 'netascii'), '0 Only mode octet is supported'],
  ['no mode', bytes([0, 1], [...Buffer.from('f\0')]), '4 Malformed request'],
  ['no zero at the end', bytes([0, 1], [...Buffer.from('f\0octet')]), '4 Malformed request'],
  ['no name', bytes([0, 1, 0], [...Buffer.from('octet\0')]), '4 Malformed request'],
  ['a name that is not ASCII', bytes([0, 1, 0xc3, 0], [...Buffer.from('octet\0')]), '4 Malformed request'],
  ['more than a request is', readRequest('f'.repeat(600)), '4 Malformed request'],
  ['data', bytes([0, 3, 0, 1, 9]), '2 This server is for reading only'],
])('%s is refused', (_, message, expected) => {
  const rig = rigWith({ f: content(10) });
  const frames = rig.exchange(datagram(G4, 2000, OURS4, 69, message));
  if (rig.asked.length > 0) rig.answer();
  const [frame] = [...frames, ...rig.port.sent()];
  const answer = Buffer.from(dissect(frame).payload);
  expect(answer.readUInt16BE(0)).toBe(5);
  expect(`${answer.readUInt16BE(2)} ${answer.toString('latin1', 4, answer.length - 1)}`).toBe(expected);
});

test('an error and an ACK that belong to nothing are not answered; other addresses and ports are not ours', () => {
  const rig = rigWith({ f: content(10) });
  expect(rig.exchange(datagram(G4, 2000, OURS4, 69, bytes([0, 5, 0, 0, 0])))).toEqual([]);
  expect(rig.exchange(datagram(G4, 2000, OURS4, 69, bytes([0, 4, 0, 0])))).toEqual([]);
  expect(rig.udp.frames).toHaveLength(0);
  rig.exchange(datagram(G4, 2000, '9.9.9.9', 69, readRequest('f')));
  rig.exchange(datagram(G4, 2000, OURS4, 70, readRequest('f')));
  expect([rig.udp.frames.length, rig.asked.length]).toEqual([2, 0]);
  const without = linkRig();
  without.exchange(datagram(G4, 2000, OURS4, 69, readRequest('f')));
  expect(without.udp.frames).toHaveLength(1);
});

test('a flood of requests: as many transfers as there are, one question each, one answer each; then it is over', () => {
  const rig = rigWith({ f: content(10) }, true);
  let answers = 0;
  for (let i = 0; i < 5000; i++) answers += rig.exchange(datagram(G4, 1000 + i, OURS4, 69, readRequest('f'))).length;
  expect([rig.asked.length, answers]).toEqual([TRANSFERS, 5000 - TRANSFERS]);
  for (let i = 0; i < TRANSFERS; i++) rig.answer();
  expect(rig.port.sent()).toHaveLength(TRANSFERS);
  let sent = 0;
  for (let i = 0; i < 100; i++) {
    rig.clock.advance(1000);
    rig.stack.onTimer();
    sent += rig.port.sent().length;
  }
  expect(sent).toBe(5 * TRANSFERS);
  expect(rig.stack.nextDeadline()).toBe(Infinity);
});

test('a request that comes again opens nothing; an answer that comes late belongs to nobody', () => {
  const rig = rigWith({ f: content(10) }, true);
  for (let i = 0; i < 10; i++) rig.exchange(datagram(G4, 2000, OURS4, 69, readRequest('f')));
  expect(rig.asked).toHaveLength(1);
  rig.clock.advance(10_000);
  rig.stack.onTimer();
  rig.answer();
  expect(rig.port.sent()).toEqual([]);
});

test('another client cannot acknowledge, and an acknowledgement of what was not sent is none', () => {
  const rig = rigWith({ f: content(2000) });
  rig.exchange(datagram(G4, 2000, OURS4, 69, readRequest('f')));
  rig.answer();
  const { srcPort } = dissect(rig.port.sent()[0]);
  const ack = (port: number, block: number): number =>
    rig.exchange(datagram(G4, port, OURS4, srcPort, bytes([0, 4], u16(block)))).length;
  expect([ack(2001, 1), ack(2000, 2), ack(2000, 0), ack(2000, 65535)]).toEqual([0, 0, 0, 0]);
  expect(ack(2000, 1)).toBe(1);
});

test('a file that changes under a transfer ends it', async () => {
  const rig = rigWith({ f: content(2 * CHUNK) });
  const link = rig.link();
  const { send } = link;
  let acks = 0;
  const changing: TftpLink = {
    ...link,
    send: (frame) => {
      if (++acks === 100) rig.stamp = 2;
      send(frame);
    },
  };
  expect((await tftpGet(changing, 'f', { blksize: 1024 })).error).toBe('0 File changed');
});

test('random requests never throw', () => {
  for (let i = 0; i < 20_000; i++) {
    const length = 2 + Math.floor(Math.random() * 60);
    const all = Uint8Array.from({ length }, () => (Math.random() < 0.4 ? 0 : 32 + Math.random() * 96));
    tftpRequest(new DataView(all.buffer), 0, length);
  }
});

test('DHCP names us as the server', () => {
  const extras = { ...NO_EXTRAS, tftp: true, boot: { file: 'k', server4: null, server6: null } };
  const rig = linkRig({ extras });
  const fixed = bytes('01 01 06 00 deadbeef 00000000', new Uint8Array(16), '525400123456', new Uint8Array(202));
  const offer = rig.exchange(datagram('0.0.0.0', 68, '255.255.255.255', 67, bytes(fixed, '63825363 350101 ff')))[0];
  expect(Buffer.from(dissect(offer).payload).subarray(20, 24).toString('hex')).toBe('c0000201');
  const ask = bytes([11], 'ab cd ef', '0001 000a 0003 0001 525400123456');
  const reply = rig.exchange(datagram('fe80::7', 546, 'ff02::1:2', 547, ask))[0];
  expect(Buffer.from(dissect(reply).payload).toString('latin1')).toContain('tftp://[2001:db8::69]/k');
});
