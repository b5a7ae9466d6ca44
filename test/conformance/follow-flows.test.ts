/**
 * What becomes of the guest's datagram flows, leases and resolvers when the host moves to another network, with the
 * program as it is run and a kernel's network that changes under it.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { closeGuests, startGuest } from '../support/guest/exercises';
import type { Guest } from '../support/guest/guest';
import type { UdpSocket } from '../support/guest/udp';
import {
  REMOTE_ADDRESS_4,
  REMOTE_ADDRESS_6,
  HOST_ADDRESS_4,
  HOST_NETWORK_6,
  whyNoNamespaces,
} from '../support/world/host-world';
import { command, ManagedProcess } from '../support/world/processes';
import { Service } from '../support/world/service';

jest.setTimeout(60_000);

const PORT = 7007;
const DNS = 53;
const TRY_MS = 500;
const TRIES = 20;

/** The host takes an address of another network, then gives its old one up. */
const MOVE = `
  ip addr add 10.44.0.2/16 dev eth0
  ip addr del ${HOST_ADDRESS_4}/24 dev eth0
  ip route replace default via 10.44.0.1
  ip addr add 2001:db8:0:9::2/64 dev eth0 nodad
  ip addr del ${HOST_NETWORK_6}:2/64 dev eth0
  ip -6 route replace default via 2001:db8:0:9::1`;

describeWith('a host that moves', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;
  let guest: Guest;

  const onHost = (script: string): Promise<string> => command(bench.world.inHost(['sh', '-ec', script]));
  const onRemote = (script: string): Promise<string> => command(bench.world.inRemote(['sh', '-ec', script]));
  const resolvConf = (text: string): void => {
    writeFileSync(join(bench.scratch, 'resolv.conf'), text);
  };

  /** Sends until an answer comes: the service hears of the change a little later than the kernel. */
  const answered = async (socket: UdpSocket, address: string, port = PORT): Promise<void> => {
    for (let i = 0; i < TRIES; i++) {
      const text = `datagram ${String(i)} of port ${String(socket.port)}`;
      await socket.send(address, port, text);
      const answer = await socket.recv(TRY_MS).catch(() => null);
      if (answer === null) continue;
      expect({ addr: answer.addr, port: answer.port }).toEqual({ addr: address, port });
      return;
    }
    throw new Error(`${address} never answers`);
  };

  beforeEach(async () => {
    bench = await setUpBench();
    await onRemote('ip addr add 10.44.0.1/16 dev eth0; ip addr add 2001:db8:0:9::1/64 dev eth0 nodad');
    await bench.world.remote.call('udpEchoOn', { port: PORT });
    guest = await startGuest(native, bench.service);
    await guest.dhcp();
    await guest.slaac();
  });

  afterEach(async () => {
    closeGuests();
    await bench.destroy();
  });

  test('flows of both families leave from the new address, and pings too', async () => {
    const flows = [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6].map((address) => ({ address, socket: guest.udpBind() }));
    for (const { socket, address } of flows) await answered(socket, address);
    for (const { address } of flows) await guest.ping(address);
    await onHost(MOVE);
    for (const { socket, address } of flows) await answered(socket, address);
    for (const { address } of flows) await guest.ping(address);
  });

  test('a change that the guest is not told of moves its flows all the same', async () => {
    const fixed = await Service.start({
      world: bench.world,
      socketPath: join(bench.scratch, 'fixed.sock'),
      args: ['-a', '10.9.9.9', '-n', '24', '-g', '10.9.9.1', '-a', '2001:db8:7::7', '-g', 'fe80::77'],
    });
    try {
      const other = await startGuest(native, fixed);
      await other.dhcp();
      await other.slaac();
      const flows = [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6].map((address) => ({ address, socket: other.udpBind() }));
      for (const { socket, address } of flows) await answered(socket, address);
      await onHost(MOVE);
      for (const { socket, address } of flows) await answered(socket, address);
    } finally {
      closeGuests();
      await fixed.stop('SIGKILL');
    }
  });

  test('--no-follow: an IPv4 flow is moved by the error of its socket, IPv6 and pings by a look; nothing is told', async () => {
    const deaf = await Service.start({
      world: bench.world,
      socketPath: join(bench.scratch, 'deaf.sock'),
      args: ['--no-follow'],
    });
    try {
      const other = await startGuest(native, deaf);
      const lease = await other.dhcp();
      await other.slaac();
      const socket = other.udpBind();
      const socket6 = other.udpBind();
      await answered(socket, REMOTE_ADDRESS_4);
      await answered(socket6, REMOTE_ADDRESS_6);
      for (const address of [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6]) await other.ping(address);
      await onHost(MOVE);
      await socket.send(REMOTE_ADDRESS_4, PORT, 'the very next one');
      expect(Buffer.from((await socket.recv()).data).toString()).toBe('the very next one');
      await answered(socket6, REMOTE_ADDRESS_6);
      for (const address of [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6]) await other.ping(address);
      expect((await other.dhcp()).address).toBe(lease.address);
    } finally {
      closeGuests();
      await deaf.stop('SIGKILL');
    }
  });

  test('the cable is pulled and put back', async () => {
    const flows = [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6].map((address) => ({ address, socket: guest.udpBind() }));
    for (const { socket, address } of flows) await answered(socket, address);
    await onHost('ip link set eth0 down');
    for (const { socket, address } of flows) {
      await socket.send(address, PORT, 'into the void');
      await socket.recv(TRY_MS).catch(() => null);
    }
    await onHost(`
      ip link set eth0 up
      ip route add default via 192.0.2.1
      ip addr replace ${HOST_NETWORK_6}:2/64 dev eth0 nodad
      ip -6 route add default via ${HOST_NETWORK_6}:1`);
    for (const { socket, address } of flows) await answered(socket, address);
  });

  test('a resolver that is gone: queries to it are answered by the present one, of either family', async () => {
    await onRemote('ip addr add 203.0.113.53/32 dev lo');
    await bench.world.remote.call('udpEchoOn', { port: DNS });
    const socket = guest.udpBind();
    await answered(socket, REMOTE_ADDRESS_4, DNS);
    await onRemote(`ip addr del ${REMOTE_ADDRESS_4}/32 dev lo`);
    resolvConf('nameserver 203.0.113.53\n');
    // From the same port and from another one.
    await answered(socket, REMOTE_ADDRESS_4, DNS);
    await answered(guest.udpBind(), REMOTE_ADDRESS_4, DNS);
    resolvConf(`nameserver ${REMOTE_ADDRESS_6}\n`);
    await onRemote('ip addr del 203.0.113.53/32 dev lo');
    await answered(guest.udpBind(), REMOTE_ADDRESS_4, DNS);
    await answered(guest.udpBind(), '203.0.113.53', DNS);
  });

  test('a start without a network: the lease is short, and the next one is of the network that came', async () => {
    await onHost('ip link set eth0 down');
    const early = await Service.start({ world: bench.world, socketPath: join(bench.scratch, 'early.sock'), args: [] });
    try {
      const other = await startGuest(native, early);
      expect(await other.dhcp()).toMatchObject({ address: '169.254.2.1', leaseSeconds: 60 });
      await onHost(`ip link set eth0 up; ip route add default via 192.0.2.1`);
      await early.process.waitForLine(/the host's network changed/, 10_000);
      const lease = await other.dhcp();
      expect(lease).toMatchObject({ address: HOST_ADDRESS_4, leaseSeconds: 3600 });
    } finally {
      closeGuests();
      await early.stop('SIGKILL');
    }
  });
});

