import { PollWindow } from '../../../../src/dataplane/moderation/busy-poll';

it('grows while work comes soon, never beyond the most', () => {
  const window = new PollWindow(100);
  const seen: number[] = [];
  for (let i = 0; i < 5; i++) {
    window.slept(100);
    seen.push(window.us);
  }
  expect(seen).toEqual([16, 32, 64, 100, 100]);
});

it('shrinks to nothing while work comes late', () => {
  const window = new PollWindow(100);
  for (let i = 0; i < 5; i++) window.slept(20);
  const seen: number[] = [];
  for (let i = 0; i < 4; i++) {
    window.slept(101);
    seen.push(window.us);
  }
  expect(seen).toEqual([50, 25, 0, 0]);
});

it('never opens where the most is 0, and opens to the most where that is little', () => {
  const never = new PollWindow(0);
  never.slept(0);
  expect(never.us).toBe(0);
  const little = new PollWindow(5);
  little.slept(5);
  expect(little.us).toBe(5);
});
