/** The faces of a running service before clients that send noise, flood or stall. Needs a build. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { request } from 'node:http';
import { connect, Socket } from 'node:net';
import { join } from 'node:path';
import type { PortRule } from '../../src/config/port-spec';
import { writeRule } from '../../src/control/pesto';
import { loadNative } from '../../src/native';
import { dial, freePorts, type Ordered, startOrdered } from '../support/control/service';
import { Guest } from '../support/guest/guest';
import { residentBytes } from '../support/run-service';
import { poll } from '../support/world/processes';

jest.setTimeout(60_000);

const MIB = 1 << 20;
const native = loadNative();
let service: Ordered;
let guest: Guest | null = null;
const clients: Socket[] = [];

afterEach(() => {
  guest?.close();
  guest = null;
  for (const socket of clients.splice(0)) socket.destroy();
  service.remove();
});

async function withGuest(): Promise<Guest> {
  guest = await Guest.start(native, { socket: service.socket });
  await guest.dhcp();
  return guest;
}

const FACES = { control: 'c', pesto: 'pesto', slirp: 'slirp' } as const;
const start = async (...argv: string[]): Promise<void> => {
  service = await startOrdered('--conf-path', '{}/pesto', '--slirp-api', '{}/slirp', ...argv);
};

function client(face: keyof typeof FACES): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(join(service.dir, FACES[face]), () => {
      socket.off('error', reject);
      socket.on('error', () => undefined);
      clients.push(socket);
      resolve(socket);
    });
    socket.once('error', reject);
  });
}

/** Sends bytes and waits for the end of the connection, which the service or we bring about. */
async function send(face: keyof typeof FACES, bytes: Buffer): Promise<void> {
  const socket = await client(face);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.resume().end(bytes);
  await closed;
}

interface Answer {
  readonly status: number;
  readonly body: { readonly errors?: readonly { readonly at: string; readonly code: string }[] };
}

/** What a line of text says of the request's body: `local: give ADDRESS:PORT`. */
function namedIn(text: string): Answer['body'] {
  return { errors: [{ at: `body/${text.split(':', 1)[0]}`, code: 'text' }] };
}

/** A request with any body. */
function ask(method: string, path: string, body?: string | Buffer, headers = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: service.control, method, path, headers, agent: false }, (response) => {
      let text = '';
      const isText = response.headers['content-type']?.startsWith('text/plain') === true;
      response.on('data', (chunk: Buffer) => (text += chunk.toString()));
      response.on('end', () => {
        resolve({
          status: response.statusCode ?? 0,
          body: text === '' ? {} : isText ? namedIn(text) : (JSON.parse(text) as Answer['body']),
        });
      });
    });
    asked.on('error', reject);
    asked.end(body);
  });
}

const REFUSED: readonly [string, string, string | undefined, object, number, string][] = [
  ['GET', '/', undefined, {}, 404, ''],
  ['PATCH', '/v1/forwards', undefined, {}, 405, ''],
  ['GET', '/v1/flows?most=many', undefined, {}, 400, 'query/most'],
  ['GET', '/v1/flows?most=1&most=2', undefined, {}, 400, 'query/most'],
  ['GET', '/v1/flows?what=1', undefined, {}, 400, 'query/what'],
  ['POST', '/v1/forwards', '{', {}, 400, ''],
  ['POST', '/v1/forwards', '[]', {}, 400, 'body'],
  ['POST', '/v1/forwards', '{"forwards":[{"protocol":"sctp","spec":"1"}]}', {}, 400, 'body/forwards/0/protocol'],
  ['POST', '/v1/forwards', '{"forwards":[{"protocol":"tcp"}]}', {}, 400, 'body/forwards/0/spec'],
  ['POST', '/v1/forwards', '{"forwards":[],"x":1}', {}, 400, 'body/x'],
  ['POST', '/v1/forwards', '{"forwards":[]}', { 'If-Match': 'x' }, 400, 'If-Match'],
  ['POST', '/v1/forwards', '{"__proto__":{"forwards":[]}}', {}, 400, 'body/forwards'],
  ['POST', '/v1/connect/0', undefined, {}, 400, 'port'],
  ['POST', '/v1/connect/22', undefined, {}, 426, ''],
  ['POST', '/services/forwarder/expose', '{"local":"8080","remote":":80"}', {}, 400, 'body/local'],
];

test('what a request must not be: refused, and the field is named', async () => {
  await start();
  for (const [method, path, body, headers, status, at] of REFUSED) {
    const answer = await ask(method, path, body, headers);
    expect([path, body, answer.status, answer.body.errors?.[0]?.at]).toEqual([path, body, status, at]);
  }
});

