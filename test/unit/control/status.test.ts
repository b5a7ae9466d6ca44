import { forwardInfos, statusOf, type GuestView, type StatusSources } from '../../../src/control/status';
import type { LinkState } from '../../../src/stack/context';
import { C_RULES, countersFor } from '../../../src/stack/counters';
import { HOW_FRAME } from '../../../src/stack/link/stations';
import { describeGuest } from '../../../src/stack/link/seen';
import { createLinkState } from '../../../src/stack/link/guest-state';
import { stackConfig } from '../../support/stack/stack-config';

function guestOf(link: LinkState, negotiated: readonly string[] = []): GuestView {
  return { negotiated, describeGuest: (out) => Promise.resolve(describeGuest(link, out)) };
}

function sources(guest: GuestView): StatusSources {
  return {
    version: '1.2.3',
    labels: { vm: 'web1' },
    frontEnd: 'vhost-user',
    endpoint: '/run/vm.sock',
    connected: () => true,
    guest,
    forwards: () => [],
    outward: () => [],
    layers: () => [
      { name: 'root', state: 'on' },
      { name: 'landlock', state: 'missing', why: 'an old kernel' },
    ],
  };
}

test('what the service is, and when it began', async () => {
  const status = await statusOf(sources(guestOf(createLinkState(stackConfig()), ['csum', 'mrg_rxbuf'])));
  expect(status).toMatchObject({
    ...{ version: '1.2.3', node: process.version, labels: { vm: 'web1' } },
    ...{ frontEnd: 'vhost-user', endpoint: '/run/vm.sock', forwards: [] },
    guest: { connected: true, features: ['csum', 'mrg_rxbuf'] },
    sandbox: [
      { layer: 'root', state: 'on' },
      { layer: 'landlock', state: 'missing' },
    ],
  });
  expect(Math.abs(Date.now() - process.uptime() * 1000 - status.startedAt)).toBeLessThan(1000);
});

test('of a guest that said nothing there is only what it is told', async () => {
  const { guest } = await statusOf(sources(guestOf(createLinkState(stackConfig({ mtu: 1500 })))));
  expect(guest).toMatchObject({ mac: null, addresses: [], mtu: 1500 });
  const silent = await statusOf(sources(guestOf(createLinkState(stackConfig({ mtu: 0 })))));
  expect(silent.guest.mtu).toBe(0);
});

test('the guest by its Ethernet address and its IP addresses, the newest first, 32 of them', async () => {
  const link = createLinkState(stackConfig());
  link.guestMacHi = 0x5254;
  link.guestMacLo = 0x90ab_cdef | 0;
  link.stations.learn(Int32Array.of(0, 0, 0xffff, 0xc000_0202 | 0), 0, 0x5254, 1, 10, HOW_FRAME);
  link.stations.learn(Int32Array.of(0xfe80_0000 | 0, 0, 0, 0x1234), 0, 0x5254, 1, 20, HOW_FRAME);
  const { guest } = await statusOf(sources(guestOf(link)));
  expect(guest.mac).toBe('52:54:90:ab:cd:ef');
  expect(guest.addresses).toEqual(['fe80::1234', '192.0.2.2']);
  for (let i = 0; i < 100; i++) link.stations.learn(Int32Array.of(0, 0, 0xffff, i), 0, 0x5254, 1, 30 + i, HOW_FRAME);
  const many = (await statusOf(sources(guestOf(link)))).guest.addresses;
  expect(many).toHaveLength(32);
  expect(many.slice(0, 2)).toEqual(['0.0.0.99', '0.0.0.98']);
});

test('without a data plane nothing is known of the guest', async () => {
  const { guest } = await statusOf(sources({ negotiated: [], describeGuest: () => Promise.resolve(0) }));
  expect(guest).toMatchObject({ mac: null, addresses: [], mtu: 0 });
});

test('forwarding rules with what came by each', () => {
  const rules = [
    { number: 1, rule: { protocol: 'tcp', spec: '2222:22', listeners: 1 } },
    { number: 2, rule: { protocol: 'udp', spec: '53', listeners: 2 } },
  ] as const;
  const counters = new Float64Array(countersFor(2));
  counters[C_RULES] = 99;
  counters[C_RULES + 1] = 5;
  counters[C_RULES + 2] = 7;
  expect(forwardInfos(rules, counters)).toEqual([
    { protocol: 'tcp', spec: '2222:22', listeners: 1, connections: 5 },
    { protocol: 'udp', spec: '53', listeners: 2, connections: 7 },
  ]);
});
