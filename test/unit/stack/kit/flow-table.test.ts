import fc from 'fast-check';
import { FlowTable, KEY_WORDS, SlotQueue } from '../../../../src/stack/kit/flow-table';

function key(t: FlowTable, n: number): void {
  for (let i = 0; i < KEY_WORDS; i++) t.probe[i] = i === 8 ? n : 7;
}

test('slots: all of them once, the last freed first, generations rise', () => {
  const t = new FlowTable(3, 1, 2);
  const slots = [t.alloc(), t.alloc(), t.alloc()];
  expect([...slots].sort()).toEqual([0, 1, 2]);
  expect(t.alloc()).toBe(-1);
  const before = t.generation[1];
  t.free(1);
  expect(t.alloc()).toBe(1);
  expect(t.generation[1]).toBe(before + 1);
});

test('every word of the key counts', () => {
  const t = new FlowTable(4, 5, 6);
  const slot = t.alloc();
  key(t, 1);
  t.insert(slot);
  for (let i = 0; i < KEY_WORDS; i++) {
    t.probe[i] ^= 1;
    expect(t.lookup()).toBe(-1);
    t.probe[i] ^= 1;
  }
  expect(t.lookup()).toBe(slot);
});

test('against a map, full and with much coming and going', () => {
  fc.assert(
    fc.property(fc.integer(), fc.integer(), fc.array(fc.nat(40), { maxLength: 400 }), (k0, k1, ops) => {
      const t = new FlowTable(16, k0, k1);
      const model = new Map<number, number>();
      for (const n of ops) {
        key(t, n);
        const slot = model.get(n);
        if (slot !== undefined) {
          expect(t.lookup()).toBe(slot);
          t.remove(slot);
          // The key found last is no more found once it is gone.
          expect(t.lookup()).toBe(-1);
          t.free(slot);
          model.delete(n);
        } else {
          expect(t.lookup()).toBe(-1);
          const fresh = t.alloc();
          expect(fresh < 0).toBe(model.size === 16);
          if (fresh < 0) continue;
          expect([...model.values()]).not.toContain(fresh);
          t.insert(fresh);
          model.set(n, fresh);
        }
        for (const [m, s] of model) {
          key(t, m);
          expect(t.lookup()).toBe(s);
        }
        expect(t.count).toBe(model.size);
      }
    }),
    { numRuns: 50 },
  );
});

test('removing what was never inserted changes nothing', () => {
  const t = new FlowTable(4, 5, 6);
  const a = t.alloc();
  key(t, 1);
  t.insert(a);
  t.remove(t.alloc());
  key(t, 1);
  expect(t.lookup()).toBe(a);
});

test('queue against an array', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.constantFrom('push', 'remove', 'shift'), fc.nat(7))), (ops) => {
      const q = new SlotQueue(8);
      let model: number[] = [];
      for (const [op, n] of ops) {
        if (op === 'push') {
          q.push(n);
          if (!model.includes(n)) model.push(n);
        } else if (op === 'remove') {
          q.remove(n);
          model = model.filter((x) => x !== n);
        } else {
          expect(q.shift()).toBe(model.shift() ?? -1);
        }
        expect(q.length).toBe(model.length);
        expect(q.first()).toBe(model[0] ?? -1);
        for (let i = 0; i < 8; i++) expect(q.has(i)).toBe(model.includes(i));
      }
    }),
  );
});
