/** Kick descriptors are watched edge-triggered: each kick is noticed, few are read, none is left for who comes after. */
import { BareRig, VNET_HEADER } from '../../../support/dataplane/bare-rig';
import { DEVICE_FEATURES } from '../../../../src/dataplane/virtio/features';
import { loadNative, type Native } from '../../../../src/native';
import { C_FRAMES_FROM_GUEST, C_KICKS_FROM_GUEST } from '../../../../src/stack/counters';

const FRAME = VNET_HEADER + 60;
const KICKS = 1000;
/** As many kicks of eight bytes as one `drain` takes out of a pipe. */
const A_READ = 64;

let rig: BareRig;
/** What each read of a descriptor gave. */
let reads: number[];

beforeEach(() => {
  const real = loadNative();
  const native = Object.create(real) as Native;
  native.drain = (fd) => {
    const result = real.drain(fd);
    reads.push(result);
    return result;
  };
  reads = [];
  rig = new BareRig(DEVICE_FEATURES, { native });
  for (let i = 0; i < 8; i++) rig.turn();
  reads.length = 0;
});

afterEach(() => rig.close());

function kickTimes(n: number): void {
  for (let i = 0; i < n; i++) {
    rig.post(0, FRAME);
    if (!rig.kick()) throw new Error('the loop wanted no kick');
    rig.step();
  }
}

it('every kick brings a turn, and what is unread stays less than a pipe holds', () => {
  const taken = rig.counters[C_FRAMES_FROM_GUEST];
  const kicks = rig.counters[C_KICKS_FROM_GUEST];
  kickTimes(KICKS);
  expect(rig.counters[C_FRAMES_FROM_GUEST] - taken).toBe(KICKS);
  expect(rig.counters[C_KICKS_FROM_GUEST] - kicks).toBe(KICKS);
  expect(reads.length).toBeGreaterThanOrEqual(Math.floor(KICKS / A_READ));
  expect(Math.max(...reads)).toBeLessThanOrEqual(A_READ);
  expect(reads.length).toBeLessThan(KICKS / 10);
});

it('a ring that stops leaves no kick unread', () => {
  kickTimes(3);
  rig.stopTransmit();
  expect(reads).toContain(3);
});
