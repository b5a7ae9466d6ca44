/** What packages install beside the service is taken by the tools that it is for. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CALLS } from '../../src/sandbox/syscalls';

const ROOT = join(__dirname, '../..');

function has(command: string): boolean {
  return spawnSync('sh', ['-c', `PATH="$PATH:/usr/sbin:/sbin" command -v ${command}`]).status === 0;
}

/** Left out where the tool is not installed: scripts/test.mjs says so, and in CI that is a failure. */
const withTool = (command: string): jest.It => (has(command) ? test : test.skip);

function run(command: string, ...args: string[]): string {
  const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` };
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', env });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}${stdout}`);
  return stdout;
}

let dir: string;

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'tubetti-profiles-'));
});

afterAll(() => {
  rmSync(dir, { recursive: true });
});

const parse = (path: string): string => run('apparmor_parser', '-Q', '-K', '--skip-kernel-load', path);

withTool('apparmor_parser')('AppArmor: the profile of the service', () => {
  parse(join(ROOT, 'contrib/apparmor/usr.bin.tubetti'));
});

withTool('apparmor_parser')('AppArmor: the lines for the guests of libvirt, inside of a profile', () => {
  const lines = readFileSync(join(ROOT, 'contrib/apparmor/libvirt-qemu.d-tubetti'), 'utf8');
  const path = join(dir, 'guest');
  writeFileSync(path, `profile guest {\n${lines}\n}\nprofile tubetti { }\n`);
  parse(path);
});

withTool('checkmodule')('SELinux: the module', () => {
  run('checkmodule', '-M', '-m', '-o', join(dir, 'tubetti.mod'), join(ROOT, 'contrib/selinux/tubetti.te'));
});

test('SELinux: contexts and interfaces name the types of the module', () => {
  const read = (name: string): string => readFileSync(join(ROOT, 'contrib/selinux', name), 'utf8');
  const types = new Set([...read('tubetti.te').matchAll(/^type (tubetti\w*_t)/gm)].map(([, type]) => type));
  expect(types.size).toBe(4);
  const used = [...`${read('tubetti.fc')}${read('tubetti.if')}`.matchAll(/\btubetti\w*_t\b/g)].map(([type]) => type);
  expect(used.length).toBeGreaterThan(8);
  for (const type of used) expect(types).toContain(type);
});

const readUnit = (name: string): string => readFileSync(join(ROOT, 'examples/systemd', name), 'utf8');

/** `systemd-analyze security`: 0 is a service that can do nothing, 10 one that can do all. */
function exposure(unit: string): number {
  const path = join(dir, 'tubetti@.service');
  writeFileSync(path, unit);
  const text = run('systemd-analyze', 'security', '--offline=true', '--no-pager', path);
  return Number(/exposure level for \S+: ([0-9.]+)/.exec(text)?.[1]);
}

/** The system calls of a set (`@name`) or the call itself. */
function callsOf(word: string): string[] {
  if (!word.startsWith('@')) return [word];
  const members = run('systemd-analyze', 'syscall-filter', word).matchAll(/^ {4}(@?[a-z0-9_-]+)$/gm);
  return [...members].flatMap(([, member]) => callsOf(member));
}

/** What a unit's lines SystemCallFilter= let pass: later ones add to earlier ones, or with ~ take away. */
function passedBy(unit: string): Set<string> {
  const passed = new Set<string>();
  for (const [, not, words] of unit.matchAll(/^SystemCallFilter=(~?)(.*)$/gm)) {
    for (const name of words.split(' ').flatMap(callsOf)) {
      if (not === '') passed.add(name);
      else passed.delete(name);
    }
  }
  return passed;
}

withTool('systemd-analyze')('systemd: the unit lets pass what the service and its sandbox are made of', () => {
  const unit = readUnit('tubetti@.service');
  // Newer C libraries try these first, and do without.
  const spared = new Set(['futex_wake', 'futex_wait', 'futex_requeue', 'map_shadow_stack']);
  const known = new Set(callsOf('@known').filter((name) => !spared.has(name)));
  const needed = CALLS.filter(({ process }) => process === 'allow' || typeof process !== 'string').map(
    ({ name }) => name,
  );
  const layers = ['seccomp', 'landlock_create_ruleset', 'landlock_add_rule', 'landlock_restrict_self', 'unshare'];
  const missingIn = (text: string, names: readonly string[]): string[] => {
    const passed = passedBy(text);
    return names.filter((name) => known.has(name) && !passed.has(name));
  };
  expect(missingIn(unit, [...needed, ...layers])).toEqual([]);
  const room = ['mount', 'umount2', 'pivot_root', 'capset'];
  expect(missingIn(unit, room)).toEqual(room);
  expect(missingIn(`${unit}\n${readUnit('own-namespaces.conf')}`, [...needed, ...layers, ...room])).toEqual([]);
});

withTool('systemd-analyze')('systemd: the unit, by itself and with the namespaces of the service', () => {
  const unit = readUnit('tubetti@.service');
  expect(exposure(unit)).toBeLessThanOrEqual(1.3);
  expect(exposure(`${unit}\n${readUnit('own-namespaces.conf')}`)).toBeLessThanOrEqual(1.9);
});

withTool('systemd-analyze')('systemd: the socket is that which the service is told of', () => {
  const socket = readUnit('tubetti@.socket');
  // Its service must be there, or it is not verified.
  writeFileSync(
    join(dir, 'tubetti@.service'),
    readUnit('tubetti@.service').replace('/usr/bin/env tubetti', '/bin/true'),
  );
  writeFileSync(join(dir, 'tubetti@.socket'), socket);
  run('systemd-analyze', 'verify', '--man=no', '--recursive-errors=no', join(dir, 'tubetti@.socket'));
  const ports = readUnit('tubetti-ports@.socket');
  writeFileSync(join(dir, 'tubetti-ports@.socket'), ports);
  run('systemd-analyze', 'verify', '--man=no', '--recursive-errors=no', join(dir, 'tubetti-ports@.socket'));
  const name = /^FileDescriptorName=(.*)$/m.exec(ports)?.[1];
  expect(ports).toContain(`-t fd:${String(name)}:`);
  const path = /^ListenStream=(.*)$/m.exec(socket)?.[1];
  expect(readUnit('tubetti@.service')).toContain(` --socket ${String(path)} `);
  const userOf = (name: string, key: string): string | undefined =>
    new RegExp(`^${key}=(.*)$`, 'm').exec(readUnit(name))?.[1];
  expect(userOf('tubetti@.socket', 'SocketUser')).toBe(userOf('tubetti@.service', 'User'));
});

withTool('systemd-analyze')('systemd: the slice of all services, in which the unit puts each', () => {
  const slice = readUnit('tubetti.slice');
  writeFileSync(join(dir, 'tubetti.slice'), slice);
  // What it does not know it warns of, and continues.
  const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', join(dir, 'tubetti.slice')], {
    encoding: 'utf8',
  });
  expect([status, stderr]).toEqual([0, '']);
  const unit = readUnit('tubetti@.service');
  expect(unit).toMatch(/^Slice=tubetti\.slice$/m);
  const tasks = (text: string): number => Number(/^TasksMax=(\d+)$/m.exec(text)?.[1]);
  expect(tasks(unit)).toBeGreaterThan(16);
  expect(tasks(slice)).toBeGreaterThan(16 * 200);
  for (const setting of ['CPUWeight', 'MemoryHigh', 'MemoryMax'])
    expect(slice).toMatch(new RegExp(`^${setting}=`, 'm'));
});
