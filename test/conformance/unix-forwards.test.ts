/** UNIX sockets of the host's that lead into the guest: at the start, and while the service runs. Needs a build. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { Denied } from '../../src/ctl/client';
import { loadNative } from '../../src/native';
import { dial, freePorts, type Ordered, startOrdered } from '../support/control/service';
import { Guest } from '../support/guest/guest';
import { BIN, SAME_USER, runOnce } from '../support/program';

jest.setTimeout(30_000);

const native = loadNative();
let service: Ordered;
let guest: Guest | null = null;

afterEach(async () => {
  await guest?.stop();
  guest = null;
  service.remove();
});

async function withGuest(...argv: string[]): Promise<Guest> {
  service = await startOrdered(...argv);
  guest = await Guest.start(native, { socket: service.socket });
  await guest.dhcp();
  return guest;
}

const at = (name: string): string => join(service.dir, name);
const add = (...specs: string[]): Promise<unknown> =>
  service.client.ask('POST', '/v1/forwards', { body: { forwards: specs.map((spec) => ({ protocol: 'tcp', spec })) } });
const remove = (spec: string, query = {}): Promise<unknown> =>
  service.client.ask('POST', '/v1/forwards/remove', { body: { forwards: [{ protocol: 'tcp', spec }] }, query });

function dialUnix(name: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path: at(name), allowHalfOpen: true }, () => {
      socket.off('error', reject);
      socket.on('error', () => undefined);
      resolve(socket);
    });
    socket.once('error', reject);
  });
}

async function allOf(socket: Socket): Promise<string> {
  let text = '';
  for await (const chunk of socket) text += String(chunk);
  return text;
}

async function refused(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof Denied)) throw new Error(`not refused: ${String(error)}`);
  return error.message;
}

test('from the start: bytes, the end of each direction by itself, the count of the rule, the file', async () => {
  const inside = await withGuest('-t', 'unix:{}/ssh:22', '--metrics', 'unix:{}/m');
  expect(statSync(at('ssh')).mode & 0o777).toBe(0o600);
  const listener = inside.tcpListen(22);
  const client = await dialUnix('ssh');
  const stream = await listener.accept();
  client.end('question');
  expect(Buffer.from(await stream.readExactly(8)).toString()).toBe('question');
  expect(await stream.read()).toBeNull();
  await stream.write(Buffer.from('answer'));
  const answer = allOf(client);
  await stream.end();
  expect(await answer).toBe('answer');
  const spec = `unix:${at('ssh')}:22`;
  expect((await service.client.forwards()).body.forwards).toMatchObject([{ spec, listeners: 1, connections: 1 }]);
  await service.client.ask('POST', '/v1/end');
  await service.exit;
  expect(readdirSync(service.dir)).toEqual([]);
  expect(inside.violations).toEqual([]);
});

test('later: in the directory of --control; a stale file is replaced, what others have is not', async () => {
  const inside = await withGuest();
  const listener = inside.tcpListen(80);
  // What a service leaves that was killed.
  const stale = createServer().listen(at('stale'));
  await once(stale, 'listening');
  const other = createServer().listen(at('other'));
  await once(other, 'listening');
  const script = `require('net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`;
  await once(spawn(process.execPath, ['-e', script, at('dead')]), 'close');
  writeFileSync(at('file'), '');
  await expect(dialUnix('dead')).rejects.toThrow('ECONNREFUSED');

  await add(`unix:${at('web')}:80`, `unix:${at('dead')}:80`);
  for (const name of ['web', 'dead']) {
    expect(statSync(at(name)).mode & 0o777).toBe(0o600);
    const client = await dialUnix(name);
    const stream = await listener.accept();
    await stream.write(Buffer.from(name));
    expect(String(((await once(client, 'data')) as [Buffer])[0])).toBe(name);
    client.destroy();
  }
  for (const name of ['other', 'file'])
    expect(await refused(add(`unix:${at(name)}:80`))).toMatch(/forwards\/0\/spec: .*address already in use \(another/);
  expect(await refused(add('unix:/run/tubetti-test:80'))).toMatch(/only in the directory of --control/);
  expect(await refused(add(`unix:${at('web')}:81`))).toMatch(/web is taken by the forward tcp unix:.*web:80/);
  await remove(`unix:${at('web')}:80`);
  expect(existsSync(at('web'))).toBe(false);
  stale.close();
  other.close();
  service.child.kill('SIGKILL');
  await service.exit;
  while (existsSync(at('dead'))) await new Promise((resolve) => setTimeout(resolve, 10));
});

test('it leads elsewhere without a refused connection; what goes with closeFlows takes its connections', async () => {
  const inside = await withGuest('-t', 'unix:{}/s80:80');
  const [first, second] = [inside.tcpListen(80), inside.tcpListen(81)];
  const before = await dialUnix('s80');
  const old = await first.accept();
  await service.client.ask('PUT', '/v1/forwards', {
    body: { forwards: [{ protocol: 'tcp', spec: `unix:${at('s80')}:81` }] },
  });
  const after = await dialUnix('s80');
  await second.accept();
  before.write('1');
  expect(Buffer.from(await old.readExactly(1)).toString()).toBe('1');
  const closed = once(after.resume(), 'end');
  await remove(`unix:${at('s80')}:81`, { closeFlows: 'true' });
  await closed;
  before.write('2');
  expect(Buffer.from(await old.readExactly(1)).toString()).toBe('2');
  before.destroy();
});

test('more of them than are carried wait, and have their turn; the ports of the host are served meanwhile', async () => {
  const port = await freePorts(1);
  const inside = await withGuest('-t', 'unix:{}/many:80', '-t', `${port}:81`);
  const [listener, ports] = [inside.tcpListen(80), inside.tcpListen(81)];
  // A backlog that is full refuses.
  const hundred = (): Promise<Socket[]> => Promise.all(Array.from({ length: 100 }, () => dialUnix('many')));
  const clients = await hundred();
  const streams = [];
  for (let n = 0; n < 100; n++) streams.push(await listener.accept());
  clients.push(...(await hundred()));
  for (let n = 0; n < 28; n++) streams.push(await listener.accept());
  (await dial(port)).destroy();
  await ports.accept();
  for (const client of clients.slice(0, 128)) client.destroy();
  for (let n = 0; n < 72; n++) streams.push(await listener.accept());
  expect(streams).toHaveLength(200);
  for (const client of clients) client.destroy();
  expect(inside.violations).toEqual([]);
});

test("the clients of one socket, as many as come, leave room for another's", async () => {
  const inside = await withGuest('-t', 'unix:{}/many:80', '-t', 'unix:{}/other:81');
  const [many, other] = [inside.tcpListen(80), inside.tcpListen(81)];
  const clients = await Promise.all(Array.from({ length: 120 }, () => dialUnix('many')));
  for (let n = 0; n < 120; n++) await many.accept();
  clients.push(...(await Promise.all(Array.from({ length: 120 }, () => dialUnix('many')))));
  for (let n = 0; n < 8; n++) await many.accept();
  const late = await dialUnix('other');
  const stream = await other.accept();
  late.write('x');
  expect(Buffer.from(await stream.readExactly(1)).toString()).toBe('x');
  for (const client of [...clients, late]) client.destroy();
});

test("gvproxy's clients: a path that leads to a port of the guest", async () => {
  const listener = (await withGuest()).tcpListen(22);
  const local = at('gv');
  await service.client.ask('POST', '/services/forwarder/expose', {
    body: { local, remote: 'tcp://192.168.127.2:22', protocol: 'unix' },
  });
  (await dialUnix('gv')).destroy();
  await listener.accept();
  const { body } = await service.client.ask('GET', '/services/forwarder/all');
  expect(body).toEqual([{ local, remote: 'tcp://:22', protocol: 'unix' }]);
  await service.client.ask('POST', '/services/forwarder/unexpose', { body: { local, protocol: 'unix' } });
  expect(existsSync(local)).toBe(false);
});

test('a guest that is not there: the connection ends', async () => {
  service = await startOrdered('-t', 'unix:{}/early:80');
  const client = await dialUnix('early');
  expect(await allOf(client)).toBe('');
});

test('ctl connect: an answer that comes after the end of the question', async () => {
  const inside = await withGuest();
  const listener = inside.tcpListen(7);
  const child = spawn(BIN, ['ctl', '-c', service.control, 'connect', '7'], { stdio: ['pipe', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stdin.end('question');
  const stream = await listener.accept(10_000);
  expect(Buffer.from(await stream.readExactly(8)).toString()).toBe('question');
  expect(await stream.read()).toBeNull();
  await stream.write(Buffer.from('late answer'));
  await stream.end();
  expect(await once(child, 'close')).toEqual([0, null]);
  expect(out).toBe('late answer');
});

test.each([
  [['-u', 'unix:/run/x:22'], 'a UNIX socket carries a stream, give it with -t'],
  [['-t', 'unix:/run/x'], 'give unix:PATH:PORT'],
  [['-t', 'unix:x:22'], '"x" is not a path from the root on'],
  [['-t', 'unix:/run/x:2001:db8::a/22'], 'give unix:PATH:PORT, or unix:PATH:ADDRESS/PORT'],
  [['-t', 'unix:/no/such/directory/x:22'], 'cannot listen: no such file or directory'],
  [['-t', 'unix:/run/x:22', '-t', 'unix:/run/x:23'], '/run/x is forwarded here and in -t unix:/run/x:22'],
])('%j cannot be', async (argv, message) => {
  service = await startOrdered();
  const { status, stderr } = runOnce([...SAME_USER, '-f', '-s', at('other'), ...argv]);
  expect([status, stderr.trim().split('\n')]).toEqual([1, [expect.stringContaining(message)]]);
});
