/** A policy and rates that change while the service runs, by `tubetti ctl` and the HTTP API. Needs a build. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { Denied } from '../../src/ctl/client';
import { type Ordered, startOrdered } from '../support/control/service';
import { Guest } from '../support/guest/guest';
import { BIN } from '../support/program';

jest.setTimeout(30_000);

const native = loadNative();
/** Stands for the host's loopback. */
const MAPPED = '203.0.113.77';

let service: Ordered;
let guest: Guest;
let server: Server;
let port: number;
const sockets: Socket[] = [];

beforeEach(async () => {
  server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => undefined).pipe(socket);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  ({ port } = server.address() as { port: number });
  service = await startOrdered('--map-host-loopback', MAPPED);
  guest = await Guest.start(native, { socket: service.socket });
  await guest.dhcp();
});

afterEach(async () => {
  await guest.stop();
  service.remove();
  for (const socket of sockets.splice(0)) socket.destroy();
  server.close();
});

const ctl = (...argv: string[]): { status: number | null; out: string; err: string } => {
  const { status, stdout, stderr } = spawnSync(BIN, ['ctl', '--control', service.control, ...argv], {
    encoding: 'utf8',
  });
  return { status, out: stdout, err: stderr };
};

/** `expect.stringContaining`, which is of any type. */
const containing = (text: string): string => expect.stringContaining(text) as string;

const refused = (): Promise<unknown> =>
  expect(guest.tcpConnect(MAPPED, port, { rtoMs: 5000 })).rejects.toMatchObject({ code: 'ECONNREFUSED' });

test('a policy set by ctl closes the flows that it forbids, at once and no others, and goes again', async () => {
  const kept = await guest.tcpConnect(MAPPED, port);
  const file = join(service.dir, 'policy.yaml');
  writeFileSync(file, `rules: [{ allow: 'tcp/host:${port}' }]\n`);
  expect(ctl('policy', 'set', file)).toMatchObject({
    status: 0,
    out: containing(`allow tcp/host:${port}`),
  });
  await kept.write(Buffer.from('still here'));
  expect(Buffer.from(await kept.readExactly(10)).toString()).toBe('still here');
  writeFileSync(file, 'rules: [{ deny: host }]\n');
  expect(ctl('policy', 'set', file).status).toBe(0);
  await expect(kept.readExactly(1)).rejects.toMatchObject({ code: 'ECONNRESET' });
  await refused();
  expect(ctl('policy', 'get', '--json').out).toBe(
    '{"version":3,"policy":{"default":"allow","audit":false,"denied-names":"refused","sni":"off","rules":[{"deny":"host"}]}}\n',
  );
  expect(ctl('policy', 'clear')).toMatchObject({ status: 0, out: containing('everybody') });
  await guest.tcpConnect(MAPPED, port);
});

test('a policy that is wrong, or of another version, changes nothing and says where it is wrong', async () => {
  const { client } = service;
  const ask = (body: unknown, ifVersion?: number): Promise<unknown> =>
    client.ask('PUT', '/v1/policy', { body, ...(ifVersion === undefined ? {} : { ifVersion }) });
  const denial = async (promise: Promise<unknown>): Promise<Denied> => {
    const error: unknown = await promise.catch((thrown: unknown) => thrown);
    if (!(error instanceof Denied)) throw new Error(`not refused: ${String(error)}`);
    return error;
  };
  await ask({ rules: [{ deny: 'host' }] });
  const wrong = await denial(ask({ rules: [{ allow: ['github.com', 'any:70000'] }] }));
  expect([wrong.status, wrong.errors[0].at]).toEqual([400, 'rules/0/allow/1']);
  expect((await denial(ask({ rule: [] }))).status).toBe(400);
  expect((await denial(ask({}))).status).toBe(400);
  expect((await denial(ask({ rules: [], default: 'allow' }, 1))).status).toBe(412);
  await refused();
  const { body } = await client.ask<{ version: number }>('GET', '/v1/policy');
  expect(body.version).toBe(2);
  const file = join(service.dir, 'policy.json');
  writeFileSync(file, '{"rules": [{"allow": "sctp/any"}]}');
  expect(ctl('policy', 'set', file)).toMatchObject({ status: 1, err: containing('rules/0/allow') });
});

test('rates are set and taken away again while data flows', async () => {
  const stream = await guest.tcpConnect(MAPPED, port);
  const bytes = 300_000;
  const round = async (): Promise<number> => {
    const start = performance.now();
    const sent = stream.write(new Uint8Array(bytes));
    await stream.readExactly(bytes);
    await sent;
    return performance.now() - start;
  };
  expect(ctl('rates', '4M', '0')).toMatchObject({
    status: 0,
    out: 'to the guest: 4 Mbit/s\nfrom the guest: no limit\n',
  });
  // 2.4 Mbit take 600 ms at this rate.
  const slow = await round();
  expect(slow).toBeGreaterThan(550);
  expect(ctl('rates', '0', '4M').status).toBe(0);
  expect(await round()).toBeGreaterThan(500);
  expect(ctl('rates', '0', '0').status).toBe(0);
  expect(await round()).toBeLessThan(slow);
  expect(ctl('rates', '1', '0')).toMatchObject({
    status: 2,
    err: containing('rates 1: give bits per second'),
  });
});
