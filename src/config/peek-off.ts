/**
 * Does MSG_PEEK with SO_PEEK_OFF work on TCP here? Linux has it since 6.9, for IPv4 and IPv6 at different times, and
 * setsockopt alone succeeds on kernels that then ignore it: so it is tried, on a connection over loopback.
 */
import { EAGAIN, EINPROGRESS } from '../errors';
import { pause } from '../pause';
import { AF_INET, type AF_INET6, type HostIo, MSG_PEEK, SOCK_TCP } from '../stack/ports';
import { ADDR_SLOT_TCP, ROWS_MISC, SCRATCH_MISC } from '../stack/scratch';
import { addrSlotWrite, V4_MAPPED } from '../stack/ip/address';
import { setRow } from '../stack/kit/rows';
import { SO_PEEK_OFF, SOL_SOCKET } from '../stack/kit/linux';

const TRIES = 200;

/** A call that may have to wait for loopback's softirq: retried for up to TRIES ms while it says -EAGAIN. */
function patiently(call: () => number): number {
  let result = call();
  for (let i = 0; i < TRIES && result === -EAGAIN; i++) {
    pause(1);
    result = call();
  }
  return result;
}

/** Points row ROWS_MISC at `length` bytes of scratch, at `at`. */
function useScratch(io: HostIo, at: number, length: number): void {
  setRow(io.rows, ROWS_MISC, io.scratchRegion, SCRATCH_MISC + at, length);
}

/** Reads `length` bytes by MSG_PEEK; true if they are `first`, `first + 1`, … */
function peeks(io: HostIo, fd: number, first: number, length: number): boolean {
  useScratch(io, 64, length);
  if (patiently(() => io.recv(fd, ROWS_MISC, 1, MSG_PEEK)) !== length) return false;
  for (let i = 0; i < length; i++) if (io.scratch.getUint8(SCRATCH_MISC + 64 + i) !== first + i) return false;
  return true;
}

/** Sends 1 … 12 from `client` and looks at them piece by piece on `server`. */
function peekOffWorks(io: HostIo, client: number, server: number): boolean {
  for (let i = 0; i < 12; i++) io.scratch.setUint8(SCRATCH_MISC + i, 1 + i);
  useScratch(io, 0, 12);
  if (io.send(client, ROWS_MISC, 1, 0) !== 12) return false;
  if (io.setsockopt(server, SOL_SOCKET, SO_PEEK_OFF, 0) < 0) return false;
  // The offset moves on with each peek, back with each read, and to where it is set.
  if (!peeks(io, server, 1, 4) || !peeks(io, server, 5, 4)) return false;
  if (io.discard(server, 4) !== 4) return false;
  if (!peeks(io, server, 9, 4)) return false;
  if (io.setsockopt(server, SOL_SOCKET, SO_PEEK_OFF, 0) < 0) return false;
  return peeks(io, server, 5, 4);
}

/** Tries one family. False also if loopback itself does not work, as the answer must be safe. */
export function probePeekOff(io: HostIo, family: typeof AF_INET | typeof AF_INET6): boolean {
  const fds: number[] = [];
  const open = (fd: number): number => {
    if (fd >= 0) fds.push(fd);
    return fd;
  };
  try {
    const slot = ADDR_SLOT_TCP;
    const loopback = family === AF_INET ? Int32Array.of(0, 0, V4_MAPPED, 0x7f000001) : Int32Array.of(0, 0, 0, 1);
    addrSlotWrite(io.addrs, slot, family, 0, 0, loopback, 0);
    const listener = open(io.socket(family, SOCK_TCP));
    if (listener < 0 || io.bind(listener, slot) < 0 || io.listen(listener, 1) < 0) return false;
    if (io.getsockname(listener, slot) < 0) return false;
    const client = open(io.socket(family, SOCK_TCP));
    if (client < 0) return false;
    const connected = io.connect(client, slot);
    if (connected < 0 && connected !== -EINPROGRESS) return false;
    const server = open(patiently(() => io.accept(listener, slot + 1)));
    return server >= 0 && peekOffWorks(io, client, server);
  } finally {
    for (const fd of fds) io.close(fd);
  }
}
