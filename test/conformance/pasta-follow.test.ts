/**
 * The host's network changes while a namespace runs with --config-net: what the namespace was given stays, as with pasta, and
 * works: connections are the host's own, from the addresses that it has then. Needs a build.
 */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ControlClient } from '../../src/ctl/client';
import { LoopbackRig } from '../support/loopback-rig';
import { untilAsync } from '../support/pasta';
import { GATEWAY_4, GATEWAY_6, HOST_ADDRESS_4, HOST_NETWORK_6, HostWorld } from '../support/world/host-world';
import { REMOTE_ADDRESS_4, REMOTE_ADDRESS_6 } from '../support/world/host-world';
import { command } from '../support/world/processes';

jest.setTimeout(60_000);

const LATER_4 = '192.0.2.9';
const LATER_6 = `${HOST_NETWORK_6}:9`;
const PORT = 7401;

let dir: string;
let world: HostWorld;
let rig: LoopbackRig;
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-pasta-follow-'));
  chmodSync(dir, 0o777);
  world = await HostWorld.create(dir);
  rig = new LoopbackRig(world, dir);
  await rig.start('-t', String(PORT), '-u', 'none');
  await rig.serve('remote', 'sum', '::', PORT);
  await rig.serve('inside', 'sum', '::', PORT);
});
afterEach(async () => {
  await rig.stop();
  await world.destroy();
  rmSync(dir, { recursive: true });
});

const onHost = (script: string): Promise<string> => command(world.inHost(['sh', '-ec', script]));

/** The service has seen it. */
async function seen(address: string): Promise<void> {
  const client = new ControlClient(rig.control);
  await untilAsync(
    async () => (await client.addresses()).host.some((one) => one.address === address),
    10_000,
    () => `${address} is not seen`,
  );
}

async function works(...hostAddresses: string[]): Promise<void> {
  for (const address of [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6]) {
    expect([address, await rig.run('inside', 'send', address, PORT, 100_000)]).toMatchObject([
      address,
      { error: null, bytes: 39 },
    ]);
  }
  for (const address of hostAddresses) {
    expect([address, await rig.run('remote', 'send', address, PORT, 100_000)]).toMatchObject([
      address,
      { error: null, bytes: 39 },
    ]);
  }
}

const inside = async (): Promise<string> => {
  const target = ['nsenter', '--target', String(rig.container.pid), '--user', '--net', '--preserve-credentials'];
  return command([...target, 'sh', '-c', 'ip -o addr show scope global | tr -s " " | cut -d " " -f 2-4; ip route']);
};

test('another address and MTU, then the interface goes down and comes back', async () => {
  await works(HOST_ADDRESS_4);
  const before = await inside();
  await onHost(`
    ip addr del ${HOST_ADDRESS_4}/24 dev eth0
    ip addr add ${LATER_4}/24 dev eth0
    ip route replace default via ${GATEWAY_4}
    ip addr add ${LATER_6}/64 dev eth0 nodad
    ip addr del ${HOST_NETWORK_6}:2/64 dev eth0
    ip -6 route replace default via ${GATEWAY_6}
    ip link set eth0 mtu 1400`);
  await seen(LATER_4);
  await works(LATER_4, LATER_6);
  await onHost('ip link set eth0 down');
  expect(await rig.run('inside', 'send', REMOTE_ADDRESS_4, PORT, 10)).toMatchObject({
    error: expect.any(String) as string,
  });
  await onHost(`
    ip link set eth0 up
    ip addr replace ${LATER_6}/64 dev eth0 nodad
    ip route replace default via ${GATEWAY_4}
    ip -6 route replace default via ${GATEWAY_6}`);
  await works(LATER_4, LATER_6);
  // What the host's loopback leads to is the same.
  expect(await rig.run('host', 'send', '127.0.0.1', PORT, 1000)).toMatchObject({ error: null, bytes: 37 });
  expect(await inside()).toBe(before);
});
