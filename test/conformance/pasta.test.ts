/**
 * pasta with real namespaces: as root and as an ordinary user, a command in new ones and the ones of a process or a path.
 * Needs a build.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PastaRig, ROOT, until, untilAsync, USER } from '../support/pasta';
import {
  GATEWAY_4,
  GATEWAY_6,
  HOST_ADDRESS_4,
  HOST_ADDRESS_6,
  HostWorld,
  REMOTE_ADDRESS_4,
  REMOTE_ADDRESS_6,
} from '../support/world/host-world';
import { command } from '../support/world/processes';

jest.setTimeout(60_000);

const isRoot = process.getuid?.() === 0;
const callers = isRoot ? [ROOT, USER] : [{ ...USER, prefix: [] }];

let dir: string;
let world: HostWorld;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-pasta-'));
  chmodSync(dir, 0o777);
  world = await HostWorld.create(dir);
});
afterAll(async () => {
  await world.destroy();
  rmSync(dir, { recursive: true });
});

interface IpLink {
  readonly ifname: string;
  readonly mtu: number;
  readonly address: string;
  readonly flags: readonly string[];
  readonly addr_info: readonly {
    readonly family: string;
    readonly local: string;
    readonly prefixlen: number;
    readonly scope: string;
  }[];
}
interface IpRoute {
  readonly dst: string;
  readonly gateway?: string;
}

/** What a command in the namespace is shown of its network. */
async function network(
  rig: PastaRig,
  ...options: string[]
): Promise<{ links: IpLink[]; routes: IpRoute[]; stderr: string }> {
  const script = 'ip -j addr; echo; ip -j route; echo; ip -6 -j route';
  const { status, stdout, stderr } = await rig.run([...options, '--', 'sh', '-c', script]);
  expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' });
  const [links, four, six] = stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as unknown);
  return { links: links as IpLink[], routes: [...(four as IpRoute[]), ...(six as IpRoute[])], stderr };
}

const globals = ({ addr_info }: IpLink): string[] =>
  addr_info.filter(({ scope }) => scope === 'global').map(({ local, prefixlen }) => `${local}/${prefixlen}`);

