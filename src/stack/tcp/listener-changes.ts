/**
 * Forwarded ports that come and go while the stack runs. A removed one accepts nothing any more; its place in the table
 * stays its own until its last connection has ended, as connections count toward their listener by its number.
 *
 * A connection of the service's own (`tubetti ctl connect`) has a place like that from the start.
 */
import type { Adoption, ForwardChange } from '../config';
import { addrSlotFamily, addrSlotPort } from '../ip/address';
import { END_UNFORWARDED } from '../kit/flow-rows';
import { AF_INET } from '../ports';
import { ADDR_SLOT_TCP } from '../scratch';
import { accepted, beginListening } from './accept';
import { mayAccept } from './admission';
import { resetBoth } from './close';
import { ST_FREE, type TcpEngine } from './flow';
import { newListener } from './listener';

function removeListener(t: TcpEngine, index: number, closeFlows: boolean): void {
  const listener = t.listeners[index];
  if (listener === null) return;
  listener.open = false;
  t.places.delete(listener.config.fd);
  t.io.unwatch(listener.config.fd);
  t.acceptable.remove(index);
  t.unwatched.remove(index);
  if (!closeFlows) return;
  for (let flow = 0; flow < t.table.capacity; flow++) {
    if (t.state[flow] !== ST_FREE && t.owner[flow] === index) resetBoth(t, flow, END_UNFORWARDED);
  }
}

/** From `from` on, a place that was never used, or whose listener is gone with all its connections; -1: there is none. */
function freePlace(t: TcpEngine, from: number): number {
  for (let i = from; i < t.listeners.length; i++) {
    const listener = t.listeners[i];
    if (listener === null || (!listener.open && listener.flows === 0)) return i;
  }
  return -1;
}

/** With the first change, and one where there are none: `-t all` has more listeners than a change should cost. */
function makePlaces(t: TcpEngine): void {
  for (let i = 0; i < t.listeners.length; i++) {
    const listener = t.listeners[i];
    if (listener?.open === true) t.places.set(listener.config.fd, i);
  }
}

/** Those without a place are deaf: the control plane adds no more than there is room for. */
export function makeListeners(t: TcpEngine, { remove, add, closeFlows }: ForwardChange): void {
  if (t.places.size === 0) makePlaces(t);
  for (const fd of remove) {
    const index = t.places.get(fd);
    if (index !== undefined) removeListener(t, index, closeFlows);
  }
  let place = -1;
  for (const config of add) {
    if (config.protocol !== 'tcp' || config.inside === true || t.places.has(config.fd)) continue;
    place = freePlace(t, place + 1);
    if (place < 0) break;
    const listener = newListener(config);
    t.listeners[place] = listener;
    t.places.set(config.fd, place);
    beginListening(t, place, listener);
  }
  t.acceptBlocked = false;
}

/** Strangers before it in the backlog, which nobody has asked to come, are closed. */
const MOST_STRANGERS = 16;

/** Takes the connection out of the listener's backlog. False: it is not there, or there is no room for it. */
export function makeAdopted(t: TcpEngine, { peerPort, ...rest }: Adoption): boolean {
  const place = freePlace(t, 0);
  if (place < 0 || !t.port.up) return false;
  const { fd } = rest;
  const listener = newListener({ ...rest, protocol: 'tcp', family: 'v4', port: 0 });
  listener.open = false;
  t.listeners[place] = listener;
  if (!mayAccept(t, place)) return false;
  for (let n = 0; n < MOST_STRANGERS; n++) {
    const socket = t.io.accept(fd, ADDR_SLOT_TCP);
    if (socket < 0) return false;
    const { addrs } = t.io;
    if (addrSlotFamily(addrs, ADDR_SLOT_TCP) === AF_INET && addrSlotPort(addrs, ADDR_SLOT_TCP) === peerPort)
      return accepted(t, place, listener, socket) >= 0;
    t.io.abort(socket);
  }
  return false;
}
