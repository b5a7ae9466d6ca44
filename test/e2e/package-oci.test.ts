/** The container image: unpacked by umoci, started by runc, and a guest outside served over a directory they share. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { closeGuests, exercise, SERVICE_ARGS, startGuest } from '../support/guest/exercises';
import { whyNoDebianRoot } from '../support/world/debian-root';
import { HostWorld } from '../support/world/host-world';
import { REPO_ROOT, SYSTEM_PATH, scratchDirectory } from '../support/world/paths';
import { command } from '../support/world/processes';
import { Service } from '../support/world/service';
import { describeWith } from './support';

jest.setTimeout(300_000);

function whyNoTool(): string | null {
  const lost = ['umoci', 'runc'].find((name) => !SYSTEM_PATH.split(':').some((dir) => existsSync(join(dir, name))));
  return lost === undefined ? null : `${lost} is not installed`;
}

/** What is used of a bundle's config.json (OCI runtime specification). */
interface Bundle {
  process: { args: string[]; terminal: boolean; capabilities: Record<string, string[]> };
  linux: { namespaces: { type: string; path?: string }[] };
  mounts: { destination: string; source: string; type: string; options: string[] }[];
}

/** Those that podman and Docker leave to a container's root. */
const CAPABILITIES = [
  ...['CAP_CHOWN', 'CAP_DAC_OVERRIDE', 'CAP_FOWNER', 'CAP_FSETID', 'CAP_KILL', 'CAP_NET_BIND_SERVICE', 'CAP_SETFCAP'],
  ...['CAP_SETGID', 'CAP_SETPCAP', 'CAP_SETUID', 'CAP_SYS_CHROOT'],
];

describeWith('the container image', whyNoDebianRoot('debian-13') ?? whyNoTool(), () => {
  const native = loadNative();
  const scratch = scratchDirectory();
  const shared = join(scratch.path, 'shared');
  const bundle = join(scratch.path, 'bundle');
  let world: HostWorld;

  beforeAll(async () => {
    const output = await command([process.execPath, 'scripts/package-oci.mjs', '--out', scratch.path], {
      cwd: REPO_ROOT,
    });
    const layout = join(scratch.path, 'layout');
    mkdirSync(layout);
    mkdirSync(shared);
    await command(['tar', '--extract', '--directory', layout, '--file', output.split('\n').pop() ?? '']);
    const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {
      manifests: { annotations: Record<string, string> }[];
    };
    const tag = index.manifests[0]?.annotations['org.opencontainers.image.ref.name'] ?? '';
    await command(['umoci', 'unpack', '--image', `${layout}:${tag}`, bundle]);
    world = await HostWorld.create(scratch.path);
  });

  afterEach(closeGuests);

  afterAll(async () => {
    await world.destroy();
    scratch.remove();
  });

  test('its entry point serves a guest outside', async () => {
    const path = join(bundle, 'config.json');
    const config = JSON.parse(readFileSync(path, 'utf8')) as Bundle;
    expect(config.process.args).toEqual(['/usr/bin/tubetti', '--foreground']);
    config.process.terminal = false;
    config.process.capabilities = Object.fromEntries(
      ['bounding', 'effective', 'permitted'].map((set) => [set, CAPABILITIES]),
    );
    // As --network host.
    config.linux.namespaces = config.linux.namespaces.filter(({ type }) => type !== 'network' && type !== 'cgroup');
    config.mounts = config.mounts.filter(({ destination }) => destination !== '/sys/fs/cgroup');
    config.mounts.push({ destination: shared, source: shared, type: 'bind', options: ['bind', 'rw'] });
    const start = join(scratch.path, 'start');
    // runc has its options in a file: those of the service are added to it.
    const script = `#!/usr/bin/env node
      const { readFileSync, writeFileSync } = require('node:fs');
      const config = JSON.parse(readFileSync(${JSON.stringify(path)}, 'utf8'));
      config.process.args.push(...process.argv.slice(2));
      writeFileSync(${JSON.stringify(path)}, JSON.stringify(config));`;
    writeFileSync(path, JSON.stringify(config));
    writeFileSync(start, script);
    const run = `"$0" ${start} "$@" && exec runc --root ${scratch.path}/runc run --bundle ${bundle} tubetti-test-${process.pid}`;
    const service = await Service.start({
      world,
      socketPath: join(shared, 'vm.sock'),
      args: SERVICE_ARGS,
      program: ['sh', '-c', run, process.execPath],
      startMs: 30_000,
    });
    try {
      await exercise(await startGuest(native, service), { world, service }, {});
    } finally {
      await service.stop();
    }
  });
});
