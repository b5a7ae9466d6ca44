import { RestartPolicy, SERVICE_DEATHS, SESSION_DEATHS, WINDOW_MS } from '../../../src/supervisor/restart-policy';

describe('RestartPolicy', () => {
  const die = (policy: RestartPolicy, ofFrontEnd: boolean, times: number, now = 0): string[] =>
    Array.from({ length: times }, () => policy.died(ofFrontEnd, now));

  it('ends a session after some deaths, time and again, and never the service for them', () => {
    const policy = new RestartPolicy();
    for (let session = 0; session < 20; session++) {
      const verdicts = die(policy, true, SESSION_DEATHS);
      expect(verdicts.pop()).toBe('end-session');
      expect(new Set(verdicts)).toEqual(new Set(['replace']));
    }
    expect(policy.died(false, 0)).toBe('replace');
  });

  it('gives up the service for deaths that no front-end can have caused', () => {
    const policy = new RestartPolicy();
    expect(die(policy, false, SERVICE_DEATHS).filter((v) => v === 'give-up')).toHaveLength(1);
  });

  it('has a longer memory for hangs, each of which takes seconds to be noticed', () => {
    for (const ofFrontEnd of [true, false]) {
      const policy = new RestartPolicy();
      const deaths = ofFrontEnd ? SESSION_DEATHS : SERVICE_DEATHS;
      const verdicts = Array.from({ length: deaths }, (_, n) => policy.died(ofFrontEnd, (n * WINDOW_MS) / 1.5, true));
      expect(verdicts.filter((verdict) => verdict !== 'replace')).toEqual([ofFrontEnd ? 'end-session' : 'give-up']);
    }
  });

  it('forgets what was long ago, and what another front-end did', () => {
    const policy = new RestartPolicy();
    die(policy, true, SESSION_DEATHS - 1);
    expect(policy.died(true, WINDOW_MS + 1)).toBe('replace');
    die(policy, true, SESSION_DEATHS - 2, WINDOW_MS + 1);
    policy.newSession();
    expect(policy.died(true, WINDOW_MS + 1)).toBe('replace');
    die(policy, false, SERVICE_DEATHS - 1);
    expect(policy.died(false, WINDOW_MS + 1)).toBe('replace');
  });
});
