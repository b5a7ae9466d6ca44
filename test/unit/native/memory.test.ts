import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { F_SEAL_GROW, F_SEAL_SHRINK } from '../../../src/native';
import { AF_INET, SOCK_UDP } from '../../../src/stack/ports';
import { collectGarbage } from '../../support/collect-garbage';
import { ADDON, E, child, native, ok, openFds, region, setRows, testAddon } from '../../support/native/addon';

/** Regions in use, when those that earlier tests have left are gone: none goes while a test counts. */
async function regionsInUse(): Promise<number> {
  let count = -1;
  for (let same = 0; same < 3; same++) {
    collectGarbage();
    await turn();
    if (native.regionCount() !== count) same = 0;
    count = native.regionCount();
  }
  return count;
}

function memfd(size: number, fill?: (bytes: Buffer) => void): number {
  const fd = ok(native.memfdCreate('test', size, 0));
  if (fill) {
    const bytes = Buffer.alloc(size);
    fill(bytes);
    expect(native.write(fd, bytes, 0, size)).toBe(size);
  }
  return fd;
}

describe('mapRegion', () => {
  test('shares the file both ways, after its descriptor was closed', () => {
    const fd = memfd(8192);
    const a = ok(native.mapRegion(fd, 0, 8192));
    const b = ok(native.mapRegion(fd, 4096, 4096));
    native.close(fd);
    expect(native.regionLength(a)).toBe(8192);
    const first = new Uint8Array(native.regionBuffer(a));
    const second = new Uint8Array(native.regionBuffer(b));
    first[4096] = 7;
    second[4095] = 9;
    expect(second[0]).toBe(7);
    expect(first[8191]).toBe(9);
    expect(native.retireRegion(a)).toBe(0);
    expect(native.retireRegion(b)).toBe(0);
  });

  test('takes an unaligned offset and length', () => {
    const fd = memfd(3 * 4096, (bytes) => bytes.forEach((_, i) => bytes.writeUInt8((i * 7) & 0xff, i)));
    const id = ok(native.mapRegion(fd, 4097, 5001));
    const view = new Uint8Array(native.regionBuffer(id));
    expect(view.length).toBe(5001);
    expect([view[0], view[5000]]).toEqual([(4097 * 7) & 0xff, (9097 * 7) & 0xff]);
    native.retireRegion(id);
    native.close(fd);
  });

  test('refuses what is not in the file, and what is no file', async () => {
    const before = await regionsInUse();
    const fd = memfd(4096);
    expect(native.mapRegion(fd, 0, 4097)).toBe(-E.INVAL);
    expect(native.mapRegion(fd, 4096, 1)).toBe(-E.INVAL);
    expect(native.mapRegion(fd, 0, 0)).toBe(-E.INVAL);
    expect(native.mapRegion(fd, -1, 100)).toBe(-E.INVAL);
    expect(native.mapRegion(fd, 0.5, 100)).toBe(-E.INVAL);
    expect(native.mapRegion(fd, NaN, 100)).toBe(-E.INVAL);
    expect(native.mapRegion(fd, 0, Infinity)).toBe(-E.INVAL);
    expect(native.mapRegion(fd, 2 ** 53 - 1, 2 ** 53 - 1)).toBe(-E.INVAL);
    native.close(fd);
    expect(native.mapRegion(fd, 0, 4096)).toBe(-E.BADF);
    const event = ok(native.eventFd(0));
    expect(native.mapRegion(event, 0, 4096)).toBe(-E.INVAL);
    native.close(event);
    expect(native.regionCount()).toBe(before);
  });

  test('reaches past 4 GiB', () => {
    const size = 12 * 2 ** 30;
    const fd = memfd(size);
    const id = ok(native.mapRegion(fd, 0, size));
    const view = new DataView(native.regionBuffer(id));
    expect(view.byteLength).toBe(size);
    view.setUint32(11 * 2 ** 30, 0xdecade);
    setRows(0, [id, 11 * 2 ** 30, 4]);
    const pipe = new Int32Array(2);
    native.unixPair(pipe);
    expect(native.send(pipe[0] ?? -1, 0, 1, 0)).toBe(4);
    const got = new Uint8Array(4);
    expect(native.read(pipe[1] ?? -1, got, 0, 4)).toBe(4);
    expect([...got]).toEqual([0, 0xde, 0xca, 0xde]);
    native.close(pipe[0] ?? -1);
    native.close(pipe[1] ?? -1);
    native.retireRegion(id);
    native.close(fd);
  });
});

