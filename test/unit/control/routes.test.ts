/** The adapters that other programs' clients speak to, and what HTTP itself is refused for. */
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { connect } from 'node:net';
import { InProcess, TAKEN, TAKEN_PATH } from '../../support/control/in-process';

interface Answered {
  readonly status: number;
  readonly body: unknown;
  readonly etag: string | undefined;
}

let service: InProcess;

beforeEach(() => {
  service = new InProcess();
});

afterEach(() => {
  service.stop();
  expect(service.bugs).toEqual([]);
});

async function http(
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answered> {
  const asked = request({ socketPath: service.path, path, method, headers, agent: false });
  asked.end(body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body));
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  let text = '';
  for await (const chunk of response) text += String(chunk);
  return {
    status: response.statusCode ?? 0,
    body:
      text === ''
        ? undefined
        : response.headers['content-type']?.startsWith('text/plain')
          ? text
          : (JSON.parse(text) as unknown),
    etag: response.headers.etag,
  };
}

/** Where the first error of a refusal is, and its code. */
function refusal({ status, body }: Answered): unknown {
  const { errors } = body as { errors: { at: string; code: string }[] };
  return [status, errors[0].at, errors[0].code];
}

describe('gvproxy', () => {
  const expose = (local: string, remote: string, protocol?: string): Promise<Answered> =>
    http('POST', '/services/forwarder/expose', { local, remote, ...(protocol !== undefined && { protocol }) });
  const unexpose = (local: string, protocol?: string): Promise<Answered> =>
    http('POST', '/services/forwarder/unexpose', { local, ...(protocol !== undefined && { protocol }) });
  const all = async (): Promise<unknown> => (await http('GET', '/services/forwarder/all')).body;

  test('ports are exposed, listed and given up', async () => {
    for (const [local, remote, protocol] of [
      [':8080', '192.168.127.2:80'],
      ['127.0.0.1:8081', '192.168.127.2:8081', 'tcp'],
      ['[::1]:5300', 'guest:53', 'udp'],
    ])
      expect(await expose(local, remote, protocol)).toEqual({ status: 200, body: undefined, etag: undefined });
    expect(await all()).toEqual([
      { local: ':8080', remote: ':80', protocol: 'tcp' },
      { local: '127.0.0.1:8081', remote: ':8081', protocol: 'tcp' },
      { local: '[::1]:5300', remote: ':53', protocol: 'udp' },
    ]);
    expect(service.forwards.list().forwards.map(({ spec }) => spec)).toEqual([
      '8080:80',
      '127.0.0.1/8081',
      '::1/5300:53',
    ]);
    expect((await unexpose('0.0.0.0:8080')).status).toBe(200);
    expect((await unexpose('[::1]:5300', 'udp')).status).toBe(200);
    expect(await all()).toEqual([{ local: '127.0.0.1:8081', remote: ':8081', protocol: 'tcp' }]);
    expect([...service.io.open.values()]).toEqual([8081]);
  });

  test('what cannot be is refused, and named', async () => {
    const said = async (asked: Promise<Answered>): Promise<unknown> => {
      const { status, body } = await asked;
      return [status, body];
    };
    // Its clients show the text that they read.
    expect(await said(expose('8080', 'guest:80'))).toEqual([400, 'local: give ADDRESS:PORT\n']);
    expect(await said(expose(':8080', 'guest'))).toEqual([400, 'remote: give ADDRESS:PORT\n']);
    expect(await said(expose(':8080', 'guest:80', 'sctp'))).toEqual([400, 'protocol: give "tcp" or "udp" or "unix"\n']);
    expect(await said(expose(`:${TAKEN}`, 'guest:80'))).toEqual([
      409,
      `tcp ${TAKEN}:80: cannot bind port ${TAKEN}: address already in use\n`,
    ]);
    await expose(':8080', 'guest:80');
    expect(await said(unexpose(':8080', 'udp'))).toEqual([404, 'local: udp :8080 is not forwarded\n']);
    expect((await unexpose('127.0.0.1:8080')).status).toBe(404);
    const { status, body } = await http('POST', '/services/forwarder/expose', '{');
    expect([status, body]).toEqual([400, expect.stringMatching(/^the body is no JSON: .*\n$/)]);
    expect(await all()).toHaveLength(1);
  });
});

