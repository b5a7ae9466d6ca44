/**
 * libvirt and QEMU as Debian 13 has them (scripts/lib/roots.mjs), in a machine of their own with systemd: what examples/libvirt
 * says is done there as it is written, with the Debian package installed. Each guest gets its addresses and moves a file in
 * both directions; one boot serves for several checks, because emulated guests take seconds.
 */
import { chmodSync, cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DebianMachine } from '../support/world/debian-machine';
import { whyNoDebianRoot } from '../support/world/debian-root';
import { Guest } from '../support/world/guest';
import { HOST_ADDRESS_4, HOST_NETWORK_6, HostWorld } from '../support/world/host-world';
import {
  EXAMPLES,
  bootDomain,
  domainXml,
  example,
  exampleCommands,
  listenForConsole,
  putGuestImage,
  said,
} from '../support/world/libvirt';
import { REPO_ROOT, scratchDirectory } from '../support/world/paths';
import { ManagedProcess, command, poll } from '../support/world/processes';
import { FAMILIES } from './network-cases';
import { describeWith, whyNotGuest } from './support';

jest.setTimeout(300_000);

/** That of Debian 13. */
const NODE = '20';
/** Until none has its port any more. */
const STOP_SERVERS = 'while killall guest-net 2>/dev/null; do :; done';
const FILE_BYTES = 4 << 20;
const PASST = ['interface-passt.xml', 'interface-passt-stream.xml'] as const;

