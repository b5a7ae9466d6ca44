/** The kinds of sequences: each is one or several hostile front-ends, from their connection to their end. */
import type { Native } from '../../src/native';
import { VhostUserConnection } from '../support/guest/connection';
import * as vu from '../support/guest/constants';
import { FrontEnd, type FrontEndStyle } from '../support/guest/front-end';
import { NetDriver } from '../support/guest/net-driver';
import type { HostWorld } from '../support/world/host-world';
import { nextFrame } from './frames';
import { life } from './life';
import type { MemoryWriter } from './memory-writer';
import { sayDamagedTrace } from './messages';
import type { Seeded } from './random';
import { HostileRings } from './rings';
import type { Tally } from './tally';

export interface Target {
  readonly native: Native;
  readonly socket: string;
  readonly writer: MemoryWriter;
  readonly tally: Tally;
  readonly world: HostWorld;
  /** Sends a signal to the service. */
  readonly signal: (signal: NodeJS.Signals) => void;
}

const TRACES_PER_SEQUENCE = 60;
const ROUNDS_PER_SEQUENCE = 400;
const FRAMES_PER_SEQUENCE = 20_000;
const FRAMES_PER_TURN = 256;
/** A device that takes no frame for this long has stopped its queue, as it may. */
const STALLED_MS = 200;

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function connect({ native, socket }: Target, random: Seeded): Promise<FrontEnd> {
  const connection = await VhostUserConnection.connect(native, socket);
  const frontEnd = new FrontEnd(native, connection, {
    style: random.pick<FrontEndStyle>(['qemu10', 'qemu7', 'uml']),
    ringSize: random.pick([2, 64, 256, 1024]),
    features: vu.DRIVER_FEATURES & ~(random.oneIn(2) ? BigInt(random.u32()) : 0n),
    ram: { size: 32 << 20 },
  });
  await frontEnd.negotiate();
  return frontEnd;
}

/** Damaged traces, one front-end after the other. */
export async function messages(target: Target, random: Seeded): Promise<void> {
  for (let i = 0; i < TRACES_PER_SEQUENCE; i++) {
    target.tally.add('messages', await sayDamagedTrace(target.native, target.socket, random));
  }
}

/** Hostile rings; a ring that the service stopped is started again. */
export async function rings(target: Target, random: Seeded): Promise<void> {
  const frontEnd = await connect(target, random);
  const flipped = random.oneIn(2);
  let writing = false;
  try {
    const hostile = new HostileRings(frontEnd, random);
    hostile.clear();
    await frontEnd.start();
    if (flipped) {
      writing = true;
      await target.writer.start(frontEnd.ram, random.u32(), hostile.places);
    }
    for (let i = 0; i < ROUNDS_PER_SEQUENCE && !frontEnd.connection.isClosed; i++) {
      target.tally.add('ring entries', hostile.round());
      await (random.oneIn(50) ? pause(random.below(10)) : turn());
      if (frontEnd.rings.some((ring) => ring.errors > 0) && frontEnd.style !== 'uml') {
        for (const ring of frontEnd.rings) ring.errors = 0;
        await frontEnd.stop();
        hostile.clear();
        await frontEnd.start();
      }
    }
  } finally {
    if (writing) target.tally.add('memory writes', await target.writer.stop());
    frontEnd.close();
  }
}

/** Waits until the device has taken all frames. False if it stopped its queue. */
async function taken(frontEnd: FrontEnd, driver: NetDriver): Promise<boolean> {
  const drained = driver.drained().then(() => true);
  for (;;) {
    const before = driver.framesSent;
    if (await Promise.race([drained, pause(STALLED_MS).then(() => false)])) return true;
    const stopped = driver.framesSent === before || frontEnd.rings.some((ring) => ring.errors > 0);
    if (stopped || frontEnd.connection.isClosed) return false;
  }
}

/** Damaged frames through rings that a driver keeps as it should. */
export async function frames(target: Target, random: Seeded): Promise<void> {
  const frontEnd = await connect(target, random);
  let driver: NetDriver | null = null;
  let writing = false;
  try {
    const before = frontEnd.ram.mark()[1];
    const flipped = random.oneIn(2);
    const txSizes = random.pick([[], [12], [12, 14, 20], [1, 1, 1, 1, 9]]);
    // Without indirect tables there are only buffers behind the rings: headers change while they are read.
    driver = new NetDriver(frontEnd, flipped ? { txSizes, txIndirect: false } : { txSizes });
    await frontEnd.start();
    if (flipped) {
      writing = true;
      const end = frontEnd.ram.mark()[1];
      await target.writer.start(frontEnd.ram, random.u32(), [[before, end - before]]);
    }
    let sent = 0;
    while (sent < FRAMES_PER_SEQUENCE && !frontEnd.connection.isClosed) {
      for (let i = 0; i < FRAMES_PER_TURN; i++) {
        const { frame, header } = nextFrame(random);
        driver.send(frame, header);
      }
      sent += FRAMES_PER_TURN;
      if (!(await taken(frontEnd, driver))) break;
    }
    target.tally.add('frames', driver.framesSent);
  } finally {
    if (writing) target.tally.add('memory writes', await target.writer.stop());
    driver?.close();
    frontEnd.close();
  }
}

type Sequence = (target: Target, random: Seeded) => Promise<void>;

/** Sequences of hostile front-ends and guests. */
export const HOSTILE: Readonly<Record<string, Sequence>> = { messages, rings, frames };

export const SEQUENCES: Readonly<Record<string, Sequence>> = { ...HOSTILE, life };
