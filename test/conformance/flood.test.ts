/**
 * What outsiders can provoke costs neither memory nor the time of others: a guest, front-ends and scrapers as fast as they
 * can, before the real service. The list of all bounds is in docs/security.md.
 */
import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { poll } from '../support/world/processes';
import { sumOfSamples } from '../support/world/service';
import { BROADCAST_MAC, parseAddr } from '../support/guest/bytes';
import { Guest } from '../support/guest/guest';
import { ETHER_ARP, arp, ethernet } from '../support/guest/packets';
import { PROGRAM, connected, launchProgram, SAME_USER } from '../support/program';
import { residentBytes, scrape, startService, tcpTo, type Started } from '../support/run-service';

jest.setTimeout(120_000);

const MIB = 1 << 20;
const GROWTH = 20 * MIB;
const FRAMES = 200_000;
const BATCH = 200;
/** Soon enough for whoever waits, on a machine that does other things too. */
const SOON_MS = 1000;

const ANY = new Uint8Array(4);
/** An address that nobody answers for. */
const NOBODY = parseAddr('203.0.113.77');

let dir: string;
let service: Started | null = null;
const guests: Guest[] = [];

beforeEach(() => {
  dir = fs.mkdtempSync(join(tmpdir(), 'tubetti-flood-'));
});

afterEach(() => {
  for (const guest of guests.splice(0)) guest.close();
  service?.child.kill('SIGKILL');
  service = null;
  fs.rmSync(dir, { recursive: true });
});

async function guestOn(socket: string): Promise<Guest> {
  const guest = await Guest.start(loadNative(), { socket });
  guests.push(guest);
  return guest;
}

async function timed<T>(work: () => Promise<T>): Promise<{ ms: number; value: T }> {
  const before = performance.now();
  const value = await work();
  return { ms: performance.now() - before, value };
}

/** ARP probes, each from another Ethernet address. `between` is called between batches. */
async function changeMac(guest: Guest, frames: number, between: (sent: number) => Promise<void>): Promise<void> {
  for (let sent = 0; sent < frames; sent += BATCH) {
    for (let i = sent; i < sent + BATCH; i++) {
      const mac = Uint8Array.of(2, 0, 0, i >>> 16, (i >>> 8) & 0xff, i & 0xff);
      const probe = arp({ op: 1, senderMac: mac, senderIp: ANY, targetMac: new Uint8Array(6), targetIp: NOBODY });
      guest.sendFrame(ethernet(BROADCAST_MAC, mac, ETHER_ARP, probe));
    }
    await guest.driver.drained();
    await between(sent);
  }
}

/** Floods, and looks after memory and metrics the while; then another front-end is served. */
async function floodAndLook(pid: number, metricsPort: number, socket: string): Promise<void> {
  const first = await guestOn(socket);
  await changeMac(first, FRAMES / 10, () => Promise.resolve()); // compiled, buffers made
  await scrape(metricsPort); // a log that nobody reads was waited for, which happens once
  const before = residentBytes(pid);
  let slowest = 0;
  await changeMac(first, FRAMES, async (sent) => {
    if (sent % (FRAMES / 20) !== 0) return;
    slowest = Math.max(slowest, (await timed(() => scrape(metricsPort))).ms);
  });
  expect(residentBytes(pid) - before).toBeLessThan(GROWTH);
  expect(slowest).toBeLessThan(SOON_MS);
  const page = await scrape(metricsPort);
  expect(sumOfSamples(page, 'tubetti_frames_total', { direction: 'from_guest' })).toBeGreaterThanOrEqual(FRAMES);
  const { ms } = await timed(async () => {
    await first.stop();
    guests.splice(guests.indexOf(first), 1);
    await (await guestOn(socket)).dhcp();
  });
  expect(ms).toBeLessThan(3 * SOON_MS);
}

