import { readdirSync } from 'node:fs';
import { release } from 'node:os';
import { createSocket } from 'node:dgram';
import { createServer, connect, type Server } from 'node:net';
import {
  closeListeners,
  openListeners,
  type ListenerOptions,
  type OpenedListeners,
} from '../../../src/config/forward-listeners';
import { parsePortSpec, type PortRule } from '../../../src/config/port-spec';
import { probePeekOff } from '../../../src/config/peek-off';
import { readHostNetwork } from '../../../src/config/netlink';
import { loadNative } from '../../../src/native';
import { testAddon } from '../../support/native/addon';
import { addrSlotPort, addrSlotWord, addrSlotWrite, V4_MAPPED } from '../../../src/stack/ip/address';
import { AF_INET, AF_INET6 } from '../../../src/stack/ports';

const native = loadNative();
const EPHEMERAL = { first: 32768, last: 60999 };
const BOTH: ListenerOptions = { v4: true, v6: true, freebind: false, maxWeak: 1000 };

let opened: OpenedListeners | null = null;
let server: Server | null = null;

afterEach(async () => {
  if (opened !== null) closeListeners(native, opened.listeners);
  opened = null;
  const closing = server;
  server = null;
  if (closing !== null) await new Promise((resolve) => closing.close(resolve));
});

function rules(protocol: 'tcp' | 'udp', spec: string): PortRule[] {
  return parsePortSpec(protocol, spec, EPHEMERAL, `-${protocol[0]} ${spec}`) ?? [];
}

function open(list: readonly PortRule[], change: Partial<ListenerOptions> = {}): OpenedListeners {
  opened = openListeners(native, list, { ...BOTH, ...change });
  return opened;
}

const openFiles = (): number => readdirSync('/proc/self/fd').length;

/** A TCP port that is free on every address at this moment. */
async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '::', resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

function reach(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}

