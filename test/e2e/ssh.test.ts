/**
 * ssh into a guest without an open port, by `tubetti ctl connect` as its ProxyCommand: OpenSSH's client and server. The server is the
 * host's file (`.cache/sshd`), run in a User Mode Linux guest.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BIN } from '../support/program';
import { CACHE_DIR, scratchDirectory, which } from '../support/world/paths';
import { bootUml } from '../support/world/uml';
import { describeWith, setUpBench, whyNotGuest, withGuest } from './support';

jest.setTimeout(120_000);

const SSHD = join(CACHE_DIR, 'sshd');
const missing =
  whyNotGuest('uml') ??
  (which('ssh') === null ? 'ssh is not installed' : null) ??
  (existsSync(SSHD) ? null : "OpenSSH's server (.cache/sshd) is missing: npm test fetches it");

const BYTES = 10_000_000;
const BACK = 2_000_000;
const PORT = 22;

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

describeWith('ssh through ctl connect', missing, () => {
  const scratch = scratchDirectory();
  const control = join(scratch.path, 'control');
  const config = join(scratch.path, 'config');
  const key = (name: string): string => join(scratch.path, name);

  afterAll(scratch.remove);

  const { stage, test } = withGuest(
    () => setUpBench(['--control', control]),
    (bench) => bootUml({ socketPath: bench.socketPath, scratch: bench.scratch }),
    async (bench, guest) => {
      for (const name of ['host', 'user'])
        expect(spawnSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key(name)]).status).toBe(0);
      const text = (name: string): string => readFileSync(key(name), 'utf8').trim();
      await guest.result('net-up 4', 'dhcp');
      // What the server wants of a system, in the guest's view of the host's files: a user, a directory, a home. The host's
      // /tmp, in which this checkout may be, is seen in /run/host only.
      await guest.sh(`from-host true
        mount -t tmpfs none /mnt/run && mkdir /mnt/run/sshd /mnt/run/host && mount -t hostfs -o ro none /mnt/run/host
        printf 'root:x:0:0::/tmp:/bin/sh\\nsshd:x:101:65534::/run/sshd:/bin/false\\n' >/tmp/passwd
        mount --bind /tmp/passwd /mnt/etc/passwd
        umask 077
        cat >/tmp/host <<'END'\n${text('host')}\nEND
        cat >/tmp/authorized <<'END'\n${text('user.pub')}\nEND
        cat >/tmp/sshd_config <<'END'
          Port ${PORT}
          HostKey /tmp/host
          AuthorizedKeysFile /tmp/authorized
          PermitRootLogin prohibit-password
          StrictModes no
          UsePAM no
          PidFile none
END`);
      const libraries = `/run/host${SSHD}/usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`;
      const server = `/run/host${SSHD}/usr/sbin/sshd -e -f /tmp/sshd_config`;
      // It stays, as a daemon.
      await guest.sh(`from-host env LD_LIBRARY_PATH=${libraries} ${server} 2>/tmp/sshd.log`);
      const known = `web1 ${text('host.pub')}\n`;
      writeFileSync(key('known'), known);
      writeFileSync(
        config,
        [
          'Host web1',
          `  ProxyCommand ${BIN} ctl --control ${control} connect ${PORT}`,
          '  User root',
          `  IdentityFile ${key('user')}`,
          `  UserKnownHostsFile ${key('known')}`,
          '  StrictHostKeyChecking yes',
          '  BatchMode yes',
          '',
        ].join('\n'),
      );
      return { bench, guest };
    },
  );

  /** A program of the host's; what it is given, and no more. */
  async function run(
    argv: readonly string[],
    input: Buffer = Buffer.alloc(0),
  ): Promise<{ status: number; out: Buffer }> {
    const child = spawn(argv[0], argv.slice(1), { stdio: ['pipe', 'pipe', 'pipe'] });
    const out: Buffer[] = [];
    let err = '';
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    child.stdin.on('error', () => undefined).end(input);
    const [status] = (await once(child, 'close')) as [number];
    if (err !== '') console.log(err);
    return { status, out: Buffer.concat(out) };
  }
  const ssh = (command: string, input?: Buffer): ReturnType<typeof run> =>
    run(['ssh', '-F', config, 'web1', command], input);

  test('a command, and its exit status', async () => {
    const { status, out } = await ssh('uname -m; echo "$SSH_CONNECTION"; exit 7');
    expect([status, out.toString()]).toEqual([
      7,
      expect.stringMatching(new RegExp(`^(x86_64|aarch64)\\n\\S+ [0-9]+ \\S+ ${PORT}\\n$`)),
    ]);
    // No port of the host was opened for it.
    const listed = await run([BIN, 'ctl', '--control', control, 'forward', 'list']);
    expect(listed.out.toString()).toBe('no ports are forwarded\n');
  });

  test('10 MB to the guest, and some of it back', async () => {
    const bytes = randomBytes(BYTES);
    // The end of what is sent is seen there while the answer still comes.
    const sent = await ssh('cat >/tmp/copy; sha256sum </tmp/copy', bytes);
    expect(sent.out.toString()).toBe(`${sha256(bytes)}  -\n`);
    const { status, out } = await ssh(`head -c ${BACK} /tmp/copy`);
    expect([status, sha256(out)]).toEqual([0, sha256(bytes.subarray(0, BACK))]);
  });

  test('the pipe itself: the end of one direction leaves the other open', async () => {
    const bytes = randomBytes(1_000_000);
    const { guest } = stage();
    await guest.sh(`nc -l -p 2000 -e sha256sum >/dev/null 2>&1 &
      while ! grep -q ':07D0 .* 0A ' /proc/net/tcp /proc/net/tcp6; do usleep 10000; done`);
    const { status, out } = await run([BIN, 'ctl', '--control', control, 'connect', '2000'], bytes);
    expect([status, out.toString()]).toEqual([0, `${sha256(bytes)}  -\n`]);
  });
});
