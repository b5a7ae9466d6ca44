/** Sequences of vhost-user messages: recorded traces of real front-ends with random damage, said to the service. */
import type { Native } from '../../src/native';
import { apply, DAMAGE_KINDS, INTERESTING, onWire, type Damage } from '../support/vhost/damage';
import { MockFrontEnd } from '../support/vhost/mock-front-end';
import { Descriptors } from '../support/vhost/rig';
import { TRACES, type FdKind } from '../support/vhost/traces';
import type { Seeded } from './random';

const FD_KINDS: readonly FdKind[] = ['event', 'memory', 'socket', 'log'];

function damage(random: Seeded): Damage {
  return {
    kind: random.pick(DAMAGE_KINDS),
    at: random.below(200),
    offset: random.below(80),
    value: random.oneIn(2) ? random.pick(INTERESTING) : random.u32(),
    fds: Array.from({ length: random.below(11) }, () => random.pick(FD_KINDS)),
  };
}

/** Connects, says one damaged trace and leaves, sometimes in the middle of a message. Returns the messages sent. */
export async function sayDamagedTrace(native: Native, socket: string, random: Seeded): Promise<number> {
  const fd = native.unixConnect(socket);
  if (fd < 0) return 0; // the backlog is full: the service has yet to take the ones before
  const frontEnd = new MockFrontEnd(native, fd);
  try {
    const fds = new Descriptors(frontEnd);
    let wires = random.pick(Object.values(TRACES)).map(onWire);
    for (let n = random.below(7); n > 0; n--) wires = [...apply(wires, damage(random))];
    const patient = random.oneIn(2);
    let sent = 0;
    for (const { bytes, fds: kinds, cut } of wires) {
      const now = kinds.map((kind) => fds.make(kind));
      if (cut > 0 && !frontEnd.sendRaw(bytes.subarray(0, cut), now)) break;
      if (!frontEnd.sendRaw(bytes.subarray(cut), cut > 0 ? [] : now)) break;
      sent++;
      if (patient && random.oneIn(8)) await new Promise((resolve) => setImmediate(resolve));
      if (random.oneIn(200)) break;
    }
    if (patient) await new Promise((resolve) => setTimeout(resolve, random.below(5)));
    return sent;
  } finally {
    frontEnd.close();
  }
}
