import { parseOptions } from '../../../src/cli/options';
import type { MetricsAt } from '../../../src/cli/option-values';

const EPHEMERAL = { first: 32768, last: 60999 };

function parsed(...argv: string[]): { labels: Readonly<Record<string, string>>; metrics: MetricsAt | null } {
  const command = parseOptions(argv, EPHEMERAL);
  if (command.action !== 'run') throw new Error(command.action);
  return command.options;
}

test('labels: any value, names by the grammar of Prometheus', () => {
  expect(parsed('--label', 'vm=web1', '--label=_a9=x=y z', '--label', 'site=Zürich').labels).toEqual({
    vm: 'web1',
    _a9: 'x=y z',
    site: 'Zürich',
  });
  expect(parsed().labels).toEqual({});
});

test.each([
  ['vm', /^--label vm: give NAME=VALUE/],
  ['=x', /^--label =x: give NAME=VALUE/],
  ['9a=x', /^--label 9a=x: give NAME=VALUE/],
  ['a-b=x', /^--label a-b=x: give NAME=VALUE/],
  ['ü=x', /^--label ü=x: give NAME=VALUE/],
  ['__name__=x', /^--label __name__=x: names that begin with "__"/],
  ['vm=', /^--label vm=: give a value/],
  [`vm=${'x'.repeat(1025)}`, /: give a value of at most 1024 bytes/],
])('--label %s is refused', (value, message) => {
  expect(() => parsed('--label', value)).toThrow(message);
});

test('a label twice, and more than there is room for', () => {
  expect(() => parsed('--label', 'vm=a', '--label', 'vm=b')).toThrow(/^--label vm=b: vm is given twice$/);
  const many = Array.from({ length: 33 }, (_, i) => ['--label', `l${i}=x`]).flat();
  expect(() => parsed(...many)).toThrow(/^--label l32=x: give at most 32 labels$/);
});

test.each<[string, MetricsAt]>([
  ['unix:/run/m', { path: '/run/m', mode: 0o600 }],
  ['unix:m,mode=660', { path: 'm', mode: 0o660 }],
  ['unix:/run/a,mode=b,mode=0666', { path: '/run/a,mode=b', mode: 0o666 }],
  ['9100', { host: '127.0.0.1', port: 9100 }],
])('--metrics %s', (value, at) => {
  expect(parsed('--metrics', value).metrics).toEqual(at);
});

test.each([
  ['unix:', /^--metrics unix:: give a path of 1 to 107 bytes after "unix:"$/],
  [`unix:/${'x'.repeat(107)}`, /give a path of 1 to 107 bytes/],
  ['unix:/run/m,mode=700', /give a mode from 600 to 666/],
  ['unix:/run/m,mode=060', /give a mode from 600 to 666/],
  ['unix:/run/m,mode=6', /give a mode from 600 to 666/],
  ['tcp:9100', /give PORT, ADDR:PORT, \[IPV6\]:PORT or unix:PATH$/],
])('--metrics %s is refused', (value, message) => {
  expect(() => parsed('--metrics', value)).toThrow(message);
});