test('a guest with another source address in each frame', async () => {
  const socket = join(dir, 's');
  service = await startService('-s', socket);
  const started = performance.now();
  await floodAndLook(service.pid, service.metricsPort, socket);
  const seconds = Math.ceil((performance.now() - started) / 1000);
  const lines = service.stderr().match(/guest's Ethernet address is/g) ?? [];
  // The first eight addresses are named, five a second, to each of the two front-ends.
  expect(lines.length).toBeGreaterThanOrEqual(5);
  expect(lines.length).toBeLessThanOrEqual(Math.min(2 * 8, 5 * (seconds + 1)));
});

describe('while nobody reads the log, with a line for each frame', () => {
  /** The port from the program's own table of listeners, as it cannot say it. */
  function listeningPort(pid: number): number {
    const inodes = new Set(
      fs.readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
        try {
          return [/^socket:\[([0-9]+)\]$/.exec(fs.readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? ''];
        } catch {
          return [];
        }
      }),
    );
    const row = fs
      .readFileSync(`/proc/${pid}/net/tcp`, 'latin1')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .find((words) => words[3] === '0A' && inodes.has(words[9]));
    return row === undefined ? -1 : parseInt(row[1].split(':')[1], 16);
  }

  async function untilServed(pid: number, socket: string): Promise<number> {
    for (;;) {
      const port = fs.existsSync(socket) ? listeningPort(pid) : -1;
      if (port > 0) return port;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  test.each(['a pipe', 'a socket'])('%s', async (kind) => {
    const socket = join(dir, 's');
    const argv = [...PROGRAM, ...SAME_USER, '--trace', '--metrics', '127.0.0.1:0', '-s', socket];
    let reader = -1;
    let command = argv;
    if (kind === 'a pipe') {
      const pipe = join(dir, 'pipe');
      expect(spawnSync('mkfifo', [pipe]).status).toBe(0);
      reader = fs.openSync(pipe, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
      command = ['sh', '-c', 'exec "$@" 2>"$0"', pipe, ...argv];
    }
    const running = launchProgram(command);
    running.child.stderr?.pause();
    const pid = running.child.pid ?? -1;
    service = { ...running, pid, metricsPort: await untilServed(pid, socket) };
    await floodAndLook(pid, service.metricsPort, socket);
    running.child.stderr?.resume();
    service.child.kill('SIGTERM');
    expect((await service.exit).status).toBe(0);
    if (reader >= 0) fs.closeSync(reader);
  });
});

test('front-ends that come and go in a loop, two at a time', async () => {
  const socket = join(dir, 's');
  service = await startService('-s', socket);
  const come = (): Promise<Socket> => connected(socket).catch(() => come()); // EAGAIN: the backlog is full
  const pairs = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++)
      for (const one of await Promise.all([come(), come()])) one.on('error', () => undefined).destroy();
  };
  const started = performance.now();
  await pairs(750);
  const before = residentBytes(service.pid);
  await pairs(1500);
  expect(residentBytes(service.pid) - before).toBeLessThan(GROWTH);
  const seconds = Math.ceil((performance.now() - started) / 1000) + 1;
  for (const text of [/front-end connected/g, /front-end disconnected/g, /second front-end refused/g]) {
    const count = service.stderr().match(text)?.length ?? 0;
    expect(count).toBeLessThanOrEqual(5 * seconds);
  }
  // The last of them may still be served for a moment.
  const guest = await poll('a guest to be served', () => guestOn(socket).catch(() => null), 3 * SOON_MS);
  await guest.dhcp();
});

describe('scrapers', () => {
  test('16 that send 10 000 requests each and read nothing', async () => {
    const socket = join(dir, 's');
    service = await startService('-s', socket);
    await scrape(service.metricsPort);
    const before = residentBytes(service.pid);
    const requests = 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(10_000);
    for (let i = 0; i < 16; i++) {
      const one = await tcpTo(service.metricsPort);
      one.on('error', () => undefined).pause();
      one.write(requests);
    }
    const { ms } = await timed(async () => (await guestOn(socket)).dhcp());
    expect(ms).toBeLessThan(3 * SOON_MS);
    expect((await timed(() => scrape(service?.metricsPort ?? 0))).ms).toBeLessThan(SOON_MS);
    expect(residentBytes(service.pid) - before).toBeLessThan(GROWTH);
  });

  test('1000 that connect and say nothing do not keep others out, nor hold descriptors', async () => {
    service = await startService('-s', join(dir, 's'));
    const { pid, metricsPort } = service;
    const before = fs.readdirSync(`/proc/${pid}/fd`).length;
    const idle = await Promise.all(
      Array.from({ length: 1000 }, async () => (await tcpTo(metricsPort)).on('error', () => undefined)),
    );
    expect((await timed(() => scrape(metricsPort))).ms).toBeLessThan(SOON_MS);
    expect(fs.readdirSync(`/proc/${pid}/fd`).length).toBeLessThanOrEqual(before + 20);
    for (const one of idle) one.destroy();
  });

  test('one that reads its answer slowly, and one that never ends its request, are cut off', async () => {
    service = await startService('-s', join(dir, 's'));
    const slow = await tcpTo(service.metricsPort);
    slow.on('error', () => undefined).write('GET /metrics HTTP/1.1\r\nX: ');
    const closed = new Promise((resolve) => slow.once('close', resolve));
    const trickle = setInterval(() => slow.write('x'), 100);
    const { ms } = await timed(() => closed);
    clearInterval(trickle);
    expect(ms).toBeLessThan(10_000);
  });

  test('many at once share one page', async () => {
    service = await startService('-s', join(dir, 's'));
    const { metricsPort } = service;
    const { ms, value } = await timed(() => Promise.all(Array.from({ length: 16 }, () => scrape(metricsPort))));
    expect(value.every((page) => page.includes('tubetti_build_info'))).toBe(true);
    expect(ms).toBeLessThan(3 * SOON_MS);
  });
});
