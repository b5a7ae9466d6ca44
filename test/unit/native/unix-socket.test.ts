import { chmodSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AGAIN, childWith, E, native, ok, openFds } from '../../support/native/addon';

let dir: string;
let before: Map<number, string>;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-'));
  before = openFds();
});

afterEach(() => {
  rmSync(dir, { recursive: true });
  expect([...openFds().keys()].sort()).toEqual([...before.keys()].sort()); // no descriptor leaked by any test
});

function pair(): [number, number] {
  const out = new Int32Array(2);
  ok(native.unixPair(out));
  return [out[0] ?? -1, out[1] ?? -1];
}

describe('unixListen', () => {
  test('mode 0600 whatever the umask, and connects', () => {
    const path = join(dir, 'a.sock');
    const umask = process.umask(0);
    const listener = ok(native.unixListen(path, 1));
    process.umask(umask);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(native.unixAccept(listener)).toBe(AGAIN);
    const client = ok(native.unixConnect(path));
    const server = ok(native.unixAccept(listener));
    expect(native.write(client, Buffer.from('hello'), 1, 4)).toBe(4);
    const got = Buffer.alloc(10);
    expect(native.read(server, got, 2, 8)).toBe(4);
    expect(got.toString('latin1')).toBe('\0\0ello\0\0\0\0');
    for (const fd of [client, server, listener]) native.close(fd);
    expect(native.unixConnect(path)).toBe(-E.CONNREFUSED);
  });

  test('replaces a stale socket, not a living one', () => {
    const path = join(dir, 'b.sock');
    native.close(ok(native.unixListen(path, 1)));
    const listener = ok(native.unixListen(path, 1));
    expect(native.unixListen(path, 1)).toBe(-E.ADDRINUSE);
    // Its backlog full, it still lives.
    const clients: number[] = [];
    let fd = native.unixConnect(path);
    for (; fd >= 0; fd = native.unixConnect(path)) clients.push(fd);
    expect(fd).toBe(AGAIN);
    expect(native.unixListen(path, 1)).toBe(-E.ADDRINUSE);
    for (const open of [...clients, listener]) native.close(open);
    expect(existsSync(path)).toBe(true);
  });

  test('never replaces what is not a socket', () => {
    const path = join(dir, 'file');
    writeFileSync(path, 'precious');
    expect(native.unixListen(path, 1)).toBe(-E.ADDRINUSE);
    expect(existsSync(path)).toBe(true);
  });

  test('refuses paths the kernel cannot hold', () => {
    const longest = join(dir, 'x'.repeat(107 - dir.length - 1));
    native.close(ok(native.unixListen(longest, 1)));
    expect(native.unixListen(`${longest}x`, 1)).toBe(-E.NAMETOOLONG);
    expect(native.unixConnect(`${longest}x`)).toBe(-E.NAMETOOLONG);
    expect(native.unixListen('', 1)).toBe(-E.INVAL);
    expect(native.unixListen(`${dir}/a\0b`, 1)).toBe(-E.INVAL);
    expect(native.unixConnect(join(dir, 'nobody'))).toBe(-2);
    chmodSync(dir, 0o700);
  });
});