describeWith('resolvers of the other family', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;

  afterEach(async () => {
    closeGuests();
    await bench.destroy();
  });

  test('-4: resolvers of IPv6 answer at the gateway, by UDP and TCP', async () => {
    bench = await setUpBench();
    await bench.world.remote.call('udpEchoOn', { port: DNS });
    writeFileSync(join(bench.scratch, 'resolv.conf'), `nameserver ${REMOTE_ADDRESS_6}\n`);
    const script =
      "require('net').createServer((s) => s.end('by IPv6')).listen(53, process.argv[1], () => console.log('there'))";
    const server = new ManagedProcess('dns', bench.world.inRemote([process.execPath, '-e', script, REMOTE_ADDRESS_6]));
    await server.waitForLine(/^there$/, 10_000);
    const socketPath = join(bench.scratch, 'four.sock');
    const four = await Service.start({ world: bench.world, socketPath, args: ['-4'] });
    try {
      const guest = await startGuest(native, four);
      expect(await guest.dhcp()).toMatchObject({ dns: ['192.0.2.1'] });
      const socket = guest.udpBind();
      await socket.send('192.0.2.1', DNS, 'query');
      expect(await socket.recv()).toMatchObject({ addr: '192.0.2.1', port: DNS });
      const stream = await guest.tcpConnect('192.0.2.1', DNS);
      expect(Buffer.from((await stream.read()) ?? []).toString()).toBe('by IPv6');
    } finally {
      closeGuests();
      await four.stop('SIGKILL');
      await server.stop('SIGKILL');
    }
  });
});
