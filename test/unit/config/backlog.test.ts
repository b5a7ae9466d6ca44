/** Connections to a forwarded port that nobody has accepted yet: the kernel keeps 128 and one, further ones wait outside. */
import { readFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { closeListeners, openListeners } from '../../../src/config/forward-listeners';
import { parsePortSpec } from '../../../src/config/port-spec';
import { loadNative } from '../../../src/native';

const CLIENTS = 300;
const MOST = 128 + 1;

/** How many wait at the IPv4 listener, as the kernel's table says: of a listener, the receive queue counts connections. */
function waiting(port: number): number {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const row = readFileSync('/proc/net/tcp', 'latin1')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .find((words) => words[1] === `0100007F:${hex}` && words[3] === '0A');
  return parseInt(row?.[4].split(':')[1] ?? '', 16);
}

test('a flood of connections to a port leaves 129 in its queue', async () => {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  const native = loadNative();
  const rules = parsePortSpec('tcp', `127.0.0.1/${port}`, { first: 32768, last: 60999 }, '-t') ?? [];
  const { listeners } = openListeners(native, rules, { v4: true, v6: true, freebind: false, maxWeak: 10 });
  const clients: Socket[] = [];
  try {
    let connected = 0;
    await new Promise<void>((resolve) => {
      for (let i = 0; i < CLIENTS; i++) {
        const client = connect(port, '127.0.0.1', () => {
          if (++connected === MOST) resolve();
        });
        clients.push(client.on('error', () => undefined));
      }
    });
    // The others' SYNs have all been sent, and come again in a second.
    expect(waiting(port)).toBe(MOST);
    expect(connected).toBe(MOST);
  } finally {
    for (const client of clients) client.destroy();
    closeListeners(native, listeners);
  }
});