describe("gvproxy's UNIX sockets", () => {
  const expose = (local: string, remote: string): Promise<Answered> =>
    http('POST', '/services/forwarder/expose', { local, remote, protocol: 'unix' });
  const unexpose = (local: string, protocol = 'unix'): Promise<Answered> =>
    http('POST', '/services/forwarder/unexpose', { local, protocol });

  test('a path is exposed, listed and given up', async () => {
    expect((await expose('/run/a', 'tcp://192.168.127.2:22')).status).toBe(200);
    expect((await expose('/run/b:c', 'tcp://[fd00::2]:23/')).status).toBe(200);
    expect((await expose('/run/d', '192.168.127.2:24')).status).toBe(200);
    expect((await http('GET', '/services/forwarder/all')).body).toEqual([
      { local: '/run/a', remote: 'tcp://:22', protocol: 'unix' },
      { local: '/run/b:c', remote: 'tcp://:23', protocol: 'unix' },
      { local: '/run/d', remote: 'tcp://:24', protocol: 'unix' },
    ]);
    expect([...service.io.paths.values()]).toEqual(['/run/a', '/run/b:c', '/run/d']);
    expect(service.accepting.size).toBe(3);
    expect((await unexpose('/run/a')).status).toBe(200);
    expect([...service.io.paths.values()]).toEqual(['/run/b:c', '/run/d']);
  });

  test('what cannot be is refused in one line', async () => {
    await expose('/run/a', 'tcp://guest:22');
    for (const [asked, status, text] of [
      [expose('/run/a', 'tcp://guest:23'), 409, '/run/a is taken by the forward tcp unix:/run/a:22'],
      [expose(TAKEN_PATH, 'tcp://guest:22'), 409, 'cannot listen: address already in use'],
      [expose('run/x', 'tcp://guest:22'), 400, '"run/x" is not a path from the root on'],
      [expose('/run/x', 'tcp://guest'), 400, 'remote: give ADDRESS:PORT'],
      [expose('/run/x', 'tcp://guest:99999'), 400, 'port 99999 is out of range'],
      [expose('/run/x', 'ssh-tunnel://u@guest:22/run/y?key=k'), 400, 'remote: ssh-tunnel: is not supported'],
      [unexpose('/run/x'), 404, 'local: unix /run/x is not forwarded'],
      [unexpose('/run/a', 'tcp'), 400, 'local: give ADDRESS:PORT'],
      [unexpose(':22', 'tcp'), 404, 'local: tcp :22 is not forwarded'],
    ] as const)
      expect(await asked).toMatchObject({ status, body: expect.stringContaining(text) as string });
    expect([...service.io.paths.values()]).toEqual(['/run/a']);
  });
});

describe("slirp4netns's socket", () => {
  async function slirp(said: unknown, half = true): Promise<unknown> {
    const socket = connect({ path: service.slirpPath, allowHalfOpen: true });
    const text = typeof said === 'string' ? said : JSON.stringify(said);
    if (half) socket.end(text);
    else socket.write(text);
    let answer = '';
    for await (const chunk of socket) answer += String(chunk);
    socket.destroy();
    return JSON.parse(answer) as unknown;
  }
  const desc = (text: string): unknown => ({ error: { desc: expect.stringContaining(text) as string } });
  const add = (over: object): object => ({
    execute: 'add_hostfwd',
    arguments: {
      proto: 'tcp',
      host_addr: '0.0.0.0',
      host_port: 8080,
      guest_addr: '10.0.2.100',
      guest_port: 80,
      ...over,
    },
  });

  test('ports are added, listed and removed by their ids', async () => {
    expect(await slirp(add({}))).toEqual({ return: { id: 1 } });
    expect(await slirp(add({ proto: 'udp', host_addr: '127.0.0.1', host_port: 53, guest_port: 53 }))).toEqual({
      return: { id: 2 },
    });
    const entry = { id: 2, proto: 'udp', host_addr: '127.0.0.1', host_port: 53, guest_addr: '', guest_port: 53 };
    expect(await slirp({ execute: 'list_hostfwd' })).toEqual({
      return: {
        entries: [
          { id: 1, proto: 'tcp', host_addr: '0.0.0.0', host_port: 8080, guest_addr: '', guest_port: 80 },
          entry,
        ],
      },
    });
    expect(await slirp({ execute: 'remove_hostfwd', arguments: { id: 1 } })).toEqual({ return: {} });
    expect(await slirp({ execute: 'list_hostfwd' })).toEqual({ return: { entries: [entry] } });
    expect(await slirp({ execute: 'remove_hostfwd', arguments: { id: 1 } })).toEqual(desc('there is no forward 1'));
  });

  test('a whole object is answered before the client ends its half', async () => {
    expect(await slirp({ execute: 'list_hostfwd' }, false)).toEqual({ return: { entries: [] } });
  });

  test('no request, too long a one, one of another program, a port that is taken', async () => {
    expect(await slirp('{"execute": ')).toEqual(desc('a request is one object of JSON, of at most 4096 bytes'));
    expect(await slirp(`"${'x'.repeat(5000)}`, false)).toEqual(desc('of at most 4096 bytes'));
    expect(await slirp({ execute: 'quit' })).toEqual(desc('request'));
    expect(await slirp(add({ host_port: 0 }))).toEqual(desc('request'));
    expect(await slirp(add({ host_port: TAKEN }))).toEqual(desc('address already in use'));
    expect(service.forwards.list().forwards).toEqual([]);
  });
});

