/** What each level makes of guests that differ in how and when they answer an interrupt. */
import { DEVICE_FEATURES, VIRTIO_RING_F_EVENT_IDX } from '../../../../src/dataplane/virtio/features';
import { FD_SOCKET } from '../../../../src/native';
import { RING } from '../../../support/dataplane/bare-rig';
import { type Exchange, SimulatedGuest, type SimulatedGuestOptions } from '../../../support/dataplane/simulated-guest';

let guest: SimulatedGuest;

afterEach(() => guest.close());

const sum = (list: readonly Exchange[], of: (each: Exchange) => number): number =>
  list.reduce((total, each) => total + of(each), 0);
const completions = (list: readonly Exchange[]): number => sum(list, (each) => each.completions);
const longest = (list: readonly Exchange[]): number => Math.max(0, ...list.map((each) => each.completionUs || 0));

/** A guest that was there for a while. */
function settled(options: SimulatedGuestOptions, warmUp = 300): SimulatedGuest {
  guest = new SimulatedGuest(options);
  guest.exchanges(warmUp);
  guest.watched.forget();
  return guest;
}

/** The longest wait of the loop that was for the guest, µs. */
function longestWait(): number {
  return Math.max(0, ...guest.watched.sleeps.filter((us) => us < 10_000));
}

const FAST = { lookUs: 30 };
const SLOW = { lookUs: 600 };
const KINDS: readonly (readonly [string, SimulatedGuestOptions])[] = [
  ['a fast guest', FAST],
  ['a slow guest', SLOW],
  ['a guest that does not clean its transmit queue', { lookUs: 30, cleans: false }],
];

it.each(KINDS)('off: %s has an interrupt for the answer and one for the completion, at once', (_name, options) => {
  const seen = settled({ ...options, level: 'off' }, 3).exchanges(20);
  expect(completions(seen)).toBe(20);
  expect(longest(seen)).toBe(0);
  expect(sum(seen, (each) => each.frames)).toBe(20);
});

it.each(KINDS)('standard: no interrupt of %s is delayed by more than tens of µs', (_name, options) => {
  const seen = settled({ ...options, level: 'standard' }, 3).exchanges(20);
  expect(completions(seen)).toBe(options === FAST ? 0 : 20);
  expect(longest(seen)).toBeLessThan(100);
});

