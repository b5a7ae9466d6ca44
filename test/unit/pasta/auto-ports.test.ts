/** Ports that follow what listens on the other side. */
import { parseScanSpec, type PortRule, specOf } from '../../../src/config/port-spec';
import { AutoPorts, portsIn } from '../../../src/pasta/auto-ports';

function line(port: number, state: string): string {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  return `   0: 00000000:${hex} 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000     0        0 1 1\n`;
}
const HEAD = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n';

interface Bench {
  readonly auto: AutoPorts;
  readonly tables: string[];
  readonly log: string[];
  readonly refused: Set<string>;
  readonly own: Set<string>;
}

const EPHEMERAL = { first: 32768, last: 60999 };

function bench(taken: readonly string[] = [], specs = { tcp: 'auto', udp: 'auto' }): Bench {
  const tables = ['', '', '', ''];
  const log: string[] = [];
  const refused = new Set<string>();
  const own = new Set<string>();
  const change =
    (sign: string) =>
    (rule: PortRule): Promise<boolean> => {
      log.push(`${sign}${rule.protocol} ${specOf(rule)}`);
      return Promise.resolve(!refused.has(specOf(rule)));
    };
  const auto = new AutoPorts({
    read: (table) => tables[table],
    forwards: { add: change('+'), remove: (rule) => change('-')(rule).then(() => undefined) },
    rules: () =>
      (['tcp', 'udp'] as const).flatMap(
        (protocol) => parseScanSpec(protocol, specs[protocol], EPHEMERAL, `-t ${specs[protocol]}`) ?? [],
      ),
    taken: (protocol, port) => taken.includes(`${protocol} ${port}`),
    own: (protocol, port) => own.has(`${protocol} ${port}`),
  });
  return { auto, tables, log, refused, own };
}

test('a table: ports that are listened on, and no other', () => {
  const text = HEAD + line(80, '0A') + line(443, '01') + line(22, '0A') + 'noise\n';
  expect([...portsIn(text, 'tcp')]).toEqual([80, 22]);
  expect([...portsIn(HEAD + line(53, '07') + line(54, '01'), 'udp')]).toEqual([53]);
});

test('forwards come and go; UDP follows TCP as well; ports of connections and those forwarded anyway are left alone', async () => {
  const { auto, tables, log } = bench(['tcp 22']);
  tables[0] = HEAD + line(80, '0A') + line(22, '0A') + line(40000, '0A');
  tables[3] = HEAD + line(53, '07');
  await auto.scan();
  expect(log.splice(0)).toEqual(['+tcp 80', '+udp 53', '+udp 80', '+udp 22']);
  await auto.scan();
  expect(log).toEqual([]);
  tables[0] = '';
  await auto.scan();
  expect(log).toEqual(['-tcp 80', '-udp 80', '-udp 22']);
});

test('auto with other items: ranges and excludes limit it, targets are translated, an address stays', async () => {
  const { auto, tables, log } = bench([], { tcp: '127.0.0.1/80-82,8000-8010:9000-9010,~81,auto', udp: '~53,auto' });
  tables[0] = HEAD + [80, 81, 82, 83, 9003, 8003].map((port) => line(port, '0A')).join('');
  tables[2] = HEAD + line(53, '07') + line(54, '07');
  await auto.scan();
  expect(log).toEqual([
    '+tcp 127.0.0.1/80',
    '+tcp 127.0.0.1/82',
    '+tcp 127.0.0.1/8003:9003',
    ...[54, 80, 81, 82, 83, 9003, 8003].map((port) => `+udp ${port}`),
  ]);
});

test('what we listen on there ourselves is not forwarded back', async () => {
  const { auto, tables, log, own } = bench([], { tcp: 'auto', udp: 'none' });
  own.add('tcp 80');
  tables[0] = HEAD + line(80, '0A') + line(81, '0A');
  await auto.scan();
  expect(log).toEqual(['+tcp 81']);
});

test('a port that comes and goes 1000 times is forwarded each time, and nothing is kept of it', async () => {
  const { auto, tables, log } = bench([], { tcp: 'auto', udp: 'none' });
  for (let i = 0; i < 1000; i++) {
    tables[0] = HEAD + line(80, '0A');
    await auto.scan();
    tables[0] = HEAD;
    await auto.scan();
  }
  expect(log).toHaveLength(2000);
  expect(log.slice(-2)).toEqual(['+tcp 80', '-tcp 80']);
});

test('a port that is taken on the host is tried again, not each second', async () => {
  const { auto, tables, log, refused } = bench();
  tables[1] = HEAD + line(80, '0A');
  refused.add('80');
  for (let i = 0; i < 21; i++) await auto.scan();
  expect(log.filter((entry) => entry === '+tcp 80')).toHaveLength(3);
  tables[1] = '';
  await auto.scan();
  expect(log).not.toContain('-tcp 80');
});

test('a flood of sockets: no more than the bound', async () => {
  const { auto, tables, log } = bench();
  tables[0] = HEAD + Array.from({ length: 2000 }, (_, i) => line(1000 + i, '0A')).join('');
  await auto.scan();
  expect(log).toHaveLength(128);
  log.length = 0;
  await auto.scan();
  expect(log).toEqual([]);
});
