/** Shared by the tests of the addon: rows, address slots, child processes. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { loadNative } from '../../../src/native';
import { ADDR_SLOT_SIZE, AF_INET, AF_INET6 } from '../../../src/stack/ports';

export const native = loadNative();
export const ADDON = join(resolve(__dirname, '../../..'), 'build/Release/tubetti.node');

/** What tests read of descriptors (test/support/sandbox/probe.cc): a value >= 0, or -errno. */
export interface TestAddon {
  getsockopt(fd: number, level: number, name: number): number;
  /** F_GET_SEALS. */
  seals(fd: number): number;
}

export const testAddon = createRequire(__filename)(join(dirname(ADDON), 'tubetti-test.node')) as TestAddon;

/** Linux errno values the tests name. */
export const E = {
  BADF: 9,
  AGAIN: 11,
  FAULT: 14,
  EXIST: 17,
  INVAL: 22,
  PIPE: 32,
  NAMETOOLONG: 36,
  MSGSIZE: 90,
  ADDRINUSE: 98,
  CONNRESET: 104,
  NOTCONN: 107,
  CONNREFUSED: 111,
  INPROGRESS: 115,
} as const;

export const AGAIN = -E.AGAIN;

/** Fails loudly where a call gave -errno: for set-up steps. */
export function ok(result: number): number {
  if (result < 0) throw new Error(`errno ${String(-result)}`);
  return result;
}

/** Writes rows [region, offset, length] from index `row` on. Returns how many. */
export function setRows(row: number, ...rows: readonly (readonly [number, number, number])[]): number {
  rows.forEach(([region, offset, length], i) => {
    native.rows.region[row + i] = region;
    native.rows.offset[row + i] = offset;
    native.rows.length[row + i] = length;
  });
  return rows.length;
}

/** A scratch region and a byte view of it, with every byte 0. */
export function region(length: number): { readonly id: number; readonly bytes: Uint8Array } {
  const id = ok(native.allocRegion(length));
  return { id, bytes: new Uint8Array(native.regionBuffer(id)) };
}

export function setSlot4(slot: number, address: readonly number[], port: number): void {
  const at = slot * ADDR_SLOT_SIZE;
  for (let i = 0; i < ADDR_SLOT_SIZE; i++) native.addrs.setUint8(at + i, 0);
  native.addrs.setUint16(at, AF_INET, true);
  native.addrs.setUint16(at + 2, port, true);
  native.addrs.setUint16(at + 18, 0xffff);
  address.forEach((byte, i) => {
    native.addrs.setUint8(at + 20 + i, byte);
  });
}

/** ::1 or, with `mapped`, another 16-byte address. */
export function setSlot6(slot: number, address: readonly number[], port: number, scope = 0): void {
  const at = slot * ADDR_SLOT_SIZE;
  for (let i = 0; i < ADDR_SLOT_SIZE; i++) native.addrs.setUint8(at + i, 0);
  native.addrs.setUint16(at, AF_INET6, true);
  native.addrs.setUint16(at + 2, port, true);
  native.addrs.setUint32(at + 4, scope, true);
  address.forEach((byte, i) => {
    native.addrs.setUint8(at + 8 + i, byte);
  });
}

export const LOOPBACK4 = [127, 0, 0, 1] as const;
export const LOOPBACK6 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] as const;
export const MAPPED_LOOPBACK = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1] as const;

export interface SlotValue {
  readonly family: number;
  readonly port: number;
  readonly scope: number;
  readonly address: readonly number[];
}

export function getSlot(slot: number): SlotValue {
  const at = slot * ADDR_SLOT_SIZE;
  return {
    family: native.addrs.getUint16(at, true),
    port: native.addrs.getUint16(at + 2, true),
    scope: native.addrs.getUint32(at + 4, true),
    address: Array.from({ length: 16 }, (_, i) => native.addrs.getUint8(at + 8 + i)),
  };
}

/** Descriptors open in this process, as `number -> target`. */
export function openFds(): Map<number, string> {
  const result = new Map<number, string>();
  for (const name of readdirSync('/proc/self/fd')) {
    try {
      result.set(Number(name), readlinkSync(`/proc/self/fd/${name}`));
    } catch {
      // The directory's own descriptor, closed by now.
    }
  }
  return result;
}

/** Waits (poll, up to 2 s) until the thread's epoll set says something about `key`; returns its events, or 0. */
export function waitFor(key: number): number {
  const deadline = native.nowUs() + 2e6;
  while (native.nowUs() < deadline) {
    const n = ok(native.epollWait(100_000));
    for (let i = 0; i < n; i++) if (native.epollOut[3 * i] === key) return native.epollOut[3 * i + 2] ?? 0;
  }
  return 0;
}

export interface ChildEnd {
  readonly status: number | null;
  readonly signal: string | null;
  readonly out: string;
}

/** Runs a script, in which `native` is the addon, in a Node of its own. */
export function child(script: string, ...nodeArgs: string[]): ChildEnd {
  return childWith([], script, ...nodeArgs);
}

/** As `child`, started by a program that is given Node's command line after its own arguments (`prlimit`). */
export function childWith(starter: readonly string[], script: string, ...nodeArgs: string[]): ChildEnd {
  const source = `const native = require(${JSON.stringify(ADDON)});\n${script}`;
  const [program, ...argv] = [...starter, process.execPath, ...nodeArgs, '-e', source];
  const { status, signal, stdout, stderr } = spawnSync(program, argv, { encoding: 'utf8', timeout: 20_000 });
  return { status, signal, out: stdout + stderr };
}
