/** Commands of the control plane against rings in the middle of a turn. */
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import { SplitQueueDriver, type RingPlace } from 'virtio-ring-ts';
import type { Command } from '../../../../src/dataplane/commands';
import { bit } from '../../../../src/dataplane/virtio/features';
import { RingControl } from '../../../../src/dataplane/virtio/ring-control';
import { loadNative, type Native } from '../../../../src/native';
import { moderationOf } from '../../../support/dataplane/moderation';
import { COUNTERS } from '../../../../src/stack/counters';
import { GSO_NONE } from '../../../../src/stack/ports';

const SIZE = 1 << 20;
const RING = 16;
const BUFFER = 0x8000;

it('a ring is told of all that was done before its disabling is answered', () => {
  const native = loadNative();
  const region = native.allocRegion(SIZE);
  const buffer = native.regionBuffer(region);
  const { port1, port2 } = new MessageChannel();
  const control = new RingControl(native, port1, -1, new Float64Array(COUNTERS), moderationOf());
  const say = (command: Command): unknown => {
    port2.postMessage({ seq: 1, command });
    control.takeCommands();
    return receiveMessageOnPort(port2)?.message;
  };
  const done = { kind: 'done', seq: 1, value: 0 };
  const at = (offset: number): RingPlace => ({ buffer, offset });
  const layout = (base: number) => ({ size: RING, desc: at(base), avail: at(base + 0x400), used: at(base + 0x800) });
  const rx = new SplitQueueDriver(layout(0), { indirect: false, eventIdx: false });
  const tx = new SplitQueueDriver(layout(0x1000), { indirect: false, eventIdx: false });
  rx.begin();
  rx.addWritable(BUFFER, 2048);
  rx.commit(1, false);
  rx.publish();
  tx.begin();
  tx.addReadable(BUFFER + 2048, 12 + 60);
  tx.commit(2, false);
  tx.publish();

  say({ kind: 'features', features: bit(32) });
  say({ kind: 'memory', regions: [{ region, buffer, gpa: 0, size: SIZE }] });
  for (const index of [0, 1]) {
    const place = (offset: number) => ({ region, offset: 0x1000 * index + offset });
    const parts = { desc: place(0), avail: place(0x400), used: place(0x800) };
    const fds = { kickFd: -1, callFd: -1, errFd: -1 };
    const ring = { index, size: RING, base: 0, enabled: true, logAddr: -1, ...parts, ...fds };
    expect(say({ kind: 'startRing', ring })).toEqual(done);
  }
  // A turn of the loop took a frame from the guest and committed one to it; it would publish both at its end.
  expect(control.port.receive(0)).toBe(60);
  expect(control.port.reserve(60, 0, 0)).toBe(0);
  control.port.front();
  control.port.commit(0, 0, 0, 0, GSO_NONE, 0);
  expect([rx.pollUsed(), tx.pollUsed()]).toEqual([0, 0]);

  expect(say({ kind: 'enable', index: 1, enabled: false })).toEqual(done);
  expect([rx.pollUsed(), tx.pollUsed()]).toEqual([1, 1]);
  expect(rx.usedLen).toBe(12 + 60);
  port1.close();
  native.retireRegion(region);
});

it('a ring whose kick descriptor cannot be watched is looked at without kicks', () => {
  const native = loadNative();
  const short = Object.create(native) as Native;
  let watches = 0;
  short.watch = () => {
    watches++;
    return -12; // ENOMEM
  };
  const region = native.allocRegion(SIZE);
  const buffer = native.regionBuffer(region);
  const kickFd = native.eventFd(0);
  const { port1, port2 } = new MessageChannel();
  const control = new RingControl(short, port1, -1, new Float64Array(COUNTERS), moderationOf());
  const say = (command: Command): void => {
    port2.postMessage({ seq: 1, command });
    control.takeCommands();
  };
  say({ kind: 'features', features: bit(32) });
  say({ kind: 'memory', regions: [{ region, buffer, gpa: 0, size: SIZE }] });
  const place = (offset: number) => ({ region, offset });
  const parts = { desc: place(0), avail: place(0x400), used: place(0x800) };
  const ring = { index: 1, size: RING, base: 0, enabled: true, logAddr: -1, ...parts, kickFd, callFd: -1, errFd: -1 };
  say({ kind: 'startRing', ring });
  expect([watches, control.polling]).toEqual([1, true]);
  port1.close();
  native.retireRegion(region);
  native.close(kickFd);
});
