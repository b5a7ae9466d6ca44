import { needEvent } from 'virtio-ring-ts';
import type { SplitQueueDevice } from 'virtio-ring-ts';
import { ALL, LOW, PLAIN, RawRing, makeDevice, makeMemory, makeRows } from '../../support/virtqueue/raw-ring';

const rows = makeRows(16);

/** A ring of 8 with one-byte chains, `n` of them popped by a device that started at `base` = used.idx. */
function started(features: typeof ALL, base: number, n: number): [RawRing, SplitQueueDevice] {
  const ring = new RawRing(8);
  for (let i = 0; i < 8; i++) ring.desc(i, LOW, 1);
  for (let i = 0; i < n; i++) ring.availHead(base + i, i);
  ring.usedIdx = base;
  ring.availIdx = base + n;
  const dev = makeDevice(ring, makeMemory().memory, features, base);
  for (let i = 0; i < n; i++) dev.pop(rows, 0, 16);
  return [ring, dev];
}

describe('needEvent', () => {
  it.each([
    // event, new, old
    [5, 6, 5, true], // the element asked for
    [5, 5, 4, false], // one before
    [5, 7, 6, false], // one after
    [5, 9, 2, true], // a batch over it
    [5, 5, 5, false], // nothing moved
    [65535, 0, 65535, true],
    [65535, 3, 65530, true],
    [0, 1, 65535, true],
    [1, 1, 65535, false],
    [65534, 0, 65535, false],
  ])('event %i, new %i, old %i: %s', (event, now, old, expected) => {
    expect(needEvent(event, now, old)).toBe(expected);
  });
});

describe.each([0, 65533])('publishing without a word, from index %i', (base) => {
  it('is seen at once, and told of later by where the driver is then', () => {
    const [ring, dev] = started(ALL, base, 6);
    dev.pushUsed(0, 0);
    expect(dev.publish()).toBe(true);
    ring.usedEvent = base + 1;
    dev.pushUsed(1, 0);
    expect(dev.publishQuietly()).toBe(true);
    expect(dev.publishQuietly()).toBe(false);
    expect(ring.usedIdx).toBe((base + 2) & 0xffff);
    expect(dev.wantsSignal()).toBe(true);
    dev.pushUsed(2, 0);
    dev.publishQuietly();
    expect(dev.takeSignal()).toBe(true); // passed by the first of the two
    expect(dev.takeSignal()).toBe(false);

    ring.usedEvent = base + 3;
    dev.pushUsed(3, 0);
    dev.publishQuietly();
    expect(dev.wantsSignal()).toBe(true);
    ring.usedEvent = base + 4; // it has looked by itself
    expect(dev.wantsSignal()).toBe(false);
    expect(dev.takeSignal()).toBe(false);
    dev.pushUsed(4, 0);
    expect(dev.publish()).toBe(true);
  });

  it('the first notification is unconditional here, too', () => {
    const [ring, dev] = started(ALL, base, 1);
    ring.usedEvent = base + 30000;
    dev.pushUsed(0, 0);
    dev.publishQuietly();
    expect(dev.wantsSignal()).toBe(true);
    expect(dev.takeSignal()).toBe(true);
  });
});

describe.each([0, 65533])('a notification unheeded, from index %i', (base) => {
  it('until the driver asks for its next', () => {
    const [ring, dev] = started(ALL, base, 6);
    expect(dev.unheeded).toBe(false);
    ring.usedEvent = base;
    dev.pushUsed(0, 0);
    expect(dev.publish()).toBe(true);
    expect(dev.unheeded).toBe(true);
    dev.pushUsed(1, 0);
    expect(dev.publish()).toBe(false);
    expect(dev.unheeded).toBe(true);
    ring.usedEvent = base + 2;
    expect(dev.unheeded).toBe(false);
    dev.pushUsed(2, 0);
    expect(dev.publish()).toBe(true);
    expect(dev.unheeded).toBe(true);
  });

  it('cannot be told without EVENT_IDX', () => {
    const [, dev] = started(PLAIN, base, 1);
    dev.pushUsed(0, 0);
    expect(dev.publish()).toBe(true);
    expect(dev.unheeded).toBe(false);
  });
});

describe.each([0, 65533])('publish with EVENT_IDX from index %i', (base) => {
  it('the first notification is unconditional, then used_event decides', () => {
    const [ring, dev] = started(ALL, base, 6);
    ring.usedEvent = base + 30000;
    dev.pushUsed(0, 0);
    expect(dev.publish()).toBe(true);

    ring.usedEvent = base + 2; // wants to hear of element base + 2
    dev.pushUsed(1, 0);
    expect(dev.publish()).toBe(false); // used.idx = base + 2: one before
    dev.pushUsed(2, 0);
    expect(dev.publish()).toBe(true); // equal
    dev.pushUsed(3, 0);
    expect(dev.publish()).toBe(false); // one after

    ring.usedEvent = base + 4;
    dev.pushUsed(4, 0);
    dev.pushUsed(5, 0);
    expect(dev.publish()).toBe(true); // passed within a batch
  });

  it('flags are ignored', () => {
    const [ring, dev] = started(ALL, base, 2);
    dev.pushUsed(0, 0);
    dev.publish();
    ring.availFlags = 1;
    ring.usedEvent = base + 1;
    dev.pushUsed(1, 0);
    expect(dev.publish()).toBe(true);
  });
});

