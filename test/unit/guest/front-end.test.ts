/** What the front-end says, message by message, to a back-end that notes it. */
import { rmSync } from 'node:fs';
import * as vu from '../../support/guest/constants';
import { VhostUserConnection, u64, vringState } from '../../support/guest/connection';
import type { GuestOptions } from '../../support/guest/guest';
import { native, plug, unplugAll } from '../../support/guest/pair';

afterEach(unplugAll);

const NAMES = new Map(
  Object.entries(vu)
    .filter(([name, value]) => /^VHOST_USER_(?!F_|PROTOCOL)/.test(name) && typeof value === 'number')
    .map(([name, value]) => [value as number, name.slice('VHOST_USER_'.length)]),
);
const name = (n: number): string => NAMES.get(n) ?? String(n);

async function order(options: GuestOptions, backend = {}): Promise<string[]> {
  const { guest, wire } = await plug(options, backend);
  const started = wire.log.length;
  await guest.frontEnd.stop();
  await guest.frontEnd.getFeatures(); // so that the last message has been seen
  wire.log.pop();
  const text = wire.log.map((m) => name(m.request) + (m.flags === 9 ? '!' : ''));
  return [...text.slice(0, started), '|', ...text.slice(started)];
}

const RING = ['SET_VRING_NUM', 'SET_VRING_BASE', 'SET_VRING_ADDR', 'SET_VRING_ERR', 'SET_VRING_KICK', 'SET_VRING_CALL'];

it('speaks as QEMU 10', async () => {
  expect(await order({})).toEqual([
    ...['GET_FEATURES', 'GET_PROTOCOL_FEATURES', 'SET_PROTOCOL_FEATURES', 'GET_QUEUE_NUM', 'GET_MAX_MEM_SLOTS'],
    ...['SET_BACKEND_REQ_FD!', 'SET_OWNER', 'GET_FEATURES'],
    ...['SET_VRING_CALL', 'SET_VRING_ERR', 'SET_VRING_CALL', 'SET_VRING_ERR', 'RESET_DEVICE'],
    ...Array<string>(4).fill('SET_VRING_ENABLE!'),
    ...['SET_FEATURES', 'GET_STATUS', 'SET_STATUS', 'ADD_MEM_REG!', ...RING, ...RING],
    ...['GET_STATUS', 'SET_STATUS', 'GET_FEATURES', '|', 'GET_VRING_BASE', 'GET_VRING_BASE', 'SET_STATUS'],
  ]);
});

it('speaks as QEMU 7.2 to a back-end of few features', async () => {
  const protocolFeatures = vu.VHOST_USER_PROTOCOL_F_STATUS | vu.VHOST_USER_PROTOCOL_F_REPLY_ACK;
  expect(await order({ style: 'qemu7' }, { protocolFeatures })).toEqual([
    ...['GET_FEATURES', 'GET_PROTOCOL_FEATURES', 'SET_PROTOCOL_FEATURES', 'SET_OWNER', 'GET_FEATURES'],
    ...['SET_VRING_CALL', 'SET_VRING_ERR', 'SET_VRING_CALL', 'SET_VRING_ERR'],
    ...Array<string>(4).fill('SET_VRING_ENABLE'),
    ...['SET_FEATURES', 'GET_STATUS', 'SET_STATUS', 'SET_MEM_TABLE!', ...RING, ...RING],
    ...['GET_STATUS', 'SET_STATUS', 'GET_FEATURES', '|', 'SET_STATUS', 'GET_VRING_BASE', 'GET_VRING_BASE'],
  ]);
});

it('speaks as user-mode Linux', async () => {
  const { guest, wire } = await plug({ style: 'uml' });
  expect(wire.log.map((m) => name(m.request) + (m.flags === 9 ? '!' : ''))).toEqual([
    ...['SET_OWNER', 'GET_FEATURES', 'GET_PROTOCOL_FEATURES', 'SET_PROTOCOL_FEATURES!', 'SET_BACKEND_REQ_FD!'],
    ...['SET_FEATURES', 'GET_CONFIG', 'GET_CONFIG', 'SET_MEM_TABLE!'],
    ...Array.from({ length: 2 }, () => ['SET_VRING_CALL', 'SET_VRING_NUM', 'SET_VRING_BASE', 'SET_VRING_ADDR']).flat(),
    ...['SET_VRING_KICK', 'SET_VRING_ENABLE!', 'SET_VRING_KICK', 'SET_VRING_ENABLE!'],
  ]);
  expect(wire.log.find((m) => m.request === vu.VHOST_USER_SET_MEM_TABLE)?.size).toBe(72);
  // The call descriptor is a socket: a signal still arrives.
  guest.link.setIp4('10.0.0.1', 24, null);
  wire.onFrame = (frame) => wire.toGuest(frame);
  const echo = guest.waitFrame(() => true);
  guest.sendFrame(new Uint8Array(60).fill(0xff));
  expect((await echo).length).toBe(60);
});

