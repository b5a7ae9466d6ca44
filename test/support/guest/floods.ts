/** Floods against the service: frames of the guest's, and programs that send from outside. */
import type { Guest } from './guest';
import { HOST_ADDRESS_4, REMOTE_ADDRESS_4, type HostWorld } from '../world/host-world';
import { ManagedProcess } from '../world/processes';
import { datagram, packet } from '../stack/link-rig';
import { guestFrame } from '../stack/tcp-segment';

/** Nobody is there, and nobody says so: the remote namespace does not forward. */
export const BLACK_HOLE = (n: number): string => `203.0.113.${String(1 + (n % 250))}`;

/** Makes the flood's nth frame. */
export type FloodFrame = (n: number, source: string) => Uint8Array;

export const GUEST_FLOODS: readonly (readonly [name: string, frame: FloodFrame])[] = [
  [
    'SYN to hosts that do not answer',
    (n, src) =>
      guestFrame({ src, dst: BLACK_HOLE(n), sport: 1024 + (n % 60_000), dport: 23, flags: 'S', seq: n, mss: 1460 }),
  ],
  [
    'UDP to hosts that do not answer',
    (n, src) => datagram(src, 1024 + (n % 60_000), BLACK_HOLE(n), 9, Buffer.alloc(64)),
  ],
  [
    'first fragments',
    (n, src) => {
      const frame = packet(src, REMOTE_ADDRESS_4, 17, Buffer.alloc(512), { fragment: 0x2000 });
      // The identification; the header's checksum is not looked at (RFC 791's is left to devices by some guests).
      new DataView(frame.buffer, frame.byteOffset).setUint16(18, n & 0xffff);
      return frame;
    },
  ],
  [
    'echo requests',
    (n, src) => {
      const message = Buffer.alloc(64);
      message[0] = 8;
      message.writeUInt16BE(n & 0xffff, 4);
      const sum = 0x0800 + (n & 0xffff);
      message.writeUInt16BE(0xffff - ((sum & 0xffff) + (sum >>> 16)), 2);
      return packet(src, BLACK_HOLE(n), 1, message);
    },
  ],
  [
    'segments of no connection',
    (n, src) => guestFrame({ src, dst: BLACK_HOLE(n), sport: 1024 + (n % 60_000), dport: 23, flags: '.', seq: n }),
  ],
];

/** Frames of a flood before it begins again: more than the service keeps half-open flows. */
const PREPARED = 8000;

/** Sends `perSecond` frames a second, as far as the ring takes them, until it is told to stop; then says how many. */
export function floodFromGuest(guest: Guest, frame: FloodFrame, perSecond: number): () => number {
  const source = guest.address4 ?? '';
  // Made before: the guest's other connections run in this process as well.
  const frames = Array.from({ length: PREPARED }, (_, n) => frame(n, source));
  const step = 5;
  let sent = 0;
  let next = performance.now();
  const timer = setInterval(() => {
    for (; next < performance.now(); next += 1000 / perSecond) {
      // A ring that is full takes no more: the flood does not queue.
      if (guest.driver.backlog > 0) continue;
      guest.sendFrame(frames[sent++ % PREPARED]);
    }
  }, step);
  return () => {
    clearInterval(timer);
    return sent;
  };
}

const CONNECTIONS = `
const net = require('node:net');
const [address, port, most] = process.argv.slice(1);
let open = 0;
const one = () => {
  open++;
  const s = net.connect({ host: address, port: Number(port) });
  s.on('error', () => {});
  s.on('close', () => { open--; });
};
setInterval(() => { for (let n = 0; n < 64 && open < Number(most); n++) one(); }, 5);
console.log('flood');
`;

const DATAGRAMS = `
const socket = require('node:dgram').createSocket('udp4');
const [address, port] = process.argv.slice(1);
const data = Buffer.alloc(64);
setInterval(() => { for (let n = 0; n < 100; n++) socket.send(data, Number(port), address); }, 5);
console.log('flood');
`;

/** Begins to flood a forwarded port from the remote namespace. Stop it by `stop('SIGKILL')`. */
export async function floodFromOutside(
  world: HostWorld,
  kind: 'tcp' | 'udp',
  port: number,
  most = 500,
): Promise<ManagedProcess> {
  const program = kind === 'tcp' ? CONNECTIONS : DATAGRAMS;
  const argv = [process.execPath, '-e', program, HOST_ADDRESS_4, String(port), String(most)];
  const flood = new ManagedProcess('flood', world.inRemote(argv));
  await flood.waitForLine(/^flood$/, 10_000);
  return flood;
}
