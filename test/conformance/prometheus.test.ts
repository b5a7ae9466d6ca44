/** promtool's word on the metrics of the real service, the example's configuration and rules. Needs a build. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HISTOGRAMS, METRICS, OTHERS, PROCESS } from '../../src/metrics/names';
import { describeWith } from '../e2e/support';
import { scrape, startService } from '../support/run-service';
import { dashboardQueries, EXAMPLES, PROMTOOL, whyNoPrometheus } from '../support/world/prometheus';

jest.setTimeout(30_000);

const RULES_TEST = join(__dirname, '..', 'fixtures', 'prometheus', 'rules.test.yml');

function promtool(args: readonly string[], input = ''): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(PROMTOOL, args, { encoding: 'utf8', input });
  return { status, output: stdout + stderr };
}

describeWith('promtool', whyNoPrometheus(), () => {
  test('check metrics: nothing to say about the page of a service with rules and labels', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'tubetti-prom-'));
    const argv = ['-t', '127.0.0.1/18231:22', '--label', 'vm=a "b" \\c'];
    const service = await startService('-s', join(dir, 's'), ...argv);
    try {
      const page = await scrape(service.metricsPort);
      expect(page).toContain('tubetti_forward_listeners{protocol="tcp",rule="127.0.0.1/18231:22"} 1');
      expect(page).toContain('tubetti_info{vm="a \\"b\\" \\\\c"} 1');
      expect(promtool(['check', 'metrics'], page)).toEqual({ status: 0, output: '' });
    } finally {
      service.child.kill('SIGKILL');
      rmSync(dir, { recursive: true });
    }
  });

  test('check config: the example and its rules', () => {
    const { status, output } = promtool(['check', 'config', join(EXAMPLES, 'prometheus.yml')]);
    expect(output).toMatch(/alerts\.yml[\s\S]*SUCCESS/);
    expect(status).toBe(0);
  });

  test('test rules', () => {
    const { status, output } = promtool(['test', 'rules', RULES_TEST]);
    expect(output).toContain('SUCCESS');
    expect(status).toBe(0);
  });
});

test('the dashboard and the rules name metrics that there are', () => {
  const known = new Set<string>(['tubetti:libvirt_interface']);
  for (const { name } of [...METRICS, ...Object.values(OTHERS), ...Object.values(PROCESS)]) known.add(name);
  for (const { name } of HISTOGRAMS) for (const end of ['_bucket', '_sum', '_count']) known.add(name + end);
  const rules = ['alerts.yml', 'libvirt.yml'].map((file) => readFileSync(join(EXAMPLES, file), 'utf8'));
  const text = [...[...dashboardQueries('1m').values()].flat(), ...rules].join('\n').replace(/^#.*$/gm, '');
  const named = new Set(text.match(/\b(?:tubetti|process)[_:][a-z_]+/g));
  expect([...named].filter((name) => !known.has(name))).toEqual([]);
  expect(named.size).toBeGreaterThan(20);
});
