/**
 * Closing the door: when all that the service needs is open and no front-end has been heard, it gives up the rest of the
 * host, one layer after the other. docs/sandbox.md says which and why.
 */
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { describeErrno } from '../errors';
import type { Native } from '../native';
import type { Broker } from './broker';
import { APART, type Launched } from './launched';
import { LAYER_NAMES, type Layer, type LayerName, type SandboxMode } from './layer';

export type { Layer, LayerName, SandboxMode } from './layer';

type DoorIo = Pick<Native, 'enterRoom' | 'landlockRules' | 'confine' | 'setDumpable' | 'brokerUse'>;

export interface Door {
  readonly native: DoorIo;
  readonly mode: SandboxMode;
  /** Null: there was no launcher. */
  readonly launched: Launched | null;
  readonly broker: Broker | null;
  /** The user to become; null: stay. */
  readonly user: { readonly uid: number; readonly gid: number } | null;
  /** Becomes that user. Throws if that cannot be. */
  readonly becomeUser: () => void;
  /** What the room is to have (room.ts). */
  readonly paths: readonly string[];
}

const OF_LAUNCHER = {
  'user-namespace': 'user',
  'mount-namespace': 'mount',
  'ipc-namespace': 'ipc',
  'uts-namespace': 'uts',
  'pid-namespace': 'pid',
} as const;

/** Why a layer is not even wanted where the launcher did not try. */
const NOT_WANTED: Readonly<Partial<Record<LayerName, string>>> = {
  'user-namespace': 'root needs none',
  'pid-namespace': 'in the foreground the process keeps its number',
};

const NO_LAUNCHER = 'not started by tubetti-launch';

function fromLauncher(name: keyof typeof OF_LAUNCHER, launched: Launched | null): Layer {
  if (launched === null) return { name, state: 'missing', why: NO_LAUNCHER };
  const result = launched.get(OF_LAUNCHER[name]);
  if (result === 0) return { name, state: 'on' };
  if (result > 0) return { name, state: 'missing', why: describeErrno(-result) };
  if (result === APART) return { name, state: 'off', why: "it was started in one that is not the host's" };
  const why = NOT_WANTED[name];
  return why === undefined ? { name, state: 'missing', why: 'not tried' } : { name, state: 'off', why };
}

function enterRoom({ native, mode, launched, paths }: Door): Layer {
  const name = 'root';
  if (mode === 'off') return { name, state: 'off', why: '--sandbox=off' };
  if (launched === null) return { name, state: 'missing', why: NO_LAUNCHER };
  if (launched.get('mount') !== 0) return { name, state: 'missing', why: 'there is no mount namespace' };
  const failed = Buffer.alloc(256);
  const result = native.enterRoom(paths.join('\0'), failed);
  if (result === 0) return { name, state: 'on' };
  return { name, state: 'missing', why: `${failed.toString('utf8', 0, failed.indexOf(0))}: ${describeErrno(result)}` };
}

/** The rights that are taken from each thread. */
function confine({ native, mode, launched, broker }: Door): Layer[] {
  const off = mode === 'off';
  // Who has no broker removes the socket's file himself.
  const rules = off ? -constants.errno.ENOSYS : native.landlockRules(broker === null ? 1 : 0);
  // Where there is a broker it is that which has the ports below 1024.
  const left = native.confine(broker === null || off ? 1 : 0, rules >= 0 ? rules : -1);
  if (rules >= 0) closeSync(rules);
  const why = left < 0 ? 'on no thread' : `not on ${left} threads`;
  const done = (name: LayerName): Layer => (left === 0 ? { name, state: 'on' } : { name, state: 'missing', why });
  const landlock: Layer = off
    ? { name: 'landlock', state: 'off', why: '--sandbox=off' }
    : rules < 0
      ? { name: 'landlock', state: 'missing', why: describeErrno(rules) }
      : done('landlock');
  const privileges: Layer = launched?.get('nnp') === 0 ? { name: 'no-new-privs', state: 'on' } : done('no-new-privs');
  return [done('capabilities'), landlock, privileges];
}

/**
 * To be called in one turn of the main thread with the start of serving, so that no front-end can have been heard. Throws
 * what `becomeUser` throws, and Error if the broker cannot be sealed.
 */
export function closeDoor(door: Door): Layer[] {
  const { native, mode, launched, broker, user } = door;
  const layers = (Object.keys(OF_LAUNCHER) as (keyof typeof OF_LAUNCHER)[]).map((name) => fromLauncher(name, launched));
  layers.push(enterRoom(door));
  door.becomeUser();
  const sealed = broker?.seal(user) ?? 0;
  if (sealed < 0) throw new Error(`the broker does not give up its rights: ${describeErrno(sealed)}`);
  if (user !== null && user.uid !== 0) native.brokerUse(launched?.get('broker') ?? -1, 0);
  layers.push(...confine(door));
  // Nobody else of this user reads our memory, or traces us.
  if (mode !== 'off') native.setDumpable(0);
  return layers;
}

/** What is to be said of layers that are missing, in one line; null if none is. */
export function missingLine(layers: readonly Layer[]): string | null {
  const missing = layers.filter(({ state }) => state === 'missing');
  if (missing.length === 0) return null;
  const reasons = new Map<string, LayerName[]>();
  for (const { name, why = '' } of missing) reasons.set(why, [...(reasons.get(why) ?? []), name]);
  return `sandbox: not in force: ${[...reasons].map(([why, names]) => `${names.join(', ')} (${why})`).join('; ')}`;
}

/** All layers in order: those nothing is known of are off. */
export function allLayers(layers: readonly Layer[]): Layer[] {
  return LAYER_NAMES.map((name) => layers.find((layer) => layer.name === name) ?? { name, state: 'off' });
}