describeWith('libvirt', whyNotGuest('qemu') ?? whyNoDebianRoot('libvirt'), () => {
  const scratch = scratchDirectory();
  const shared = scratch.path;
  const examples = join(shared, 'examples');
  const [service, dial, link, plug] = exampleCommands();
  let world: HostWorld;
  let machine: DebianMachine;
  /** What a test has left running. */
  const running: ManagedProcess[] = [];
  const guests: Guest[] = [];

  beforeAll(async () => {
    // QEMU runs as another user.
    chmodSync(shared, 0o755);
    const args = ['scripts/package-deb.mjs', '--node', NODE, '--out', shared];
    const [, deb] = await Promise.all([
      (async () => {
        world = await HostWorld.create(shared);
        machine = await DebianMachine.start(world, { name: 'libvirt', shared });
      })(),
      command([process.execPath, ...args], { cwd: REPO_ROOT }),
    ]);
    await machine.sh(`dpkg --install ${deb.split('\n').pop() ?? ''}`);
    cpSync(join(EXAMPLES, '..'), examples, { recursive: true });
    // What the example finds there.
    await machine.sh('qemu-img create -q -f qcow2 /var/lib/libvirt/images/example.qcow2 1G');
  });

  afterEach(async () => {
    await Promise.all(running.splice(0).map((each) => each.stop('SIGKILL')));
    guests.length = 0;
    await machine.run('for name in $(virsh -q list --name); do virsh -q destroy $name; done');
  });

  afterAll(async () => {
    // Whatever the set-up came to.
    await (machine as DebianMachine | undefined)?.stop();
    await (world as HostWorld | undefined)?.destroy();
    scratch.remove();
  });

  /** A test that shows what the machine and the guests said when it fails. */
  function check(title: string, body: () => Promise<void>): void {
    test(title, async () => {
      try {
        await body();
      } catch (error) {
        const consoles = guests.map((guest) => guest.process.tail(20)).join('\n');
        if (error instanceof Error) error.message += `\n--- machine\n${await said(machine)}\n--- consoles\n${consoles}`;
        throw error;
      }
    });
  }

  async function boot(options: { name: string; nic?: string }, start?: () => Promise<unknown>): Promise<Guest> {
    const guest = await bootDomain(machine, { ...options, shared }, start);
    running.push(guest.process);
    guests.push(guest);
    return guest;
  }

  /** The examples' commands, typed in their directory. */
  const type = (commands: string): Promise<string> => machine.sh(commands, { directory: join(examples, 'libvirt') });

  /** A file comes and goes, in both families, by the addresses that the guest has. */
  async function expectFile(guest: Guest): Promise<void> {
    const { sha256 } = await world.remote.call('setBlob', { bytes: FILE_BYTES, seed: 21 });
    const { blob, sink } = world.remote.ports;
    for (const { remote } of FAMILIES) {
      const script = `guest-net tcp-receive ${remote} ${blob} >/tmp/file; sha256sum </tmp/file
        guest-net tcp-send ${remote} ${sink} </tmp/file`;
      const [received = '', sent = ''] = (await guest.sh(script, { timeoutMs: 60_000 })).trim().split('\n');
      expect({ received: received.slice(0, 64), sent }).toEqual({ received: sha256, sent: `${sha256} ${FILE_BYTES}` });
    }
  }

  /** The guest takes its addresses on `device`, and none of its others is up. */
  async function expectNetwork(guest: Guest, device = 'eth0'): Promise<void> {
    await guest.sh('for each in /sys/class/net/eth*; do ip link set "${each##*/}" down; done');
    const lease = await guest.result(`DEV=${device} net-up 4`, 'dhcp', { timeoutMs: 60_000 });
    expect(lease.ip).toBe(HOST_ADDRESS_4);
    const slaac = await guest.result(`DEV=${device} net-up 6 at-once`, 'slaac', { timeoutMs: 60_000 });
    expect(slaac.ip).toMatch(new RegExp(`^${HOST_NETWORK_6}`));
    await expectFile(guest);
  }

  /** An answer of the guest, through another back-end than before. */
  const expectBack = (guest: Guest): Promise<string> =>
    guest.sh(`until guest-net udp-echo ${FAMILIES[0].remote} ${world.remote.ports.udp} 100 1; do :; done`);

  async function tcpEcho(port: number): Promise<boolean> {
    const bytes = 100_000;
    const { sent, received } = await world.remote.call('tcpEcho', { address: HOST_ADDRESS_4, port, bytes });
    return received.sha256 === sent.sha256;
  }

  /** The ports of one of {@link PASST}: a translated one, one out of a range, and one that the range excludes. */
  async function expectPorts(guest: Guest, file: (typeof PASST)[number]): Promise<void> {
    const stream = file !== PASST[0];
    const [ssh, first, inside, dns] = stream ? [2223, 8100, 9103, 5354] : [2222, 8000, 8003, 5353];
    await guest.sh(
      `${STOP_SERVERS}; guest-net tcp-serve 22 && guest-net tcp-serve ${inside} && guest-net udp-serve 53`,
    );
    expect(await tcpEcho(ssh)).toBe(true);
    expect(await tcpEcho(first + 3)).toBe(true);
    await expect(tcpEcho(first + 4)).rejects.toThrow('ECONNREFUSED');
    const datagram = { address: '127.0.0.1', port: dns, bytes: 100, timeoutMs: 5000 };
    expect(await world.host.call('udpEcho', datagram)).toEqual({ ok: true });
  }

  /** The numbers of the back-ends that run for libvirt, as their PID files have them. */
  async function backEnds(): Promise<string[]> {
    const script = `for file in /run/libvirt/qemu/passt/*.pid; do
      pid=$(cat $file) && grep --quiet -e --one-off /proc/$pid/cmdline && echo $pid; done || true`;
    return (await machine.run(script)).output.split('\n').filter((line) => /^\d+$/.test(line));
  }

  /** Neither a back-end nor a process of its is left of those that libvirt has started, but `left`. */
  async function expectEnd(left = 0): Promise<void> {
    const nothing = async (): Promise<true | null> => {
      if (left > 0) return (await backEnds()).length === left ? true : null;
      return (await machine.run('pgrep --full -- "[-]-one-off --socket /run/libvirt"')).code === 1 ? true : null;
    };
    await poll('the end of the back-end', nothing, 15_000);
  }

  /** What a service has logged since its last start. */
  const startOf = (unit: string): Promise<string> =>
    machine.sh(
      `journalctl --no-pager _SYSTEMD_INVOCATION_ID=$(systemctl show --property=InvocationID --value ${unit})`,
    );

  check('client, as the example has it; its service killed; interfaces of both kinds plugged in and out', async () => {
    writeFileSync(join(examples, 'libvirt/domain.xml'), domainXml({ name: 'tubetti-example', shared }));
    const guest = await boot({ name: 'tubetti-example' }, () => type(service));
    await expectNetwork(guest);
    await guest.sh('guest-net tcp-serve 22');
    expect(await tcpEcho(2222)).toBe(true);
    expect(await machine.sh('systemctl show --property=User --value tubetti@example.service')).toBe('libvirt-qemu');

    await machine.sh('systemctl kill --signal=KILL tubetti@example.service');
    await expectBack(guest);
    await expectFile(guest);

    expect(await startOf('tubetti@example')).toMatch(/not in force: user-namespace, mount-namespace \(/);
    // The name of passt comes after the start of libvirt, and the ports of this service are those of the example.
    await type(link);
    const dropIn = '/etc/systemd/system/tubetti@example.service.d';
    await machine.sh(`install -D ${examples}/systemd/own-namespaces.conf ${dropIn}/own-namespaces.conf
      echo "TUBETTI_OPTIONS=" >/etc/tubetti/example.conf
      systemctl daemon-reload; systemctl restart tubetti@example.service`);
    expect(await startOf('tubetti@example')).not.toContain('sandbox:');
    const [attach, detach] = plug.trim().split('\n');
    for (const file of PASST) {
      await type(attach.replace('interface-passt.xml', file));
      await guest.sh('until [ -e /sys/class/net/eth1 ]; do :; done');
      await expectNetwork(guest, 'eth1');
      await expectPorts(guest, file);
      expect(await backEnds()).toHaveLength(1);
      await type(detach.replace('interface-passt.xml', file));
      await guest.sh('while [ -e /sys/class/net/eth1 ]; do :; done');
      await expectEnd();
    }
    await expectNetwork(guest);
  });

  check('two guests with passt at once: ports, logs, a killed back-end of each, and an end', async () => {
    await type(link);
    const names = ['passt-vhost', 'passt-stream'] as const;
    const pair = await Promise.all(names.map((name, at) => boot({ name, nic: example(PASST[at] ?? '') })));
    for (const [at, guest] of pair.entries()) {
      await expectNetwork(guest);
      await expectPorts(guest, PASST[at]);
    }
    const killed = await backEnds();
    expect(killed).toHaveLength(2);
    const log = (
      await machine.sh('tail -n +1 /var/log/tubetti/example.log /var/log/tubetti/example-stream.log')
    ).trim();
    expect(log).toMatch(/example\.log <==\n.*tubetti/s);

    // The same command again, over a socket and a PID file that are still there.
    await machine.sh(`kill -KILL ${killed.join(' ')}`);
    for (const [at, guest] of pair.entries()) {
      await expectBack(guest);
      await expectFile(guest);
      await expectPorts(guest, PASST[at]);
    }
    expect(await backEnds()).toHaveLength(2);

    for (const [at, name] of names.entries()) {
      await machine.sh(`virsh -q destroy ${name}`);
      await expectEnd(1 - at);
      if (at === 0) await expectFile(pair[1]);
    }
    expect(await machine.sh('find /run/libvirt/qemu/passt -name "*.socket"')).toBe('');
  });

  check('server: QEMU listens, and waits for the service', async () => {
    const argv = ['env', '-C', '/root', 'sh', '-ec', `exec ${dial}`];
    running.push(new ManagedProcess('tubetti', machine.inside(argv)));
    const guest = await boot({ name: 'server', nic: example('interface-server.xml') });
    await expectNetwork(guest);
  });

  /** QEMU 11 of backports with these network back-ends, as `-netdev` has them, n0 being eth0. */
  async function bootQemu(netdevs: readonly string[]): Promise<{ guest: Guest; qemu: ManagedProcess }> {
    const { kernel, initrd } = putGuestImage(shared);
    const consoleSocket = join(shared, 'console-qemu');
    const managed = await listenForConsole('qemu-new', consoleSocket);
    running.push(managed);
    const argv = [
      ...['setpriv', '--reuid=libvirt-qemu', '--regid=kvm', '--clear-groups', 'env', '-C', runDirectory()],
      '/opt/backports/usr/bin/qemu-system-x86_64',
      ...['-L', '/opt/backports/usr/share/qemu', '-L', '/usr/share/seabios', '-L', '/usr/lib/ipxe/qemu'],
      ...[
        '-nodefaults',
        '-no-user-config',
        '-display',
        'none',
        '-M',
        'q35',
        '-accel',
        'tcg',
        '-cpu',
        'max',
        '-m',
        '1G',
      ],
      ...['-object', 'memory-backend-memfd,id=mem,size=1G,share=on', '-numa', 'node,memdev=mem'],
      ...netdevs.flatMap((netdev, n) => [
        ...['-netdev', `${netdev},id=n${n}`],
        ...['-device', `virtio-net-pci,netdev=n${n},mac=52:54:00:12:34:6${n},romfile=`],
      ]),
      ...['-chardev', `socket,id=console,path=${consoleSocket}`, '-serial', 'chardev:console'],
      ...['-kernel', kernel, '-initrd', initrd, '-append', 'console=ttyS0 quiet loglevel=3 panic=-1'],
    ];
    const qemu = new ManagedProcess('qemu', machine.inside(argv));
    running.push(qemu);
    const guest = new Guest('qemu', managed);
    guests.push(guest);
    await guest.ready().catch(async (error: unknown) => {
      await qemu.stop();
      throw new Error(`${(error as Error).message}\n${qemu.tail()}`);
    });
    return { guest, qemu };
  }

  /** A directory in which QEMU's user may make sockets. */
  function runDirectory(): string {
    const directory = join(shared, 'new');
    mkdirSync(directory, { recursive: true });
    chmodSync(directory, 0o777);
    return directory;
  }

  /** The guest's first device has its addresses, and the host's port 2222 is its port 22. */
  async function expectPasst(guest: Guest): Promise<void> {
    await expectNetwork(guest);
    await guest.sh(`${STOP_SERVERS}; guest-net tcp-serve 22`);
    expect(await tcpEcho(2222)).toBe(true);
  }

  /** The guest ends, then QEMU, then the back-ends that QEMU started. */
  async function expectQemuEnd(guest: Guest, qemu: ManagedProcess): Promise<void> {
    await guest.powerOff();
    await qemu.exited;
    await poll(
      "QEMU's back-ends to end",
      async () => ((await machine.run('pgrep --full -- "[-]-fd 3 "')).code === 1 ? true : null),
      15_000,
    );
  }

  // Not both kinds in one QEMU: 11.1 closes the descriptor that it has given to passt once more if there is no vhost-user,
  // a moment after passt is up, and by then another of its sockets may have that number.
  check('QEMU of backports: -netdev passt with vhost-user', async () => {
    await type(link);
    const { guest, qemu } = await bootQemu(['passt,path=/usr/local/bin/passt,vhost-user=on,tcp-ports=2222:22']);
    await expectPasst(guest);
    await expectQemuEnd(guest, qemu);
  });

  check('QEMU of backports: -netdev passt without it, and -netdev stream with reconnect-ms', async () => {
    await type(link);
    const socket = join(runDirectory(), 'stream.sock');
    const start = (): ManagedProcess => {
      const argv = ['setpriv', '--reuid=libvirt-qemu', '--regid=kvm', '--clear-groups', 'tubetti', '--stream'];
      const started = new ManagedProcess('tubetti', machine.inside([...argv, '--socket', socket]));
      running.push(started);
      return started;
    };
    const first = start();
    const { guest, qemu } = await bootQemu([
      'passt,path=/usr/local/bin/passt,tcp-ports=2222:22',
      `stream,server=off,addr.type=unix,addr.path=${socket},reconnect-ms=200`,
    ]);
    await expectPasst(guest);
    await expectNetwork(guest, 'eth1');
    await first.stop('SIGKILL');
    start();
    await expectBack(guest);
    await expectFile(guest);
    await expectQemuEnd(guest, qemu);
  });
});
