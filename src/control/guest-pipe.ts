/**
 * A connection into the guest without a forwarded port (`tubetti ctl connect`): one end of it stays here, the other is the
 * data plane's, which serves it as one that came by a forwarded port.
 *
 * Its two ends meet on the host's loopback, at a listener that lives as long as that takes. The listener is nobody's door:
 * out of its backlog the data plane takes the connection that comes from our own port, and closes any other.
 */
import { constants } from 'node:os';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { describeErrno } from '../errors';
import type { Native } from '../native';
import type { Adoption } from '../stack/config';
import type { PipeTarget } from './unix-forwards';
import { addrSlotPort, addrSlotWrite, makeWords } from '../stack/ip/address';
import { AF_INET, SOCK_TCP } from '../stack/ports';
import { ADDR_SLOT_TCP } from '../stack/scratch';
import { refuse } from './problem';

export type GuestPipeIo = Pick<Native, 'addrs' | 'openPorts' | 'socket' | 'connect' | 'getsockname' | 'close'>;

const LOOPBACK = Uint8Array.of(127, 0, 0, 1);
const BACKLOG = 8;

/** Our end, connected to the listener `fd`; throws Refused. */
function connectTo(io: GuestPipeIo, listener: number): number {
  const fd = io.socket(AF_INET, SOCK_TCP);
  if (fd < 0) throw refuse(503, 'busy', `no socket for it: ${describeErrno(fd)}`);
  let result = io.getsockname(listener, ADDR_SLOT_TCP);
  if (result >= 0) result = io.connect(fd, ADDR_SLOT_TCP);
  // On the loopback it is with the listener by now, which is all that is wanted.
  if (result >= 0 || result === -constants.errno.EINPROGRESS) return fd;
  io.close(fd);
  throw refuse(503, 'busy', `the host's loopback does not connect: ${describeErrno(result)}`);
}

/** A half-open connection to a port of the guest. Throws Refused if there is none to be had now. */
export async function openGuestPipe(
  io: GuestPipeIo,
  target: PipeTarget,
  adopt: (adoption: Adoption) => Promise<boolean>,
): Promise<Duplex> {
  const listeners = new Int32Array(1);
  addrSlotWrite(io.addrs, ADDR_SLOT_TCP, AF_INET, 0, 0, makeWords(LOOPBACK), 0);
  io.openPorts(ADDR_SLOT_TCP, 0, '', BACKLOG, listeners);
  const [listener] = listeners;
  if (listener < 0) throw refuse(503, 'busy', `no socket for it: ${describeErrno(listener)}`);
  let fd = -1;
  try {
    fd = connectTo(io, listener);
    io.getsockname(fd, ADDR_SLOT_TCP);
    const peerPort = addrSlotPort(io.addrs, ADDR_SLOT_TCP);
    if (await adopt({ fd: listener, peerPort, ...target }))
      return new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
  } catch (error) {
    if (fd >= 0) io.close(fd);
    throw error;
  } finally {
    io.close(listener);
  }
  io.close(fd);
  throw refuse(502, 'guest', 'the guest is not connected, or has too many connections');
}