describe('descriptors', () => {
  const bytes = Buffer.from('message');

  test('travel with bytes, close-on-exec, in order', () => {
    const [a, b] = pair();
    const first = ok(native.eventFd(3));
    const second = ok(native.memfdCreate('x', 99, 0));
    expect(native.sendFds(a, bytes, 0, 7, Int32Array.of(first, second), 2)).toBe(7);
    const fds = new Int32Array(9);
    const got = Buffer.alloc(20);
    expect(native.recvFds(b, got, 5, 15, fds)).toBe(7);
    expect(got.toString('latin1', 5, 12)).toBe('message');
    expect(fds[0]).toBe(2);
    const [, newFirst = -1, newSecond = -1] = fds;
    expect(native.drain(newFirst)).toBe(3);
    expect(native.fileSize(newSecond)).toBe(99);
    for (const fd of [newFirst, newSecond]) {
      expect(native.close(fd)).toBe(0);
      expect(native.close(fd)).toBe(-E.BADF);
    }
    expect(native.recvFds(b, got, 0, 20, fds)).toBe(AGAIN);
    expect(fds[0]).toBe(0);
    expect(native.sendFds(a, bytes, 0, 7, fds, 0)).toBe(7);
    native.close(a);
    expect(native.recvFds(b, got, 0, 20, fds)).toBe(7);
    expect(native.recvFds(b, got, 0, 20, fds)).toBe(0);
    expect(native.sendFds(b, bytes, 0, 7, fds, 0)).toBe(-E.PIPE);
    for (const fd of [b, first, second]) native.close(fd);
  });

  test.each([0, 1, 8])('more than the %d there is room for: all closed', (room) => {
    const [a, b] = pair();
    const event = ok(native.eventFd(0));
    const many = new Int32Array(room + 1).fill(event);
    expect(native.sendFds(a, bytes, 0, 7, many, room + 1)).toBe(7);
    const open = openFds().size;
    const fds = new Int32Array(room + 1);
    expect(native.recvFds(b, Buffer.alloc(7), 0, 7, fds)).toBe(-E.MSGSIZE);
    expect(fds[0]).toBe(0);
    expect(native.closerWait(1000)).toBe(0);
    expect(openFds().size).toBe(open);
    for (const fd of [a, b, event]) native.close(fd);
  });

  test('without room in our own table: all closed, and that is said, not that there were too many', () => {
    const { out } = childWith(
      ['prlimit', '--nofile=64:64'],
      `const pair = new Int32Array(2);
       native.unixPair(pair);
       const bytes = Buffer.from('message');
       const event = native.eventFd(0);
       const fds = new Int32Array(9);
       const results = [];
       // Room for none of two, and for one of two.
       for (const room of [0, 1]) {
         native.sendFds(pair[0], bytes, 0, 7, Int32Array.of(event, event), 2);
         const filling = [];
         for (let fd = native.eventFd(0); fd >= 0; fd = native.eventFd(0)) filling.push(fd);
         for (let i = 0; i < room; i++) native.close(filling.pop());
         results.push(native.recvFds(pair[1], bytes, 0, 7, fds), fds[0], native.closerWait(1000));
         const free = native.eventFd(0);
         results.push(free >= 0);
         native.close(free);
         for (const fd of filling) native.close(fd);
         // The bytes were taken: what follows is read as what it is.
         results.push(native.recvFds(pair[1], bytes, 0, 7, fds));
       }
       console.log(results.join(' '));`,
    );
    expect(out).toBe('-24 0 0 false -11 -24 0 0 true -11\n');
  });

  test('64 at once', () => {
    const [a, b] = pair();
    const event = ok(native.eventFd(0));
    expect(native.sendFds(a, bytes, 0, 7, new Int32Array(64).fill(event), 64)).toBe(7);
    const fds = new Int32Array(65);
    expect(native.recvFds(b, Buffer.alloc(7), 0, 7, fds)).toBe(7);
    expect(fds[0]).toBe(64);
    for (const fd of fds.subarray(1)) expect(native.close(fd)).toBe(0);
    for (const fd of [a, b, event]) native.close(fd);
  });

  test('all that the kernel sends at once (253), of which a receiver keeps none if it is more than it takes', () => {
    const [a, b] = pair();
    const event = ok(native.eventFd(0));
    expect(native.sendFds(a, bytes, 0, 7, new Int32Array(254).fill(event), 254)).toBe(-E.INVAL);
    expect(native.sendFds(a, bytes, 0, 7, new Int32Array(253).fill(event), 253)).toBe(7);
    expect(native.recvFds(b, Buffer.alloc(7), 0, 7, new Int32Array(65))).toBe(-E.MSGSIZE);
    expect(native.closerWait(1000)).toBe(0);
    for (const fd of [a, b, event]) native.close(fd);
  });

  test('ranges are checked', () => {
    const [a, b] = pair();
    const buf = Buffer.alloc(4);
    const fds = new Int32Array(3);
    for (const [offset, length] of [
      [-1, 2],
      [0, 5],
      [4, 1],
      [0, -1],
      [2 ** 31 - 1, 2 ** 31 - 1],
    ] as const) {
      expect(native.recvFds(a, buf, offset, length, fds)).toBe(-E.INVAL);
      expect(native.sendFds(a, buf, offset, length, fds, 0)).toBe(-E.INVAL);
      expect(native.read(a, buf, offset, length)).toBe(-E.INVAL);
      expect(native.write(a, buf, offset, length)).toBe(-E.INVAL);
    }
    expect(native.sendFds(a, buf, 0, 4, fds, 4)).toBe(-E.INVAL);
    expect(native.sendFds(a, buf, 0, 4, fds, -1)).toBe(-E.INVAL);
    expect(native.sendFds(a, buf, 0, 4, Int32Array.of(-1), 1)).toBe(-E.BADF);
    expect(native.recvFds(a, buf, 0, 4, new Int32Array(0))).toBe(-E.INVAL);
    for (const fd of [a, b]) native.close(fd);
  });
});