describe('retireRegion', () => {
  test('views read zeros, rows fail, the file is untouched, and only once', () => {
    const fd = memfd(8192, (bytes) => bytes.fill(0x55));
    const id = ok(native.mapRegion(fd, 100, 5000));
    const view = new Uint8Array(native.regionBuffer(id));
    expect(view[4999]).toBe(0x55);
    setRows(0, [id, 0, 10]);
    expect(native.checksum(0, 1, 0)).toBeGreaterThan(0);
    expect(native.retireRegion(id)).toBe(0);
    expect(view.every((byte) => byte === 0)).toBe(true);
    view[0] = 1; // harmless
    expect(native.checksum(0, 1, 0)).toBe(-E.FAULT);
    expect(native.retireRegion(id)).toBe(-E.INVAL);
    expect(() => native.regionBuffer(id)).toThrow('no such memory region');
    const again = ok(native.mapRegion(fd, 100, 5000));
    expect(new Uint8Array(native.regionBuffer(again))[0]).toBe(0x55);
    native.retireRegion(again);
    native.close(fd);
  });

  test('the slot is free at once where no view is left, and only then', () => {
    const { status, out } = child(
      `const before = native.regionCount();
       const id = native.allocRegion(1 << 20);
       native.retireRegion(id);
       if (native.regionCount() !== before) throw new Error('no view, not freed');
       const other = native.allocRegion(1 << 20);
       let held = new Uint8Array(native.regionBuffer(other));
       if (native.retireRegion(other) !== 0) throw new Error('not retired');
       globalThis.gc();
       if (native.regionCount() !== before + 1) throw new Error('freed under a view');
       if (held[77] !== 0) throw new Error('not zero');
       held = null;
       const wait = (left) => {
         globalThis.gc();
         if (native.regionCount() === before) return console.log('collected');
         if (left === 0) throw new Error('leaked');
         setImmediate(wait, left - 1);
       };
       setImmediate(wait, 100);`,
      '--expose-gc',
    );
    expect(out).toBe('collected\n');
    expect(status).toBe(0);
  });

  test('seven thousand regions under views: collected when some hundred wait, not when V8 looks', () => {
    const { out } = child(
      `const fd = native.memfdCreate('t', 1 << 20, 0);
       const numbers = new Set();
       let most = 0;
       let collections = 0;
       const once = () => {
         const id = native.mapRegion(fd, 0, 1 << 20);
         if (id < 0) throw new Error('refused with ' + id);
         numbers.add(id);
         new DataView(native.regionBuffer(id)).getUint8(0);
         native.retireRegion(id);
       };
       for (let i = 0; i < 7000; i++) {
         once();
         collections += native.relieve(1, 1 << 20);
         most = Math.max(most, native.regionCount());
       }
       console.log(most <= 260, collections > 20 && collections < 60, numbers.size);
       // Addresses count as well: 256 GiB.
       const large = native.memfdCreate('t', 2 ** 38, 0);
       const before = native.regionCount();
       (() => { const id = native.mapRegion(large, 0, 2 ** 38); native.regionBuffer(id); native.retireRegion(id); })();
       console.log(native.relieve(1, 2 ** 38), native.relieve(0, 0), native.regionCount() <= before);`,
    );
    expect(out).toBe('true true 7000\n1 0 true\n');
  });

  test('a number that was retired names nothing, whatever took its slot', () => {
    const { out } = child(
      `const stale = native.allocRegion(4096);
       native.retireRegion(stale);
       native.rows.region[0] = stale;
       native.rows.length[0] = 1;
       let same = 0;
       let named = 0;
       for (let i = 0; i < 8 * 4095; i++) {
         const id = native.allocRegion(4096);
         if (id % 4096 === stale % 4096) same++;
         if (native.checksum(0, 1, 0) >= 0 || native.regionLength(stale) >= 0 || native.retireRegion(stale) >= 0) named++;
         native.retireRegion(id);
       }
       console.log(same > 5, named);`,
    );
    expect(out).toBe('true 0\n');
  });

  test('ten thousand regions come and go; a full table says ENFILE', () => {
    const { out } = child(
      `const seen = new Set();
       for (let i = 0; i < 10000; i++) {
         const id = native.allocRegion(4096);
         if (id < 0) throw new Error('leak at ' + i);
         seen.add(id);
         native.retireRegion(id);
       }
       // Numbers are handed out in turn, so that a stale one stays unknown for long.
       console.log(seen.size > 4000, native.regionCount());
       let id = 0;
       while ((id = native.allocRegion(1)) >= 0);
       console.log(id);`,
    );
    expect(out).toBe('true 1\n-23\n');
  });
});

