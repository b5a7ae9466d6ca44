/** What packages install beside the service is taken by the tools that it is for. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

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

/** `systemd-analyze security`: 0 is a service that can do nothing, 10 one that can do all. */
function exposure(unit: string): number {
  const path = join(dir, 'tubetti@.service');
  writeFileSync(path, unit);
  const text = run('systemd-analyze', 'security', '--offline=true', '--no-pager', path);
  return Number(/exposure level for \S+: ([0-9.]+)/.exec(text)?.[1]);
}

withTool('systemd-analyze')('systemd: the unit, by itself and with the namespaces of the service', () => {
  const read = (name: string): string => readFileSync(join(ROOT, 'examples/systemd', name), 'utf8');
  expect(exposure(read('tubetti@.service'))).toBeLessThanOrEqual(1.5);
  expect(exposure(`${read('tubetti@.service')}\n${read('own-namespaces.conf')}`)).toBeLessThanOrEqual(2.5);
});
