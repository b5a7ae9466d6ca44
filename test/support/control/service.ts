/** A service that takes orders, for tests: in a directory of its own, with a client of ours. Needs a build. */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ControlClient } from '../../../src/ctl/client';
import { launchProgram, PROGRAM, type Running, SAME_USER } from '../program';

export interface Ordered extends Running {
  readonly dir: string;
  /** The front-ends' socket. */
  readonly socket: string;
  readonly control: string;
  readonly client: ControlClient;
  /** Ends it, and removes the directory. */
  readonly remove: () => void;
}

export async function startOrdered(...argv: string[]): Promise<Ordered> {
  const dir = mkdtempSync(join(tmpdir(), 'tubetti-control-'));
  const socket = join(dir, 's');
  const control = join(dir, 'c');
  const words = argv.map((word) => word.replaceAll('{}', dir));
  const running = launchProgram([...PROGRAM, ...SAME_USER, '-s', socket, '--control', control, ...words]);
  await running.says(words.includes('--stream') ? /-netdev stream/ : /<interface type='vhostuser'>/);
  const remove = (): void => {
    running.child.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  };
  return { ...running, dir, socket, control, client: new ControlClient(control), remove };
}

/** Ports of this machine that nothing listens on, next to each other. */
export async function freePorts(count: number): Promise<number> {
  for (let first = 20_000 + Math.floor(Math.random() * 10_000); ; first += count) {
    const held: Server[] = [];
    try {
      for (let i = 0; i < count; i++) held.push(await listening(first + i));
      return first;
    } catch {
      // One of them is taken.
    } finally {
      await Promise.all(held.map((server) => new Promise((resolve) => server.close(resolve))));
    }
  }
}

/** Listens on a port of 127.0.0.1; rejects if it is taken. */
export function listening(port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      resolve(server);
    });
  });
}

/** A connection to a port of 127.0.0.1; rejects if it is refused. */
export function dial(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.off('error', reject);
      socket.on('error', () => undefined);
      resolve(socket);
    });
    socket.once('error', reject);
  });
}
