import fc from 'fast-check';
import { formatIp } from '../../../src/config/address-text';
import {
  checkRules,
  describeRule,
  isOfPorts,
  MAX_RULES,
  parsePortSpec,
  type PortRule,
  PortTable,
  sameRule,
  specOf,
} from '../../../src/config/port-spec';
import { ConfigError } from '../../../src/errors';

const EPHEMERAL = { first: 32768, last: 60999 };

function rulesOf(spec: string): PortRule[] {
  return parsePortSpec('tcp', spec, EPHEMERAL, `-t ${spec}`) ?? [];
}

/** Code of the ConfigError that `call` throws. */
function codeOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    if (error instanceof ConfigError) return error.code;
    throw error;
  }
  return 'none';
}

/** `first-last>target` of each rule, with address and device in front. */
function short(spec: string): string[] {
  return rulesOf(spec).map((rule) => {
    const listen = `${rule.addr === null ? '' : formatIp(rule.addr)}${rule.ifname === null ? '' : `%${rule.ifname}`}`;
    const target = rule.targetAddr === null ? '' : `${formatIp(rule.targetAddr)}/`;
    return `${listen}${listen === '' ? '' : '|'}${rule.first}-${rule.last}>${target}${rule.targetFirst}${rule.weak ? '~' : ''}`;
  });
}

const allRuns = ['1-32767>1~', '61000-65535>61000~'];

describe('the grammar', () => {
  test.each<[string, string[]]>([
    ['22', ['22-22>22']],
    ['22:23', ['22-22>23']],
    ['22,25', ['22-22>22', '25-25>25']],
    ['22-80', ['22-80>22']],
    ['22-80:32-90', ['22-80>32']],
    ['192.0.2.1/5', ['192.0.2.1|5-5>5']],
    ['192.0.2.1%eth0/22', ['192.0.2.1%eth0|22-22>22']],
    ['%eth0/22', ['%eth0|22-22>22']],
    ['*%lo/2000', ['%lo|2000-2000>2000']],
    ['/2000', ['2000-2000>2000']],
    ['*/2000', ['2000-2000>2000']],
    ['[::1]/2000', ['::1|2000-2000>2000']],
    ['[192.0.2.1]/2000', ['192.0.2.1|2000-2000>2000']],
    ['5-25,~10-20', ['5-9>5', '21-25>21']],
    ['~10-20,5-25:105-125', ['5-9>105', '21-25>121']],
    ['~1-65535', []],
    ['~2000-2005,2000-2005', []],
    ['all', allRuns],
    ['~25', ['1-24>1~', '26-32767>26~', '61000-65535>61000~']],
    ['all,~1-1023', ['1024-32767>1024~', '61000-65535>61000~']],
    ['192.0.2.1/all', allRuns.map((run) => `192.0.2.1|${run}`)],
    ['::1/all', allRuns.map((run) => `::1|${run}`)],
    // passt forwards 2000 alone here.
    ['all,2000:3000', ['2000-2000>3000', '1-1999>1~', '2001-32767>2001~', '61000-65535>61000~']],
    ['40000', ['40000-40000>40000']],
    ['127.0.0.1/8080:10.0.2.100/80', ['127.0.0.1|8080-8080>10.0.2.100/80']],
    ['0.0.0.0/8080:10.0.2.100', ['0.0.0.0|8080-8080>10.0.2.100/8080']],
    ['::/8080-8081:[2001:db8::1]/80-81', ['::|8080-8081>2001:db8::1/80']],
    ['::/22:2001:db8::1', ['::|22-22>2001:db8::1/22']],
    ['0.0.0.0/all:10.0.2.100', ['0.0.0.0|1-32767>10.0.2.100/1~', '0.0.0.0|61000-65535>10.0.2.100/61000~']],
    ['22:10.0.2.100/80', ['22-22>10.0.2.100/80']],
  ])('%s', (spec, expected) => {
    expect(short(spec)).toEqual(expected);
  });

  test('none is no rules', () => {
    expect(parsePortSpec('tcp', 'none', EPHEMERAL, '-t none')).toBeNull();
  });

  test.each<[string, RegExp]>([
    ['', /empty item/],
    ['22,', /empty item/],
    ['0', /port 0 is out of range/],
    ['65536', /out of range/],
    ['80-22', /runs backwards/],
    ['ssh', /"ssh" is not a port/],
    [' 22', /" 22" is not a port/],
    ['+22', /not a port/],
    ['22-', /range 22- has no last port, give FIRST-LAST/],
    ['-22', /range -22 has no first port, give FIRST-LAST/],
    ['22:', /there is nothing behind ":", give a port of the guest/],
    ['2000-2002:3000', /target ports .*: give as many as in/],
    ['2000:3000-3001', /target ports .*: give as many as in/],
    ['1-2:65535-65536', /out of range/],
    ['none,22', /"none" cannot be combined with ports/],
    ['all,all', /twice/],
    ['all:80', /no target ports/],
    ['192.0.2/22', /not an address/],
    ['%/22', /not an interface name/],
    ['%name-of-16-bytes/22', /not an interface name/],
    ['192.0.2.1/22:224.0.0.1', /multicast/],
    ['192.0.2.1/22:0.0.0.0', /unspecified/],
    ['192.0.2.1/22:host', /"host" is not an address/],
  ])('%j is refused', (spec, message) => {
    expect(() => rulesOf(spec)).toThrow(message);
    expect(() => rulesOf(spec)).toThrow(`-t ${spec}: `);
  });

  test('auto is for namespaces', () => {
    for (const spec of ['auto', '80-82,auto']) {
      expect(codeOf(() => rulesOf(spec))).toBe('CFG_ERR_UNSUPPORTED');
    }
  });
});

