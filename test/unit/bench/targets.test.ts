/** Verdicts on target cells, from made-up samples. */
import { CASES, type Sample, type Values } from '../../../bench/macro/cases';
import { UsageError, parseOptions, type Options } from '../../../bench/macro/options';
import { virtioInterrupts } from '../../../bench/macro/probes';
import { cellsOf, failures, type Report } from '../../../bench/macro/report';
import { TARGETS, judge, type Verdict } from '../../../bench/macro/targets';

const BULK = 'bulk-down uml 65520 IPv4 gbits/passt';

function options(...argv: string[]): Options {
  const parsed = parseOptions(argv);
  if (parsed === 'help') throw new Error('help');
  return parsed;
}

function report(samples: readonly Sample[], argv: string[] = ['--peer', 'passt=p']): Report {
  const { run, peers } = options(...argv);
  const backends = ['tubetti', ...peers.map(({ name }) => name)].map((name) => ({ name, version: '1.0' }));
  const conditions = { date: '', machine: '', guest: '', descriptors: '', backends, loads: [], rounds: run.rounds };
  return { conditions, options: run, samples };
}

function sample(backend: string, round: number, values: Values, failed?: string): Sample {
  const cell = { case: 'bulk-down', guest: 'uml', mtu: 65520, family: 4 } as const;
  return { backend, ...cell, round, values, ...(failed === undefined ? {} : { failed }) };
}

function verdict(reports: readonly Report[], id: string): Verdict {
  const found = judge(reports).find((each) => each.id === id);
  if (found === undefined) throw new Error(`no target ${id}`);
  return found;
}

test('no run at all: every target is listed, none measured', () => {
  const verdicts = judge([]);
  expect(verdicts).toHaveLength(TARGETS.length);
  expect(verdicts.every(({ state }) => state === 'not measured')).toBe(true);
  expect(new Set(verdicts.map(({ id }) => id)).size).toBe(TARGETS.length);
});

test('every target names a case that exists', () => {
  const names = new Set(CASES.map(({ name }) => name));
  expect(TARGETS.filter(({ cell }) => !names.has(cell.case))).toEqual([]);
});

test('a ratio is the median of the rounds, against the same round', () => {
  const rounds = [
    [2.4, 2],
    [3.9, 3],
    [1, 4],
  ];
  const samples = rounds.flatMap(([ours, theirs], index) => [
    sample('tubetti', index + 1, { gbits: ours }),
    sample('passt', index + 1, { gbits: theirs }),
  ]);
  expect(verdict([report(samples)], BULK)).toMatchObject({ state: 'met', detail: '1.20 (0.25–1.30)' });
  const slower = samples.map((each) =>
    each.backend === 'tubetti' ? sample('tubetti', each.round, { gbits: each.values.gbits! * 0.99 }) : each,
  );
  expect(verdict([report(slower)], BULK).state).toBe('MISSED');
});

test('a count that should be 0 is missed by one round that has one', () => {
  const id = 'bulk-down uml 65520 IPv4 guestRetransmits';
  const samples = [0, 0, 1].map((guestRetransmits, index) => sample('tubetti', index + 1, { guestRetransmits }));
  expect(verdict([report(samples)], id).state).toBe('MISSED');
  expect(verdict([report(samples.slice(0, 2))], id).state).toBe('met');
});

test('what was not measured says why', () => {
  const failed = [sample('tubetti', 1, { gbits: 1 }), sample('passt', 1, {}, 'tail\nit broke')];
  expect(verdict([report(failed)], BULK)).toMatchObject({ state: 'not measured', detail: 'passt: it broke' });
  expect(failures(report(failed))).toEqual(['passt, bulk-down, 65520, IPv4: it broke (round 1)']);
  expect(verdict([report([], [])], BULK).detail).toBe('no passt in the run');
  expect(verdict([report([], ['--peer', 'passt=p', '--cases', 'rr'])], BULK).detail).toMatch(/not among the cases/);
  expect(verdict([report(failed, ['--peer', 'passt=p', '--strace'])], BULK).detail).toMatch(/no run/);
});

test('only cases of the matrix run at every MTU and in every family', () => {
  const cells = cellsOf(report([], ['--cases', 'bulk-down,rr']));
  expect(cells.map(({ case: name, mtu, family }) => [name, mtu, family])).toEqual([
    ['bulk-down', 65520, 4],
    ['bulk-down', 65520, 6],
    ['bulk-down', 1500, 4],
    ['bulk-down', 1500, 6],
    ['rr', 65520, 4],
  ]);
});

test('cases are chosen by patterns, streams and guests', () => {
  const names = (...argv: string[]): string[] => options(...argv).run.cases.map(({ name }) => name);
  expect(names('--cases', 'idle-*,rr')).toEqual(['rr', 'idle-1', 'idle-100', 'idle-1000', 'idle-10000']);
  expect(names('--cases', 'bulk-*', '--streams', '8')).toEqual(['bulk-down-8', 'bulk-up-8']);
  expect(names('--guest', 'testpmd')).toEqual(['pps-200', 'pps-1400']);
  expect(names('--guest', 'bare')).toEqual(
    expect.arrayContaining(['bulk-up-8', 'udp-down-200', 'rr', 'crr', 'beside-8']),
  );
  expect(names().some((name) => name.startsWith('long-'))).toBe(false);
});

