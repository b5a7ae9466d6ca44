/** Send buffers that grow where the path drains them quickly. */
import { TcpRig, openFromGuest, pattern } from '../../../support/stack/tcp-rig';
import type { Connection } from '../../../support/stack/tcp-rig';

/** What Linux gives a new connection on Ethernet. */
const INITIAL = 87_040;
/** net.core.wmem_max of most distributions. */
const WMEM_MAX = 212_992;
const CHUNK = 1460;
const SO_SNDBUF = '1.7';

function makeRig(wmemMax: number | null): TcpRig {
  const rig = new TcpRig();
  rig.host.sndbuf = INITIAL;
  rig.host.wmemMax = wmemMax;
  return rig;
}

/** Sends `bytes`; the path takes all of each segment at once if it is `short`. @returns the last window told. */
function send(rig: TcpRig, c: Connection, bytes: number, short: boolean): number {
  let window = 0;
  for (let at = 0; at < bytes; at += CHUNK) {
    c.send(pattern(CHUNK));
    if (short) c.socket.read();
    for (const s of rig.sent()) window = s.win * 256;
  }
  return window;
}

test('much data over a short path: a larger buffer, whose size stays the kernel’s to choose', () => {
  const rig = makeRig(WMEM_MAX);
  const c = openFromGuest(rig);
  expect(send(rig, c, 60_000, true)).toBeLessThan(INITIAL);
  expect(c.socket.options.has(SO_SNDBUF)).toBe(false);
  expect(send(rig, c, 300_000, true)).toBeGreaterThan(300_000);
  expect(c.socket.sndbuf).toBe(2 * WMEM_MAX);
  expect(c.socket.sndbufLocked).toBe(false);
});

test('a path that leaves data waiting keeps its buffer', () => {
  const rig = makeRig(WMEM_MAX);
  const c = openFromGuest(rig);
  send(rig, c, 58_400, false);
  for (let n = 0; n < 20; n++) {
    rig.act(() => c.socket.read(14_600));
    send(rig, c, 14_600, false);
  }
  expect(c.socket.sent.length).toBeGreaterThan(INITIAL / 2);
  expect(c.socket.options.has(SO_SNDBUF)).toBe(false);
});

test('done once: where the host allows less, that is the goal', () => {
  const rig = makeRig(60_000);
  const c = openFromGuest(rig);
  send(rig, c, 300_000, true);
  expect(c.socket.sndbuf).toBe(120_000);
  const before = rig.host.count('setsockopt');
  expect(send(rig, c, 1_000_000, true)).toBeGreaterThan(80_000);
  expect(rig.host.count('setsockopt')).toBe(before);
});

test('a kernel that could not go on by itself afterwards is asked once and left alone', () => {
  const rig = makeRig(null);
  const c = openFromGuest(rig);
  const before = rig.host.count('setsockopt');
  send(rig, c, 1_000_000, true);
  expect(rig.host.count('setsockopt')).toBe(before + 1);
  expect(c.socket.options.has(SO_SNDBUF)).toBe(false);
});
