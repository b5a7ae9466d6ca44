/** Orders to a running service: forwarded ports that come and go, under a guest that has connections. Needs a build. */
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { existsSync, statSync } from 'node:fs';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { Denied } from '../../src/ctl/client';
import { dial, freePorts, listening, type Ordered, startOrdered } from '../support/control/service';
import { Guest } from '../support/guest/guest';
import { BIN } from '../support/program';

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

const order = (method: string, path: string, forwards: readonly object[], query = {}): Promise<{ body: unknown }> =>
  service.client.ask(method, path, { body: { forwards }, query });

/** What a refused order says. */
async function denial(promise: Promise<unknown>): Promise<Denied> {
  const error: unknown = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof Denied)) throw new Error(`not refused: ${String(error)}`);
  return error;
}

/** The next bytes of a socket. */
async function bytes(socket: Socket): Promise<string> {
  const [chunk] = (await once(socket, 'data')) as [Buffer];
  return chunk.toString();
}

/** The page of metrics. */
async function scraped(): Promise<string> {
  const socket = connect(join(service.dir, 'm'));
  socket.end('GET /metrics HTTP/1.0\r\n\r\n');
  let page = '';
  for await (const chunk of socket) page += String(chunk);
  return page;
}

interface Ctl {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

/** `tubetti ctl` as it is run. */
function ctl(...argv: string[]): Promise<Ctl> {
  const child = spawn(BIN, ['ctl', '--control', service.control, ...argv], { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  return new Promise((resolve) => {
    child.on('close', (status) => {
      resolve({ status: status ?? -1, out, err });
    });
  });
}

test('a port is forwarded from one moment to the next, and no more; its connections live on', async () => {
  const port = await freePorts(1);
  const inside = await withGuest();
  const listener = inside.tcpListen(80);
  await expect(dial(port)).rejects.toThrow('ECONNREFUSED');

  await order('POST', '/v1/forwards', [{ protocol: 'tcp', spec: `${port}:80` }]);
  const client = await dial(port);
  const stream = await listener.accept();
  client.write('before');
  expect(Buffer.from(await stream.readExactly(6)).toString()).toBe('before');
  expect((await service.client.forwards()).body.forwards).toMatchObject([{ listeners: 1, connections: 1 }]);

  await order('POST', '/v1/forwards/remove', [{ protocol: 'tcp', spec: `${port}:80` }]);
  await expect(dial(port)).rejects.toThrow('ECONNREFUSED');
  const heard = bytes(client);
  await stream.write(Buffer.from('after'));
  expect(await heard).toBe('after');
  client.destroy();
  expect(inside.violations).toEqual([]);
});

test('what goes with closeFlows takes its connections with it', async () => {
  const port = await freePorts(1);
  const inside = await withGuest('-t', `${port}:80`);
  const listener = inside.tcpListen(80);
  const client = await dial(port);
  const stream = await listener.accept();
  const closed = new Promise((resolve) => client.once('close', resolve));
  const read = stream.read().catch((error: unknown) => String(error));
  const asked = [{ protocol: 'tcp', spec: `${port}:80` }];
  await order('POST', '/v1/forwards/remove', asked, { closeFlows: 'true' });
  await closed;
  expect(await read).toMatch(/reset/i);
});

test('a port leads elsewhere: its listener stays, its count begins again, older connections live on', async () => {
  const port = await freePorts(1);
  const inside = await withGuest('-t', `${port}:80`);
  const [old, other] = [inside.tcpListen(80), inside.tcpListen(81)];
  const before = await dial(port);
  const first = await old.accept();
  await order('PUT', '/v1/forwards', [{ protocol: 'tcp', spec: `${port}:81` }]);
  const after = await dial(port);
  const second = await other.accept();
  before.write('1');
  after.write('2');
  expect(Buffer.from(await first.readExactly(1)).toString()).toBe('1');
  expect(Buffer.from(await second.readExactly(1)).toString()).toBe('2');
  expect((await service.client.forwards()).body.forwards).toMatchObject([{ spec: `${port}:81`, connections: 1 }]);
  for (const socket of [before, after]) socket.destroy();
});

test('UDP: a port comes, answers leave from it, it goes', async () => {
  const port = await freePorts(1);
  const inside = await withGuest();
  const bound = inside.udpBind(53);
  const peer = createSocket('udp4');
  const answers = once(peer, 'message') as Promise<[Buffer, { port: number }]>;
  await order('POST', '/v1/forwards', [{ protocol: 'udp', spec: `${port}:53` }]);
  peer.send('question', port, '127.0.0.1');
  const { data, addr, port: from } = await bound.recv();
  expect(Buffer.from(data).toString()).toBe('question');
  void bound.send(addr, from, Buffer.from('answer'));
  const [answer, { port: source }] = await answers;
  expect([answer.toString(), source]).toEqual(['answer', port]);

  await order('POST', '/v1/forwards/remove', [{ protocol: 'udp', spec: `${port}:53` }]);
  const again = createSocket('udp4');
  again.bind(port, '127.0.0.1');
  await once(again, 'listening');
  again.close();
  peer.close();
  expect(inside.violations).toEqual([]);
});

test('all or nothing: every wrong item is named, and no other was done', async () => {
  const first = await freePorts(3);
  const taken = await listening(first + 1);
  service = await startOrdered('-t', `${first + 2}:22`);
  const asked = [`${first}:80`, `${first + 1}:81`, `${first + 2}:82`, '99999:1'].map((spec) => ({
    protocol: 'tcp',
    spec,
  }));
  const parsed = await denial(order('POST', '/v1/forwards', asked));
  expect([parsed.status, parsed.errors.map(({ at }) => at)]).toEqual([400, ['forwards/3/spec']]);
  const conflict = await denial(order('POST', '/v1/forwards', asked.slice(0, 3)));
  expect([conflict.status, conflict.errors.map(({ at, code }) => [at, code])]).toEqual([
    409,
    [['forwards/2/spec', 'conflict']],
  ]);
  const bind = await denial(order('POST', '/v1/forwards', asked.slice(0, 2)));
  expect([bind.status, bind.errors.map(({ at, code }) => [at, code])]).toEqual([409, [['forwards/1/spec', 'bind']]]);
  expect(bind.message).toMatch(/address already in use/);
  await expect(dial(first)).rejects.toThrow('ECONNREFUSED');
  const { body, version } = await service.client.forwards();
  expect([version, body.forwards.map(({ spec }) => spec)]).toEqual([1, [`${first + 2}:22`]]);
  taken.close();
});

test('two clients: the one that has not seen the last change is refused', async () => {
  const port = await freePorts(2);
  service = await startOrdered();
  const add = (spec: string, ifVersion: number): Promise<{ version: number | null }> =>
    service.client.ask('POST', '/v1/forwards', { body: { forwards: [{ protocol: 'tcp', spec }] }, ifVersion });
  expect((await add(`${port}`, 1)).version).toBe(2);
  expect((await denial(add(`${port + 1}`, 1))).status).toBe(412);
  expect((await add(`${port + 1}`, 2)).version).toBe(3);
});

test('events: what happens, as it happens', async () => {
  const port = await freePorts(1);
  service = await startOrdered();
  const stop = new AbortController();
  const seen: string[] = [];
  const events = service.client.events('/v1/events', stop.signal);
  const next = async (): Promise<void> => {
    const told = await events.next();
    seen.push(told.done === true ? 'none' : told.value.event);
  };
  const first = next();
  // Its answer comes after the stream's head.
  await service.client.forwards();
  await order('POST', '/v1/forwards', [{ protocol: 'tcp', spec: `${port}` }]);
  await first;
  const second = next();
  guest = await Guest.start(native, { socket: service.socket });
  await second;
  const third = next();
  await guest.stop();
  guest = null;
  await third;
  expect(seen).toEqual(['forwards-changed', 'front-end-connected', 'front-end-disconnected']);
  stop.abort();
});

/** `tubetti ctl events`, of which the first line is there, and what becomes of it. */
async function watching(...argv: string[]): Promise<{ readonly ended: Promise<Ctl>; readonly deaf: () => void }> {
  const child = spawn(BIN, ['ctl', '--control', service.control, 'events', ...argv]);
  let out = '';
  let err = '';
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  const ended = once(child, 'close').then(([status]) => ({ status: Number(status ?? -1), out, err }));
  const port = await freePorts(1);
  const heard = once(child.stdout, 'data');
  // Nobody says when it listens.
  for (let seen = false; !seen;) {
    await order('PUT', '/v1/forwards', [{ protocol: 'tcp', spec: `${port}` }]);
    await order('PUT', '/v1/forwards', []);
    seen = await Promise.race([heard.then(() => true), new Promise<false>((go) => setTimeout(go, 100, false))]);
  }
  return { ended, deaf: () => child.stdout.destroy() };
}

test('ctl events: the last one is the end of the service, with its status', async () => {
  service = await startOrdered();
  const [text, json] = [await watching(), await watching('--json')];
  await service.client.ask('POST', '/v1/end');
  const told = await text.ended;
  expect(told).toMatchObject({ status: 0, err: '' });
  expect(told.out).toMatch(/^[0-9T:.-]+Z forwards-changed version=[0-9]+\n[\s\S]*\n[0-9T:.-]+Z end status=0\n$/);
  const { out, status } = await json.ended;
  const last: unknown = JSON.parse(out.trim().split('\n').at(-1) ?? '');
  expect([status, last]).toMatchObject([0, { event: 'end', data: { status: 0 } }]);
  expect(await service.exit).toEqual({ status: 0, signal: null });
});

test('ctl events: a service that is killed leaves one line, and status 2', async () => {
  service = await startOrdered();
  const { ended } = await watching();
  service.child.kill('SIGKILL');
  expect(await ended).toMatchObject({
    status: 2,
    err: `tubetti ctl: ${service.control}: the service is gone: the connection to it broke\n`,
  });
});

test('ctl events: who read them is gone, and so is it', async () => {
  service = await startOrdered();
  const { ended, deaf } = await watching();
  deaf();
  await order('PUT', '/v1/forwards', [{ protocol: 'tcp', spec: `${await freePorts(1)}` }]);
  await order('PUT', '/v1/forwards', []);
  expect(await ended).toMatchObject({ status: 0, err: '' });
});

test('PUT takes away what is not in it', async () => {
  const port = await freePorts(2);
  const inside = await withGuest('-t', `${port}:80`);
  await order('PUT', '/v1/forwards', [{ protocol: 'tcp', spec: `${port + 1}:80` }]);
  const listener = inside.tcpListen(80);
  (await dial(port + 1)).destroy();
  await listener.accept();
  await expect(dial(port)).rejects.toThrow('ECONNREFUSED');
});

test('ctl connect: a byte pipe into the guest without a port', async () => {
  const inside = await withGuest();
  const listener = inside.tcpListen(22);
  const child = spawn(BIN, ['ctl', '-c', service.control, 'connect', '22'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const stream = await listener.accept(10_000);
  child.stdin.write('SSH-2.0-client\n');
  expect(Buffer.from(await stream.readExactly(15)).toString()).toBe('SSH-2.0-client\n');
  const heard = once(child.stdout, 'data') as Promise<[Buffer]>;
  await stream.write(Buffer.from('SSH-2.0-guest\n'));
  expect((await heard)[0].toString()).toBe('SSH-2.0-guest\n');
  void stream.end();
  child.stdin.end();
  expect(await once(child, 'close')).toEqual([0, null]);
  expect(inside.violations).toEqual([]);
});

test('ctl connect: a port that the guest refuses', async () => {
  await withGuest();
  const child = spawn(BIN, ['ctl', '-c', service.control, 'connect', '23'], { stdio: ['pipe', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (said += chunk));
  const [status] = (await once(child, 'close')) as [number];
  expect([status, said]).toEqual([
    1,
    'tubetti ctl: connect 23: the guest refused the connection, or ended it without a byte\n',
  ]);
});

test('ctl connect: without a guest there is none', async () => {
  service = await startOrdered();
  expect(await ctl('connect', '22')).toMatchObject({
    status: 1,
    err: expect.stringMatching(/guest is not connected/) as string,
  });
});

test('ctl: tables for people, JSON for programs, an exit status for both', async () => {
  const port = await freePorts(2);
  service = await startOrdered('--label', 'vm=web1', '--metrics', 'unix:{}/m');
  expect(await ctl('forward', 'add', `${port}:80`, `udp/${port + 1}:53`)).toEqual({
    status: 0,
    out: `PROTOCOL  SPEC      LISTENERS  CONNECTIONS\ntcp       ${port}:80          1            0\nudp       ${port + 1}:53          1            0\n`,
    err: '',
  });
  expect(JSON.parse((await ctl('--json', 'forward', 'list')).out)).toMatchObject({ version: 2 });
  expect(await scraped()).toContain(`tubetti_forward_listeners{protocol="udp",rule="${port + 1}:53"} 1`);
  expect(await ctl('forward', 'add', `${port}:81`)).toMatchObject({
    status: 1,
    err: `tubetti ctl: tcp ${port}:81: tcp port ${port} is taken by the forward tcp ${port}:80\n`,
  });
  expect(await ctl('forward', 'add')).toMatchObject({ status: 2, err: expect.stringMatching(/give ports/) as string });
  expect(await ctl('no-such')).toMatchObject({ status: 2 });
  expect((await ctl('status')).out).toMatch(/^service .*\nfront-end .*waiting\n[\s\S]*^label {5}vm=web1$/m);
  expect(await ctl('end')).toMatchObject({ status: 0 });
  expect(await service.exit).toEqual({ status: 0, signal: null });
  expect(existsSync(service.control)).toBe(false);
  expect(await ctl('status')).toMatchObject({
    status: 2,
    err: expect.stringMatching(/cannot speak to the service/) as string,
  });
});

test('the file is for its owner alone, and gone with a service that was killed', async () => {
  service = await startOrdered();
  expect(statSync(service.control).mode & 0o777).toBe(0o600);
  service.child.kill('SIGKILL');
  await service.exit;
  const deadline = performance.now() + 2000;
  while (existsSync(service.control) && performance.now() < deadline)
    await new Promise((resolve) => setTimeout(resolve, 20));
  expect(existsSync(service.control)).toBe(false);
});