describe('HTTP', () => {
  test.each<[string, string, unknown, Record<string, string>, unknown]>([
    ['GET', '/v2/status', undefined, {}, [404, '', 'not-found']],
    ['PUT', '/v1/status', {}, {}, [405, '', 'method']],
    ['DELETE', '/v1/flows/tcp-9-9-9', undefined, {}, [404, 'id', 'not-found']],
    ['DELETE', '/v1/flows/a%20b', undefined, {}, [404, '', 'not-found']],
    ['GET', '/v1/flows?most=1&most=2', undefined, {}, [400, 'query/most', 'invalid']],
    ['GET', '/v1/flows?most=0', undefined, {}, [400, 'query/most', 'invalid']],
    ['GET', '/v1/flows?protocol=sctp', undefined, {}, [400, 'query/protocol', 'invalid']],
    ['GET', '/v1/status?x=1', undefined, {}, [400, 'query/x', 'invalid']],
    ['POST', '/v1/forwards', '{', {}, [400, '', 'json']],
    ['POST', '/v1/forwards', '\u0000', {}, [400, '', 'json']],
    ['POST', '/v1/forwards', {}, {}, [400, 'body/forwards', 'invalid']],
    ['POST', '/v1/forwards', { forwards: [{ protocol: 'tcp' }] }, {}, [400, 'body/forwards/0/spec', 'invalid']],
    ['POST', '/v1/forwards', 'x'.repeat(65537), {}, [413, '', 'too-large']],
    ['DELETE', '/v1/policy', undefined, { 'If-Match': 'seven' }, [400, 'If-Match', 'invalid']],
    ['PUT', '/v1/policy', { rules: 'none' }, {}, [400, 'rules', 'invalid']],
    ['PUT', '/v1/rates', { in: 5, out: 0 }, {}, [400, 'body/in', 'invalid']],
    ['POST', '/v1/connect/22', undefined, {}, [426, '', 'upgrade']],
  ])('%s %s %j %j is refused', async (method, path, body, headers, expected) => {
    expect(refusal(await http(method, path, body, headers))).toEqual(expected);
    expect(service.changes).toEqual([]);
  });

  test('the version is an ETag, and If-Match holds a change to it', async () => {
    const forwards = [{ protocol: 'tcp', spec: '8080' }];
    expect((await http('GET', '/v1/forwards')).etag).toBe('"1"');
    expect((await http('PUT', '/v1/forwards', { forwards }, { 'If-Match': '"1"' })).etag).toBe('"2"');
    expect(refusal(await http('PUT', '/v1/forwards', { forwards: [] }, { 'If-Match': '"1"' }))).toEqual([
      412,
      'If-Match',
      'version',
    ]);
    expect((await http('PUT', '/v1/forwards', { forwards: [] }, { 'If-Match': '*' })).etag).toBe('"3"');
    expect((await http('GET', '/v1/policy')).etag).toBe('"1"');
  });

  test('pages of flows, each with where the next one begins', async () => {
    const ids = (answer: Answered): unknown => {
      const { flows, next } = answer.body as { flows: { id: string }[]; next: string | null };
      return [flows.map(({ id }) => id), next];
    };
    expect(ids(await http('GET', '/v1/flows?most=2'))).toEqual([['tcp-1-1-1', 'udp-1-2-1'], '2']);
    expect(ids(await http('GET', '/v1/flows?from=2'))).toEqual([['tcp-1-3-1'], null]);
    expect(await http('DELETE', '/v1/flows/tcp-1-3-1')).toMatchObject({ status: 204, body: undefined });
  });

  test('the description names each operation', async () => {
    const { status, body } = await http('GET', '/v1/openapi.json');
    expect(status).toBe(200);
    expect(body).toMatchObject({ paths: { '/v1/flows/{id}': { delete: { operationId: 'closeFlow' } } } });
  });

  test('what is no HTTP has an answer, and its end', async () => {
    const socket = connect(service.path);
    socket.write('hello\r\n\r\n');
    let answer = '';
    for await (const chunk of socket) answer += String(chunk);
    expect(answer).toMatch(/^HTTP\/1\.1 400 Bad Request\r\n.*"code":"http"/s);
  });

  test.each([
    ['/v1/status', 'tcp', 'HTTP/1.1 400 Refused'],
    ['/v1/connect/22', 'websocket', 'HTTP/1.1 400 Refused'],
  ])('an upgrade of %s to %s is refused', async (path, protocol, head) => {
    const socket = connect(service.path);
    const method = path === '/v1/status' ? 'GET' : 'POST';
    socket.write(`${method} ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n\r\n`);
    let answer = '';
    for await (const chunk of socket) answer += String(chunk);
    expect(answer.startsWith(head)).toBe(true);
    expect(service.connected).toEqual([]);
  });
});