describe('publish', () => {
  it('without EVENT_IDX follows NO_INTERRUPT, after the first', () => {
    const [ring, dev] = started(PLAIN, 0, 4);
    ring.availFlags = 1;
    dev.pushUsed(0, 0);
    expect(dev.publish()).toBe(true);
    dev.pushUsed(1, 0);
    expect(dev.publish()).toBe(false);
    ring.availFlags = 0;
    dev.pushUsed(2, 0);
    expect(dev.publish()).toBe(true);
  });

  it.each([ALL, PLAIN])('of nothing notifies nobody', (features) => {
    const [ring, dev] = started(features, 5, 1);
    expect(dev.publish()).toBe(false);
    dev.pushUsed(0, 0);
    expect(dev.publish()).toBe(true); // still the first
    expect(dev.publish()).toBe(false);
    expect(ring.usedIdx).toBe(6);
  });

  it.each([ALL, PLAIN])('resetSignalled makes the next notification unconditional', (features) => {
    const [ring, dev] = started(features, 0, 3);
    dev.pushUsed(0, 0);
    dev.publish();
    ring.availFlags = 1;
    ring.usedEvent = 30000;
    dev.pushUsed(1, 0);
    expect(dev.publish()).toBe(false);
    dev.resetSignalled();
    dev.pushUsed(2, 0);
    expect(dev.publish()).toBe(true);
  });
});

describe('enableNotify and disableNotify', () => {
  it('with EVENT_IDX writes avail_event and leaves flags alone', () => {
    const [ring, dev] = started(ALL, 65534, 4);
    expect(dev.enableNotify()).toBe(false);
    expect(ring.availEvent).toBe(2);
    dev.disableNotify();
    expect([ring.availEvent, ring.usedFlags]).toEqual([2, 0]);
  });

  it('without EVENT_IDX sets and clears NO_NOTIFY', () => {
    const [ring, dev] = started(PLAIN, 0, 1);
    dev.disableNotify();
    expect(ring.usedFlags).toBe(1);
    expect(dev.enableNotify()).toBe(false);
    expect(ring.usedFlags).toBe(0);
    expect(ring.availEvent).toBe(0);
  });

  it.each([ALL, PLAIN])('sees chains added before the driver could see the request', (features) => {
    const [ring, dev] = started(features, 0, 2);
    expect(dev.pop(rows, 0, 16)).toBe(0);
    ring.offer(2, 2); // the driver checked avail_event or the flag before we changed it: no kick comes
    expect(dev.enableNotify()).toBe(true);
    expect(dev.pending).toBe(1);
    expect(dev.pop(rows, 0, 16)).toBe(1);
    expect(dev.enableNotify()).toBe(false);
  });

  it('after a rewind asks for chains beyond those known', () => {
    const [ring, dev] = started(ALL, 0, 3);
    dev.rewind(3); // not enough buffers: they stay in the ring
    expect(dev.enableNotify()).toBe(false);
    expect(ring.availEvent).toBe(3); // the driver kicks when it adds number 3
    expect(dev.pending).toBe(3);
    ring.offer(3, 3);
    expect(dev.enableNotify()).toBe(true);
    expect(dev.pending).toBe(4);
  });

  it('asks for a kick after several chains, unless as many came meanwhile', () => {
    const [ring, dev] = started(ALL, 65534, 2);
    expect(dev.pop(rows, 0, 16)).toBe(0);
    expect(dev.pop(rows, 0, 16)).toBe(0);
    expect(dev.enableNotify(4)).toBe(false);
    expect(ring.availEvent).toBe(3); // 65536 is known; of 0, 1, 2 and 3 the last is announced
    for (let i = 0; i < 3; i++) ring.offer(65536 + i, 2 + i);
    expect(dev.enableNotify(4)).toBe(false);
    ring.offer(3, 5);
    expect(dev.enableNotify(4)).toBe(true);
  });

  it.each([ALL, PLAIN])('tells of chains that were too few for several when asked for one', (features) => {
    const [ring, dev] = started(features, 0, 1);
    expect(dev.pop(rows, 0, 16)).toBe(0);
    ring.offer(1, 1); // while the device was about to ask
    expect(dev.enableNotify(4)).toBe(false);
    expect(dev.enableNotify()).toBe(true);
    expect(dev.pop(rows, 0, 16)).toBe(1);
  });

  it('without EVENT_IDX there is no asking for several', () => {
    const [ring, dev] = started(PLAIN, 0, 1);
    dev.disableNotify();
    expect(dev.enableNotify(4)).toBe(false);
    expect(ring.usedFlags).toBe(1);
  });
});