describe('rows', () => {
  test.each([
    ['before the region', [-1, 4]],
    ['past its end', [4093, 4]],
    ['starting past it', [4097, 0]],
    ['a negative length', [0, -1]],
    ['a fraction', [1.5, 4]],
    ['NaN', [NaN, 4]],
    ['infinity', [Infinity, 0]],
    ['a huge length', [1, 0x7fffffff]],
  ])('%s is -EFAULT', (_, [offset = 0, length = 0]) => {
    const { id } = region(4096);
    setRows(0, [id, 0, 4096], [id, offset, length]);
    expect(native.checksum(0, 1, 0)).toBe(0);
    expect(native.checksum(0, 2, 0)).toBe(-E.FAULT);
    expect(native.send(0, 0, 2, 0)).toBe(-E.FAULT);
    expect(native.recv(0, 0, 2, 0)).toBe(-E.FAULT);
    native.retireRegion(id);
  });

  test('unknown regions and rows outside the table', () => {
    for (const id of [0, -1, 4095, 4096, 2 ** 31 - 1]) {
      setRows(0, [id, 0, 0]);
      expect(native.checksum(0, 1, 0)).toBe(-E.FAULT);
    }
    expect(native.checksum(-1, 1, 0)).toBe(-E.INVAL);
    expect(native.checksum(0, -1, 0)).toBe(-E.INVAL);
    expect(native.checksum(native.rows.capacity, 1, 0)).toBe(-E.INVAL);
    expect(native.checksum(native.rows.capacity, 0, 0)).toBe(0);
    expect(native.checksum(0, 1025, 0)).toBe(-E.INVAL);
    expect(native.checksum(0, 2 ** 31 - 1, 0)).toBe(-E.INVAL);
  });

  test('wrong argument types are our bug: TypeError', () => {
    const recv = native.recv as unknown as (...args: unknown[]) => number;
    expect(() => recv(0, 'x', 1, 0)).toThrow('wrong argument type');
    expect(() => recv(0)).toThrow('wrong argument type');
  });
});

