/** The Debian package: what lintian says, and its installation by apt into Debian 12 and 13, where it serves a guest. */
import { existsSync, linkSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { loadNative } from '../../src/native';
import { closeGuests, exercise, SERVICE_ARGS, startGuest } from '../support/guest/exercises';
import { inDebianRoot, whyNoDebianRoot } from '../support/world/debian-root';
import { HostWorld } from '../support/world/host-world';
import { CACHE_DIR, REPO_ROOT, SYSTEM_PATH, scratchDirectory } from '../support/world/paths';
import { command, runCommand } from '../support/world/processes';
import { Service } from '../support/world/service';
import { describeWith } from './support';

jest.setTimeout(300_000);

const DEBIAN_NODE = '20';
const NEWER_NODE = '24';
const INSTALL = 'DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends';

function whyNoLintian(): string | null {
  const found = SYSTEM_PATH.split(':').some((directory) => existsSync(join(directory, 'lintian')));
  return found ? null : 'lintian is not installed';
}

const missing = whyNoDebianRoot('debian-12') ?? whyNoDebianRoot('debian-13') ?? whyNoLintian();

describeWith('the Debian package', missing, () => {
  const native = loadNative();
  const scratch = scratchDirectory();
  const shared = scratch.path;
  let world: HostWorld;
  let deb: string;

  beforeAll(async () => {
    const args = ['scripts/package-deb.mjs', '--node', `${DEBIAN_NODE},${NEWER_NODE}`, '--out', shared];
    const output = await command([process.execPath, ...args], { cwd: REPO_ROOT });
    deb = output.split('\n').pop() ?? '';
    world = await HostWorld.create(shared);
  });

  afterEach(closeGuests);

  afterAll(async () => {
    await world.destroy();
    scratch.remove();
  });

  const inRoot = (name: 'debian-12' | 'debian-13', script: string): string[] =>
    inDebianRoot({ name, shared }, ['sh', '-ec', script, 'sh']);

  /** A package `nodejs` of another archive, as far as dpkg and Tubetti can tell: the Node of npm's package in /usr/bin. */
  async function newerNodejs(): Promise<string> {
    const stage = join(shared, 'nodejs');
    mkdirSync(join(stage, 'DEBIAN'), { recursive: true });
    mkdirSync(join(stage, 'usr/bin'), { recursive: true });
    const from = join(CACHE_DIR, 'nodes', NEWER_NODE, 'node_modules', `node-linux-${process.arch}`);
    const { version } = JSON.parse(readFileSync(join(from, 'package.json'), 'utf8')) as { version: string };
    await command(['cp', join(from, 'bin/node'), join(stage, 'usr/bin/node')]);
    const architecture = (await command(['dpkg', '--print-architecture'])).trim();
    const control = `Package: nodejs\nVersion: ${version}-1\nArchitecture: ${architecture}\nMaintainer: A Test <test@example.org>
Description: Node.js of another archive\n`;
    writeFileSync(join(stage, 'DEBIAN/control'), control);
    const path = join(shared, 'nodejs.deb');
    await command(['dpkg-deb', '--root-owner-group', '-Znone', '--build', stage, path]);
    return path;
  }

  async function serves(name: 'debian-12' | 'debian-13', install: string): Promise<void> {
    const service = await Service.start({
      world,
      socketPath: join(shared, `${name}.sock`),
      args: [...SERVICE_ARGS, '--sandbox', 'strict'],
      program: inRoot(name, `${install}\nexec /usr/bin/tubetti "$@"`),
      startMs: 120_000,
    });
    try {
      const maps = readFileSync(`/proc/${service.process.pid}/maps`, 'utf8');
      expect(maps).toMatch(/ \/usr\/lib\/tubetti\/prebuilds\/linux-\w+\/node\.abi\d+\.glibc\.node$/m);
      await exercise(await startGuest(native, service), { world, service }, {});
    } finally {
      await service.stop();
    }
  }

  test('lintian has nothing to say', async () => {
    expect(basename(deb)).toMatch(/^tubetti_\S+_(amd64|arm64)\.deb$/);
    const { code, output } = await runCommand(['lintian', '--allow-root', '--fail-on', 'error,warning', deb]);
    expect({ code, output }).toEqual({ code: 0, output: '' });
  });

  test('the same sources make the same package', async () => {
    const again = join(shared, 'again');
    mkdirSync(again);
    linkSync(deb, join(again, 'first.deb'));
    await command(
      [process.execPath, 'scripts/package-deb.mjs', '--node', `${DEBIAN_NODE},${NEWER_NODE}`, '--out', again],
      {
        cwd: REPO_ROOT,
      },
    );
    await command(['cmp', join(again, 'first.deb'), join(again, basename(deb))]);
  });

  test('Debian 13: by apt, with its own Node; its parts; in the place of passt, pasta and slirp4netns; removed', async () => {
    await serves('debian-13', `${INSTALL} ${deb}`);
    const parts = [
      '/usr/lib/systemd/system/tubetti@.service',
      '/usr/lib/systemd/system/tubetti.slice',
      '/etc/apparmor.d/usr.bin.tubetti',
      '/etc/apparmor.d/abstractions/libvirt-qemu.d/tubetti',
      '/usr/share/bash-completion/completions/tubetti',
      '/usr/share/zsh/vendor-completions/_tubetti',
      '/usr/share/fish/vendor_completions.d/tubetti.fish',
    ];
    const script = `${INSTALL} ${deb} >/dev/null
      # The roots leave documents out.
      if dpkg --verify tubetti | grep -v '/usr/share/\\(doc\\|man\\)/'; then echo "not as packed"; fi
      ls ${parts.join(' ')} >/dev/null
      update-alternatives --install /usr/local/bin/passt passt /usr/bin/tubetti 50 >/dev/null
      passt --version | head -n 1
      update-alternatives --install /usr/local/bin/pasta pasta /usr/bin/tubetti-pasta 50 >/dev/null
      pasta --version | head -n 1
      tubetti-slirp4netns --version
      apt-get remove -y -qq tubetti >/dev/null
      if [ -h /usr/local/bin/passt ] || [ -h /usr/local/bin/pasta ]; then echo "a name is left"; fi
      ls /usr/lib/tubetti 2>&1 || true`;
    const { version } = JSON.parse(readFileSync(join(REPO_ROOT, 'package.json'), 'utf8')) as { version: string };
    const lines = (await command(inRoot('debian-13', script))).split('\n');
    for (const name of ['passt', 'pasta']) expect(lines).toContain(`${name} ${version} (tubetti)`);
    expect(lines).toContain(`slirp4netns version 1.2.1 by tubetti ${version}`);
    expect(lines).not.toContain('a name is left');
    expect(lines).not.toContain('not as packed');
    expect(lines.at(-1)).toMatch(/cannot access '\/usr\/lib\/tubetti'/);
  });

  test("Debian 12: not with its own Node, which is not there in this release; with another archive's", async () => {
    const { code, output } = await runCommand(inRoot('debian-12', `apt-get install -y ${deb}`));
    expect(code).not.toBe(0);
    expect(output).toMatch(/tubetti : Depends: nodejs \(>= 20\)/);
    await serves('debian-12', `${INSTALL} ${await newerNodejs()} ${deb}`);
  });
});
