/** `--conf-path`: the real pesto changes the forwarded ports, where it was fetched (scripts/lib/pesto.mjs). Needs a build. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { dial, freePorts, listening, type Ordered, startOrdered } from '../support/control/service';

jest.setTimeout(30_000);

const PESTO = join(__dirname, '../../.cache/pesto/run');

let service: Ordered;

afterEach(() => {
  service.remove();
});

const path = (): string => join(service.dir, 'pesto');

/** Starts it with pesto's socket beside the other. */
async function start(...argv: string[]): Promise<void> {
  service = await startOrdered('--conf-path', '{}/pesto', ...argv);
}

interface Run {
  readonly status: number | null;
  readonly out: string;
}

async function pesto(...argv: string[]): Promise<Run> {
  const child = spawn(PESTO, [...argv, path()], { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (out += chunk.toString()));
  const [status] = (await once(child, 'close')) as [number | null];
  return { status, out };
}

const specs = async (): Promise<string[]> =>
  (await service.client.forwards()).body.forwards.map(({ protocol, spec }) => `${protocol} ${spec}`);

/** What the server says first, to a client that says nothing. */
async function greeted(): Promise<{ socket: Socket; greeting: Buffer }> {
  const socket = connect(path());
  socket.on('error', () => undefined);
  const [greeting] = (await once(socket, 'data')) as [Buffer];
  return { socket, greeting };
}

(existsSync(PESTO) ? describe : describe.skip)('the real pesto', () => {
  test('lists, adds, deletes, replaces, clears', async () => {
    const port = await freePorts(6);
    await start('-t', `${port}:22`);
    const listed = await pesto();
    expect(listed).toEqual({
      status: 0,
      out: expect.stringMatching(new RegExp(`TCP \\[\\*\\]:${port} +=> +22\\b`)) as string,
    });

    expect(await pesto('-A', '-t', `${port + 1}:80`, '-u', `127.0.0.1/${port + 2}:53`)).toMatchObject({ status: 0 });
    await service.says(/pesto has changed the forwarded ports \(version 2\)/);
    expect(await specs()).toEqual([`tcp ${port}:22`, `tcp ${port + 1}:80`, `udp 127.0.0.1/${port + 2}:53`]);
    (await dial(port + 1)).destroy();

    expect(await pesto('-D', '-t', `${port}:22`)).toMatchObject({ status: 0 });
    await service.says(/\(version 3\)/);
    expect(await specs()).toEqual([`tcp ${port + 1}:80`, `udp 127.0.0.1/${port + 2}:53`]);
    await expect(dial(port)).rejects.toThrow('ECONNREFUSED');

    expect(await pesto('-t', `${port + 3}-${port + 4}:8000-8001`)).toMatchObject({ status: 0 });
    await service.says(/\(version 4\)/);
    expect(await specs()).toEqual([`tcp ${port + 3}-${port + 4}:8000-8001`]);
    expect((await pesto()).out).toMatch(new RegExp(`${port + 3}-${port + 4} +=> +8000-8001`));

    expect(await pesto('-C', 'HOST')).toMatchObject({ status: 0 });
    await service.says(/\(version 5\)/);
    expect(await specs()).toEqual([]);
  });

  test('a port that is taken: the change is refused whole, and the log says so', async () => {
    const port = await freePorts(3);
    const taken = await listening(port + 1);
    await start('-t', `${port}:22`);
    await pesto('-A', '-t', `${port + 2}`, '-t', `${port + 1}`);
    await service.says(
      new RegExp(
        `pesto's change was refused, nothing of the forwarded ports was changed: .*port ${port + 1}: address already in use`,
      ),
    );
    expect(await specs()).toEqual([`tcp ${port}:22`]);
    expect((await pesto()).out).not.toMatch(String(port + 1));
    taken.close();
  });
});

test('a silent client holds up nobody, and goes in the end', async () => {
  const port = await freePorts(1);
  await start('-t', `${port}`);
  const silent = await Promise.all(Array.from({ length: 20 }, greeted));
  expect(silent.map(({ greeting }) => greeting.subarray(0, 12).toString('latin1'))).toEqual(
    Array.from({ length: 20 }, () => 'basil:s\0\0\0\0\x02'),
  );
  (await dial(port)).destroy();
  expect(await specs()).toEqual([`tcp ${port}`]);
  await Promise.all(
    silent.map(
      ({ socket }) =>
        new Promise<void>((resolve) => {
          if (socket.destroyed) resolve();
          else socket.once('close', resolve);
        }),
    ),
  );
});

test('what is no table is said, and changes nothing', async () => {
  const port = await freePorts(1);
  await start('-t', `${port}`);
  const said = [
    Buffer.from([7, 0, 0, 0, 0, 0]),
    Buffer.from([1, 0, 0, 1, 0, 0]),
    Buffer.concat([Buffer.from([1, 0, 0, 0, 1]), Buffer.alloc(56, 0xff), Buffer.from([0])]),
    Buffer.alloc(100_000, 1),
  ];
  for (const bytes of said) {
    const { socket } = await greeted();
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.write(bytes);
    await closed;
  }
  await service.says(/a client was closed, what it says is no table/);
  expect((await service.client.forwards()).version).toBe(1);
});