describe('a truncated file', () => {
  const map = `const fd = native.memfdCreate('t', 8 * 4096, 0);
     const id = native.mapRegion(fd, 10, 7 * 4096);
     const view = new Uint8Array(native.regionBuffer(id));
     view.fill(5);`;

  test('reads as zeros, page by page, and is counted', () => {
    const { status, signal, out } = child(
      `${map}
       native.ftruncate(fd, 4096);
       console.log(view[0], view[4085], view[4086], view[9000], native.regionFaults(id));
       view[9000] = 3;
       console.log(view[9000], native.regionFaults(id), native.retireRegion(id), view[0], native.regionFaults(id));`,
    );
    expect({ status, signal, out }).toEqual({ status: 0, signal: null, out: '5 5 0 0 2\n3 2 0 0 -22\n' });
  });

  test('a system call on it fails with -EFAULT instead, which is counted as well', () => {
    const { out } = child(
      `${map}
       native.ftruncate(fd, 0);
       native.rows.region[0] = id;
       native.rows.length[0] = 100;
       const pair = new Int32Array(2);
       native.unixPair(pair);
       console.log(native.send(pair[0], 0, 1, 0), native.regionFaults(id), native.recv(pair[0], 0, 1, 0));
       native.rows.region[1] = native.scratchRegion;
       native.rows.length[1] = 10;
       native.send(pair[1], 1, 1, 0);
       native.msgRows[0] = 1;
       for (const column of ['msgPeer', 'msgLocal', 'msgTtl', 'msgTos']) native[column][0] = -1;
       console.log(native.recvMany(pair[0], 0, 1, 0), native.regionFaults(id), native.drain(native.faultEvent()));
       console.log(native.sendMany(pair[0], 0, 1), native.regionFaults(id), native.drain(native.faultEvent()));`,
    );
    expect(out).toBe('-14 1 -11\n-14 2 2\n-14 3 1\n');
  });

  const MAPPINGS = `const { readFileSync } = require('node:fs');
     const mappings = () => readFileSync('/proc/self/maps', 'utf8').split('\\n').length;`;

  test('in many pages of many regions: after some the region goes as a whole, and all are told', () => {
    const { status, signal, out } = child(
      `${MAPPINGS}
       const pages = 1000;
       const size = pages * 4096;
       const fd = native.memfdCreate('t', size, 0);
       const ids = Array.from({ length: 60 }, () => native.mapRegion(fd, 0, size));
       const views = ids.map((id) => new Uint8Array(native.regionBuffer(id)));
       const before = mappings();
       native.ftruncate(fd, 0);
       let sum = 0;
       let most = 0;
       for (let at = 0; at < size; at += 8192) {
         for (const view of views) sum += view[at];
         if (at < 160 * 4096) most = Math.max(most, mappings() - before);
       }
       const faults = ids.map((id) => native.regionFaults(id));
       console.log(sum, Math.max(...faults), Math.min(...faults), native.drain(native.faultEvent()) > 0);
       console.log(most > 100 && most < 1100 ? true : most);
       for (const id of ids) native.retireRegion(id);
       console.log(mappings() < before + 10);
       const again = native.memfdCreate('t', size, 0);
       const id = native.mapRegion(again, 0, size);
       native.ftruncate(again, 0);
       console.log(new Uint8Array(native.regionBuffer(id))[4096 * 7], native.regionFaults(id));`,
    );
    expect({ status, signal, out }).toEqual({ status: 0, signal: null, out: '0 10 9 true\ntrue\ntrue\n0 1\n' });
  });

  test('in two threads at the same time', () => {
    const { status, signal, out } = child(
      `const { Worker, isMainThread } = require('node:worker_threads');
       const size = 4000 * 4096;
       const fds = Array.from({ length: 8 }, () => native.memfdCreate('t', size, 0));
       const ids = fds.map((fd) => native.mapRegion(fd, 0, size));
       const buffers = ids.map((id) => native.regionBuffer(id));
       const gate = new Int32Array(new SharedArrayBuffer(4));
       const touch = \`for (const buffer of buffers) { const view = new Uint8Array(buffer); for (let at = 0; at < view.length; at += 4096) view[at] += 1; }\`;
       const worker = new Worker(
         \`const { buffers, gate } = require('node:worker_threads').workerData; Atomics.add(gate, 0, 1); while (Atomics.load(gate, 0) < 2); \${touch}\`,
         { eval: true, workerData: { buffers, gate } },
       );
       for (const fd of fds) native.ftruncate(fd, 0);
       while (Atomics.load(gate, 0) < 1);
       Atomics.add(gate, 0, 1);
       eval(touch);
       worker.on('exit', (code) => console.log(code, ids.every((id) => native.regionFaults(id) > 32 && native.regionFaults(id) < 40)));`,
    );
    expect({ status, signal, out }).toEqual({ status: 0, signal: null, out: '0 true\n' });
  });

  test('where the process has used all of its mappings', () => {
    const dir = mkdtempSync(join(tmpdir(), 'tubetti-mappings-'));
    try {
      const library = join(dir, 'fill.so');
      execFileSync('c++', ['-shared', '-fPIC', '-Wl,-z,nodelete', '-o', library, join(__dirname, 'fill-mappings.cc')]);
      const { signal, out } = child(
        `const MIB = 2 ** 20;
         const fd = native.memfdCreate('t', 3 * MIB, 0);
         const other = native.memfdCreate('t', MIB, 0);
         // Mapped downwards: the kernel joins these to one mapping, which has to be split where one of them is replaced.
         const ids = [2, 1, 0].map((i) => native.mapRegion(fd, i * MIB, MIB));
         const views = [1, 0, 2].map((i) => new Uint8Array(native.regionBuffer(ids[i])));
         try { process.dlopen({ exports: {} }, ${JSON.stringify(library)}); } catch {} // it is no addon
         let sum = 0;
         const touch = () => { for (const view of views) for (let at = 4096; at < MIB; at += 8192) sum += view[at]; };
         touch();
         native.ftruncate(fd, 0);
         process.kill(process.pid, 'SIGUSR2');
         const refused = native.mapRegion(other, 0, 1);
         touch();
         process.kill(process.pid, 'SIGUSR2');
         console.log(sum, ids.map((id) => native.regionFaults(id)).join(), refused);
         console.log(native.mapRegion(other, 0, MIB) > 0);`,
      );
      expect({ signal, out }).toEqual({ signal: null, out: '0 1,1,1 -12\ntrue\n' });
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  test('SIGBUS elsewhere stays fatal', () => {
    expect(child(`${map} process.kill(process.pid, 'SIGBUS'); setTimeout(() => {}, 5000);`).signal).toBe('SIGBUS');
  });
});

describe('threads', () => {
  test('a region is one memory in all of them, retired for all of them', async () => {
    const { id, bytes } = region(4096);
    // The worker sees the region by number (rows) and by the posted buffer.
    const worker = new Worker(
      `const { workerData, parentPort } = require('node:worker_threads');
       const native = require(workerData.addon);
       const view = new Uint8Array(workerData.buffer);
       native.rows.region[0] = workerData.id;
       native.rows.length[0] = 4096;
       parentPort.postMessage([view[1], native.checksum(0, 1, 0), new Uint8Array(native.regionBuffer(workerData.id))[1]]);
       // Reads on through views and rows until the region is gone under it.
       let sum = 0;
       let reads = 0;
       do { sum = native.checksum(0, 1, 0); reads += view[reads % 4096]; } while (sum >= 0);
       while (view[1] !== 0);
       parentPort.postMessage([sum, view[1]]);`,
      { eval: true, workerData: { addon: ADDON, id, buffer: bytes.buffer } },
    );
    bytes[1] = 0x22;
    await expect(once(worker, 'message')).resolves.toEqual([[0x22, 0x22, 0x22]]);
    const last = once(worker, 'message');
    expect(native.retireRegion(id)).toBe(0);
    await expect(last).resolves.toEqual([[-E.FAULT, 0]]);
    await worker.terminate();
  });

  test('a worker leaves nothing behind', async () => {
    const epollSets = () => [...openFds().values()].filter((target) => target === 'anon_inode:[eventpoll]').length;
    const regions = await regionsInUse();
    const sets = epollSets();
    for (let i = 0; i < 3; i++) {
      const worker = new Worker(
        `const native = require(require('node:worker_threads').workerData);
         native.epollInit();
         const fd = native.eventFd(1);
         native.pollStart(fd, 1, () => process.exit(0));`,
        { eval: true, workerData: ADDON },
      );
      await once(worker, 'exit');
    }
    expect(native.regionCount()).toBe(regions);
    expect(epollSets()).toBeLessThanOrEqual(sets); // fewer: an earlier test's worker may have been ending
  });

  test('a data plane that dies of an exception takes its sockets along, and no others', async () => {
    const sockets = () => [...openFds().values()].filter((target) => target.startsWith('socket:')).length;
    const mine = ok(native.socket(AF_INET, SOCK_UDP));
    const before = sockets();
    const worker = new Worker(
      `const native = require(require('node:worker_threads').workerData);
       native.epollInit();
       const open = [native.socket(2, 1), native.socket(2, 2), native.socket(10, 2)];
       native.close(open[1]);
       if (open.some((fd) => fd < 0)) process.exit(7);
       throw new Error('on purpose');`,
      { eval: true, workerData: ADDON },
    );
    const [error] = (await once(worker, 'error')) as [Error];
    expect(error.message).toBe('on purpose');
    await worker.terminate();
    expect(sockets()).toBe(before);
    expect(native.close(mine)).toBe(0);
  });
});

test('memfd, seals and sizes', () => {
  const fd = ok(native.memfdCreate('sealed', 4096, F_SEAL_SHRINK | F_SEAL_GROW));
  expect(testAddon.seals(fd)).toBe(F_SEAL_SHRINK | F_SEAL_GROW);
  expect(native.fileSize(fd)).toBe(4096);
  expect(native.ftruncate(fd, 0)).toBe(-1);
  native.close(fd);
  expect(native.fileSize(fd)).toBe(-E.BADF);
  const event = ok(native.eventFd(0));
  expect(testAddon.seals(event)).toBe(-E.INVAL);
  native.close(event);
});
