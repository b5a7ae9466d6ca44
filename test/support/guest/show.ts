/**
 * The demonstration without a virtual machine (scripts/demo.mjs): the guest of this directory before the real service.
 * What it shows is what the Linux guests show; how fast it is says little, as this guest's TCP is for tests.
 */
import { createHash } from 'node:crypto';
import { loadNative } from '../../../src/native';
import {
  GATEWAY_4,
  HOST_ADDRESS_4,
  HOST_NETWORK_6,
  HostWorld,
  REMOTE_ADDRESS_4,
  REMOTE_ADDRESS_6,
} from '../world/host-world';
import { scratchDirectory } from '../world/paths';
import { Service } from '../world/service';
import { transferRow, type Row, type ShowOptions } from '../world/show';
import { Guest } from './guest';
import { noise } from './noise';

const CHUNK = 1 << 20;
const PINGS = 3;

/** @throws Error when the guest or the service does not start, or a transfer breaks off. */
export async function showInside(options: ShowOptions): Promise<Row[]> {
  const scratch = scratchDirectory();
  process.on('exit', scratch.remove);
  const undo: (() => unknown)[] = [scratch.remove];
  try {
    options.progress('a network namespace for the service, another for the world beyond its gateway');
    const world = await HostWorld.create(scratch.path);
    undo.push(() => world.destroy());
    const socketPath = `${scratch.path}/vu.sock`;
    options.progress(`tubetti --socket ${socketPath}`);
    const service = await Service.start({ world, socketPath });
    undo.push(() => service.stop());
    options.progress('a front-end and a virtio-net driver in this process');
    const guest = await Guest.start(loadNative(), { socket: socketPath });
    undo.push(() => guest.stop());
    return await look(guest, world, options);
  } finally {
    for (const step of undo.reverse()) await step();
    process.off('exit', scratch.remove);
  }
}

async function look(guest: Guest, world: HostWorld, { bytes, progress }: ShowOptions): Promise<Row[]> {
  const rows: Row[] = [];
  rows.push({ what: 'guest', seen: 'a virtio-net driver and TCP/IP in TypeScript', ok: true });

  progress('DHCP and SLAAC');
  const lease = await guest.dhcp();
  const same = lease.address === HOST_ADDRESS_4;
  const whose = same ? "the host's own" : `not the host's ${HOST_ADDRESS_4}`;
  rows.push({
    what: 'IPv4 address (DHCP)',
    seen: `${lease.address}/${lease.prefixLen}, ${whose}; MTU ${lease.mtu ?? 'none'}`,
    ok: same,
  });
  rows.push({ what: 'router', seen: lease.router ?? 'none', ok: lease.router === GATEWAY_4 });
  await guest.slaac();
  const global = guest.addresses6.find((address) => address.startsWith(HOST_NETWORK_6));
  rows.push({ what: 'IPv6 address (SLAAC)', seen: global ?? guest.addresses6.join(' '), ok: global !== undefined });

  progress('ping');
  for (const [what, address] of [
    ['ping the gateway', GATEWAY_4],
    ['ping beyond it', REMOTE_ADDRESS_4],
    ['ping beyond it, IPv6', REMOTE_ADDRESS_6],
  ]) {
    rows.push(await pingRow(guest, what, address));
  }

  const size = `${bytes >> 20} MiB`;
  const { sha256 } = await world.remote.call('setBlob', { bytes, seed: Date.now() | 0 });
  for (const [family, address] of [
    ['IPv4', REMOTE_ADDRESS_4],
    ['IPv6', REMOTE_ADDRESS_6],
  ]) {
    progress(`${size} down, ${family}`);
    const down = await download(guest, address, world.remote.ports.blob);
    rows.push(transferRow(`${size} down, ${family}`, bytes, down.seconds, down.sha256 === sha256));

    progress(`${size} up, ${family}`);
    const sent = await upload(guest, address, world.remote.ports.sink, bytes);
    const up = await world.remote.call('lastSink', {});
    rows.push(transferRow(`${size} up, ${family}`, bytes, (up?.milliseconds ?? 0) / 1000, up?.sha256 === sent));
  }
  const { violations } = guest;
  rows.push({
    what: 'rules of virtio and TCP/IP',
    seen: violations.length === 0 ? 'all kept' : `broken: ${violations[0]} (${violations.length} in all)`,
    ok: violations.length === 0,
  });
  return rows;
}

async function pingRow(guest: Guest, what: string, address: string): Promise<Row> {
  const times: number[] = [];
  for (let i = 0; i < PINGS; i++) {
    try {
      times.push((await guest.ping(address)).rttMs);
    } catch {
      // An answer that does not come is seen in the count.
    }
  }
  const average = times.length === 0 ? '–' : (times.reduce((a, b) => a + b) / times.length).toFixed(3);
  return { what, seen: `${times.length} of ${PINGS} answers, ${average} ms`, ok: times.length === PINGS };
}

async function download(guest: Guest, address: string, port: number): Promise<{ sha256: string; seconds: number }> {
  const started = performance.now();
  const stream = await guest.tcpConnect(address, port);
  const hash = createHash('sha256');
  for (;;) {
    const chunk = await stream.read();
    if (chunk === null) break;
    hash.update(chunk);
  }
  void stream.end();
  await stream.closed;
  return { sha256: hash.digest('hex'), seconds: (performance.now() - started) / 1000 };
}

/** Returns the digest of what was sent. */
async function upload(guest: Guest, address: string, port: number, bytes: number): Promise<string> {
  const stream = await guest.tcpConnect(address, port);
  const hash = createHash('sha256');
  const chunk = noise(CHUNK, bytes);
  for (let at = 0; at < bytes; at += CHUNK) {
    new DataView(chunk.buffer).setFloat64(0, at); // no chunk is like another
    const part = chunk.subarray(0, bytes - at);
    hash.update(part);
    await stream.write(part);
  }
  await stream.end();
  await stream.readAll(); // the sink's answer: it has read to the end
  await stream.closed;
  return hash.digest('hex');
}