describe('adaptive', () => {
  it('a fast guest needs no interrupt for completions from the first exchange on, and is never waited for long', () => {
    guest = new SimulatedGuest(FAST);
    guest.watched.forget();
    expect(completions(guest.exchanges(500))).toBe(0);
    expect(longestWait()).toBeLessThanOrEqual(100);
  });

  it('a slow guest needs hardly any, once it is known', () => {
    const seen = settled(SLOW).exchanges(300);
    expect(completions(seen)).toBeLessThan(30);
    expect(longestWait()).toBeLessThan(4 * SLOW.lookUs);
    expect(longestWait()).toBeLessThanOrEqual(2000);
  });

  it.each([
    ['fast', FAST, 2],
    ['slow', SLOW, 20],
  ])('a %s guest needs hardly any while request follows answer', (_name, options, most) => {
    settled({ ...options, follows: 100 }, 3);
    expect(guest.exchange().completions).toBeLessThanOrEqual(most);
    expect(longestWait()).toBeLessThan(4 * options.lookUs);
  });

  it('nor is one that does not clean its transmit queue waited for while request follows answer', () => {
    settled({ lookUs: 30, cleans: false, follows: 100 }, 3);
    guest.exchange();
    expect(longestWait()).toBeLessThanOrEqual(100);
  });

  it.each([
    ['a fast guest is asked for a kick at each', FAST, [true, true, true]],
    ['a slow guest is not, as its kicks are dear', SLOW, [true, false, false]],
    ['nor is User Mode Linux, however fast it looks', { ...FAST, callKind: FD_SOCKET }, [true, false, false]],
  ])('acknowledgements of bulk: %s', (_name, options, kicks) => {
    const { rig, watched } = settled(options);
    watched.us += 20_000; // the exchanges were interactive
    const acknowledge = (): boolean => {
      rig.traffic.toGuest += 64 * 1024;
      rig.postStray(RING - 1);
      const kicked = rig.kick();
      rig.step();
      return kicked;
    };
    expect([acknowledge(), acknowledge(), acknowledge()]).toEqual(kicks);
  });

  it('a guest that becomes fast is waited for less', () => {
    guest = new SimulatedGuest({ ...SLOW });
    guest.exchanges(100);
    const options = (guest as unknown as { options: { lookUs: number } }).options;
    options.lookUs = 30;
    try {
      guest.exchanges(400);
      guest.watched.forget();
      expect(completions(guest.exchanges(100))).toBeLessThan(10);
      expect(longestWait()).toBeLessThan(150);
    } finally {
      options.lookUs = 600;
    }
  });

  it.each([
    ['does not clean its transmit queue when it is notified of frames', { lookUs: 30, cleans: false }],
    [
      'cannot show that it did, without EVENT_IDX',
      { lookUs: 30, features: DEVICE_FEATURES & ~(1n << BigInt(VIRTIO_RING_F_EVENT_IDX)) },
    ],
    ['takes longer than is worth waiting for', { lookUs: 5000 }],
  ])('a guest that %s gets the standard delay, and a longer one once in a thousand', (_what, options) => {
    const seen = settled(options, 20).exchanges(1000);
    expect(completions(seen)).toBe(1000);
    expect(seen.filter((each) => each.completionUs > 100)).toHaveLength(0);
    const later = guest.exchanges(1100).filter((each) => each.completionUs > 100);
    expect(later.length).toBeLessThanOrEqual(2);
    expect(longest(later)).toBeLessThanOrEqual(2000);
  });

  it('a small frame that nobody answers is waited for as long as answers take: in the end not long', () => {
    guest = new SimulatedGuest(FAST);
    const first = guest.stray();
    const later = Array.from({ length: 50 }, () => guest.stray());
    expect([first.completions, completions(later)]).toEqual([1, 50]);
    expect(longest(later.slice(20))).toBeLessThan(100);
  });

  it('what was learned of a guest is forgotten with its ring', () => {
    settled(SLOW);
    guest.rig.stopTransmit();
    guest.rig.startTransmit();
    guest.exchange(); // the first interrupt of a ring is unconditional
    guest.watched.forget();
    guest.exchange();
    expect(longestWait()).toBeLessThan(100);
  });

  describe('after a message to a host', () => {
    /** How many of so many messages wake the guest before their answer. */
    const woken = (count: number): number =>
      completions(
        Array.from({ length: count }, () => {
          guest.rig.traffic.message = true;
          return guest.stray();
        }).filter((each) => each.completionUs === 0),
      );

    it('a slow guest is woken at once, but for the few by which it is seen to be slow', () => {
      settled(SLOW);
      const count = woken(64);
      expect(count).toBeGreaterThanOrEqual(56);
      expect(count).toBeLessThan(64);
    });

    it.each(KINDS.filter(([, options]) => options !== SLOW))('%s is not', (_name, options) => {
      settled(options);
      expect(woken(64)).toBe(0);
    });

    it.each(['off', 'standard'] as const)('level %s makes no difference of messages', (level) => {
      settled({ ...SLOW, level });
      expect(woken(64)).toBe(level === 'off' ? 64 : 0);
    });

    it('nor is a guest that was notified of a frame in the same turn', () => {
      settled(SLOW);
      guest.rig.traffic.message = true;
      const { frames, completionUs } = guest.exchange();
      expect(frames).toBe(1);
      expect(completionUs).not.toBe(0);
    });
  });
});

describe('a guest that loses interrupts', () => {
  const loser = { lookUs: 100, loses: true, callKind: FD_SOCKET };

  it('adaptive: is notified once more after a millisecond', () => {
    const seen = settled(loser, 5).exchanges(20);
    expect(sum(seen, (each) => each.frames)).toBe(40);
    for (const { lookUs } of seen) expect(lookUs).toBeLessThan(3000);
  });

  it.each(['off', 'standard'] as const)('%s: is left to its timers', (level) => {
    const seen = settled({ ...loser, level }, 5).exchanges(20);
    expect(sum(seen, (each) => each.frames)).toBe(20);
  });

  it('with eventfds, which lose nothing, the loop does not wake up to look', () => {
    settled({ lookUs: 5000 }, 20);
    const seen = guest.exchanges(20);
    expect(sum(seen, (each) => each.frames)).toBe(20);
    expect(guest.watched.sleeps.filter((us) => us > 100 && us < 10_000)).toEqual([]);
  });
});