test('a body that is too long is refused', async () => {
  await start();
  expect((await ask('POST', '/v1/forwards', Buffer.alloc(70_000, 32))).status).toBe(413);
});

test.each(Object.keys(FACES) as (keyof typeof FACES)[])('10⁶ bytes of noise at %s', async (face) => {
  await start();
  const before = residentBytes(service.child.pid ?? 0);
  const beginnings = [
    '',
    'GET /v1/status HTTP/1.1\r\n',
    'POST /v1/forwards HTTP/1.1\r\nHost: x\r\n\r\n{',
    '{"execute":',
    '\x01\0\0\0\x02',
  ];
  for (let n = 0; n < 100; n++) {
    const noise = randomBytes(n % 5 === 0 ? 50_000 : 1);
    await send(face, Buffer.concat([Buffer.from(beginnings[n % beginnings.length] ?? '', 'latin1'), noise]));
  }
  expect((await service.client.forwards()).body.forwards).toEqual([]);
  expect(service.stderr()).not.toMatch(/error|internal/i);
  expect(residentBytes(service.child.pid ?? 0) - before).toBeLessThan(40 * MIB);
});

test('changes as fast as they can be made: five lines of log a second at the most', async () => {
  const port = await freePorts(2);
  await start();
  const began = performance.now();
  const CHANGES = 200;
  for (let n = 0; n < CHANGES; n++) {
    const rule: PortRule = {
      ...{
        protocol: 'tcp',
        addr: Uint8Array.of(127, 0, 0, 1),
        ifname: null,
        first: port + (n % 2),
        last: port + (n % 2),
      },
      ...{ targetFirst: 80, targetAddr: null, weak: false, origin: '' },
    };
    const head = Buffer.from([1, 0, 0, 0, 1]);
    const on = { v4: true, v6: true, tcp: true, udp: true };
    await send('pesto', Buffer.concat([head, writeRule(rule, on), Buffer.alloc(1)]));
  }
  const { body } = await service.client.forwards();
  const seconds = Math.ceil((performance.now() - began) / 1000);
  expect(body.version).toBeGreaterThan(CHANGES / 2);
  const said = service.stderr().match(/pesto has changed the forwarded ports/g)?.length ?? 0;
  expect(said).toBeGreaterThan(0);
  expect(said).toBeLessThanOrEqual(Math.min(CHANGES / 2, 5 * (seconds + 1)));
});

test('clients that stall and clients that flood: orders are taken, the guest is served', async () => {
  const port = await freePorts(2);
  await start('-t', `${port}:80`);
  const inside = await withGuest();
  const listener = inside.tcpListen(80);
  const pid = service.child.pid ?? 0;
  const before = residentBytes(pid);
  const stalled: Socket[] = [];
  for (const face of Object.keys(FACES) as (keyof typeof FACES)[]) {
    for (let n = 0; n < 60; n++) {
      const socket = await client(face);
      socket.write(face === 'control' ? 'GET /v1/sta' : '{');
      stalled.push(socket);
    }
  }
  let flooding = true;
  const flood = Promise.all(
    Array.from({ length: 4 }, async () => {
      while (flooding)
        await ask('POST', '/v1/forwards', '{"forwards":[{"protocol":"tcp","spec":"x"}]}').catch(() => null);
    }),
  );
  for (let n = 0; n < 10; n++) {
    const socket = await dial(port);
    const stream = await listener.accept();
    const echo = once(socket, 'data');
    await stream.write(Buffer.from('served'));
    await echo;
    socket.destroy();
  }
  await service.client.ask('POST', '/v1/forwards', {
    body: { forwards: [{ protocol: 'tcp', spec: `${port + 1}:80` }] },
  });
  flooding = false;
  await flood;
  expect(residentBytes(pid) - before).toBeLessThan(60 * MIB);
  for (const socket of stalled) socket.destroy();
  expect(inside.violations).toEqual([]);
});

test('clients in the middle of their requests: the others are answered, and who leaves is no bug', async () => {
  await start();
  const halfway: Socket[] = [];
  for (let n = 0; n < 40; n++) {
    const socket = await client('control');
    socket.write('POST /v1/forwards HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{');
    halfway.push(socket);
    expect((await ask('GET', '/v1/forwards')).status).toBe(200);
  }
  for (const socket of halfway) socket.destroy();
  expect((await ask('GET', '/v1/forwards')).status).toBe(200);
  expect(service.stderr()).not.toMatch(/error/i);
});