test.each([
  [['--cases', 'nonsense'], /--cases: no case nonsense/],
  [['--cases', 'pps-200'], /pps-200 does not go with --guest uml/],
  [['--peer', 'libslirp'], /libslirp wants --guest qemu/],
  [['--guest', 'windows'], /--guest wants one of uml, qemu, testpmd, bare/],
  [['--guest', 'bare', '--cases', 'idle-1'], /idle-1 does not go with --guest bare/],
  [['--ring', '512'], /--ring is of no use with --guest uml/],
  [['--guest', 'bare', '--ring', '500'], /--ring wants a power of two, not 500/],
  [['--guest', 'bare', '--features', 'all,-rsc'], /--features: no feature -rsc/],
  [['--guest', 'bare', '--interrupts', 'msi'], /--interrupts wants eventfd or poll, not msi/],
  [['--accel', 'kvm'], /--accel is of no use with --guest uml/],
  [['--guest', 'qemu', '--accel', 'xen'], /--accel wants tcg or kvm, not xen/],
  [['--variant', 'off'], /--variant wants NAME='ARG...', not off/],
  [['--moderation', 'off,none'], /--moderation wants levels of off, standard, adaptive, separated by commas, not none/],
  [['--variant', 'passt=--x', '--peer', 'passt=p'], /name of its own/],
  [['--mtu', '9'], /--mtu wants a number from 1280/],
  [['--peer', 'direct=x'], /name of its own/],
])('%j is refused', (argv, message) => {
  expect(() => parseOptions(argv)).toThrow(UsageError);
  expect(() => parseOptions(argv)).toThrow(message);
});

test('ours beside itself with other arguments', () => {
  const { oursArgs, oursVariants, run } = options('--ours-args', '--poll-us 50', '--variant', 'off=--moderation off');
  expect(oursArgs).toEqual(['--poll-us', '50']);
  expect(oursVariants).toEqual([{ name: 'off', args: ['--moderation', 'off'] }]);
  expect(run.commandLine).toContain("--ours-args '--poll-us 50' --variant 'off=--moderation off'");
});

test('levels of moderation as columns', () => {
  const { oursVariants, run } = options('--moderation', 'off,standard');
  expect(oursVariants).toEqual([
    { name: 'off', args: ['--moderation', 'off'] },
    { name: 'standard', args: ['--moderation', 'standard'] },
  ]);
  expect(run.commandLine).toContain("--variant 'off=--moderation off' --variant 'standard=--moderation standard'");
});

test('the bare front-end and the accelerator', () => {
  const { bare, commandLine } = options('--guest', 'bare', '--interrupts', 'poll', '--features', 'all,-event_idx').run;
  expect(bare).toEqual({ interrupts: 'poll', features: 'all,-event_idx', ring: 256 });
  expect(commandLine).toContain('--guest bare --interrupts poll --features all,-event_idx');
  expect(options('--guest', 'qemu').run.accel).toBe('tcg');
  expect(options('--guest', 'qemu', '--accel', 'kvm').run.accel).toBe('kvm');
});

test('interrupts of virtio devices are those of all processors', () => {
  const text =
    ' 11:  7  8  IO-APIC  11-fasteoi   virtio0\n 4: 99 1 IO-APIC 4-edge ttyS0\n 12:  1  2  x  virtio1-input.0\n';
  expect(virtioInterrupts(text)).toBe(18);
});

describe('a namespace beside pasta', () => {
  const netns = (backend: string, name: string, mtu: number, round: number, values: Values): Sample => ({
    ...{ backend, case: name, guest: 'netns', mtu, family: 4, round, values },
  });
  const argv = ['--guest', 'netns', '--peer', 'pasta=p', '--cases', 'true,bulk-up,rr'];

  test('from it at MTU 1500: by our own at the full one, round by round', () => {
    const id = 'bulk-up netns 1500 IPv4 gbits/own-65520';
    const samples = [
      [8, 10],
      [9, 10],
      [1, 10],
    ].flatMap(([small, full], i) => [
      netns('tubetti', 'bulk-up', 1500, i + 1, { gbits: small }),
      netns('tubetti', 'bulk-up', 65520, i + 1, { gbits: full }),
    ]);
    expect(verdict([report(samples, argv)], id)).toMatchObject({ state: 'met', detail: '0.80 (0.10–0.90)' });
    expect(verdict([report(samples.slice(0, 1), argv)], id)).toMatchObject({ state: 'not measured' });
  });

  test('the time of `true`: by how much it is more than theirs', () => {
    const id = 'true netns 65520 IPv4 commandMs/pasta';
    const samples = [290, 320, 305].flatMap((commandMs, i) => [
      netns('tubetti', 'true', 65520, i + 1, { commandMs }),
      netns('pasta', 'true', 65520, i + 1, { commandMs: 100 }),
    ]);
    expect(verdict([report(samples, argv)], id)).toMatchObject({ state: 'MISSED', detail: '205 (190–220)' });
  });
});
