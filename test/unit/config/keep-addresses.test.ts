/** Following the host: the pure parts from data, the monitor against this machine's kernel. */
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { followHost, sameHost } from '../../../src/config/keep-addresses';
import type { ResolvedHost } from '../../../src/config/host-config';
import { HostMonitor } from '../../../src/config/monitor';
import { AF_INET, AF_INET6, concernsGuest } from '../../../src/config/netlink';
import { applyNeighbours, neighbourEntries, type Neighbours } from '../../../src/config/host-neighbours';
import { ip } from '../../support/stack/addresses';
import { stackConfig } from '../../support/stack/stack-config';

const host = (over: Partial<ResolvedHost> = {}): ResolvedHost => {
  const { ip4, ip6 } = stackConfig();
  return { ip4, ip6, search: [], template4: 'eth0', template6: 'eth0', notes: [], ...over };
};

describe('followHost', () => {
  test('takes what the host has now', () => {
    const now = host({ ip4: stackConfig({}, { guestAddr: ip('10.0.0.7') }).ip4, search: ['new.test'] });
    expect(followHost(host(), now)).toEqual(now);
    expect([sameHost(host(), now), sameHost(host(), host({ notes: [{ level: 'info', text: 'x' }] }))]).toEqual([
      false,
      true,
    ]);
  });

  test('a family that lost its network keeps its addresses; IPv6 is withdrawn until there is a network again', () => {
    const local = host({ template4: null, template6: null, ip6: stackConfig({}, {}, { guestAddr: null }).ip6 });
    const lost = followHost(host(), local);
    expect(lost).toEqual({
      ...host(),
      ip4: { ...host().ip4, leaseSec: 60 },
      ip6: { ...host().ip6, withdrawn: true, leaseSec: 60 },
    });
    expect(sameHost(followHost(lost, local), lost)).toBe(true);
    expect(followHost(lost, host())).toEqual(host());
  });

  test('the network is gone and there is another resolver: that one', () => {
    const dns = [ip('10.0.0.53')];
    const local = host({ template4: null, ip4: stackConfig({}, { dns }).ip4 });
    expect(followHost(host(), local).ip4).toMatchObject({ guestAddr: host().ip4?.guestAddr, dns });
    expect(followHost(host({ ip4: stackConfig({}, { dns }).ip4 }), host({ template4: null })).ip4).toMatchObject({
      dns,
    });
  });

  test('a family that never had a network stays in local mode', () => {
    const local = host({ template4: null, template6: null });
    expect(followHost(local, local)).toEqual(local);
  });
});

/** RTM_NEWNEIGH (28) or RTM_DELNEIGH (29) of a neighbour on interface 2. */
function message(type: number, addr: Uint8Array, state: number, mac: string): Uint8Array {
  const attribute = (kind: number, data: Uint8Array): number[] =>
    [4 + data.length, 0, kind, 0, ...data, 0, 0, 0].slice(0, (4 + data.length + 3) & ~3);
  const family = addr.length === 4 ? 2 : 10;
  const body = [
    family,
    0,
    0,
    0,
    2,
    0,
    0,
    0,
    state,
    0,
    0,
    1,
    ...attribute(1, addr),
    ...attribute(2, Buffer.from(mac, 'hex')),
  ];
  return Uint8Array.from([16 + body.length, 0, 0, 0, type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...body]);
}

describe('neighbour messages', () => {
  const A = ip('192.0.2.7');
  const MAC = '02005e005307';

  test('valid entries come, invalid and deleted ones go', () => {
    const table: Neighbours = new Map();
    for (const state of [0x02, 0x04, 0x08, 0x10, 0x40, 0x80]) {
      expect(applyNeighbours(message(28, A, state, MAC), table)).toBe(true);
      expect(applyNeighbours(message(28, A, state, MAC), table)).toBe(false);
      // INCOMPLETE and FAILED
      expect(applyNeighbours(message(28, A, state === 0x02 ? 0x01 : 0x20, MAC), table)).toBe(true);
    }
    applyNeighbours(message(28, A, 2, MAC), table);
    expect(applyNeighbours(message(29, A, 2, MAC), table)).toBe(true);
    expect(table.size).toBe(0);
  });

  test('what no guest may be told is left out', () => {
    const table: Neighbours = new Map();
    for (const [addr, mac] of [
      ['224.0.0.1', '01005e000001'],
      ['ff02::1', '333300000001'],
      ['127.0.0.1', '000000000000'],
      ['192.0.2.9', '0200'],
    ]) {
      applyNeighbours(message(28, ip(addr), 0x40, mac), table);
    }
    expect(table.size).toBe(0);
  });

  test('cut short anywhere, nothing is read past the end', () => {
    const whole = message(28, A, 2, MAC);
    for (let n = 0; n < whole.length - 2; n++) {
      // The last two bytes are padding.
      const part = whole.slice(0, n);
      if (n >= 4) part[0] = n;
      expect(applyNeighbours(part, new Map())).toBe(false);
    }
  });

  test('those on the template interface become entries', () => {
    const table: Neighbours = new Map();
    applyNeighbours(message(28, A, 2, MAC), table);
    applyNeighbours(message(28, ip('2001:db8::7'), 2, MAC), table);
    expect([...neighbourEntries(table, 2, 3)]).toEqual([0, 0, 0xffff, 0xc0000207 | 0, 0x0200, 0x5e005307]);
    expect([...neighbourEntries(table, 0, 2)].slice(0, 4)).toEqual([0x20010db8, 0, 0, 7]);
  });
});

