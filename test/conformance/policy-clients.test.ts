/**
 * Real programs under a policy of names, in a namespace (pasta), before servers with several names on one address: git, npm, curl
 * and a Node program that cheats. Needs a build, git, npm, curl and openssl.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeWith } from '../e2e/support';
import { type Ended, PastaRig, ROOT } from '../support/pasta';
import { HostWorld, whyNoNamespaces } from '../support/world/host-world';
import { command, type ManagedProcess } from '../support/world/processes';
import { startPolicyRemote } from '../support/world/policy-remote';

jest.setTimeout(120_000);

const SHARED = '198.51.100.80';
const OTHER_RESOLVER = '198.51.100.53';
const NAMES = { 'good.example': [SHARED], 'also.example': [SHARED], 'bad.example': [SHARED] };

const POLICY = `
rules:
  - allow: ['good.example:443', 'also.example:443']
sni: require
denied-names: nxdomain
`;

function run(file: string, ...argv: string[]): void {
  const { status, stderr } = spawnSync(file, argv, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${file}: ${stderr}`);
}

/** What the servers have: a certificate for all names, a repository, a package. */
function makeSites(dir: string): void {
  run(
    'openssl',
    ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=example'],
    ...[
      '-addext',
      `subjectAltName=${Object.keys(NAMES)
        .map((name) => `DNS:${name}`)
        .join(',')}`,
    ],
    ...['-keyout', join(dir, 'key.pem'), '-out', join(dir, 'cert.pem')],
  );
  const work = join(dir, 'work');
  mkdirSync(work);
  writeFileSync(join(work, 'file'), 'from the repository');
  const git = (...argv: string[]): void => run('git', '-C', work, '-c', 'user.name=t', '-c', 'user.email=t@t', ...argv);
  git('init', '-q');
  git('add', 'file');
  git('commit', '-qm', 'first');
  run('git', 'clone', '-q', '--bare', work, join(dir, 'repo.git'));
  run('git', '-C', join(dir, 'repo.git'), 'update-server-info');
  const manifest = {
    name: 'thing',
    version: '1.2.3',
    dist: { tarball: 'https://good.example/thing.tgz', shasum: '00' },
  };
  writeFileSync(
    join(dir, 'thing'),
    JSON.stringify({ name: 'thing', 'dist-tags': { latest: '1.2.3' }, versions: { '1.2.3': manifest } }),
  );
  writeFileSync(join(dir, 'hello'), 'hello');
}

/** Connects to an address that a name has opened, as another: writes what comes of each of its tries. */
const CHEAT = `
const dns = require('node:dns').promises;
const tls = require('node:tls');
const [address, resolver] = process.argv.slice(1);
const greet = (options) => new Promise((settle) => {
  const socket = tls.connect({ port: 443, rejectUnauthorized: false, timeout: 20000, ...options });
  socket.on('secureConnect', () => { settle('connected'); socket.destroy(); });
  socket.on('error', (error) => settle(error.code));
});
(async () => {
  await dns.lookup('good.example');
  const own = new dns.Resolver({ timeout: 3000, tries: 1 });
  own.setServers([resolver]);
  console.log(JSON.stringify({
    good: await greet({ host: address, servername: 'also.example' }),
    other: await greet({ host: address, servername: 'bad.example' }),
    mapped: await greet({ host: '::ffff:' + address, servername: 'bad.example' }),
    unnamed: await greet({ host: address }),
    resolver: await own.resolve4('good.example').catch((error) => error.code),
    looked: await dns.lookup('bad.example').catch((error) => error.code),
  }));
})();
`;

function whyNoPrograms(): string | null {
  const missing = ['git', 'npm', 'curl', 'openssl'].find((file) => spawnSync(file, ['--help']).error !== undefined);
  return missing === undefined ? null : `there is no ${missing}`;
}

describeWith('real programs under a policy', whyNoNamespaces() ?? whyNoPrograms(), () => {
  let dir: string;
  let world: HostWorld;
  let remote: ManagedProcess;
  let rig: PastaRig;
  let policy: string;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'tubetti-sites-'));
    chmodSync(dir, 0o755);
    makeSites(dir);
    policy = join(dir, 'policy.yaml');
    writeFileSync(policy, POLICY);
    world = await HostWorld.create(dir);
    const script = [SHARED, OTHER_RESOLVER].map((address) => `ip addr add ${address}/32 dev lo`).join('; ');
    await command(world.inRemote(['sh', '-ec', script]));
    remote = await startPolicyRemote(world, NAMES, dir);
    rig = new PastaRig(world, ROOT);
  });

  afterAll(async () => {
    await remote.stop();
    await world.destroy();
    rmSync(dir, { recursive: true });
  });

  const inside = (...argv: string[]): Promise<Ended> =>
    rig.run(['--quiet', '--runas', '0', '--config-net', '--policy', policy, '--', ...argv], {
      env: { HOME: dir, GIT_SSL_CAINFO: join(dir, 'cert.pem'), NODE_EXTRA_CA_CERTS: join(dir, 'cert.pem') },
    });

  test('git clones from a name that is allowed, and from no other', async () => {
    const script = `git clone -q https://good.example/repo.git ${dir}/clone && cat ${dir}/clone/file`;
    expect(await inside('sh', '-c', script)).toEqual({ status: 0, stdout: 'from the repository', stderr: '' });
    const bad = await inside('git', 'clone', '-q', 'https://bad.example/repo.git', `${dir}/none`);
    expect(bad.status).not.toBe(0);
    expect(bad.stderr).toMatch(/[Cc]ould not resolve host/);
  });

  test('npm reads a package', async () => {
    const argv = [
      'npm',
      'view',
      'thing',
      'version',
      '--fetch-retries',
      '0',
      '--cafile',
      join(dir, 'cert.pem'),
      '--registry',
      'https://good.example/',
      '--cache',
      join(dir, 'npm'),
    ];
    expect(await inside(...argv)).toEqual({ status: 0, stdout: '1.2.3\n', stderr: '' });
  });

  test('curl gets a page by its name, and none by another name of the address, or by the address', async () => {
    const curl = (...argv: string[]): Promise<Ended> =>
      inside('sh', '-c', `getent hosts good.example >/dev/null; exec curl -sS -m 20 "$@"`, 'sh', ...argv);
    const ca = ['--cacert', join(dir, 'cert.pem')];
    expect(await curl(...ca, 'https://good.example/hello')).toMatchObject({ status: 0, stdout: 'hello' });
    // 35: no TLS session, as it was reset.
    expect(await curl('-k', '--resolve', `bad.example:443:${SHARED}`, 'https://bad.example/hello')).toMatchObject({
      status: 35,
      stdout: '',
    });
    expect(await curl('-k', `https://${SHARED}/hello`)).toMatchObject({ status: 35, stdout: '' });
    // 7: not connected.
    expect(await curl('-k', `http://${SHARED}/hello`)).toMatchObject({ status: 7, stdout: '' });
  });

  test('a program that cheats: another name, a v4-mapped address, no name, its own resolver', async () => {
    const { status, stdout, stderr } = await inside(process.execPath, '-e', CHEAT, SHARED, OTHER_RESOLVER);
    expect([status, stderr]).toEqual([0, '']);
    expect(JSON.parse(stdout)).toEqual({
      good: 'connected',
      other: 'ECONNRESET',
      mapped: 'ECONNRESET',
      unnamed: 'ECONNRESET',
      resolver: expect.stringMatching(/^E(CONNREFUSED|TIMEOUT|HOSTUNREACH)$/) as string,
      looked: 'ENOTFOUND',
    });
  });
});
