/** The command line of the bench, as far as it decides what is started. */
import { parseOptions, UsageError, type Options } from '../../../bench/macro/options';

function parse(...argv: string[]): Options {
  const options = parseOptions(argv);
  if (options === 'help') throw new Error('it is no call for help');
  return options;
}

test('with a namespace for a guest, peers have the command line of pasta, or of slirp4netns by its name', () => {
  const { run, peers } = parse('--guest', 'netns', '--peer', 'pasta=pasta', '--peer', 'slirp4netns=slirp4netns');
  expect(peers).toEqual([
    { kind: 'namespace', name: 'pasta', argv: ['pasta'], dialect: 'pasta' },
    { kind: 'namespace', name: 'slirp4netns', argv: ['slirp4netns'], dialect: 'slirp4netns' },
  ]);
  expect(run.commandLine).toContain('--peer pasta=pasta --peer slirp4netns=slirp4netns --guest netns');
  expect(run.cases.map(({ name }) => name)).toEqual(expect.arrayContaining(['true', 'bulk-up', 'bulk-down-8', 'crr']));
  for (const { kind } of run.cases) expect(['start', 'beside', 'idle', 'long-path', 'packets']).not.toContain(kind);
});

test('with another guest they are vhost-user back-ends, and cases of a namespace are none', () => {
  expect(parse('--peer', 'passt=passt').peers).toEqual([{ kind: 'vhost-user', name: 'passt', argv: ['passt'] }]);
  expect(() => parse('--cases', 'true')).toThrow(UsageError);
  expect(() => parse('--guest', 'netns', '--cases', 'start')).toThrow('start does not go with --guest netns');
});

test('--policies is short for two variants of a thousand rules, and stays that in the report', () => {
  const { run, oursVariants } = parse('--guest', 'bare', '--policies');
  expect(oursVariants.map(({ name, args }) => [name, args.length])).toEqual([
    ['addresses', 2000],
    ['names', 2000],
  ]);
  expect(run.commandLine).toContain('npm run bench -- --policies --guest bare');
});