it('without protocol features uses barriers in place of acknowledgements', async () => {
  const features = vu.DRIVER_FEATURES;
  const said = await order({ style: 'qemu7' }, { features });
  expect(said).not.toContain('GET_PROTOCOL_FEATURES');
  expect(said).not.toContain('SET_VRING_ENABLE');
  expect(said.slice(said.indexOf('SET_MEM_TABLE'), said.indexOf('SET_MEM_TABLE') + 2)).toEqual([
    'SET_MEM_TABLE',
    'GET_FEATURES',
  ]);
});

it('takes only wanted features of those offered', async () => {
  const { guest, wire } = await plug({ features: vu.VIRTIO_F_VERSION_1 | vu.VIRTIO_NET_F_CSUM | (1n << 60n) });
  const expected = vu.VIRTIO_F_VERSION_1 | vu.VIRTIO_NET_F_CSUM | vu.VHOST_USER_F_PROTOCOL_FEATURES;
  expect(wire.features).toBe(expected);
  expect(guest.driver.mergeable).toBe(false);
});

it('tells the MTU, and the bases of rings that start anywhere', async () => {
  const features = vu.DRIVER_FEATURES | vu.VIRTIO_NET_F_MTU;
  const { guest, wire } = await plug({ features, hostMtu: 9000, start: 65533 });
  expect(wire.mtu).toBe(9000);
  await guest.frontEnd.stop();
  expect(guest.frontEnd.rings.map((r) => r.base)).toEqual([65533, 65533]);
});

describe('the connection', () => {
  function pair(): [VhostUserConnection, number] {
    const fds = new Int32Array(2);
    native.unixPair(fds);
    return [new VhostUserConnection(native, fds[0]), fds[1]];
  }

  it('puts messages together from single bytes, with their descriptors', async () => {
    const [left, fd] = pair();
    const scratch = new Int32Array(1);
    const bytes = Uint8Array.of(
      11,
      0,
      0,
      0,
      5,
      0,
      0,
      0,
      8,
      0,
      0,
      0,
      ...vringState(1, 7),
      1,
      0,
      0,
      0,
      5,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
    );
    scratch[0] = fd; // any descriptor does
    for (let i = 0; i < bytes.length; i++) native.sendFds(fd, bytes, i, 1, scratch, i === 0 ? 1 : 0);
    const first = await left.next();
    expect([first.request, first.flags, [...first.payload], first.fds.length]).toEqual([
      11,
      5,
      [...vringState(1, 7)],
      1,
    ]);
    const second = await left.next();
    expect([second.request, second.payload.length, second.fds.length]).toEqual([1, 0, 0]);
    native.close(first.fds[0]);
    left.close();
    native.close(fd);
  });

  it('refuses a reply to something else, or with other flags', async () => {
    const [left, fd] = pair();
    const right = new VhostUserConnection(native, fd);
    right.onMessage = (m) => right.send(m.request === 1 ? 2 : m.request, m.request === 3 ? 0xd : 5, u64(0));
    await expect(left.call(1)).rejects.toThrow('answered by 2');
    await expect(left.call(3)).rejects.toThrow('flags 0xd');
    await expect(left.call(15)).resolves.toMatchObject({ request: 15 });
    right.close();
    await left.closed;
    await expect(left.next()).rejects.toThrow('closed');
  });

  it('says when nobody listens, and waits for somebody who will', async () => {
    const path = `/tmp/tubetti-guest-${process.pid}.sock`;
    await expect(VhostUserConnection.connect(native, path, 0)).rejects.toThrow('ENOENT');
    const accepted = VhostUserConnection.accept(native, path);
    const connected = await VhostUserConnection.connect(native, path);
    const other = await accepted;
    connected.send(1, 1);
    expect((await other.next()).request).toBe(1);
    connected.close();
    await other.closed;
    rmSync(path);
  });

  it('closes on a message of absurd size', async () => {
    const [left, fd] = pair();
    const bytes = Uint8Array.of(1, 0, 0, 0, 5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff);
    native.sendFds(fd, bytes, 0, 12, new Int32Array(1), 0);
    await left.closed;
    native.close(fd);
  });
});
