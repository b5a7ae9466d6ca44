/** Flows as people see them: short numbers, a table that fits, rates. */
import type { FlowInfo } from '../../../src/control/types';
import { COLUMNS, flowLines, shortNumber, shortRtt, shortTime } from '../../../src/ctl/flow-table';
import { Rates, screenOf, sorted } from '../../../src/ctl/top';

const NOW = 1_000_000_000;

function flow(over: Partial<FlowInfo> = {}): FlowInfo {
  return {
    id: 'tcp-1-17-3',
    protocol: 'tcp',
    kind: 'link',
    origin: 'guest',
    guest: { address: '192.0.2.2', port: 40000 },
    peer: { address: '2001:db8::1', port: 443 },
    name: null,
    state: 'open',
    startedAt: NOW - 65_000,
    fromGuest: 1500,
    toGuest: 12_345_678,
    rttUs: 15_200,
    rule: null,
    ...over,
  };
}

test.each<[number, string]>([
  [0, '0'],
  [999, '999'],
  [1000, '1.0K'],
  [9949, '9.9K'],
  [9950, '10K'],
  [999_499, '999K'],
  [999_500, '1.0M'],
  [12_345_678, '12M'],
  [2 ** 53, '9.0P'],
])('%d is %s', (value, text) => {
  expect(shortNumber(value)).toBe(text);
});

test('times', () => {
  expect([-5, 59_999, 60_000, 3_725_000, 90_000_000].map(shortTime)).toEqual(['0s', '59s', '1m00s', '1h02m', '1d']);
  expect([null, 40, 9949, 9950, 1_200_000].map(shortRtt)).toEqual(['-', '40us', '9.9ms', '10ms', '1.2s']);
});

test('a table with all columns where there is room', () => {
  expect(
    flowLines(COLUMNS, [flow(), flow({ id: 'udp-1-2-3', protocol: 'udp', origin: 'host', rule: '80' })], Infinity, NOW),
  ).toEqual([
    'PROTO  GUEST               PEER               STATE  FROM   TO    AGE   RTT  RULE  ID',
    'tcp    192.0.2.2:40000  >  [2001:db8::1]:443  open   1.5K  12M  1m05s  15ms  -     tcp-1-17-3',
    'udp    192.0.2.2:40000  <  [2001:db8::1]:443  open   1.5K  12M  1m05s  15ms  80    udp-1-2-3',
  ]);
});

test('without flows there are headings', () => {
  expect(flowLines(COLUMNS, [], Infinity, NOW)).toEqual(['PROTO  GUEST    PEER  STATE  FROM  TO  AGE  RTT  RULE  ID']);
});

test('how a flow goes is shown where they differ in it', () => {
  expect(flowLines(COLUMNS, [flow(), flow({ id: 'tcps-1-3', kind: 'splice' })], Infinity, NOW)).toEqual([
    'PROTO  KIND    GUEST               PEER               STATE  FROM   TO    AGE   RTT  RULE  ID',
    'tcp    link    192.0.2.2:40000  >  [2001:db8::1]:443  open   1.5K  12M  1m05s  15ms  -     tcp-1-17-3',
    'tcp    splice  192.0.2.2:40000  >  [2001:db8::1]:443  open   1.5K  12M  1m05s  15ms  -     tcps-1-3',
  ]);
});

test.each([40, 60, 80, 100])('%d columns are enough', (width) => {
  const name = 'a-rather-long-name.of-a-host.in-a-domain.example.com';
  const lines = flowLines(COLUMNS, [flow({ name }), flow()], width, NOW);
  for (const line of lines) expect(line.length).toBeLessThanOrEqual(Math.max(width, 66));
  expect(lines[1]).toContain('…');
  expect(lines[0]).toMatch(/^PROTO +GUEST +PEER .*FROM +TO/);
});

test('what others have chosen commands no terminal', () => {
  const [, line] = flowLines(COLUMNS, [flow({ name: 'evil\u001b[2J\u202e.example' })], Infinity, NOW);
  expect(line).toContain('evil?[2J?.example:443');
});

describe('rates', () => {
  test('from one look to the next, of a new flow from nothing on', () => {
    const rates = new Rates();
    expect(rates.next([flow()], NOW)).toMatchObject([{ fromRate: 0, toRate: 0 }]);
    const young = flow({ id: 'tcp-1-2-1', startedAt: NOW + 1500, fromGuest: 100, toGuest: 0 });
    const old = flow({ id: 'tcp-1-3-1' });
    const now = [flow({ fromGuest: 3500 }), young, old];
    expect(rates.next(now, NOW + 2000)).toMatchObject([
      { fromRate: 1000, toRate: 0 },
      { fromRate: 100, toRate: 0 },
      { fromRate: 0, toRate: 0 },
    ]);
  });

  test('the fastest come first, and the table says what all do', () => {
    const rates = new Rates();
    const at = (n: number, toGuest: number): FlowInfo => flow({ id: `tcp-1-${n}-1`, toGuest, startedAt: NOW - n });
    rates.next([at(1, 0), at(2, 0), at(3, 0)], NOW);
    const rated = rates.next([at(1, 10), at(2, 5000), at(3, 70)], NOW + 1000);
    expect(sorted(rated, 'rate').map(({ id }) => id)).toEqual(['tcp-1-2-1', 'tcp-1-3-1', 'tcp-1-1-1']);
    expect(sorted(rated, 'age').map(({ id }) => id)).toEqual(['tcp-1-1-1', 'tcp-1-2-1', 'tcp-1-3-1']);
    const lines = screenOf(sorted(rated, 'rate'), 2, Infinity, NOW);
    expect(lines[0]).toBe('3 flows: 3 TCP, 0 UDP, 0 ICMP; from guest 0B/s, to guest 5.1KB/s');
    expect(lines).toHaveLength(4);
    expect(lines[2]).toContain(' 5.0K ');
  });
});
