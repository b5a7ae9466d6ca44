/** Which of the guest's addresses the control plane hears of. */
import { AddressTeller, BURST, INTERVAL_MS } from '../../../src/dataplane/address-news';
import type { AddressNews } from '../../../src/dataplane/commands';
import { LineQueue, newCount } from '../../../src/dataplane/line-queue';
import { FakeClock } from '../../support/stack/fake-clock';

const WAITING = 1000;
const words = Int32Array.of(9, 0, 0, 0xffff, 7);

function teller(waiting = WAITING) {
  const clock = new FakeClock();
  const heard: AddressNews[] = [];
  const count = newCount();
  const { told } = new AddressTeller(new LineQueue(count, waiting), clock, (news) => heard.push(news));
  const tell = (times = 1): void => {
    for (let n = 0; n < times; n++) told(3, words, 1, 0x5254, n);
  };
  return { clock, heard, count, tell };
}

test('what it is, in words of its own', () => {
  const { heard, tell } = teller();
  tell();
  words[4] = 8;
  expect(heard).toEqual([{ how: 3, address: Int32Array.of(0, 0, 0xffff, 7), mac: [0x5254, 0], leftOut: 0 }]);
  words[4] = 7;
});

test('a burst, then one each interval, which says how many were left out', () => {
  const { clock, heard, tell } = teller();
  tell(100_000);
  expect(heard).toHaveLength(BURST);
  clock.advance(INTERVAL_MS - 1);
  tell();
  expect(heard).toHaveLength(BURST);
  clock.advance(1);
  tell(2);
  expect(heard).toHaveLength(BURST + 1);
  expect(heard.at(-1)?.leftOut).toBe(100_000 - BURST + 1);
  // However often, one an interval.
  for (let n = 0; n < 100; n++) {
    clock.advance(INTERVAL_MS / 10);
    tell();
  }
  expect(heard).toHaveLength(BURST + 1 + 10);
  clock.advance(1000 * INTERVAL_MS);
  tell(100);
  expect(heard).toHaveLength(BURST + 11 + BURST);
});

test('a control plane that does not take note hears no more', () => {
  const { clock, heard, count, tell } = teller(2);
  tell(5);
  expect(heard).toHaveLength(2);
  Atomics.add(count, 0, 2);
  clock.advance(1);
  tell();
  expect(heard.at(-1)?.leftOut).toBe(3);
});
