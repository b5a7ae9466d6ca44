/** A guest that starts again and again without a change of its link, before the running service. Needs a build. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { Guest } from '../support/guest/guest';
import { startService, type Started } from '../support/run-service';

jest.setTimeout(60_000);

/** What a small virtual machine takes from one start to the next, and more than a start's own requests take. */
const LIFE_MS = 5500;

let dir: string;
let service: Started | null = null;
let guest: Guest | null = null;
const server = createServer();

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-restarts-'));
});

afterEach(() => {
  guest?.close();
  service?.child.kill('SIGKILL');
  server.close();
  rmSync(dir, { recursive: true });
});

test('connections of each of its lives are ended when it starts the next', async () => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const socket = join(dir, 's');
  service = await startService('-s', socket);
  guest = await Guest.start(loadNative(), { socket });
  for (let life = 0; life < 3; life++) {
    const { router } = await guest.dhcp();
    const accepted = once(server, 'connection') as Promise<[Socket]>;
    await guest.tcpConnect(router ?? '', port);
    const [peer] = await accepted;
    const ended = new Promise((resolve) => peer.on('error', () => undefined).once('close', resolve));
    peer.resume();
    await new Promise((resolve) => setTimeout(resolve, LIFE_MS));
    guest.tcp.closeAll(); // it knows nothing of it any more
    await guest.dhcp();
    await ended;
  }
});