/** A notification: family, length of the destination and table of struct rtmsg. */
function routeMessage(type: number, family: number, dstLen: number, table: number): Uint8Array {
  return Uint8Array.of(
    28,
    0,
    0,
    0,
    type,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    family,
    dstLen,
    0,
    0,
    table,
    0,
    0,
    1,
    0,
    0,
    0,
    0,
  );
}

describe('notifications of the network', () => {
  const only4 = (family: number): boolean => family === AF_INET;

  test.each([
    ['a link', 16, 0, 0, 0, true],
    ['an address', 20, AF_INET, 24, 0, true],
    ['an address gone', 21, AF_INET6, 64, 0, true],
    ['a default route', 24, AF_INET, 0, 254, true],
    ['a default route gone', 25, AF_INET, 0, 254, true],
    ['another route where there is a default route', 24, AF_INET, 24, 254, false],
    ['another route where there is none', 25, AF_INET6, 64, 254, true],
    ['a route of another table', 24, AF_INET6, 0, 100, false],
    ['a neighbour', 28, AF_INET, 0, 254, false],
    ['the end of a dump', 3, AF_INET, 0, 254, false],
  ])('%s', (_name, type, family, dstLen, table, concerns) => {
    const bytes = routeMessage(type, family, dstLen, table);
    expect(concernsGuest(bytes, only4)).toBe(concerns);
    // Behind one that does not count.
    expect(concernsGuest(Buffer.concat([routeMessage(24, AF_INET, 24, 254), bytes]), only4)).toBe(concerns);
    expect(concernsGuest(bytes.subarray(0, 27), only4)).toBe(false);
  });
});

describe('a host that never rests', () => {
  beforeEach(() => {
    jest.useFakeTimers();
  });
  afterEach(() => {
    jest.useRealTimers();
  });

  /** A monitor whose notifications come from `queue`; errors are negative. */
  function restless(queue: (Uint8Array | number)[]): { monitor: HostMonitor; notify: () => void; looks: number[] } {
    const callbacks: (() => void)[] = [];
    const looks: number[] = [];
    const monitor = new HostMonitor({
      native: {
        netlinkOpen: () => 5,
        read: (_fd, buffer) => {
          const next = queue.shift() ?? -11;
          if (typeof next === 'number') return next;
          buffer.set(next);
          return next.length;
        },
        write: (_fd, _bytes, _from, length) => length,
        close: () => 0,
        pollStart: (_fd, _events, callback) => callbacks.push(() => callback(1)),
        pollStop: () => 0,
      },
      log: () => undefined,
      onChange: () => {
        looks.push(performance.now());
      },
      onNeighbours: () => undefined,
      hasDefaultRoute: () => true,
      resolvConf: '/nonexistent/resolv.conf',
    });
    monitor.start();
    return { monitor, notify: () => callbacks[0](), looks };
  }

  test('is looked at once a second at most, and no more when it rests', () => {
    const queue: Uint8Array[] = [];
    const { monitor, notify, looks } = restless(queue);
    for (let ms = 0; ms < 5000; ms += 10) {
      queue.push(routeMessage(20, AF_INET, 24, 0));
      notify();
      jest.advanceTimersByTime(10);
    }
    jest.advanceTimersByTime(1000);
    expect(looks.length).toBeGreaterThan(4);
    for (let i = 1; i < looks.length; i++) expect(looks[i] - looks[i - 1]).toBeGreaterThanOrEqual(1000);
    expect(jest.getTimerCount()).toBe(0);
    monitor.stop();
  });

  test('of routes that decide nothing there is no look; of a loss there is', () => {
    const queue: (Uint8Array | number)[] = [routeMessage(24, AF_INET, 24, 254)];
    const { monitor, notify, looks } = restless(queue);
    jest.advanceTimersByTime(200); // the first word on neighbours
    notify();
    expect(jest.getTimerCount()).toBe(0);
    queue.push(-105);
    notify();
    jest.advanceTimersByTime(1000);
    expect(looks).toHaveLength(1);
    monitor.stop();
  });
});

test('the monitor tells that resolv.conf was written, and that another took its place', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'tubetti-'));
  const resolvConf = join(directory, 'resolv.conf');
  writeFileSync(resolvConf, 'nameserver 192.0.2.53\n');
  let seen: () => void = () => undefined;
  const none = (): number => -1;
  const native = { netlinkOpen: none, read: none, write: none, close: none, pollStart: none, pollStop: none };
  const monitor = new HostMonitor({
    native,
    log: () => undefined,
    onChange: () => {
      seen();
    },
    onNeighbours: () => undefined,
    hasDefaultRoute: () => true,
    resolvConf,
  });
  const change = (act: () => void): Promise<void> =>
    new Promise((settle) => {
      seen = settle;
      act();
    });
  try {
    monitor.start();
    await change(() => {
      writeFileSync(resolvConf, 'nameserver 192.0.2.54\n');
    });
    await change(() => {
      writeFileSync(`${resolvConf}.new`, 'nameserver 192.0.2.55\n');
      renameSync(`${resolvConf}.new`, resolvConf);
    });
    await change(() => {
      writeFileSync(resolvConf, 'nameserver 192.0.2.56\n');
    });
  } finally {
    monitor.stop();
    rmSync(directory, { recursive: true });
  }
});
