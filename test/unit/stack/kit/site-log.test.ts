import { SITE_GUEST_MAC, SITE_LINES_PER_SECOND, SITE_PING_REFUSED, SiteLog } from '../../../../src/stack/kit/site-log';
import { FakeClock } from '../../../support/stack/fake-clock';

test('each site has a few lines a second, and says what it left out when it speaks again', () => {
  const clock = new FakeClock();
  const lines: string[] = [];
  const log = new SiteLog(clock, (level, message) => void lines.push(`${level}: ${message}`));
  for (let i = 0; i < 1000; i++) log.line(SITE_GUEST_MAC, 'info', `mac ${i}`);
  log.line(SITE_PING_REFUSED, 'warn', 'another site');
  expect(lines).toHaveLength(SITE_LINES_PER_SECOND + 1);
  clock.advance(1000);
  log.line(SITE_GUEST_MAC, 'info', 'later');
  log.line(SITE_GUEST_MAC, 'info', 'last');
  expect(lines.slice(-2)).toEqual(['info: later (995 similar messages suppressed)', 'info: last']);
});

test('a line that the budget does not allow is not built', () => {
  const log = new SiteLog(new FakeClock(), () => undefined);
  let built = 0;
  for (let i = 0; i < 1000; i++) {
    if (log.take(SITE_GUEST_MAC)) log.say(SITE_GUEST_MAC, 'info', `mac ${built++}`);
  }
  expect(built).toBe(SITE_LINES_PER_SECOND);
});
