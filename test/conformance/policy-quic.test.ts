/**
 * QUIC under a policy of names: a real client (quiche) in a namespace (pasta), before a real server with several names on one address,
 * over both families. Needs a build and openssl.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeWith } from '../e2e/support';
import { PastaRig, ROOT } from '../support/pasta';
import { HostWorld, whyNoNamespaces } from '../support/world/host-world';
import { command, ManagedProcess } from '../support/world/processes';
import { startPolicyRemote } from '../support/world/policy-remote';

jest.setTimeout(60_000);

const SHARED_4 = '198.51.100.80';
const SHARED_6 = '2001:db8:0:2:0:0:0:80';
const NAMES = { 'good.example': [SHARED_4, SHARED_6], 'bad.example': [SHARED_4, SHARED_6] };
const QUIC = join(__dirname, '../fixtures/quic.mjs');

const missing =
  whyNoNamespaces() ??
  (spawnSync('openssl', ['version']).error === undefined ? null : 'there is no openssl') ??
  (existsSync(join(__dirname, '../../.cache/quic/node_modules'))
    ? null
    : 'there is no quiche for this processor, or it was not fetched');

describeWith('QUIC under a policy', missing, () => {
  let dir: string;
  let world: HostWorld;
  const servers: ManagedProcess[] = [];
  let rig: PastaRig;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'tubetti-quic-'));
    chmodSync(dir, 0o755);
    const names = Object.keys(NAMES).map((name) => `DNS:${name}`);
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', join(dir, 'key.pem')];
    const subject = ['-subj', '/CN=example', '-addext', `subjectAltName=${names.join(',')}`];
    const certificate = spawnSync('openssl', [
      ...['req', '-x509', '-days', '2', ...key, ...subject, '-out', join(dir, 'cert.pem')],
    ]);
    expect(certificate.status).toBe(0);
    world = await HostWorld.create(dir);
    const script = `ip addr add ${SHARED_4}/32 dev lo; ip addr add ${SHARED_6}/128 dev lo nodad`;
    await command(world.inRemote(['sh', '-ec', script]));
    // Before the resolver, which would have the port itself.
    const serve = [process.execPath, QUIC, 'serve', dir, SHARED_4, SHARED_6];
    const server = new ManagedProcess('remote', world.inRemote(serve));
    servers.push(server);
    await server.waitForLine(/^ready$/, 20_000);
    servers.push(await startPolicyRemote(world, NAMES));
    rig = new PastaRig(world, ROOT);
  });

  afterAll(async () => {
    for (const server of servers) await server.stop();
    await world.destroy();
    rmSync(dir, { recursive: true });
  });

  /** What became of each name at the address, under a policy. */
  async function greeted(policy: string, address: string): Promise<unknown> {
    const file = join(dir, 'policy.yaml');
    writeFileSync(file, policy);
    const greet = [process.execPath, QUIC, 'greet', join(dir, 'cert.pem'), address, ...Object.keys(NAMES)];
    const argv = ['--quiet', '--runas', '0', '--config-net', '--policy', file, '--', ...greet];
    const { status, stdout, stderr } = await rig.run(argv, { env: { HOME: dir } });
    expect([status, stderr]).toEqual([0, '']);
    return JSON.parse(stdout);
  }

  for (const [family, address] of [
    ['IPv4', SHARED_4],
    ['IPv6', SHARED_6],
  ]) {
    test(`over ${family}: the name that is allowed, and no other of its address`, async () => {
      const allowed = "rules: [{ allow: 'good.example:443' }]";
      const results = await greeted(`${allowed}\nsni: require\n`, address);
      expect(results).toEqual({
        'good.example': 'for good.example',
        'bad.example': expect.stringMatching(/^(timed out|ECONNREFUSED|EACCES|EHOSTUNREACH)$/) as string,
      });
      // By the address alone it would get through.
      const both = await greeted(allowed, address);
      expect(both).toEqual({ 'good.example': 'for good.example', 'bad.example': 'for bad.example' });
    });
  }
});
