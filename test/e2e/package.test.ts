/**
 * The package as its users get it: packed, installed without a network into roots of Debian 12 and 13 that have no compiler
 * (scripts/lib/roots.mjs), started there with its sandbox, and a guest of test/support/guest served.
 */
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { closeGuests, echo, exercise, expectAlive, SERVICE_ARGS, startGuest } from '../support/guest/exercises';
import { type DebianRootOptions, inDebianRoot, whyNoDebianRoot } from '../support/world/debian-root';
import { GATEWAY_4, HostWorld, REMOTE_ADDRESS_4 } from '../support/world/host-world';
import { CACHE_DIR, REPO_ROOT, cacheDirectory, scratchDirectory } from '../support/world/paths';
import { command, runCommand, poll } from '../support/world/processes';
import { Service } from '../support/world/service';
import { describeWith } from './support';

jest.setTimeout(300_000);

/** Debian 13 has it; Debian 12 gets a newer one, as from elsewhere. */
const DEBIAN_NODE = '20';
const NEWER_NODE = '24';
/** What Debian 12 has: it runs what asks for no newer one. */
const GLIBC = [2, 36] as const;

const NO_COMPILER = `
for tool in cc c++ gcc g++ clang clang++ cmake make ninja; do
  if command -v $tool >/dev/null; then echo "this root has $tool"; exit 1; fi
done`;

/** As "2.36": the newest version of the C library that a program or library asks for. */
async function glibcOf(file: string): Promise<readonly [number, number]> {
  const symbols = await command(['objdump', '-T', file]);
  const minors = [...symbols.matchAll(/\bGLIBC_2\.(\d+)/g)].map((match) => Number(match[1]));
  return [2, Math.max(...minors)];
}