describe('pipes into the guest', () => {
  const MOST = 32;
  const UPGRADE = 'POST /v1/connect/80 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n';

  /** Opens one, whose bytes lie unread; the answer's first line. */
  async function pipe(): Promise<{ readonly socket: Socket; readonly answer: string }> {
    const socket = await client('control');
    socket.write(UPGRADE);
    const [head] = (await once(socket, 'data')) as [Buffer];
    return { socket, answer: head.toString('latin1').split('\r\n', 1)[0] };
  }

  test('as many as there may be leave room for orders; one whose client was killed ends, whatever the guest does', async () => {
    await start();
    const listener = (await withGuest()).tcpListen(80);
    const pipes: Socket[] = [];
    for (let n = 0; n < MOST; n++) {
      const { socket, answer } = await pipe();
      expect(answer).toBe('HTTP/1.1 101 Switching Protocols');
      pipes.push(socket);
      await listener.accept(); // and it neither says nor ends anything
    }
    expect((await pipe()).answer).toBe('HTTP/1.1 503 Refused');
    expect((await ask('GET', '/v1/forwards')).status).toBe(200);
    for (const socket of pipes) socket.destroy();
    await poll('a place for another', async () => ((await pipe()).answer.includes(' 101 ') ? true : null), 5000);
  });

  test('one that is refused is closed, though its client stays', async () => {
    await start();
    for (let n = 0; n < MOST + 8; n++) {
      const socket = new Socket({ allowHalfOpen: true });
      clients.push(socket.on('error', () => undefined).connect(join(service.dir, FACES.control)));
      const ended = once(socket.resume(), 'end');
      socket.write(UPGRADE);
      await ended;
    }
    expect((await ask('GET', '/v1/forwards')).status).toBe(200);
  });
});

test('a client that does not read its events: the others hear them', async () => {
  const port = await freePorts(1);
  await start();
  const deaf = await client('control');
  deaf.pause();
  deaf.write('GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n');
  const heard: string[] = [];
  const stop = new AbortController();
  const listening = (async () => {
    for await (const { event } of service.client.events('/v1/events', stop.signal)) heard.push(event);
  })().catch(() => undefined);
  for (let n = 0; n < 20; n++) {
    await service.client.ask('PUT', '/v1/forwards', {
      body: { forwards: n % 2 === 0 ? [{ protocol: 'tcp', spec: `${port}` }] : [] },
    });
  }
  stop.abort();
  await listening;
  expect(heard.length).toBeGreaterThan(10);
  deaf.destroy();
});

/** What slirp4netns's clients do: one request, their half of the connection ends, one answer. */
async function slirp(
  asked: object,
): Promise<{ return?: { id?: number; entries?: object[] }; error?: { desc: string } }> {
  const socket = await client('slirp');
  socket.end(JSON.stringify(asked));
  let text = '';
  for await (const chunk of socket) text += String(chunk);
  return JSON.parse(text) as object;
}

test("slirp4netns's clients: add, list, remove", async () => {
  const port = await freePorts(1);
  await start();
  const forward = { proto: 'tcp', host_addr: '127.0.0.1', host_port: port, guest_addr: '10.0.2.100', guest_port: 80 };
  const added = await slirp({ execute: 'add_hostfwd', arguments: forward });
  const id = added.return?.id ?? -1;
  expect(id).toBeGreaterThan(0);
  const rest = { proto: 'tcp', host_addr: '127.0.0.1', host_port: port, guest_port: 80 };
  expect(await slirp({ execute: 'list_hostfwd' })).toMatchObject({ return: { entries: [{ id, ...rest }] } });
  expect((await slirp({ execute: 'add_hostfwd', arguments: forward })).error?.desc).toMatch(
    /is taken by the forward tcp 127.0.0.1\//,
  );
  expect((await slirp({ execute: 'add_hostfwd', arguments: { ...forward, host_port: 0 } })).error?.desc).toMatch(
    /request/,
  );
  expect(await slirp({ execute: 'remove_hostfwd', arguments: { id } })).toEqual({ return: {} });
  expect((await slirp({ execute: 'remove_hostfwd', arguments: { id } })).error?.desc).toMatch(/there is no forward/);
  await expect(dial(port)).rejects.toThrow('ECONNREFUSED');
});

test("gvproxy's clients: expose, all, unexpose", async () => {
  const port = await freePorts(1);
  await start();
  const local = `127.0.0.1:${port}`;
  const post = (path: string, body: object): Promise<Answer> =>
    ask('POST', `/services/forwarder/${path}`, JSON.stringify(body));
  expect((await post('expose', { local, remote: '192.168.127.2:80' })).status).toBe(200);
  expect((await ask('GET', '/services/forwarder/all')).body).toEqual([{ local, remote: ':80', protocol: 'tcp' }]);
  expect((await post('expose', { local, remote: '192.168.127.2:81' })).status).toBe(409);
  expect((await post('unexpose', { local, protocol: 'tcp' })).status).toBe(200);
  expect((await post('unexpose', { local, protocol: 'tcp' })).status).toBe(404);
});