describe('against a simple model', () => {
  const port = fc.integer({ min: 1, max: 65535 });
  const range = fc
    .tuple(port, fc.integer({ min: 0, max: 3000 }))
    .map(([first, more]) => ({ first, last: Math.min(65535, first + more) }));
  const chunk = fc.oneof(
    fc.record({ kind: fc.constant('plain' as const), range }),
    fc.record({ kind: fc.constant('exclude' as const), range }),
    fc
      .tuple(range, port)
      .filter(([r, target]) => target + r.last - r.first <= 65535)
      .map(([r, target]) => ({ kind: 'mapped' as const, range: r, target })),
    fc.constant({ kind: 'all' as const }),
  );

  test('each port goes where the chunks, read one port at a time, say', () => {
    fc.assert(
      fc.property(fc.array(chunk, { minLength: 1, maxLength: 6 }), fc.boolean(), (chunks, brief) => {
        fc.pre(chunks.filter((c) => c.kind === 'all').length <= 1);
        const written = chunks.map((c) => {
          if (c.kind === 'all') return 'all';
          const { first, last } = c.range;
          const text = brief && first === last ? `${first}` : `${first}-${last}`;
          if (c.kind === 'exclude') return `~${text}`;
          return c.kind === 'mapped' ? `${text}:${c.target}-${c.target + last - first}` : text;
        });
        const explicit = chunks.filter((c) => c.kind === 'plain' || c.kind === 'mapped');
        const everything = chunks.some((c) => c.kind === 'all') || explicit.length === 0;
        // Port → list of targets, weak ones negative.
        const expected = new Map<number, number[]>();
        for (let p = 1; p <= 65535; p++) {
          if (chunks.some((c) => c.kind === 'exclude' && c.range.first <= p && p <= c.range.last)) continue;
          const targets = explicit
            .filter((c) => c.range.first <= p && p <= c.range.last)
            .map((c) => (c.kind === 'mapped' ? c.target + p - c.range.first : p));
          if (targets.length === 0 && everything && (p < EPHEMERAL.first || p > EPHEMERAL.last)) targets.push(-p);
          if (targets.length > 0) expected.set(p, targets);
        }
        const got = new Map<number, number[]>();
        for (const rule of rulesOf(written.join(','))) {
          for (let p = rule.first; p <= rule.last; p++) {
            const target = rule.targetFirst + p - rule.first;
            got.set(p, [...(got.get(p) ?? []), rule.weak ? -target : target]);
          }
        }
        expect(got.size).toBe(expected.size);
        for (const [p, targets] of expected)
          if (String(got.get(p)) !== String(targets))
            throw new Error(`port ${p}: ${String(got.get(p))}, not ${String(targets)}`);
      }),
      { numRuns: 25 },
    );
  });

  test('any text gives rules in range or a ConfigError', () => {
    const piece = fc.constantFrom(
      '22',
      '-',
      ':',
      '/',
      ',',
      '~',
      '%',
      '*',
      'all',
      '[',
      ']',
      '::1',
      '192.0.2.1',
      'none',
      'lo',
      '65536',
      ' ',
      '.',
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(piece).map((pieces) => pieces.join('')),
        ),
        (spec) => {
          let rules: PortRule[];
          try {
            rules = rulesOf(spec);
          } catch (error) {
            expect(error).toBeInstanceOf(ConfigError);
            return;
          }
          for (const rule of rules) {
            expect(rule.first).toBeGreaterThanOrEqual(1);
            expect(rule.last).toBeLessThanOrEqual(65535);
            expect(rule.last).toBeGreaterThanOrEqual(rule.first);
            expect(rule.targetFirst + rule.last - rule.first).toBeLessThanOrEqual(65535);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe('several specs', () => {
  function table(...specs: ['tcp' | 'udp', string][]): readonly PortRule[] {
    const ports = new PortTable(EPHEMERAL);
    for (const [protocol, spec] of specs) ports.add(protocol, spec, `-${protocol[0]} ${spec}`);
    return ports.rules;
  }

  test.each<[['tcp' | 'udp', string][], boolean]>([
    [
      [
        ['tcp', '22'],
        ['udp', '22'],
      ],
      true,
    ],
    [
      [
        ['tcp', '22'],
        ['tcp', '23'],
      ],
      true,
    ],
    [
      [
        ['tcp', '22'],
        ['tcp', '20-30'],
      ],
      false,
    ],
    [[['tcp', '1000,1000']], false],
    [
      [
        ['tcp', '192.0.2.1/22'],
        ['tcp', '192.0.2.2/22'],
      ],
      true,
    ],
    [
      [
        ['tcp', '192.0.2.1/22'],
        ['tcp', '22'],
      ],
      false,
    ],
    [
      [
        ['tcp', '192.0.2.1/22'],
        ['tcp', '0.0.0.0/22'],
      ],
      false,
    ],
    [
      [
        ['tcp', '192.0.2.1/22'],
        ['tcp', '::/22'],
      ],
      true,
    ],
    [
      [
        ['tcp', '::1/22'],
        ['tcp', '::/22'],
      ],
      false,
    ],
    [
      [
        ['tcp', '22'],
        ['tcp', 'none'],
      ],
      false,
    ],
    [
      [
        ['tcp', 'none'],
        ['tcp', '22'],
      ],
      true,
    ],
    [
      [
        ['udp', '22'],
        ['tcp', 'none'],
      ],
      true,
    ],
  ])('%j', (specs, fits) => {
    if (fits) expect(table(...specs).length).toBeGreaterThan(0);
    else expect(codeOf(() => table(...specs))).toBe('CFG_ERR_CONFLICT');
  });

  test('conflicts are those of a model that puts every socket into a set', () => {
    // Text of a listening part, and the addresses that a socket bound so receives for: one letter each.
    const places: readonly (readonly [text: string, matches: string])[] = [
      ['', 'abcd'],
      ['*/', 'abcd'],
      ['%lo/', 'abcd'],
      ['0.0.0.0/', 'ab'],
      ['192.0.2.1/', 'a'],
      ['192.0.2.1%lo/', 'a'],
      ['[192.0.2.2]/', 'b'],
      ['::/', 'cd'],
      ['::1/', 'c'],
      ['[2001:db8::2]/', 'd'],
    ];
    const option = fc.record({
      protocol: fc.constantFrom('tcp' as const, 'udp' as const),
      place: fc.constantFrom(...places),
      first: fc.integer({ min: 1, max: 40 }),
      more: fc.integer({ min: 0, max: 6 }),
      target: fc.option(fc.integer({ min: 1, max: 60000 })),
      excluded: fc.option(fc.integer({ min: 1, max: 46 })),
    });
    fc.assert(
      fc.property(fc.array(option, { minLength: 1, maxLength: 5 }), (options) => {
        const sockets = new Set<string>();
        let fits = true;
        const specs = options.map(({ protocol, place, first, more, target, excluded }): ['tcp' | 'udp', string] => {
          for (let port = first; port <= first + more; port++) {
            if (port === excluded) continue;
            for (const address of place[1]) {
              const socket = `${protocol} ${address} ${port}`;
              fits &&= !sockets.has(socket);
              sockets.add(socket);
            }
          }
          const to = target === null ? '' : `:${target}-${target + more}`;
          return [protocol, `${place[0]}${first}-${first + more}${to}${excluded === null ? '' : `,~${excluded}`}`];
        });
        if (!fits) {
          expect(codeOf(() => table(...specs))).toBe('CFG_ERR_CONFLICT');
          return;
        }
        const got = table(...specs).flatMap((rule) => {
          const host = rule.addr === null ? '*' : formatIp(rule.addr);
          return Array.from({ length: rule.last - rule.first + 1 }, (_, i) => {
            return `${rule.protocol} ${host}%${rule.ifname ?? ''} ${rule.first + i} ${rule.targetFirst + i}`;
          });
        });
        const expected = options.flatMap(({ protocol, place, first, more, target, excluded }) => {
          const [host, device = ''] = place[0].replace(/[/[\]]/g, '').split('%');
          return Array.from({ length: more + 1 }, (_, i) => first + i)
            .filter((port) => port !== excluded)
            .map(
              (port) => `${protocol} ${host === '' ? '*' : host}%${device} ${port} ${(target ?? first) + port - first}`,
            );
        });
        expect(got.sort()).toEqual(expected.sort());
      }),
      { numRuns: 1000 },
    );
  });

  test('any text is rules or one line that begins with option and value', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 20 }), (spec) => {
        try {
          table(['udp', spec]);
        } catch (error) {
          expect(error).toBeInstanceOf(ConfigError);
          expect((error as ConfigError).message.startsWith(`-u ${spec}: `)).toBe(true);
        }
      }),
      { numRuns: 2000 },
    );
  });

  test('the message names both options', () => {
    expect(() => table(['tcp', '22'], ['tcp', '20-30'])).toThrow(
      '-t 20-30: tcp port 22 is forwarded here and in -t 22',
    );
  });

  test('the table has an end', () => {
    const odd = Array.from({ length: MAX_RULES + 1 }, (_, i) => 2 * i + 1).join(',');
    expect(() => table(['tcp', odd])).toThrow(/more than 255/);
  });
});

describe('against what is switched on', () => {
  const both = { v4: true, v6: true, tcp: true, udp: true };

  test.each<[string, Partial<typeof both>, RegExp | null]>([
    ['22', {}, null],
    ['22', { tcp: false }, /--no-tcp/],
    ['22', { udp: false }, null],
    ['192.0.2.1/22', { v4: false }, /IPv4 is off/],
    ['::1/22', { v6: false }, /IPv6 is off/],
    ['0.0.0.0/22:10.0.0.1', {}, null],
    ['22:10.0.0.1', {}, /put 0\.0\.0\.0\/ in front/],
    ['22:2001:db8::1', {}, /put ::\/ in front/],
    ['22:10.0.0.1', { v6: false }, null],
    ['::/22:10.0.0.1', {}, /must be an IPv[46] address/],
    ['22:2001:db8::1', { v6: false }, /must be an IPv[46] address/],
  ])('%s %j', (spec, change, message) => {
    const check = (): void => checkRules(rulesOf(spec), { ...both, ...change });
    if (message === null) expect(check).not.toThrow();
    else expect(check).toThrow(message);
  });
});

test('rules are described for the summary', () => {
  expect(rulesOf('2222:22').map(describeRule)).toEqual(['tcp *:2222 -> 22']);
  expect(rulesOf('[::1]%lo/80-81:8080-8081').map(describeRule)).toEqual(['tcp [::1]%lo:80-81 -> 8080-8081']);
  expect(rulesOf('192.0.2.1/22:10.0.0.1/23').map(describeRule)).toEqual(['tcp 192.0.2.1:22 -> 10.0.0.1 23']);
  expect(rulesOf('all')[0] && describeRule(rulesOf('all')[0])).toBe('tcp *:1-32767 -> 1-32767 (those that are free)');
});

describe('UNIX sockets', () => {
  const long = `/${'x'.repeat(107)}`;

  test.each([
    ['unix:/run/x.sock:22', 'tcp unix:/run/x.sock -> 22'],
    ['unix:/run/a:b,c:22', 'tcp unix:/run/a:b,c -> 22'],
    ['unix:/run/x:192.0.2.9/22', 'tcp unix:/run/x -> 192.0.2.9 22'],
    ['unix:/run/x:[2001:db8::9]/22', 'tcp unix:/run/x -> 2001:db8::9 22'],
  ])('%s', (spec, text) => {
    const [rule] = rulesOf(spec);
    expect([describeRule(rule), specOf(rule)]).toEqual([text, spec]);
    expect(sameRule(rule, rulesOf(specOf(rule))[0])).toBe(true);
  });

  test.each([
    ['unix:', 'give unix:PATH:PORT'],
    ['unix:/run/x:0', 'port 0 is out of range'],
    ['unix:/run/x:22-23', 'give unix:PATH:PORT'],
    ['unix:run/x:22', '"run/x" is not a path from the root on'],
    ['unix:/run/:22', '"/run/" cannot be'],
    ['unix:/run/a b:22', '"/run/a b" cannot be'],
    ['unix:/run/a\0b:22', '"/run/a\\u0000b" cannot be'],
    [`unix:${long}:22`, 'at most 107 bytes'],
    ['unix:/run/x:[2001:db8::g]/22', 'is not an address'],
    ['unix:/run/x:224.0.0.1/22', 'multicast'],
  ])('%j: one line that says what would be right', (spec, message) => {
    expect(() => rulesOf(spec)).toThrow(`-t ${spec}: `);
    expect(() => rulesOf(spec)).toThrow(message);
  });

  test.each([
    ['fd:web:80', 'tcp fd:web -> 80'],
    ['fd:web.socket:192.0.2.9/80', 'tcp fd:web.socket -> 192.0.2.9 80'],
    ['fd:a,b/c:[2001:db8::9]/22', 'tcp fd:a,b/c -> 2001:db8::9 22'],
  ])('passed sockets: %s', (spec, text) => {
    const [rule] = rulesOf(spec);
    expect([describeRule(rule), specOf(rule), isOfPorts(rule)]).toEqual([text, spec, false]);
    expect(sameRule(rule, rulesOf(specOf(rule))[0])).toBe(true);
    expect(sameRule(rule, rulesOf('fd:other:80')[0])).toBe(false);
  });

  test.each([
    ['fd:', 'give fd:NAME:PORT'],
    ['fd:web', 'give fd:NAME:PORT'],
    ['fd::80', '"" is not a socket\'s name'],
    ['fd:a:b:80', '"a:b" is not a socket\'s name'],
    ['fd:a b:80', '"a b" is not a socket\'s name'],
    ['fd:\u00e4:80', "is not a socket's name"],
    [`fd:${'x'.repeat(256)}:80`, "is not a socket's name"],
    ['fd:web:0', 'port 0 is out of range'],
    ['fd:web:80-81', 'give fd:NAME:PORT'],
  ])('passed sockets: %j cannot be', (spec, message) => {
    expect(() => rulesOf(spec)).toThrow(message);
  });

  test('a name twice, but for TCP and UDP', () => {
    const table = new PortTable(EPHEMERAL);
    table.add('tcp', 'fd:web:80', '-t fd:web:80');
    table.add('udp', 'fd:web:80', '-u fd:web:80');
    expect(() => {
      table.add('udp', 'fd:web:81', '-u fd:web:81');
    }).toThrow('udp fd:web is forwarded here and in -u fd:web:80');
  });

  test('the same path twice, and a family that is off', () => {
    const table = new PortTable(EPHEMERAL);
    table.add('tcp', 'unix:/run/x:22', '-t unix:/run/x:22');
    table.add('tcp', 'unix:/run/y:22', '-t unix:/run/y:22');
    expect(() => {
      table.add('tcp', 'unix:/run/x:23', '-t unix:/run/x:23');
    }).toThrow('/run/x is forwarded here and in -t unix:/run/x:22');
    const on = { v4: true, v6: false, tcp: true, udp: true };
    expect(() => {
      checkRules(rulesOf('unix:/run/x:[2001:db8::9]/22'), on);
    }).toThrow('IPv6 is off');
    checkRules(rulesOf('unix:/run/x:192.0.2.9/22'), on);
  });
});
