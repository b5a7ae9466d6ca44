/** What the running service says to a new user, and how often however much the front-end and the guest repeat themselves. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import * as p from '../../src/vhost/protocol';
import { startService, type Started } from '../support/run-service';
import { bytes, datagram, packet } from '../support/stack/link-rig';
import { StreamClient } from '../support/stream/stream-client';
import { MockFrontEnd } from '../support/vhost/mock-front-end';
import { memTable, u64 } from '../support/vhost/payloads';
import * as t from '../support/vhost/traces';

jest.setTimeout(30_000);

const native = loadNative();
const dir = mkdtempSync(join(tmpdir(), 'tubetti-first-use-'));
const services: Started[] = [];
const frontEnds: MockFrontEnd[] = [];

async function serve(name: string, ...argv: string[]): Promise<Started> {
  const service = await startService('-s', join(dir, name), ...argv);
  services.push(service);
  return service;
}

/** A front-end that has said which features the driver accepted. */
function started(name: string): MockFrontEnd {
  const frontEnd = MockFrontEnd.connect(native, join(dir, name));
  frontEnds.push(frontEnd);
  frontEnd.send(p.VHOST_USER_SET_PROTOCOL_FEATURES, u64(t.OFFERED_PROTOCOL_FEATURES));
  frontEnd.send(p.VHOST_USER_SET_OWNER);
  frontEnd.send(p.VHOST_USER_SET_FEATURES, u64(p.VHOST_USER_F_PROTOCOL_FEATURES));
  return frontEnd;
}

const count = (service: Started, what: RegExp): number =>
  service
    .stderr()
    .split('\n')
    .filter((line) => what.test(line)).length;

afterAll(() => {
  for (const frontEnd of frontEnds) frontEnd.close();
  for (const service of services) service.child.kill('SIGKILL');
  rmSync(dir, { recursive: true });
});

describe('memory', () => {
  const HOW = /memory-backend-memfd.*share=on.*<access mode='shared'\/>/;

  test('features, and then no memory: said once', async () => {
    const service = await serve('features');
    const frontEnd = started('features');
    for (let i = 0; i < 1000; i++) {
      frontEnd.send(p.VHOST_USER_SET_FEATURES, u64(p.VHOST_USER_F_PROTOCOL_FEATURES));
      if (i % 100 === 0) await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
    }
    const [line] = await service.says(/^.*started the device 5 s ago, but has sent no guest memory.*$/m);
    expect(line).toMatch(HOW);
    frontEnd.send(p.VHOST_USER_SET_FEATURES, u64(p.VHOST_USER_F_PROTOCOL_FEATURES));
    await frontEnd.ask(p.VHOST_USER_GET_FEATURES);
    expect(count(service, /no guest memory/)).toBe(1);
  });

  test('memory without descriptors: what to do is in the line', async () => {
    const service = await serve('table');
    started('table').send(p.VHOST_USER_SET_MEM_TABLE, memTable([t.QEMU_LAYOUT]));
    const [line] = await service.says(/^.*SET_MEM_TABLE without descriptors.*$/m);
    expect(line).toMatch(HOW);
  });

  test('memory whose descriptor is none: likewise', async () => {
    const service = await serve('kind');
    const frontEnd = started('kind');
    frontEnd.send(p.VHOST_USER_SET_MEM_TABLE, memTable([t.QEMU_LAYOUT]), { fds: [frontEnd.eventFd()] });
    const [line] = await service.says(/^.*memory region without a file that can be mapped.*$/m);
    expect(line).toMatch(HOW);
  });
});

test('what is not carried: a line each, of both families, however much of it comes', async () => {
  const service = await serve('guest', '--stream');
  const guest = await StreamClient.connect(join(dir, 'guest'));
  const data = new Uint8Array(64);
  const udp = datagram('10.0.0.5', 5000, '192.0.2.9', 9, bytes('00'));
  const tagged = bytes(udp.subarray(0, 12), '8100 0007', udp.subarray(12));
  for (let i = 0; i < 2000; i++) {
    guest.send(packet('10.0.0.5', '192.0.2.9', 50, data));
    guest.send(packet('2001:db8::5', '2001:db8:9::9', 132, data));
    guest.send(packet('10.0.0.5', '192.0.2.9', 47, data));
    guest.send(tagged);
  }
  await service.says(/the guest sends ESP \(IP protocol 50\), .*UDP encapsulation/);
  await service.says(/the guest sends SCTP \(IP protocol 132\), .*RFC 6951/);
  await service.says(/the guest sends GRE \(IP protocol 47\), .*tunnel over UDP/);
  await service.says(/the guest sends frames of VLAN 7/);
  guest.send(packet('10.0.0.5', '192.0.2.9', 33, data));
  await service.says(/DCCP/);
  expect(count(service, /the guest sends/)).toBe(5);
  await guest.destroy();
});
