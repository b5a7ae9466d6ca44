/** Following the host: the pure parts from data, the monitor against this machine's kernel. */
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { followHost, sameHost } from '../../../src/config/follow';
import type { ResolvedHost } from '../../../src/config/host-config';
import { HostMonitor } from '../../../src/config/monitor';
import { applyNeighbours, neighbourEntries, type Neighbours } from '../../../src/config/neighbours';
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
    expect(lost).toEqual({ ...host(), ip6: { ...host().ip6, withdrawn: true } });
    expect(sameHost(followHost(lost, local), lost)).toBe(true);
    expect(followHost(lost, host())).toEqual(host());
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
