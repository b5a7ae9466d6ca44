/** eventfds and other doorbells, epoll, and libuv polls. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT } from '../../../src/stack/ports';
import { FD_EVENTFD, FD_MEMORY, FD_OTHER, FD_PIPE, FD_SOCKET } from '../../../src/native';
import { AGAIN, E, child, native, ok } from '../../support/native/addon';

function pair(): [number, number] {
  const out = new Int32Array(2);
  ok(native.unixPair(out));
  return [out[0] ?? -1, out[1] ?? -1];
}

function isNonBlocking(fd: number): boolean {
  const flags = /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${String(fd)}`, 'utf8'))?.[1] ?? '';
  return (parseInt(flags, 8) & 0o4000) !== 0;
}

describe('doorbells', () => {
  test('an eventfd counts, is drained at once, and empty is 0', () => {
    const fd = ok(native.eventFd(0));
    expect(native.drain(fd)).toBe(0);
    expect(native.signal(fd)).toBe(0);
    expect(native.signal(fd)).toBe(0);
    expect(native.drain(fd)).toBe(2);
    expect(native.drain(fd)).toBe(0);
    native.close(fd);
    expect(native.signal(fd)).toBe(-E.BADF);
    expect(native.drain(fd)).toBe(-E.BADF);
  });

  test('a full eventfd is a signal pending, and drains as nonzero', () => {
    const fd = ok(native.eventFd(0));
    const most = Buffer.alloc(8);
    most.writeBigUInt64LE(2n ** 64n - 2n);
    expect(native.write(fd, most, 0, 8)).toBe(8);
    expect(native.signal(fd)).toBe(0);
    expect(native.drain(fd)).toBeGreaterThan(0);
    most.writeBigUInt64LE(2n ** 31n);
    native.write(fd, most, 0, 8);
    expect(native.drain(fd)).toBe(1); // the low 31 bits are 0, the counter was not
    native.close(fd);
  });

  test('neither blocks on descriptors without O_NONBLOCK', () => {
    const event = ok(native.eventFd(0));
    const [a, b] = pair();
    // Cleared behind our back, as a front-end that shares the file descriptions can: libuv makes a child's standard
    // streams blocking.
    spawnSync('true', { stdio: [event, a, b] });
    for (const fd of [event, a, b]) expect(isNonBlocking(fd)).toBe(false);
    expect(native.drain(event)).toBe(0);
    expect(native.drain(b)).toBe(0);
    const most = Buffer.alloc(8);
    most.writeBigUInt64LE(2n ** 64n - 2n);
    native.write(event, most, 0, 8);
    expect(native.signal(event)).toBe(0);
    let worst = 0;
    for (let i = 0; i < 100_000; i++) worst = Math.min(worst, native.signal(a)); // far more than the socket holds
    expect(worst).toBe(0);
    expect(native.drain(b)).toBeGreaterThan(0);
    expect(native.setNonBlocking(event)).toBe(0);
    expect(native.write(event, most, 0, 8)).toBe(AGAIN);
    for (const fd of [event, a, b]) native.close(fd);
  });

  test('a stream socket is one too; a dead one is -EPIPE', () => {
    const [a, b] = pair();
    expect(native.drain(b)).toBe(0);
    expect(native.signal(a)).toBe(0);
    expect(native.drain(b)).toBe(1);
    native.signal(a);
    native.signal(a);
    expect(native.drain(b)).toBe(2);
    native.close(b);
    expect(native.signal(a)).toBe(-E.PIPE);
    expect(native.drain(a)).toBe(-E.PIPE);
    native.close(a);
  });

  test('notify does the same by the kind of file, and waits for no pipe or socket', () => {
    const event = ok(native.eventFd(0));
    const [a, b] = pair();
    const dir = mkdtempSync(join(tmpdir(), 'tubetti-'));
    spawnSync('mkfifo', [join(dir, 'fifo')]);
    const fifo = openSync(join(dir, 'fifo'), 'r+');
    const ends = [
      [event, event],
      [a, b],
      [fifo, fifo],
    ] as const;
    for (const [to, from] of ends) {
      const kind = ok(native.fdKind(to));
      expect([native.notify(to, kind), native.notify(to, kind), native.drain(from)]).toEqual([0, 0, 2]);
    }
    spawnSync('true', { stdio: [fifo, a, b] }); // blocking from now on
    for (const fd of [a, fifo]) {
      const kind = ok(native.fdKind(fd));
      let worst = 0;
      for (let i = 0; i < 100_000; i++) worst = Math.min(worst, native.notify(fd, kind));
      expect(worst).toBe(0);
    }
    const most = Buffer.alloc(8);
    most.writeBigUInt64LE(2n ** 64n - 2n);
    native.write(event, most, 0, 8);
    spawnSync('true', { stdio: [event] }); // blocking as well
    expect(native.notify(event, FD_EVENTFD)).toBe(0);
    expect(native.signal(event)).toBe(0);
    // The kernel itself rang it, which goes up to 2^64 - 1, where a write would wait: no look before it that may be late.
    expect(native.drain(event)).toBe(0x7fffffff);
    native.close(b);
    expect(native.notify(a, FD_SOCKET)).toBe(-E.PIPE);
    for (const fd of [event, a]) native.close(fd);
    expect(native.notify(event, FD_EVENTFD)).toBe(-E.BADF);
    closeSync(fifo);
    rmSync(dir, { recursive: true });
  });

  test('fdKind', () => {
    const event = ok(native.eventFd(0));
    const [a, b] = pair();
    const memfd = ok(native.memfdCreate('kind', 1, 0));
    const nul = openSync('/dev/null', 'r');
    const dir = mkdtempSync(join(tmpdir(), 'tubetti-'));
    spawnSync('mkfifo', [join(dir, 'fifo')]);
    const fifo = openSync(join(dir, 'fifo'), 'r+');
    const kinds = [event, a, memfd, nul, fifo].map((fd) => native.fdKind(fd));
    expect(kinds).toEqual([FD_EVENTFD, FD_SOCKET, FD_MEMORY, FD_OTHER, FD_PIPE]);
    expect([native.signal(fifo), native.drain(fifo), native.drain(fifo)]).toEqual([0, 1, 0]);
    closeSync(fifo);
    rmSync(dir, { recursive: true });
    for (const fd of [event, a, b, memfd]) native.close(fd);
    closeSync(nul);
    expect(native.fdKind(event)).toBe(-E.BADF);
  });
});

describe('epoll', () => {
  const KEY = (70 << 24) | 5;
  let event: number;

  beforeEach(() => {
    expect(native.epollInit()).toBeGreaterThanOrEqual(0);
    event = ok(native.eventFd(0));
  });

  afterEach(() => {
    native.close(event);
  });

  test('reports key, generation and events, all 32 bits of each', () => {
    expect(native.watch(event, EPOLLIN, KEY, 7)).toBe(0);
    expect(native.epollWait(0)).toBe(0);
    native.signal(event);
    expect(native.epollWait(-1)).toBe(1);
    expect([...native.epollOut.subarray(0, 3)]).toEqual([KEY, 7, EPOLLIN]);
    expect(native.epollWait(0)).toBe(1); // level-triggered
    expect(native.rewatch(event, EPOLLIN | EPOLLET, -1, -2)).toBe(0);
    expect(native.epollWait(0)).toBe(1);
    expect([...native.epollOut.subarray(0, 3)]).toEqual([-1, -2, EPOLLIN]);
    expect(native.epollWait(0)).toBe(0); // edge-triggered
    expect(native.watch(event, EPOLLIN, 1, 1)).toBe(-E.EXIST);
    expect(native.unwatch(event)).toBe(0);
    expect(native.unwatch(event)).toBe(-2);
    native.signal(event);
    expect(native.epollWait(0)).toBe(0);
  });

  test('a reused descriptor number has its own generation', () => {
    native.watch(event, EPOLLIN, KEY, 1);
    native.close(event);
    const next = ok(native.eventFd(1));
    expect(next).toBe(event);
    expect(native.watch(next, EPOLLIN, KEY, 2)).toBe(0);
    expect(native.epollWait(0)).toBe(1);
    expect(native.epollOut[1]).toBe(2);
  });

  test('hang-up of a socket, several events at once', () => {
    const [a, b] = pair();
    native.watch(a, EPOLLIN | EPOLLOUT, 1, 1);
    native.watch(event, EPOLLIN, 2, 2);
    native.signal(event);
    native.close(b);
    expect(native.epollWait(0)).toBe(2);
    const seen = new Map([0, 3].map((i) => [native.epollOut[i], native.epollOut[i + 2]]));
    expect(seen.get(2)).toBe(EPOLLIN);
    expect(Number(seen.get(1)) & EPOLLHUP).toBe(EPOLLHUP);
    native.close(a);
  });

  test('waits for µs, not ms', () => {
    const waits: number[] = [];
    for (let i = 0; i < 50; i++) {
      const start = native.nowUs();
      expect(native.epollWait(100)).toBe(0);
      waits.push(native.nowUs() - start);
    }
    waits.sort((a, b) => a - b);
    // The least of many, for the machine may be busy; but not the very least, for a virtual machine's clock is set on.
    expect(waits[10]).toBeGreaterThanOrEqual(99);
    expect(waits[0]).toBeLessThan(1000);
    expect(native.epollWait(NaN)).toBe(0);
  });

  test('without epollInit a thread has none', () => {
    expect(child('console.log(native.epollWait(0), native.watch(0, 1, 1, 1));').out).toBe('-9 -9\n');
  });
});

describe('pollStart', () => {
  test('calls back while ready, until stopped; changes', async () => {
    const fd = ok(native.eventFd(0));
    const seen: number[] = [];
    await new Promise<void>((settle) => {
      const handle = native.pollStart(fd, 1, (events) => {
        seen.push(events);
        if (seen.length === 2) native.drain(fd);
        if (seen.length === 2) native.pollChange(handle, 4); // now writable
        if (events === 4) {
          expect(native.pollStop(handle)).toBe(0);
          expect(native.pollStop(handle)).toBe(-E.INVAL);
          settle();
        }
      });
      expect(handle).toBeGreaterThanOrEqual(0);
      native.signal(fd);
    });
    expect(seen).toEqual([1, 1, 4]);
    native.close(fd);
  });

  test('end of stream and hang-up', async () => {
    const [a, b] = pair();
    const events = await new Promise<number>((settle) => {
      const handle = native.pollStart(a, 1 | 8, (got) => {
        native.pollStop(handle);
        settle(got);
      });
      native.close(b);
    });
    expect(events).toBe(1 | 8);
    native.close(a);
  });

  test('refuses bad descriptors and arguments', () => {
    expect(native.pollStart(-1, 1, () => undefined)).toBeLessThan(0);
    expect(native.pollStart(0, 2, () => undefined)).toBe(-E.INVAL);
    expect(native.pollStop(12345)).toBe(-E.INVAL);
    expect(native.pollChange(-1, 1)).toBe(-E.INVAL);
    const pollStart = native.pollStart as unknown as (...args: unknown[]) => number;
    expect(() => pollStart(0, 1)).toThrow('pollStart(fd, events, callback)');
  });

  test('microtasks run after each callback, exceptions are uncaught exceptions, and the loop lives on', () => {
    const { status, out } = child(
      `const fd = native.eventFd(1);
       process.on('uncaughtException', (error) => console.log('uncaught', error.message));
       let n = 0;
       const handle = native.pollStart(fd, 1, () => {
         n++;
         Promise.resolve().then(() => console.log('microtask', n));
         if (n === 1) throw new Error('boom');
         native.pollStop(handle);
       });`,
    );
    expect(out).toBe('uncaught boom\nmicrotask 1\nmicrotask 2\n');
    expect(status).toBe(0);
  });

  test('an uncaught exception ends the process, with polls open', () => {
    const { status, out } = child(
      `native.pollStart(native.eventFd(0), 1, () => {});
       native.pollStart(native.eventFd(1), 1, () => { throw new Error('boom'); });`,
    );
    expect(out).toContain('Error: boom');
    expect(status).not.toBe(0);
    expect(status).not.toBeNull();
  });

  test('the handle keeps the loop alive, and process.exit closes it', () => {
    const { status, out } = child(
      `native.pollStart(native.eventFd(0), 1, () => {});
       setTimeout(() => { console.log('alive'); process.exit(7); }, 50).unref();`,
    );
    expect(out).toBe('alive\n');
    expect(status).toBe(7);
  });
});
