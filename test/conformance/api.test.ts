/** The package's API for Node programs: a back-end, orders to it, its end. Needs a build. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Backend, BackendError, Denied, startBackend } from '../../src/api';
import { loadNative } from '../../src/native';
import { dial, freePorts } from '../support/control/service';
import { Guest } from '../support/guest/guest';
import { BIN, SAME_USER } from '../support/program';

jest.setTimeout(30_000);

let dir: string;
let backend: Backend | null = null;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-api-'));
});

afterEach(async () => {
  await backend?.end();
  backend = null;
  rmSync(dir, { recursive: true });
});

const start = (...args: string[]): Promise<Backend> =>
  startBackend({ socket: join(dir, 's'), program: BIN, args: [...SAME_USER, ...args] });

test('a back-end: forwards, a connection into the guest, its end', async () => {
  const port = await freePorts(1);
  backend = await start();
  const guest = await Guest.start(loadNative(), { socket: backend.socket });
  await guest.dhcp();
  const listener = guest.tcpListen(80);
  await backend.addForwards({ protocol: 'tcp', spec: `${port}:80` });
  expect(await backend.forwards()).toMatchObject([{ spec: `${port}:80`, listeners: 1 }]);
  (await dial(port)).destroy();
  await listener.accept();
  const inside = await backend.connect(80);
  const stream = await listener.accept();
  inside.write('hello');
  expect(Buffer.from(await stream.readExactly(5)).toString()).toBe('hello');
  inside.destroy();
  await expect(backend.addForwards({ protocol: 'tcp', spec: `${port}:81` })).rejects.toThrow(Denied);
  await backend.removeForwards([{ protocol: 'tcp', spec: `${port}:80` }], { closeFlows: true });
  expect((await backend.status()).forwards).toEqual([]);
  await guest.stop();
  const { control, ended } = backend;
  await backend.end();
  expect([await ended, existsSync(control)]).toEqual([0, false]);
});

test('a capture: its stream ends by a limit, by an order, or with its reader', async () => {
  backend = await start();
  const guest = await Guest.start(loadNative(), { socket: backend.socket });
  const { stream } = await backend.capture({ packets: 2, snap: 14 });
  const chunks: Buffer[] = [];
  const read = (async () => {
    for await (const chunk of stream) chunks.push(chunk as Buffer);
  })();
  await guest.dhcp();
  await read;
  expect(Buffer.concat(chunks)).toHaveLength(24 + 2 * (16 + 14));
  const more = await backend.capture();
  await backend.stopCapture(more.id);
  for await (const chunk of more.stream) expect(chunk).toHaveLength(24);
  await expect(backend.stopCapture(more.id)).rejects.toThrow(Denied);
  expect((await backend.captures()).map(({ reason }) => reason)).toEqual(['limit', 'order']);
  await guest.stop();
});

test('one that cannot start says why', async () => {
  await expect(start('--mtu', 'x')).rejects.toThrow(BackendError);
  await expect(start('--mtu', 'x')).rejects.toThrow(/--mtu x: give a number/);
});
