/** Connections that must end badly, at once, and on both sides. */
import { FAMILIES, type Family } from './network-cases';
import { CLOSED_PORT, GUEST_PORT, OPEN_PORT, type Stage, type TcpCase } from './tcp-suite';
import { bringUp } from './network-cases';
import { guestListens, guestPeer, guestPeerOk, openFlows, settled } from './tcp-support';
import { TcpPeer } from '../support/world/tcp-peer';
import { command, poll } from '../support/world/processes';

const FOREVER = 'sendfor:60000';
/** Well below the second after which a SYN is sent again. */
const AT_ONCE_MS = 700;
/** A router that has just begun to be one may miss the first SYN, not the second and third (1 s and 3 s). */
const BY_ROUTER_MS = 3_500;

function inBothFamilies(title: string, run: (stage: Stage, family: Family) => Promise<void>): TcpCase[] {
  return FAMILIES.map((family) => ({ title: `${title}, ${family.name}`, run: (stage) => run(stage, family) }));
}

async function expectRefused({ guest }: Stage, address: string, port: number, withinMs: number): Promise<void> {
  const { status, results } = await guestPeer(guest, ['connect', address, port, 1, 'fin', 'recv']);
  const failure = results.get('fail');
  expect({ status, ...failure }).toMatchObject({ status: 1, step: 'connect', error: 'ECONNREFUSED' });
  expect(Number(failure?.ms)).toBeLessThan(withinMs);
}

export const refused: readonly TcpCase[] = inBothFamilies('a closed port refuses at once', async (stage, { remote }) =>
  expectRefused(stage, remote, 1, AT_ONCE_MS),
);

/** Documentation prefixes nobody has here. */
const NOWHERE: Readonly<Record<Family['name'], { family: string; prefix: string; address: string }>> = {
  IPv4: { family: '-4', prefix: '203.0.113.0/24', address: '203.0.113.7' },
  IPv6: { family: '-6', prefix: '2001:db8:dead::/48', address: '2001:db8:dead::7' },
};

export const unreachable: readonly TcpCase[] = inBothFamilies(
  'what the host cannot reach fails at once: by its own routes, and by what a router answers',
  async (stage, { name }) => {
    const { world } = stage.bench;
    const { family, prefix, address } = NOWHERE[name];
    const route = (verb: string): string[] => ['ip', family, 'route', verb, 'unreachable', prefix];
    await command(world.inHost(route('add')));
    await expectRefused(stage, address, 80, AT_ONCE_MS);
    await command(world.inHost(route('del')));

    const forwarding = name === 'IPv4' ? 'ipv4/ip_forward' : 'ipv6/conf/all/forwarding';
    await command(world.inRemote(['sh', '-c', `echo 1 >/proc/sys/net/${forwarding}`]));
    await command(world.inRemote(route('add')));
    await expectRefused(stage, address, 80, BY_ROUTER_MS);
    await command(world.inRemote(route('del')));
  },
);

export const peerKilled: readonly TcpCase[] = inBothFamilies(
  'a peer that is killed resets the connection, whichever way the bytes went',
  async ({ bench, guest }, { remote }) => {
    for (const upload of [true, false]) {
      // It never reads what the guest sends: with unread bytes its kernel resets, instead of closing.
      const steps = upload ? ['recv:1000000', 'say:midway', 'wait'] : [FOREVER];
      const { peer, port } = await TcpPeer.listen(bench.world, 'remote', 1, steps);
      const client = guestPeer(guest, ['connect', remote, port, 1, ...(upload ? [FOREVER] : ['send:1000', 'recv'])]);
      if (upload) {
        await peer.next('midway');
      } else {
        const before = await bench.service.metric('tubetti_bytes_total', { direction: 'to_guest', protocol: 'tcp' });
        await poll(
          'a megabyte toward the guest',
          async () => {
            const page = { direction: 'to_guest', protocol: 'tcp' };
            return (await bench.service.metric('tubetti_bytes_total', page)) > before + 1e6 ? true : null;
          },
          10_000,
        );
      }
      await peer.stop('SIGKILL');
      const { status, results } = await client;
      expect(status).toBe(1);
      expect(results.get('fail')).toMatchObject({ step: upload ? 'sendfor' : 'recv', error: 'ECONNRESET' });
    }
  },
);

export const closedInGuest: readonly TcpCase[] = inBothFamilies(
  'a forwarded port whose service is not there: the host peer sees a reset',
  async ({ bench, guest }, { loopback, remote }) => {
    // An address that was brought up without duplicate address detection is known by its first packet.
    await guestPeer(guest, ['connect', remote, 9, 1]);
    const client = TcpPeer.start(bench.world, 'host', ['connect', loopback, CLOSED_PORT, 1, 'recv']);
    // Tubetti listens, so the connection is made; then the guest refuses.
    expect(await client.next('fail')).toMatchObject({ step: 'recv', error: 'ECONNRESET' });
    await client.process.exited;
    // And it was the guest: another port of it is open.
    await guestListens(guest, GUEST_PORT, 1, ['echo'], '/tmp/open');
    const open = TcpPeer.start(bench.world, 'host', [
      'connect',
      loopback,
      OPEN_PORT,
      1,
      'send:10',
      'recv:10',
      'fin',
      'recv',
    ]);
    await open.done();
  },
);

export const reboot: readonly TcpCase[] = [
  {
    title: 'a guest that reboots mid-transfer: the host sockets are closed, the peers are told, and all works again',
    run: async (stage) => {
      const { bench, guest, descriptors } = stage;
      const { world, service } = bench;
      const peers: TcpPeer[] = [];
      const commands: string[] = [];
      for (const { remote } of FAMILIES) {
        for (const [theirs, ours] of [
          [[FOREVER], ['recv']],
          [['recv'], [FOREVER]],
          [
            ['send:10', 'recv'],
            ['recv:10', 'sleep:60000'],
          ],
        ]) {
          const { peer, port } = await TcpPeer.listen(world, 'remote', 1, theirs);
          peers.push(peer);
          commands.push(`tcp-peer connect ${remote} ${String(port)} 1 ${ours.join(' ')} >/dev/null 2>&1 &`);
        }
      }
      await guest.sh(commands.join('\n'));
      await poll('six flows', async () => ((await openFlows(service)) === peers.length ? true : null), 20_000);
      // Reset, and not `reboot -f`: Linux 6.1.192 breaks its virtqueues on the way down (virtio_dev_shutdown) while the
      // flows still send, and start_xmit then waits for ever for buffers that it may no longer take back.
      await guest.reset();
      for (const peer of peers) {
        const { error } = await peer.next('fail', 20_000);
        expect(['ECONNRESET', 'EPIPE']).toContain(error);
      }
      await settled(service, descriptors);

      for (const family of FAMILIES) await bringUp(guest, family);
      for (const { remote } of FAMILIES) {
        const { peer, port } = await TcpPeer.listen(world, 'remote', 1, ['echo']);
        const steps = ['send:100000', 'recv:100000', 'fin', 'recv'];
        const results = await guestPeerOk(guest, ['connect', remote, port, 1, ...steps]);
        expect(results.get('recv')).toBeDefined();
        await peer.done();
      }
    },
  },
];