describe('on this host', () => {
  test('no address: one socket for both families', async () => {
    const port = await freePort();
    const { listeners, rules: counted } = open(rules('tcp', `${port}:22`));
    const fd = expect.any(Number) as number;
    expect(listeners).toEqual([
      { fd, protocol: 'tcp', family: 'dual', port, targetPort: 22, targetAddr: null, rule: 1 },
    ]);
    expect(counted).toEqual([{ protocol: 'tcp', spec: `${port}:22`, listeners: 1 }]);
    expect(await reach('127.0.0.1', port)).toBe(true);
    expect(await reach('::1', port)).toBe(true);
  });

  test.each([
    [{ v6: false }, 'v4', true, false],
    [{ v4: false }, 'v6', false, true],
  ])('with %j only that family', async (change, family, v4, v6) => {
    const port = await freePort();
    expect(open(rules('tcp', String(port)), change).listeners[0].family).toBe(family);
    expect(await reach('127.0.0.1', port)).toBe(v4);
    expect(await reach('::1', port)).toBe(v6);
  });

  test('an address and a device narrow it down', async () => {
    const port = await freePort();
    expect(open(rules('tcp', `127.0.0.1%lo/${port}`)).listeners[0].family).toBe('v4');
    expect(await reach('127.0.0.1', port)).toBe(true);
    expect(await reach('127.0.0.2', port)).toBe(false);
    expect(await reach('::1', port)).toBe(false);
  });

  test('UDP asks for the local address and for errors', async () => {
    const port = await freePort();
    const { listeners } = open(rules('udp', String(port)));
    expect(testAddon.getsockopt(listeners[0].fd, 41, 49)).toBe(1);
    expect(testAddon.getsockopt(listeners[0].fd, 41, 25)).toBe(1);
    expect(testAddon.getsockopt(listeners[0].fd, 0, 8)).toBe(1);
    expect(native.getsockname(listeners[0].fd, 0)).toBe(0);
    expect(addrSlotPort(native.addrs, 0)).toBe(port);
    expect([0, 1, 2, 3].map((i) => addrSlotWord(native.addrs, 0, i))).toEqual([0, 0, 0, 0]);
  });

  test('a port that is taken ends the start and leaves nothing open', async () => {
    server = createServer();
    await new Promise<void>((resolve) => server?.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    const before = openFiles();
    const other = await freePort();
    expect(() => open(rules('tcp', `${other},${port}`))).toThrow(
      `-t ${other},${port}: cannot bind port ${port}: address already in use`,
    );
    expect(openFiles()).toBe(before);
  });

  test('a UDP port is taken by one alone: whoever has it, and whether or not it would share', async () => {
    const port = await freePort();
    const first = open(rules('udp', String(port)));
    for (const spec of [String(port), `127.0.0.1/${String(port)}`, `%lo/${String(port)}`]) {
      expect(() => openListeners(native, rules('udp', spec), BOTH)).toThrow(
        `-u ${spec}: cannot bind port ${String(port)}: address already in use`,
      );
    }
    closeListeners(native, first.listeners);
    opened = null;
    const sharing = createSocket({ type: 'udp4', reuseAddr: true });
    await new Promise<void>((resolve) => sharing.bind(port, '127.0.0.1', resolve));
    try {
      expect(() => open(rules('udp', String(port)))).toThrow(/address already in use/);
      const weak = rules('udp', `${String(port)}-${String(port + 1)}`).map((rule) => ({ ...rule, weak: true }));
      const all = open(weak);
      expect(all.listeners.map((listener) => listener.port)).toEqual([port + 1]);
      expect([...all.skipped.values()]).toEqual([{ taken: 1, noFiles: 0 }]);
      closeListeners(native, all.listeners);
      opened = null;
    } finally {
      await new Promise<void>((resolve) => sharing.close(resolve));
    }
    // There is nothing that lingers.
    expect(open(rules('udp', String(port))).listeners).toHaveLength(1);
  });

  test('a device that does not exist', async () => {
    const port = await freePort();
    expect(() => open(rules('tcp', `%nosuchdev/${port}`))).toThrow(/cannot bind port .*: no such device/);
  });

  test('an address that the host lacks needs --freebind', async () => {
    const port = await freePort();
    const list = rules('tcp', `192.0.2.213/${port}`);
    expect(() => open(list)).toThrow(/address not available/);
    expect(open(list, { freebind: true }).listeners).toHaveLength(1);
  });

  test("a live dump of this host's network has its loopback", () => {
    const network = readHostNetwork(native);
    expect(network.links.find((link) => link.name === 'lo')?.index).toBe(1);
    expect(network.addresses.some((a) => a.index === 1 && a.addr.join('.') === '127.0.0.1')).toBe(true);
  });

  test("SO_PEEK_OFF on TCP is what the kernel's version promises", () => {
    const before = openFiles();
    const [major, minor] = release().split('.').map(Number);
    // Linux 6.9 brought it, 6.10 for IPv6.
    if (major > 6 || (major === 6 && minor >= 10)) {
      expect(probePeekOff(native, AF_INET)).toBe(true);
      expect(probePeekOff(native, AF_INET6)).toBe(true);
    } else if (major < 6 || minor < 9) {
      expect(probePeekOff(native, AF_INET)).toBe(false);
    }
    expect(openFiles()).toBe(before);
  });
});

describe('weak rules', () => {
  test('ports that are taken are left out and counted', async () => {
    server = createServer();
    await new Promise<void>((resolve) => server?.listen(0, '::', resolve));
    const { port } = server.address() as { port: number };
    const weak = rules('tcp', `${port}-${port + 1}`).map((rule) => ({ ...rule, weak: true }));
    const { listeners, skipped } = open(weak);
    expect(listeners.map((listener) => listener.port)).toEqual([port + 1]);
    expect([...skipped.values()]).toEqual([{ taken: 1, noFiles: 0 }]);
  });

  test('an option none of whose ports can be bound is an error', async () => {
    server = createServer();
    await new Promise<void>((resolve) => server?.listen(0, '::', resolve));
    const { port } = server.address() as { port: number };
    const weak = rules('tcp', String(port)).map((rule) => ({ ...rule, weak: true }));
    expect(() => open(weak)).toThrow(/already in use/);
  });

  test('they leave descriptors for connections', async () => {
    const port = await freePort();
    const weak = rules('udp', `${port}-${Math.min(65535, port + 9)}`).map((rule) => ({ ...rule, weak: true }));
    const { listeners, skipped } = open(weak, { maxWeak: 4 });
    expect(listeners).toHaveLength(4);
    expect([...skipped.values()]).toEqual([{ taken: 0, noFiles: weak[0].last - weak[0].first + 1 - 4 }]);
  });
});

/** Rules as `-t all` and `-u all` make them. */
const all = (protocol: 'tcp' | 'udp', first: number, last: number): PortRule[] =>
  rules(protocol, `${first}-${last}`).map((rule) => ({ ...rule, weak: true, origin: `-${protocol[0]} all` }));

describe('the limit of open files', () => {
  test('is shared between options in proportion to their ports, lowest ports first', () => {
    const io = fakeIo();
    const list = [...all('tcp', 1, 300), ...all('tcp', 401, 500), ...all('udp', 1, 100)];
    const { listeners, skipped } = openListeners(io, list, { ...BOTH, maxWeak: 100 });
    expect(listeners.map(({ protocol, port }) => `${protocol} ${port}`)).toEqual([
      ...Array.from({ length: 80 }, (_, i) => `tcp ${i + 1}`),
      ...Array.from({ length: 20 }, (_, i) => `udp ${i + 1}`),
    ]);
    expect(Object.fromEntries(skipped)).toEqual({
      '-t all': { taken: 0, noFiles: 320 },
      '-u all': { taken: 0, noFiles: 80 },
    });
  });

  test('ports that are named come first and count', () => {
    const list = [...all('tcp', 1, 1000), ...rules('tcp', '2001-2060')];
    const { listeners } = openListeners(fakeIo(), list, { ...BOTH, maxWeak: 100 });
    expect(listeners.slice(0, 60).map((listener) => listener.port)).toEqual(
      Array.from({ length: 60 }, (_, i) => 2001 + i),
    );
    expect(listeners.slice(60).map((listener) => listener.port)).toEqual(Array.from({ length: 40 }, (_, i) => 1 + i));
  });

  test('a named port without a descriptor is an error that says what to do', () => {
    const io = fakeIo({ 2003: -24 });
    expect(() => openListeners(io, rules('tcp', '2001-2010'), BOTH)).toThrow(
      '-t 2001-2010: cannot bind port 2003: too many open files (raise the hard limit of RLIMIT_NOFILE, or forward fewer ports)',
    );
    expect(io.open.size).toBe(0);
  });

  test('descriptors that run out before the limit was reached leave a weak rule with what it has', () => {
    const { listeners, skipped } = openListeners(fakeIo({ 50: -24 }), all('udp', 1, 90), BOTH);
    expect(listeners).toHaveLength(49);
    expect(skipped.get('-u all')).toEqual({ taken: 0, noFiles: 41 });
  });
});

describe('Native.openPorts', () => {
  test('a range is one call; ports that are taken are told, the rest is open', async () => {
    // An address of this process, and ports that no client gets: all but the one of `first` are free.
    const port = 20_001;
    const address = `127.41.${(process.pid >> 8) & 0xff}.${process.pid & 0xff}`;
    const words = Int32Array.of(0, 0, V4_MAPPED, 0x7f290000 | (process.pid & 0xffff));
    const out = new Int32Array(8);
    addrSlotWrite(native.addrs, 0, AF_INET, port, 0, words, 0);
    const first = new Int32Array(1);
    addrSlotWrite(native.addrs, 1, AF_INET, port + 3, 0, words, 0);
    expect(native.openPorts(1, 0, '', 8, first)).toBe(1);
    try {
      expect(native.openPorts(0, 0, '', 8, out)).toBe(7);
      expect(out[3]).toBe(-98);
      expect(await reach(address, port + 7)).toBe(true);
    } finally {
      for (const fd of [...out, ...first]) if (fd >= 0) native.close(fd);
    }
  });

  test('refuses what leaves the tables', () => {
    addrSlotWrite(native.addrs, 0, AF_INET, 65530, 0, Int32Array.of(0, 0, V4_MAPPED, 0x7f000001), 0);
    expect(native.openPorts(0, 0, '', 8, new Int32Array(7))).toBe(-22);
    expect(native.openPorts(-1, 0, '', 8, new Int32Array(1))).toBe(-22);
    expect(native.openPorts(100000, 0, '', 8, new Int32Array(1))).toBe(-22);
    expect(native.openPorts(0, 0, 'x'.repeat(16), 8, new Int32Array(1))).toBe(-22);
  });
});

test('a port below 1024 that may not be bound says what it needs', () => {
  const io = fakeIo({ 22: -13, 2222: -13 });
  expect(() => openListeners(io, rules('tcp', '22'), BOTH)).toThrow(
    '-t 22: cannot bind port 22: permission denied (ports below 1024 need CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start)',
  );
  expect(() => openListeners(io, rules('tcp', '2222'), BOTH)).toThrow(/permission denied$/);
});

/** Sockets that open and do nothing; `errors` of some ports. */
function fakeIo(errors: Readonly<Record<number, number>> = {}) {
  const addrs = new DataView(new ArrayBuffer(64));
  const open = new Set<number>();
  let next = 100;
  return {
    addrs,
    open,
    openPorts: (slot: number, _flags: number, _device: string, _backlog: number, out: Int32Array) => {
      const first = addrSlotPort(addrs, slot);
      for (let i = 0; i < out.length; i++) {
        out[i] = errors[first + i] ?? next++;
        if (out[i] === -24) return out.fill(-24, i).findIndex((fd) => fd < 0);
        if (out[i] >= 0) open.add(out[i]);
      }
      return out.filter((fd) => fd >= 0).length;
    },
    close: (fd: number) => (open.delete(fd) ? 0 : -9),
    ifIndex: () => 3,
  };
}

test('a link-local address gets the scope of its device', () => {
  const io = fakeIo();
  openListeners(io, rules('udp', 'fe80::5%eth0/53'), BOTH);
  expect(io.addrs.getUint32(4, true)).toBe(3);
  expect(io.addrs.getUint16(2, true)).toBe(53);
});