describe.each(callers)('called by $name', (caller) => {
  // What does not depend on who calls is tried once.
  const once = (title: string, body: jest.ProvidesCallback): void => {
    if (caller !== ROOT) test(title, body);
  };
  let rig: PastaRig;
  beforeEach(() => {
    rig = new PastaRig(world, caller);
  });
  afterEach(async () => {
    await until(
      () => rig.left().length === 0,
      5000,
      () => `left: ${rig.left().join(', ')}`,
    );
  });

  test('the network of a command: the host’s addresses, routes and MTU, ready when it begins', async () => {
    const { links, routes } = await network(rig, '--config-net');
    const [lo, eth0] = links;
    expect(lo.flags).toContain('UP');
    expect(eth0).toMatchObject({ ifname: 'eth0', mtu: 65520 });
    expect(globals(eth0)).toEqual([`${HOST_ADDRESS_4}/24`, `${HOST_ADDRESS_6}/64`]);
    const gateways = routes.filter(({ dst }) => dst === 'default').map(({ gateway }) => gateway);
    expect(gateways).toEqual([GATEWAY_4, GATEWAY_6]);
  });

  once('what options make of it', async () => {
    const mac = '02:00:00:00:00:42';
    const address = ['-a', '10.0.2.100', '-n', '24', '-g', '10.0.2.2', '-4'];
    const { links, routes } = await network(
      rig,
      '--config-net',
      '-I',
      'net0',
      '-m',
      '1500',
      '--ns-mac-addr',
      mac,
      ...address,
    );
    expect(links[1]).toMatchObject({ ifname: 'net0', mtu: 1500, address: mac });
    expect(globals(links[1])).toEqual(['10.0.2.100/24']);
    expect(routes.find(({ dst }) => dst === 'default')?.gateway).toBe('10.0.2.2');
    const plain = await network(rig);
    expect(plain.links[1].flags).not.toContain('UP');
    const one = await network(rig, '--config-net', '--no-copy-routes', '--no-copy-addrs', '-6', '-a', '2001:db8::5');
    expect(globals(one.links[1])).toEqual(['2001:db8::5/64']);
  });

  test('a command’s input, output, user, processes and exit status', async () => {
    const script = 'read line; echo "$line"; id -u; ls /proc | grep -c "^[0-9]"; hostname; exit 7';
    const { status, stdout } = await rig.run(['-H', 'penne', 'sh', '-c', script], { input: 'hello\n' });
    const [line, user, processes, hostname] = stdout.split('\n');
    expect({ status, line, user, hostname }).toEqual({ status: 7, line: 'hello', user: '0', hostname: 'penne' });
    expect(Number(processes)).toBeLessThan(6);
    // An ordinary user hears nothing; root is told that he is no longer.
    const quiet = await rig.run([...(caller === ROOT ? ['--runas', '0'] : []), '-q', 'true']);
    expect(quiet).toEqual({ status: 0, stdout: '', stderr: '' });
  });

  once('a command that a signal ends', async () => {
    expect((await rig.run(['--no-pidns', 'sh', '-c', 'kill -TERM $$'])).status).toBe(128 + 15);
    expect((await rig.run(['--no-pidns', 'sh', '-c', 'kill -KILL $$'])).status).toBe(128 + 9);
  });

  once('the log file begins with the name that callers know it by', async () => {
    const log = join(dir, 'log');
    const { status } = await rig.run(['-q', '-l', log, '--', 'true']);
    expect(status).toBe(0);
    expect(readFileSync(log, 'utf8')).toMatch(/^pasta [0-9.]+: .* \([0-9]+\)\n/);
  });

  once(
    'streams are the command’s as its caller had them: no write to a pipe that is full for a while fails',
    async () => {
      const bytes = 3_000_000;
      for (const to of ['', ' >&2']) {
        const { status, stdout, stderr } = await rig.run(['-q', '--', 'sh', '-c', `head -c ${bytes} /dev/zero${to}`]);
        expect({ status, bytes: stdout.length + stderr.length }).toEqual({ status: 0, bytes });
      }
    },
  );

  once('TCP and UDP to the host’s loopback and beyond, both families', async () => {
    const { echo, udp } = world.host.ports;
    const remote = world.remote.ports;
    const targets = [
      [GATEWAY_4, echo, udp],
      [GATEWAY_6, echo, udp],
      [REMOTE_ADDRESS_4, remote.echo, remote.udp],
      [REMOTE_ADDRESS_6, remote.echo, remote.udp],
    ];
    const argv = [
      '--config-net',
      '--',
      process.execPath,
      join(__dirname, '../support/pasta-client.cjs'),
      JSON.stringify(targets),
    ];
    for (const env of [{}, { TUBETTI_TAP_PLAIN: '1' }]) {
      const { status, stdout, stderr } = await rig.run(argv, { env });
      expect({ status, stdout, stderr: status === 0 ? '' : stderr }).toEqual({
        status: 0,
        stdout: 'echoed 8\n',
        stderr: '',
      });
    }
  });

  test('the namespaces of a process: the caller waits until the network works, which ends with the process', async () => {
    const container = await rig.container();
    const pidFile = join(dir, `pid-${caller.name.replaceAll(' ', '-')}`);
    const ports = ['-t', '7001', '-t', `${HOST_ADDRESS_4}/7002:7001`, '-u', '7001'];
    // What follows the host's ports inside (-T, -U auto) needs a right there, and nothing else does.
    const outward = caller === ROOT ? [] : ['-T', 'none', '-U', 'none'];
    const argv = ['--config-net', '-q', '-P', pidFile, ...ports, ...outward, String(container.pid)];
    const { status, stderr } = await rig.run([...(caller === ROOT ? ['--runas', '12345'] : []), ...argv]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const inside = await rig.worldIn(container);
    try {
      const pid = Number(readFileSync(pidFile, 'utf8'));
      expect(readFileSync(`/proc/${pid}/status`, 'latin1')).toMatch(/CapEff:\t0000000000000000/);
      const inThere = readFileSync(`/proc/${rig.pidsOf('tubetti-netns')[0]}/status`, 'latin1');
      const bindsPorts = outward.length === 0 ? '0000000000000400' : '0000000000000000';
      for (const line of [`CapEff:\t${bindsPorts}`, 'CapBnd:\t0000000000000000', 'NoNewPrivs:\t1', 'Seccomp:\t2'])
        expect(inThere).toContain(line);
      const { sent, received } = await inside.call('tcpEcho', {
        address: GATEWAY_6,
        port: world.host.ports.echo,
        bytes: 3e6,
      });
      expect(received.sha256).toBe(sent.sha256);
    } finally {
      await inside.stop();
      await container.stop('SIGKILL');
    }
  });

  once('ports of the host lead into the namespace', async () => {
    const container = await rig.container();
    const inside = await rig.worldIn(container);
    try {
      const { echo } = inside.ports;
      const argv = [
        '--config-net',
        '-q',
        '-t',
        `7003:${echo}`,
        '-u',
        '7004:7005',
        '--no-splice',
        String(container.pid),
      ];
      const { status, stderr } = await rig.run([...(caller === ROOT ? ['--runas', '12345'] : []), ...argv]);
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      await inside.call('udpEchoOn', { port: 7005 });
      for (const address of ['127.0.0.1', '::1', HOST_ADDRESS_4, HOST_ADDRESS_6]) {
        const { sent, received } = await world.host.call('tcpEcho', { address, port: 7003, bytes: 2e6 });
        expect({ address, sha256: received.sha256 }).toEqual({ address, sha256: sent.sha256 });
        // From there it comes from our link-local address, on which nobody echoes.
        if (address === HOST_ADDRESS_6) continue;
        const datagram = await world.host.call('udpEcho', { address, port: 7004, bytes: 5000, timeoutMs: 5000 });
        expect({ address, ...datagram }).toEqual({ address, ok: true });
      }
      const far = await world.remote.call('tcpEcho', { address: HOST_ADDRESS_4, port: 7003, bytes: 1e6 });
      expect(far.received.sha256).toBe(far.sent.sha256);
    } finally {
      await inside.stop();
      await container.stop('SIGKILL');
    }
  });

  once('ports that something listens on inside are forwarded while it does', async () => {
    const code = `
      const server = require('net').createServer((s) => s.on('error', () => {}).pipe(s));
      server.listen(7010, '::', () => console.log('listens'));
      process.stdin.once('data', () => server.close()).once('end', () => process.exit());`;
    const running = rig.start(['--config-net', '--', process.execPath, '-e', code]);
    const reached = (): Promise<boolean> =>
      world.host.call('tcpEcho', { address: '127.0.0.1', port: 7010, bytes: 1000 }).then(
        ({ sent, received }) => sent.sha256 === received.sha256,
        () => false,
      );
    await until(
      () => running.stdout() === 'listens\n',
      10_000,
      () => 'it does not listen',
    );
    await untilAsync(reached, 5000, () => 'the port is not forwarded');
    running.input.write('close');
    await untilAsync(
      async () => !(await reached()),
      5000,
      () => 'the port is forwarded still',
    );
    running.input.end();
    expect((await running.ended).status).toBe(0);
  });

  test('what cannot be is said in one line, with status 1, and nothing is left', async () => {
    const rows: readonly (readonly [string[], RegExp])[] = [
      [['--netns', '/nowhere/net'], /cannot enter network namespace \/nowhere\/net: no such file or directory$/],
      [['4194000'], /cannot enter user namespace \/proc\/4194000\/ns\/user: no such file or directory$/],
      [
        ['--config-net', '--ns-mac-addr', '01:00:00:00:00:01', 'true'],
        /--ns-mac-addr 01:00:00:00:00:01: a multicast MAC address cannot be used/,
      ],
      [['-t', String(world.host.ports.echo), 'true'], /-t [0-9]+: /],
      [['--no-such-option', 'true'], /unknown option --no-such-option/],
      [['--', '/no/such/command'], /cannot run \/no\/such\/command: no such file or directory$/],
    ];
    for (const [argv, message] of rows) {
      const { status, stdout, stderr } = await rig.run([...(caller === ROOT ? ['--runas', '0'] : []), ...argv]);
      expect({ argv, status, stdout }).toEqual({ argv, status: 1, stdout: '' });
      expect(stderr).toMatch(/^pasta: [^\n]*\n$/);
      expect(stderr.trimEnd()).toMatch(message);
    }
  });

  once('SIGTERM ends it with 0 and leaves the command; SIGINT ends a command that does nothing about it', async () => {
    const term = rig.start(['sh', '-c', 'echo begun; exec sleep 60']);
    await until(
      () => term.stdout() === 'begun\n',
      10_000,
      () => 'the command did not begin',
    );
    const [sleep] = await pidsOnce(rig, 'sleep');
    process.kill(rig.pidsOf('tubetti-launch')[0], 'SIGTERM');
    await until(
      () => rig.pidsOf('tubetti-netns').length === 0,
      5000,
      () => rig.left().join(),
    );
    process.kill(sleep, 'SIGKILL');
    expect((await term.ended).status).toBe(0);

    const int = rig.start(['sh', '-c', 'echo begun; exec sleep 60']);
    await until(
      () => int.stdout() === 'begun\n',
      10_000,
      () => 'the command did not begin',
    );
    await pidsOnce(rig, 'sleep');
    process.kill(rig.pidsOf('tubetti-launch')[0], 'SIGINT');
    expect((await int.ended).status).toBe(128 + 9);
  });
});

test('the command ignores the signals that its caller ignores, and no others; a hang-up of nohup’s is no end', async () => {
  const script = ['-q', '--', 'sh', '-c', 'grep SigIgn /proc/self/status; read line'];
  for (const [traps, ignored] of [
    ['', '0000000000000000'],
    ['trap "" HUP TSTP; ', '0000000000080001'],
  ]) {
    const prefix = [...USER.prefix, 'sh', '-c', `${traps}exec "$@"`, 'sh'];
    const rig = new PastaRig(world, { name: 'a user’s script', prefix });
    const { ended, stdout, input } = rig.start(script);
    await until(() => stdout().endsWith('\n'), 10_000, stdout);
    expect(stdout()).toBe(`SigIgn:\t${ignored}\n`);
    const status = readFileSync(`/proc/${rig.pidsOf('tubetti-launch')[0]}/status`, 'latin1');
    const handled = Number.parseInt(/SigCgt:\t[0-9a-f]*([0-9a-f])\n/.exec(status)?.[1] ?? '', 16);
    expect(handled & 1).toBe(traps === '' ? 1 : 0); // SIGHUP
    input.end('\n');
    expect((await ended).status).toBe(0);
  }
});

async function pidsOnce(rig: PastaRig, name: string): Promise<number[]> {
  await until(
    () => rig.pidsOf(name).length > 0,
    5000,
    () => `no ${name}`,
  );
  return rig.pidsOf(name);
}

const asRoot = isRoot ? test : test.skip;

asRoot('a namespace with a name: it ends when the name goes, and not before; --no-netns-quit', async () => {
  const rig = new PastaRig(world, ROOT);
  const name = `tubetti-${randomBytes(4).toString('hex')}`;
  await command(world.inHost(['ip', 'netns', 'add', name]));
  const path = `/run/netns/${name}`;
  try {
    const options = ['--config-net', '-q', '--runas', '12345'];
    expect((await rig.run([...options, '--netns', name])).status).toBe(0);
    const shown = await command(world.inHost(['ip', 'netns', 'exec', name, 'ip', '-4', 'addr', 'show', 'dev', 'eth0']));
    expect(shown).toContain(`inet ${HOST_ADDRESS_4}/24`);
    expect(rig.left()).not.toEqual([]);
    expect((await rig.run([...options, '-I', 'second', '--no-netns-quit', '--netns', path])).status).toBe(0);
    expect(rig.pidsOf('tubetti-netns')).toHaveLength(2);
  } finally {
    await command(world.inHost(['ip', 'netns', 'del', name]));
  }
  await until(
    () => rig.pidsOf('tubetti-netns').length === 1,
    5000,
    () => rig.left().join(),
  );
  for (const line of rig.left()) process.kill(Number(line.split(' ')[0]), 'SIGTERM');
  await until(
    () => rig.left().length === 0,
    5000,
    () => rig.left().join(),
  );
});
