/** Two guests joined by a cable, each with its own wire back-end. */
import { loadNative, type Native } from '../../../src/native';
import { VhostUserConnection } from './connection';
import { Guest, type GuestOptions } from './guest';
import { WireBackend, cable, type WireBackendOptions } from './wire-backend';

export const native: Native = loadNative();

export interface End {
  readonly guest: Guest;
  readonly wire: WireBackend;
}

const open: End[] = [];

/** A guest on a back-end of its own. */
export async function plug(options: GuestOptions = {}, backend: WireBackendOptions = {}): Promise<End> {
  const pair = new Int32Array(2);
  if (native.unixPair(pair) < 0) throw new Error('socketpair');
  const wire = new WireBackend(native, pair[1], backend);
  const guest = await Guest.start(native, { ...options, connection: new VhostUserConnection(native, pair[0]) });
  const end = { guest, wire };
  open.push(end);
  return end;
}

/** Guests 10.0.0.1 / fd00::1 and 10.0.0.2 / fd00::2, MTU 65520. */
export async function join(
  a: GuestOptions = {},
  b: GuestOptions = {},
  drop?: (frame: Uint8Array) => boolean,
): Promise<[Guest, Guest, End, End]> {
  const one = await plug({ mtu: 65520, mac: '52:54:00:00:00:01', ...a });
  const two = await plug({ mtu: 65520, mac: '52:54:00:00:00:02', ...b });
  cable(one.wire, two.wire, drop);
  [one, two].forEach(({ guest }, i) => {
    guest.link.setIp4(`10.0.0.${i + 1}`, 24, null);
    guest.link.addIp6(`fd00::${i + 1}`, 64);
  });
  return [one.guest, two.guest, one, two];
}

/** Stops whatever was plugged in. For afterEach. */
export async function unplugAll(): Promise<void> {
  for (const { guest, wire } of open.splice(0)) {
    await guest.stop();
    wire.close();
  }
}
