/** `tubetti ctl`, command by command: what it prints, what it asks the service for, and its exit status. */
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ControlClient, Denied } from '../../../src/ctl/client';
import { run as runFlows } from '../../../src/ctl/flows';
import { ctlUsage, run, SUBCOMMANDS } from '../../../src/ctl/main';
import { controlPath, socketDirectories } from '../../../src/ctl/socket-path';
import { run as runTop } from '../../../src/ctl/top';
import { ADDRESSES, flowOf, InProcess, STATUS, TAKEN } from '../../support/control/in-process';

interface Ran {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

let service: InProcess;

beforeEach(() => {
  service = new InProcess();
});

afterEach(() => {
  jest.restoreAllMocks();
  service.stop();
  expect(service.bugs).toEqual([]);
});

/** Catches what is written while it runs. */
async function caught(body: () => Promise<number>): Promise<Ran> {
  let out = '';
  let err = '';
  type Written = (error?: Error | null) => void;
  jest.spyOn(process.stdout, 'write').mockImplementation((text: unknown, then?: unknown) => {
    out += String(text);
    if (typeof then === 'function') (then as Written)(null);
    return true;
  });
  jest.spyOn(process.stderr, 'write').mockImplementation((text: unknown) => {
    err += String(text);
    return true;
  });
  try {
    return { status: await body(), out, err };
  } finally {
    jest.restoreAllMocks();
  }
}

/** The tests' environment has no import() of its own, by which main.ts would find the others. */
const PROGRAMS = { ctl: run, flows: runFlows, top: runTop };
const tubetti = (program: keyof typeof PROGRAMS, ...argv: string[]): Promise<Ran> =>
  caught(() => PROGRAMS[program]([...argv, '--control', service.path]));
const ctl = (...argv: string[]): Promise<Ran> => tubetti('ctl', ...argv);
const printed = (ran: Ran): unknown => JSON.parse(ran.out) as unknown;

const failed = (status: number, err: string): Ran => ({ status, out: '', err });
/** A command line that cannot be used. */
const unusable = (message: string): Ran => failed(2, `tubetti ctl: ${message} (see tubetti ctl --help)\n`);

const NAMES = SUBCOMMANDS.map(({ name }) => name).join(', ');

describe('the command line', () => {
  test('help names every command, and the exit statuses', async () => {
    expect(await ctl('--help')).toEqual({ status: 0, out: ctlUsage(), err: '' });
    const inOneLine = ctlUsage()
      .replace(/\n {3,}/g, ' ')
      .replace(/ +/g, ' ');
    for (const { name, words, help } of SUBCOMMANDS)
      expect(inOneLine).toContain(`${`\n ${name} ${words}`.trimEnd()} ${help}`);
    for (const line of ctlUsage().split('\n')) expect(line.length).toBeLessThanOrEqual(100);
    expect(ctlUsage()).toContain('Exit status: 0 if it was done; 1 if the service refused it; 2 if');
  });

  test.each<[string[], string]>([
    [[], `give a command: ${NAMES}`],
    [['frobnicate'], `there is no command "frobnicate", give ${NAMES}`],
    [['forwrad'], 'there is no command "forwrad", did you mean "forward"?'],
    [['status', 'now'], '"now" is one word too many'],
    [['end', 'it'], '"it" is one word too many'],
    [['events', 'all'], '"all" is one word too many'],
    [['forward', 'list', 'all'], '"all" is one word too many'],
    [['forward', 'open', '80'], 'forward open: give list, add, remove or set'],
    [['forward', 'add'], 'forward add: give ports, such as 8080:80'],
    [
      ['forward', 'set', '80', '--version=x'],
      '--version x: give a number, as "forward list --json" and "policy get" have it',
    ],
    [['policy', 'get', 'it'], 'policy get: one word too many'],
    [['policy', 'set'], 'policy set: give a file, YAML or JSON'],
    [['policy', 'open'], 'policy open: give get, set, clear or learn'],
    [['rates', '50M'], 'rates: give two, IN and OUT, like 50M 10M; or none, to see them'],
    [['connect'], 'connect: give a port of the guest'],
    [['capture', 'all'], 'capture all: give list, stop, or no word'],
    [['capture', 'list', 'all'], '"all" is one word too many'],
    [['capture', 'stop', '1', '2'], '"2" is one word too many'],
    [['capture', 'stop'], 'capture stop: give the ID that "capture list" shows'],
    [['capture', '--seconds', 'x'], '--seconds x: give a number greater than 0'],
    [['capture', '--packets', '0'], '--packets 0: give a number greater than 0'],
    [
      ['policy', 'clear', '--version', 'x'],
      '--version x: give a number, as "forward list --json" and "policy get" have it',
    ],
    [['--frobnicate'], 'unknown option --frobnicate'],
    [['connect', 'http'], 'connect: give a port of the guest'],
  ])('%j cannot be used', async (argv, message) => {
    expect(await ctl(...argv)).toEqual(unusable(message));
  });

  test('an option that there is not', async () => {
    expect(await ctl('status', '--frob')).toMatchObject({
      status: 2,
      err: expect.stringContaining('--frob') as string,
    });
  });

  test('behind "--" all are words, options or not', async () => {
    expect(await caught(() => run(['--control', service.path, '--', 'status', '--json']))).toEqual(
      unusable('"--json" is one word too many'),
    );
  });
});

describe('status', () => {
  test('for people', async () => {
    expect(await ctl('status')).toEqual({
      status: 0,
      err: '',
      out: [
        'service   Tubetti 1.2.3, Node v20.0.0, up 3 h',
        'front-end vhost-user, /run/vm.sock: connected',
        'guest     52:54:00:12:34:56, 192.0.2.10, 2001:db8::10',
        'link      MTU 1500; csum mrg_rxbuf',
        'forward   tcp 2222:22: 1 listening, 4 connections',
        'sandbox   on, but landlock missing',
        'label     vm=web1',
        '',
      ].join('\n'),
    });
  });

  test('whom the guest may talk to, and how much', async () => {
    const file = join(service.dir, 'policy.yaml');
    writeFileSync(file, 'rules: [{allow: [a.example, 192.0.2.1]}]\naudit: true\n');
    await ctl('policy', 'set', file);
    await ctl('rates', '0', '10M');
    const { out } = await ctl('status');
    expect(out).toContain('\npolicy    2 rules, else deny; audit: what would be refused passes, and is logged\n');
    expect(out).toContain('\nrates     to the guest no limit, from it 10 Mbit/s\n');
  });

  test('as JSON', async () => {
    const ran = await ctl('status', '--json');
    expect([ran.status, printed(ran)]).toEqual([0, STATUS]);
  });
});

describe('forward', () => {
  test('added ones are listed, with both protocols, and the data plane is told', async () => {
    expect((await ctl('forward')).out).toBe('no ports are forwarded\n');
    const table = [
      'PROTOCOL  SPEC     LISTENERS  CONNECTIONS',
      'tcp       8080:80          1            7',
      'udp       5300             1            7',
      '',
    ].join('\n');
    expect(await ctl('forward', 'add', '8080:80', 'udp/5300')).toEqual({ status: 0, out: table, err: '' });
    expect((await ctl('forward', 'list')).out).toBe(table);
    expect([...service.io.open.values()]).toEqual([8080, 5300]);
    expect(service.changes).toHaveLength(1);
    expect(service.changes[0].add).toMatchObject([
      { protocol: 'tcp', port: 8080, targetPort: 80 },
      { protocol: 'udp', port: 5300, targetPort: 5300 },
    ]);
  });

  test('--udp is for words without a protocol', async () => {
    const ran = await ctl('forward', 'add', '--udp', '5300', 'tcp/8080', '--json');
    expect(printed(ran)).toEqual({
      version: 2,
      forwards: [
        { protocol: 'udp', spec: '5300', listeners: 1, connections: 7 },
        { protocol: 'tcp', spec: '8080', listeners: 1, connections: 7 },
      ],
      outward: [],
    });
  });

  test('--outward: from a namespace to the host, listed apart', async () => {
    const { out } = await ctl('forward', 'add', '--outward', '8080:80');
    expect(out).toBe(
      [
        'no ports are forwarded',
        'from the namespace to the host:',
        'PROTOCOL  SPEC     LISTENERS  CONNECTIONS',
        'tcp       8080:80          1            0',
        '',
      ].join('\n'),
    );
    expect((await ctl('forward', 'remove', '--outward', '8080:80')).out).toBe('no ports are forwarded\n');
    expect(await ctl('forward', 'remove', '--outward', '8080:80')).toEqual(
      failed(1, 'tubetti ctl: tcp 8080:80 does not lead to the host\n'),
    );
    await ctl('forward', 'set', '--outward', '8081', 'udp/53');
    expect(service.outward.list()).toMatchObject([{ spec: '8081' }, { protocol: 'udp', spec: '53' }]);
  });

  test('removed ones are gone; --close resets their connections', async () => {
    await ctl('forward', 'add', '8080:80', '8081');
    await ctl('forward', 'remove', '8081');
    const { out } = await ctl('forward', 'remove', '8080:80', '--close');
    expect(out).toBe('no ports are forwarded\n');
    expect(service.changes.map(({ closeFlows }) => closeFlows)).toEqual([false, false, true]);
    expect(service.io.open.size).toBe(0);
    expect(await ctl('forward', 'remove', '8080:80')).toEqual(failed(1, 'tubetti ctl: tcp 8080:80 is not forwarded\n'));
  });

  test('set leaves these and no others, and none without words', async () => {
    await ctl('forward', 'add', '8080', '8081');
    const [first] = service.io.open.keys();
    const ran = await ctl('forward', 'set', '8080', '8082', '--json');
    expect(printed(ran)).toMatchObject({ version: 3, forwards: [{ spec: '8080' }, { spec: '8082' }] });
    expect(service.io.open.get(first)).toBe(8080);
    expect((await ctl('forward', 'set')).out).toBe('no ports are forwarded\n');
  });

  test('all or none: each item that is wrong has a line of its own', async () => {
    expect(await ctl('forward', 'add', '8080', 'seventy', '8090-8080')).toMatchObject({
      status: 1,
      out: '',
      err: expect.stringMatching(/^tubetti ctl: tcp seventy: .*\ntubetti ctl: tcp 8090-8080: .*\n$/) as string,
    });
    expect(await ctl('forward', 'add', '8080', String(TAKEN))).toEqual(
      failed(1, `tubetti ctl: tcp ${TAKEN}: cannot bind port ${TAKEN}: address already in use\n`),
    );
    expect(service.io.open.size).toBe(0);
    expect(service.changes).toEqual([]);
  });

  test('of another version by now: refused', async () => {
    await ctl('forward', 'add', '8080');
    expect(await ctl('forward', 'add', '8081', '--version', '1')).toEqual(
      failed(1, 'tubetti ctl: --version 1: the forwards have changed: this is version 2\n'),
    );
    expect((await ctl('forward', 'add', '8081', '--version', '2')).status).toBe(0);
  });
});

describe('policy', () => {
  test('set from a file, shown, cleared', async () => {
    const file = join(service.dir, 'policy.yaml');
    writeFileSync(file, 'rules:\n  - deny: lan\n  - {allow: "*.example.com:443", private: true}\ndefault: deny\n');
    const text = [
      'version 2: default deny, audit false, denied-names refused, sni off',
      'deny  lan',
      'allow *.example.com:443 (private)',
      '',
    ].join('\n');
    expect(await ctl('policy', 'set', file)).toEqual({ status: 0, out: text, err: '' });
    expect((await ctl('policy')).out).toBe(text);
    expect(printed(await ctl('policy', 'get', '--json'))).toMatchObject({ version: 2, policy: { default: 'deny' } });
    expect(service.policy.current?.rules).toHaveLength(2);
    expect((await ctl('policy', 'clear')).out).toBe('version 3: the guest may talk to everybody\n');
    expect(service.policy.current).toBeNull();
  });

  test('a rule that is wrong is named by its place, and nothing changes', async () => {
    const file = join(service.dir, 'policy.json');
    writeFileSync(file, '{"rules": [{"allow": "example.com:443"}, {"deny": "tcp/:::"}]}');
    const ran = await ctl('policy', 'set', file);
    expect([ran.status, ran.err]).toEqual([
      1,
      expect.stringMatching(/^tubetti ctl: policy set .*policy\.json: rules\/1\/deny: /),
    ]);
    expect(service.policy.version).toBe(1);
  });

  test('of a file, everything that is wrong is said at once', async () => {
    const file = join(service.dir, 'policy.yaml');
    writeFileSync(file, 'rules:\n  - allow: [example.com, x y]\nsni: yes\nlog: true\n');
    const ran = await ctl('policy', 'set', file);
    const lines = ran.err.trimEnd().split('\n');
    expect(ran.status).toBe(1);
    expect(lines.map((line) => line.replace(`tubetti ctl: policy set ${file}: `, ''))).toEqual([
      'log: no such key: there are rules, default, audit, denied-names, sni',
      expect.stringMatching(/^rules\/0\/allow\/1: x y: /),
      'sni: give "off" or "require"',
    ]);
  });

  test('a file that cannot be read, and a version that is over', async () => {
    const missing = await ctl('policy', 'set', join(service.dir, 'none.yaml'));
    expect([missing.status, missing.err]).toEqual([2, expect.stringMatching(/policy set .*none\.yaml: cannot read: /)]);
    expect(await ctl('policy', 'clear', '--version', '7')).toEqual(
      failed(1, 'tubetti ctl: --version 7: the policy has changed: this is version 1\n'),
    );
  });
});

describe('rates', () => {
  test('set and shown', async () => {
    expect((await ctl('rates')).out).toBe('to the guest: no limit\nfrom the guest: no limit\n');
    expect((await ctl('rates', '50M', '800k')).out).toBe('to the guest: 50 Mbit/s\nfrom the guest: 800 kbit/s\n');
    expect(service.rates.current).toEqual({ in: 50e6, out: 8e5 });
    expect(printed(await ctl('rates', '--json'))).toEqual({ in: 50e6, out: 8e5 });
  });

  test('not a rate', async () => {
    expect(await ctl('rates', '50M', 'fast')).toMatchObject({
      status: 2,
      err: expect.stringContaining('fast') as string,
    });
    expect(service.rates.current).toEqual({ in: 0, out: 0 });
  });
});

describe('flows and top', () => {
  test('all pages in one table; those of one protocol', async () => {
    const all = await tubetti('flows');
    expect(
      all.out
        .trimEnd()
        .split('\n')
        .map((line) => line.split(/ +/).at(-1)),
    ).toEqual([...['ID', 'tcp-1-1-1', 'udp-1-2-1', 'tcp-1-3-1']]);
    const json = await tubetti('flows', '--json', '--protocol', 'tcp');
    expect(
      json.out
        .trimEnd()
        .split('\n')
        .map((line) => (JSON.parse(line) as { id: string }).id),
    ).toEqual([...['tcp-1-1-1', 'tcp-1-3-1']]);
  });

  test('--close closes one, once', async () => {
    expect(await tubetti('flows', '--close', 'udp-1-2-1')).toEqual({ status: 0, out: '', err: '' });
    expect(service.flows.all.map(({ id }) => id)).toEqual(['tcp-1-1-1', 'tcp-1-3-1']);
    expect(await tubetti('flows', '--close', 'udp-1-2-1')).toEqual(
      failed(1, 'tubetti flows: --close udp-1-2-1: there is no such flow, give the ID of an open one\n'),
    );
  });

  test.each<[keyof typeof PROGRAMS, string[], RegExp]>([
    ['flows', ['all'], /^tubetti flows: extra argument "all"/],
    ['flows', ['--protocol', 'sctp'], /^tubetti flows: --protocol sctp: give tcp, udp, icmp/],
    ['top', ['all'], /^tubetti top: extra argument "all"/],
    ['top', ['--most', '0'], /^tubetti top: --most 0: give a number from 1 on/],
  ])('%s %j cannot be used', async (program, argv, message) => {
    expect(await tubetti(program, ...argv)).toMatchObject({ status: 2, err: expect.stringMatching(message) as string });
  });

  test('help', async () => {
    expect((await tubetti('flows', '-h')).out).toMatch(/^Usage: tubetti flows .*--close ID/s);
    expect((await tubetti('top', '-h')).out).toMatch(/^Usage: tubetti top .*Keys: q quit/s);
  });

  test('top --once: rates over a second, the fastest first', async () => {
    const list = service.flows.list.bind(service.flows);
    let looks = 0;
    service.flows.list = (query) => {
      if (query.from === undefined) looks++;
      service.flows.all = [flowOf('tcp-1-1-1'), flowOf('tcp-1-3-1', { fromGuest: looks * 1_000_000 })];
      return list(query);
    };
    const ran = await tubetti('top', '--once', '--json', '--most', '1');
    const [flow, ...more] = printed(ran) as { id: string; fromRate: number }[];
    expect([looks, flow.id, more]).toEqual([2, 'tcp-1-3-1', []]);
    expect(flow.fromRate).toBeGreaterThan(300_000);
    expect(flow.fromRate).toBeLessThanOrEqual(1_000_000);
  });
});

describe('capture', () => {
  test('into a file, listed', async () => {
    const file = join(service.dir, 'f.pcap');
    const said = '0 packets captured, 0 left out\n';
    expect(await ctl('capture', '-w', file, '--packets', '1')).toEqual({ status: 0, out: '', err: said });
    expect(readFileSync(file).toString('hex')).toBe('d4c3b2a1020004000000000000000000' + '0000040001000000');
    const ran = await ctl('capture', '-w', file, '--packets', '1', '--snap', '64', '--json');
    expect(printed(ran)).toMatchObject({ id: '2', reason: 'limit', snap: 64 });
    expect((await ctl('capture', 'list')).out.split('\n')).toMatchObject([
      ...['ID  STATE  PACKETS  BYTES  LOST', '1   limit        0      0     0', '2   limit        0      0     0', ''],
    ]);
    expect(printed(await ctl('capture', 'list', '--json'))).toHaveLength(2);
  });

  test('interrupted, or stopped by its ID', async () => {
    expect((await ctl('capture', 'list')).out).toBe('there are no captures\n');
    expect(await ctl('capture', 'stop', '1')).toEqual(failed(1, 'tubetti ctl: capture stop 1: no capture 1 runs\n'));
    for (const [stop, reason] of [
      [(): unknown => process.emit('SIGINT'), 'order'],
      [(): unknown => new ControlClient(service.path).stopCapture('2'), 'order'],
    ] as const) {
      const begun = new Promise((resolve) => {
        const end = service.events.listen(() => {
          end();
          resolve(null);
        });
      });
      const done = ctl('capture', '-w', join(service.dir, 'g.pcap'), '--json');
      await begun;
      while (process.listenerCount('SIGINT') === 0) await new Promise(setImmediate);
      stop();
      expect(printed(await done)).toMatchObject({ reason });
    }
  });

  test('ended by something else: what it was, and a status that says so', async () => {
    const one = { id: '1', startedAt: 0, endedAt: 1, snap: 64, packets: 2, bytes: 3, lost: 4 };
    for (const [reason, text] of [
      ['error', '2 packets captured, 4 left out: it could not be written\n'],
      ['data-plane', '2 packets captured, 4 left out: the data plane failed\n'],
    ] as const) {
      const captures = jest.spyOn(ControlClient.prototype, 'captures').mockResolvedValue([{ ...one, reason }]);
      const ran = await ctl('capture', '-w', join(service.dir, 'e.pcap'), '--packets', '1');
      captures.mockRestore();
      expect(ran).toEqual(failed(1, text));
      one.id = '2';
    }
    const captures = jest.spyOn(ControlClient.prototype, 'captures').mockRejectedValue(new Error('gone'));
    const ran = await ctl('capture', '-w', join(service.dir, 'e.pcap'), '--packets', '1');
    captures.mockRestore();
    expect(ran).toEqual({ status: 0, out: '', err: 'the service has ended\n' });
  });

  test('a file that cannot be made', async () => {
    expect(await ctl('capture', '-w', join(service.dir, 'none', 'x'))).toMatchObject({
      status: 2,
      err: expect.stringMatching(/--write .*x: cannot write the capture: /) as string,
    });
    expect(service.captures.list()).toEqual([]);
  });
});

test('events, a line each, until the service ends', async () => {
  for (const [option, line] of [
    [[], /^[0-9-]+T[0-9:.]+Z policy-changed version=2\n[0-9-]+T[0-9:.]+Z end status=3\n$/],
    [['--json'], /^\{"event":"policy-changed","at":[0-9]+,"data":\{"version":2\}\}\n\{"event":"end",.*\}\n$/],
  ] as const) {
    const listening = jest.spyOn(service.events, 'listen');
    const ended = ctl('events', ...option);
    while (listening.mock.calls.length === 0) await new Promise(setImmediate);
    await new ControlClient(service.path).ask('DELETE', '/v1/policy');
    service.events.emit('end', { status: 3 });
    service.stop();
    expect(await ended).toMatchObject({ status: 0, err: '', out: expect.stringMatching(line) as string });
    service = new InProcess();
  }
});

test('addresses', async () => {
  expect((await ctl('addresses')).out).toBe(
    [
      'WHOSE     ADDRESS       INTERFACE',
      'host      192.0.2.1/24  eth0',
      'assigned  192.0.2.10    -',
      'guest     192.0.2.10    -',
      'guest     2001:db8::10  -\n',
    ].join('\n'),
  );
  expect(JSON.parse((await ctl('addresses', '--json')).out)).toEqual(ADDRESSES);
});

test('end is answered, then done', async () => {
  expect(await ctl('end')).toEqual({ status: 0, out: '', err: '' });
  while (service.ends === 0) await new Promise(setImmediate);
  expect(service.ends).toBe(1);
});

describe('the client', () => {
  test('a connection to a port of the guest carries bytes both ways', async () => {
    const { socket } = await new ControlClient(service.path).upgrade('/v1/connect/22', 'tcp');
    expect(service.connected).toEqual([22]);
    socket.write('SSH-2.0');
    const [echo] = (await once(socket, 'data')) as [Buffer];
    expect(echo.toString()).toBe('SSH-2.0');
    socket.destroy();
  });

  test('a port that there is not', async () => {
    expect(await ctl('connect', '70000')).toEqual(
      failed(1, 'tubetti ctl: connect 70000: give a port from 1 to 65535\n'),
    );
    expect(service.connected).toEqual([]);
  });

  test('nobody there: one line, status 2', async () => {
    const path = join(service.dir, 'nobody');
    const ran = await caught(() => run(['status', '-c', path]));
    expect([ran.status, ran.err]).toEqual([
      2,
      expect.stringMatching(new RegExp(`^tubetti ctl: ${path}: cannot speak to the service: .*\n$`)),
    ]);
    await expect(new ControlClient(path).upgrade('/v1/connect/22', 'tcp')).rejects.toThrow(
      'cannot speak to the service',
    );
  });

  test('a server of another kind has refused, whatever it says', async () => {
    const path = join(service.dir, 'other');
    const other: Server = createServer((_request, response) => response.writeHead(418).end('{"errors": "teapot"}'));
    await new Promise<void>((resolve) => other.listen(path, resolve));
    try {
      expect(await caught(() => run(['status', '-c', path]))).toEqual(
        failed(1, 'tubetti ctl: the service answers 418\n'),
      );
    } finally {
      other.close();
    }
  });

  test('a service without a part says so', async () => {
    const bare = new InProcess(['status', 'flows', 'forwards', 'events', 'policy', 'rates', 'connect', 'end']);
    try {
      const client = new ControlClient(bare.path);
      for (const [method, path, what] of [
        ['GET', '/v1/status', 'status'],
        ['GET', '/v1/flows', 'flows'],
        ['GET', '/v1/forwards', 'forwards'],
        ['GET', '/v1/events', 'events'],
        ['GET', '/v1/policy', 'policy'],
        ['GET', '/v1/rates', 'rates'],
        ['POST', '/v1/end', 'end'],
      ])
        await expect(client.ask(method, path)).rejects.toMatchObject({
          status: 501,
          message: `this service has no ${what}`,
        });
      // Its errors are text.
      await expect(client.ask('GET', '/services/forwarder/all')).rejects.toMatchObject({ status: 501 });
      await expect(client.upgrade('/v1/connect/22', 'tcp')).rejects.toThrow('this service has no connect');
      const events = client.events('/v1/events');
      await expect(events.next()).rejects.toBeInstanceOf(Denied);
    } finally {
      bare.stop();
    }
  });
});

describe('which service', () => {
  test('what is named comes first, then the environment', () => {
    const env = { TUBETTI_CONTROL: '/run/b', XDG_RUNTIME_DIR: service.dir };
    expect(controlPath('/run/a', env)).toBe('/run/a');
    expect(controlPath(null, env)).toBe('/run/b');
  });

  test('where sockets are looked for', () => {
    expect(socketDirectories({ XDG_RUNTIME_DIR: '/run/user/7' })).toEqual(['/run/user/7/tubetti', '/run/tubetti']);
    expect(socketDirectories({ XDG_RUNTIME_DIR: '' })).toEqual(['/run/tubetti']);
  });

  test('the only socket of a directory, not other files; of several none', async () => {
    const runtime = mkdtempSync(join(tmpdir(), 'tubetti-run-'));
    const env = { XDG_RUNTIME_DIR: runtime, TUBETTI_CONTROL: '' };
    const dir = join(runtime, 'tubetti');
    mkdirSync(dir);
    writeFileSync(join(dir, 'notes'), '');
    const servers = [createServer(), createServer(), createServer()];
    try {
      for (const [i, server] of servers.entries()) {
        await new Promise<void>((resolve) => server.listen(join(dir, ['vm0', 'vm1', 'vm1.control'][i]), resolve));
        if (i === 0) expect(controlPath(null, env)).toBe(join(dir, 'vm0'));
        // Those of front-ends and metrics may be in the same directory.
        else if (i === 2) expect(controlPath(null, env)).toBe(join(dir, 'vm1.control'));
        else
          expect(() => controlPath(null, env)).toThrow(`${dir} has 2 sockets, name one with --control PATH: vm0, vm1`);
      }
    } finally {
      for (const server of servers) server.close();
      rmSync(runtime, { recursive: true });
    }
  });

  test('none: what would help', () => {
    expect(() => controlPath(null, { XDG_RUNTIME_DIR: '/nonexistent' })).toThrow(
      'give --control PATH or TUBETTI_CONTROL: there is no socket in /nonexistent/tubetti or ',
    );
  });
});
