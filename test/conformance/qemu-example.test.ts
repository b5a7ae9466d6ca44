/**
 * examples/qemu/run.sh: by what it runs a guest. /dev is another one here, in a mount namespace, and QEMU a script that
 * says what it was called with. Needs a build.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeWith } from '../e2e/support';
import { SCRIPT } from '../support/program';

jest.setTimeout(30_000);

const RUN = join(__dirname, '../../examples/qemu/run.sh');

/** A /dev with these names of ours and a `kvm` that can be written, or without it. */
const ENTER = `
set -e
dev=$1 kvm=$2
shift 2
mkdir "$dev"
for name in null zero urandom; do : >"$dev/$name"; mount --bind "/dev/$name" "$dev/$name"; done
[ "$kvm" = none ] || : >"$dev/kvm"
mount --rbind "$dev" /dev
exec "$@"
`;

/** `$1` is what the guest of a few bytes comes to; the other guest is said and has ended. */
const QEMU = `#!/bin/sh
case "$*" in
  *--version*) echo 'QEMU emulator version 9.1.0' ;;
  *isa-debug-exit*) echo probe >>"$0.said"; PROBE ;;
  *) echo "$*" >>"$0.said" ;;
esac
`;

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-run-'));
});

afterEach(() => {
  rmSync(dir, { recursive: true });
});

interface Ran {
  readonly said: string;
  readonly stderr: string;
}

function runSh(kvm: 'kvm' | 'none', probe: string, env: Record<string, string> = {}): Ran {
  const qemu = join(dir, 'qemu');
  writeFileSync(qemu, QEMU.replace('PROBE', probe));
  chmodSync(qemu, 0o755);
  const argv = ['--mount', 'sh', '-c', ENTER, 'sh', join(dir, 'dev'), kvm, RUN, '/nonexistent.qcow2', '--runas', '0'];
  const tubetti = `${process.execPath} ${SCRIPT} -f -q`;
  const { status, stderr } = spawnSync('unshare', argv, {
    encoding: 'utf8',
    env: { ...process.env, QEMU: qemu, TUBETTI: tubetti, TMPDIR: dir, ...env },
  });
  if (status !== 0) throw new Error(`status ${status}: ${stderr}`);
  return { said: readFileSync(`${qemu}.said`, 'utf8'), stderr };
}

const why = process.getuid?.() === 0 ? null : 'only root gives a process another /dev';
const FELL_BACK = /^run\.sh: \/dev\/kvm opens, but no guest runs on it: the guest is emulated/m;

describeWith('run.sh', why, () => {
  test('a guest that runs on KVM has KVM', () => {
    const { said, stderr } = runSh('kvm', 'exit 33');
    expect(said).toMatch(/^probe\n.*-accel kvm /s);
    expect(stderr).not.toMatch(FELL_BACK);
  });

  test.each([
    ['ends with an error', 'exit 1'],
    ['ends without a word', 'exit 0'],
    ['hangs', 'exec sleep 60'],
  ])('where it %s the guest is emulated, and that is said', (_, probe) => {
    const { said, stderr } = runSh('kvm', probe);
    expect(said).toMatch(/^probe\n.*-accel tcg /s);
    expect(stderr).toMatch(FELL_BACK);
  });

  test('without /dev/kvm nothing is tried; what ACCEL says is done', () => {
    expect(runSh('none', 'exit 33').said).toMatch(/^-M .*-accel tcg /);
    rmSync(join(dir, 'qemu.said'));
    rmSync(join(dir, 'dev'), { recursive: true });
    expect(runSh('kvm', 'exit 1', { ACCEL: 'kvm' }).said).toMatch(/^-M .*-accel kvm /);
  });

  const hasQemu = spawnSync('sh', ['-c', 'command -v qemu-system-x86_64']).status === 0;
  (hasQemu ? test : test.skip)('the few bytes do run, in 64-bit mode: here on an emulated processor', () => {
    const emulated = `exec qemu-system-x86_64 $(echo "$*" | sed 's/-accel kvm/-accel tcg/')`;
    const { said, stderr } = runSh('kvm', emulated);
    expect(said).toMatch(/^probe\n.*-accel kvm /s);
    expect(stderr).not.toMatch(FELL_BACK);
  });
});
