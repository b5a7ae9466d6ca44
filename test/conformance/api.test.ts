/** The package's API for Node programs: a back-end, orders to it, its end. Needs a build. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type Backend, BackendError, type BackendOptions, Denied, startBackend } from '../../src/api';
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

test('a policy and limits: from the start, changed, refused', async () => {
  const policy = { rules: [{ allow: ['192.0.2.1:443', 'example.com'] }, { deny: 'lan' }], sni: 'require' } as const;
  backend = await startBackend({
    ...{ socket: join(dir, 's'), program: BIN, args: SAME_USER },
    ...{ policy, rates: { in: 50e6, out: 0 } },
  });
  const { control } = backend;
  expect(await backend.policy()).toMatchObject({
    policy: {
      default: 'deny',
      sni: 'require',
      rules: [{ allow: '192.0.2.1:443' }, { allow: 'example.com' }, { deny: 'lan' }],
    },
  });
  expect(await backend.rates()).toEqual({ in: 50e6, out: 0 });
  expect(await backend.setRates({ in: 0, out: 10e6 })).toEqual({ in: 0, out: 10e6 });
  const { version } = await backend.setPolicy({ rules: [{ deny: 'host' }] });
  await expect(backend.setPolicy(null, { ifVersion: version - 1 })).rejects.toMatchObject({ status: 412 });
  await expect(backend.setPolicy({ rules: [{ allow: 'x y' }, { deny: '' }] })).rejects.toMatchObject({
    errors: [{ at: 'rules/0/allow' }, { at: 'rules/1/deny' }],
  });
  expect(await backend.policy()).toMatchObject({ version, policy: { default: 'allow', rules: [{ deny: 'host' }] } });
  expect((await backend.setPolicy(null, { ifVersion: version })).policy).toBeNull();
  await backend.end();
  expect(existsSync(dirname(control))).toBe(false);
});

test('changes of forwards say what there is then, and are refused where there was another since', async () => {
  const port = await freePorts(2);
  backend = await start();
  const [one, two] = [port, port + 1].map((each) => ({ protocol: 'tcp', spec: `${each}:80` }) as const);
  const { version, forwards } = await backend.addForwards([one, two]);
  expect(forwards).toMatchObject([one, two]);
  expect(await backend.removeForwards(one, { ifVersion: version })).toMatchObject({ forwards: [two] });
  await expect(backend.replaceForwards([], { ifVersion: version })).rejects.toMatchObject({ status: 412 });
  expect(await backend.forwardList()).toMatchObject({ version: version + 1, forwards: [two] });
  expect((await backend.replaceForwards([one], { closeFlows: true })).forwards).toMatchObject([one]);
});

test.each<[unknown, RegExp]>([
  [undefined, /^startBackend: give options like \{ socket: /],
  [{}, /^startBackend: socket: give a path$/],
  [
    { socket: '/tmp/s', polcy: { rules: [] } },
    /^startBackend: polcy: there is no such option, give socket, forwards, policy,/,
  ],
  [{ socket: '/tmp/s', forwards: ['8080:80'] }, /^startBackend: forwards: give a list like \[\{ protocol: /],
  [{ socket: '/tmp/s', policy: [] }, /^startBackend: policy: give an object like/],
  [{ socket: '/tmp/s', rates: { in: '50M', out: 0 } }, /^startBackend: rates: give bit\/s like/],
  [{ socket: '/tmp/s', args: '-4' }, /^startBackend: args: give a list of words/],
])('an option that is wrong starts nothing: %j', async (options, message) => {
  const started = startBackend(options as BackendOptions);
  await expect(started).rejects.toThrow(BackendError);
  await expect(started).rejects.toThrow(message);
});

test('one that cannot start says why', async () => {
  await expect(start('--mtu', 'x')).rejects.toThrow(BackendError);
  await expect(start('--mtu', 'x')).rejects.toThrow(/--mtu x: give a number/);
});