describeWith('the package', whyNoDebianRoot('debian-12') ?? whyNoDebianRoot('debian-13'), () => {
  const native = loadNative();
  const npm = join(realpathSync(npmProgram()), '..', '..');
  const newerNode = join(CACHE_DIR, 'nodes', NEWER_NODE, 'node_modules', `node-linux-${process.arch}`);
  const scratch = scratchDirectory();
  const shared = scratch.path;
  let world: HostWorld;
  let install: string;

  beforeAll(async () => {
    await command([process.execPath, 'scripts/prebuilds.mjs', '--node', `${DEBIAN_NODE},${NEWER_NODE}`], {
      cwd: REPO_ROOT,
    });
    const packed = await command(['npm', 'pack', '--ignore-scripts', '--silent', '--pack-destination', shared], {
      cwd: REPO_ROOT,
    });
    const tarball = join(shared, packed.trim().split('\n').pop() ?? '');
    // What it depends on, as one who installed it before has it.
    const cache = cacheDirectory('npm-offline');
    mkdirSync(join(shared, 'elsewhere'));
    const flags = ['--no-audit', '--no-fund', '--no-update-notifier', '--logs-max=0'];
    const fill = ['npm', 'install', ...flags, '--ignore-scripts', '--prefer-offline', '--cache', cache];
    await command([...fill, '--prefix', join(shared, 'elsewhere'), tarball]);
    cpSync(cache, join(shared, 'cache'), { recursive: true });
    const registry = (await command(['npm', 'config', 'get', 'registry'])).trim();
    const offline = ['--offline', '--cache', join(shared, 'cache'), '--registry', registry, '--prefix', '/usr/local'];
    writeFileSync(
      join(shared, 'npm'),
      `#!/bin/sh\nexec node /opt/npm/bin/npm-cli.js "$@" ${[...flags, ...offline].join(' ')}\n`,
      {
        mode: 0o755,
      },
    );
    install = `${NO_COMPILER}\n${join(shared, 'npm')} install --global ${tarball}`;
    world = await HostWorld.create(shared);
  });

  afterEach(closeGuests);

  afterAll(async () => {
    await world.destroy();
    scratch.remove();
  });

  function inRoot(name: DebianRootOptions['name'], script: string): string[] {
    const binds = { [npm]: '/opt/npm', [newerNode]: '/opt/node' };
    const path = name === 'debian-12' ? ['/opt/node/bin'] : [];
    return inDebianRoot({ name, shared, binds, path }, ['sh', '-ec', script, 'sh']);
  }

  test('each prebuilt file asks for no newer C library than that of Debian 12, and for no C++ library', async () => {
    const directory = join(REPO_ROOT, 'prebuilds', `linux-${process.arch}`);
    const files = readdirSync(directory);
    expect(files).toContain('tubetti-launch');
    expect(files.filter((name) => /^node\.abi\d+\.glibc\.node$/.test(name)).length).toBeGreaterThanOrEqual(2);
    for (const file of files.map((name) => join(directory, name))) {
      const [major, minor] = await glibcOf(file);
      expect(major).toBe(GLIBC[0]);
      expect(minor).toBeLessThanOrEqual(GLIBC[1]);
      expect(minor).toBeGreaterThan(0);
      const needed = await command(['objdump', '-p', file]);
      expect(needed).toContain('NEEDED               libc.so.6');
      expect(needed).not.toMatch(/NEEDED +libstdc|NEEDED +libgcc/);
    }
  });

  test.each([
    ['debian-12', NEWER_NODE],
    ['debian-13', DEBIAN_NODE],
  ] as const)('%s without a compiler, Node %s: installed, and a guest served', async (name, major) => {
    const faults = join(shared, `faults-${name}`);
    mkdirSync(faults);
    await command(['mkfifo', join(faults, 'fifo')]);
    cpSync(join(REPO_ROOT, 'test/fixtures/dataplane/faults.cjs'), join(faults, 'faults.cjs'));
    const { version } = JSON.parse(readFileSync(join(REPO_ROOT, 'package.json'), 'utf8')) as { version: string };
    const script = `${install}
      echo "node $(node --version)"
      echo "says $(tubetti --version | head -n 1)"
      export TUBETTI_FAULTS=${faults} NODE_OPTIONS="--require ${faults}/faults.cjs"
      exec tubetti "$@"`;
    const service = await Service.start({
      world,
      socketPath: join(shared, `${name}.sock`),
      args: [...SERVICE_ARGS, '--sandbox', 'strict'],
      program: inRoot(name, script),
      startMs: 120_000,
    });
    try {
      await service.process.waitForLine(new RegExp(`^node v${major}\\.`), 1000);
      await service.process.waitForLine(new RegExp(`^says tubetti ${version.replaceAll('.', '\\.')}$`), 1000);
      const addon = /\S+\/tubetti\/(\S+\.node)$/m.exec(readFileSync(`/proc/${service.process.pid}/maps`, 'utf8'))?.[1];
      expect(addon).toMatch(new RegExp(`^prebuilds/linux-${process.arch}/node\\.abi\\d+\\.glibc\\.node$`));
      const guest = await startGuest(native, service);
      await exercise(guest, { world, service }, {});

      // The guest has its neighbour: a question that the first data plane takes with it would not be asked again.
      await guest.ping(GATEWAY_4);
      // Another data plane loads the addon again, inside the sandbox's root directory.
      const mark = service.process.mark();
      appendFileSync(join(faults, 'asked'), 't');
      await poll(
        'the fault',
        () => {
          if (statSync(join(faults, 'done')).size > 0) return true;
          void guest.ping(GATEWAY_4, { timeoutMs: 100 }).catch(() => undefined);
          return null;
        },
        5000,
        10,
      );
      // The stack names the sources: V8's code of the build would name the directory that it was made in.
      const line =
        /data plane failed, starting a new one .*a fault of the test.* \(\/usr\/local\/lib\/\S+\/src\/dataplane\/\S+\.ts:\d+/;
      await service.process.waitForLine(line, 5000, mark);
      const ping = (): Promise<true | null> =>
        guest.ping(GATEWAY_4, { timeoutMs: 50 }).then(
          () => true,
          () => null,
        );
      await poll('an answer of the new data plane', ping, 10_000, 1);
      await echo(guest, { world, service }, REMOTE_ADDRESS_4, 100_000);
      expect(guest.violations).toEqual([]);
    } catch (error) {
      if (error instanceof Error) error.message += `\n${service.process.tail()}`;
      throw error;
    } finally {
      await service.stop();
    }
  });

  test('a Node that no addon fits: one line says what to do, and npm what it would need', async () => {
    const script = `${install} --ignore-scripts
      cd /usr/local/lib/node_modules/tubetti
      ls prebuilds/linux-*/tubetti-launch
      node -e 'process.stdout.write("abi " + process.versions.modules + "\\n")'
      rm prebuilds/linux-*/node.abi$(node -p process.versions.modules).glibc.node
      set +e
      tubetti --socket ${join(shared, 'never.sock')}
      echo "status $?"
      ${join(shared, 'npm')} rebuild --global tubetti
      echo "rebuild $?"`;
    const { output } = await runCommand(world.inHost(inRoot('debian-12', script)));
    const lines = output.split('\n');
    const abi = lines.find((line) => line.startsWith('abi '))?.slice(4) ?? '';
    const from = lines.findIndex((line) => line.startsWith('tubetti: '));
    expect(lines.slice(from, from + 2)).toEqual([
      expect.stringMatching(
        new RegExp(
          `^tubetti: no native addon for Node v${NEWER_NODE}\\.[0-9.]+ \\(ABI ${abi}, linux-${process.arch}\\): run "npm rebuild -g tubetti"$`,
        ),
      ),
      'status 1',
    ]);
    expect(output).toMatch(/tubetti: no prebuilt addon for this system \(Node .*\), and cmake not found: install it, /);
    expect(output).toMatch(/^rebuild 1$/m);
  });

  test('installed without its install scripts, it serves all the same', async () => {
    const service = await Service.start({
      world,
      socketPath: join(shared, 'no-scripts.sock'),
      args: [],
      program: inRoot('debian-13', `${install} --ignore-scripts\nexec tubetti "$@"`),
      startMs: 120_000,
    });
    try {
      await expectAlive(await startGuest(native, service), { world, service });
    } finally {
      await service.stop();
    }
  });
});

function npmProgram(): string {
  const found = (process.env.PATH ?? '').split(':').map((directory) => join(directory, 'npm'));
  return found.find((path) => existsSync(path)) ?? '/usr/bin/npm';
}
