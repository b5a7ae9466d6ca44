/**
 * `--tftp` of the running service: files come whole, and nothing that is not in the directory comes at all. And the other
 * service that answers the guest's questions itself, `--dns-name`.
 */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runOnce, SAME_USER } from '../support/program';
import { startService, type Started } from '../support/run-service';
import { bytes, datagram, dissect } from '../support/stack/link-rig';
import { readRequest, tftpGet, type TftpLink } from '../support/stack/tftp-client';
import { StreamClient } from '../support/stream/stream-client';
import { poll } from '../support/world/processes';

jest.setTimeout(60_000);

const G4 = '10.0.2.15';
const OURS4 = '10.0.2.2';
const ADDRESSES = ['-a', `${G4}/24`, '-g', OURS4, '-a', '2001:db8::15', '-g', 'fe80::2'];
const FAMILIES: readonly (readonly [string, string])[] = [
  [G4, OURS4],
  ['2001:db8::15', '2001:db8::69'],
];

const base = realpathSync(mkdtempSync(join(tmpdir(), 'tubetti-tftp-')));
const dir = join(base, 'files');
const kernel = Buffer.alloc(600_000, 'kernel ');
let service: Started;
let client: StreamClient;

const isUdpTo = (frame: Buffer, port: number): boolean => {
  const v4 = frame.readUInt16BE(12) === 0x0800;
  const [next, l4] = v4 ? [frame[23], 34] : frame.readUInt16BE(12) === 0x86dd ? [frame[20], 54] : [0, 0];
  return next === 17 && frame.readUInt16BE(l4 + 2) === port;
};

function link([from, to]: readonly [string, string]): TftpLink {
  return {
    from,
    to,
    send: (frame) => {
      client.send(frame);
    },
    receive: (port) => client.receive((frame) => isUdpTo(frame, port)),
  };
}

beforeAll(async () => {
  mkdirSync(join(dir, 'sub'), { recursive: true });
  writeFileSync(join(dir, 'kernel'), kernel);
  writeFileSync(join(dir, 'sub', 'f'), 'inside');
  writeFileSync(join(base, 'secret'), 'secret');
  writeFileSync(join(dir, 'closed'), 'closed', { mode: 0 });
  symlinkSync('kernel', join(dir, 'link'));
  symlinkSync('../secret', join(dir, 'out'));
  symlinkSync('/etc/passwd', join(dir, 'passwd'));
  symlinkSync('..', join(dir, 'up'));
  spawnSync('mkfifo', [join(dir, 'fifo')]);
  service = await startService('-s', join(base, 's'), '--stream', '--tftp', dir, '--boot-file', 'kernel', ...ADDRESSES);
  client = await StreamClient.connect(join(base, 's'));
});

afterAll(async () => {
  await client.destroy();
  service.child.kill('SIGKILL');
  rmSync(base, { recursive: true });
});

describe.each(FAMILIES)('%s', (...ends) => {
  test('a file of 600 kB, with options and without', async () => {
    const sum = (data: Buffer | null): string =>
      createHash('sha256')
        .update(data ?? '')
        .digest('hex');
    const quick = await tftpGet(link(ends), 'kernel', { blksize: 1468, windowsize: 8, tsize: 0 });
    expect([sum(quick.data), quick.options.get('tsize')]).toEqual([sum(kernel), String(kernel.length)]);
    expect(sum((await tftpGet(link(ends), '/kernel')).data)).toBe(sum(kernel));
    expect((await tftpGet(link(ends), 'link', { blksize: 1468 })).data?.length).toBe(kernel.length);
    expect((await tftpGet(link(ends), 'sub\\f')).data?.toString()).toBe('inside');
  });

  test.each([
    ['nothing', 1],
    ['kernel/x', 1],
    ['../secret', 2],
    ['sub/../../secret', 2],
    ['..\\secret', 2],
    ['up/secret', 0],
    ['out', 0],
    ['passwd', 0],
    ['/etc/passwd', 1],
    [`${base}/secret`, 1],
    ['.', 2],
    ['/', 2],
    ['sub', 2],
    ['fifo', 2],
    ['/proc/self/environ', 1],
  ])('%s is refused', async (name, code) => {
    const { data, error } = await tftpGet(link(ends), name);
    expect(data).toBeNull();
    // What a link leads to is not there in the service's own root; without that it is refused.
    if (code === 0) expect(error).toMatch(/^[12] /);
    else expect(error.startsWith(String(code))).toBe(true);
  });
});

test('without the sandbox the directory is the border all the same', async () => {
  const open = await startService('-s', join(base, 'o'), '--stream', '--sandbox', 'off', '--tftp', dir, ...ADDRESSES);
  const with_ = client;
  client = await StreamClient.connect(join(base, 'o'));
  try {
    for (const name of ['out', 'passwd', 'up/secret', '../secret', 'fifo']) {
      expect([name, (await tftpGet(link(FAMILIES[0]), name)).error]).toEqual([name, '2 Access violation']);
    }
    expect((await tftpGet(link(FAMILIES[0]), 'link', { blksize: 1468 })).data?.length).toBe(kernel.length);
  } finally {
    await client.destroy();
    client = with_;
    open.child.kill('SIGKILL');
  }
});

test('a flood of requests and of noise: each is answered or not, a file comes afterwards, the log is bounded', async () => {
  for (let i = 0; i < 3000; i++) {
    client.send(datagram(G4, 10_000 + i, OURS4, 69, readRequest(`n${i}`)));
    client.send(datagram(G4, 10_000 + i, OURS4, 69, bytes([0, 1], [i & 0xff, 0, i >> 8])));
  }
  await client.receive((frame) => isUdpTo(frame, 12_999));
  // The flood's last transfers are over when the control plane has looked for their files.
  const file = await poll(
    'the end of the transfers',
    async () => {
      const { data, error } = await tftpGet(link(FAMILIES[0]), 'sub/f', {}, 3000);
      return error === '0 Too many transfers' ? null : data;
    },
    5000,
  );
  expect(file.toString()).toBe('inside');
  expect(service.stderr().split('\n').length).toBeLessThan(200);
});

test('a client that falls silent keeps nobody from the files', async () => {
  const frames: Buffer[] = [];
  for (let i = 0; i < 8; i++) {
    client.send(datagram(G4, 20_000 + i, OURS4, 69, readRequest('kernel')));
    frames.push(await client.receive((frame) => isUdpTo(frame, 20_000 + i)));
  }
  expect(frames.map((frame) => dissect(frame).payload[1])).toEqual(Array(8).fill(3));
  expect((await tftpGet(link(FAMILIES[0]), 'sub/f', {}, 3001)).error).toBe('0 Too many transfers');
  await client.receive((frame) => isUdpTo(frame, 20_000)); // it is sent again
  for (let i = 0; i < 8; i++) {
    client.send(datagram(G4, 20_000 + i, OURS4, dissect(frames[i]).srcPort, bytes([0, 5, 0, 0, 0])));
  }
  expect((await tftpGet(link(FAMILIES[0]), 'sub/f', {}, 3002)).data?.toString()).toBe('inside');
});

test('--dns-name: a flood of queries is answered one by one, others go on to the resolver', async () => {
  const names = ['--dns-name', 'printer=192.0.2.9', '-D', '10.0.2.3'];
  const named = await startService('-s', join(base, 'n'), '--stream', ...names, ...ADDRESSES);
  const guest = await StreamClient.connect(join(base, 'n'));
  const query = bytes('1234 0100 0001 0000 0000 0000 07', [...Buffer.from('printer')], '00 0001 0001');
  try {
    for (let i = 0; i < 3000; i++) guest.send(datagram(G4, 5000 + i, '10.0.2.3', 53, query));
    for (let i = 0; i < 3000; i++) {
      const answer = await guest.receive((frame) => isUdpTo(frame, 5000 + i));
      if (i % 1000 === 0) expect(Buffer.from(dissect(answer).payload).subarray(-4).toString('hex')).toBe('c0000209');
    }
  } finally {
    await guest.destroy();
    named.child.kill('SIGKILL');
  }
});

test.each([
  ['/nonexistent', 'cannot read: no such file or directory'],
  [join(dir, 'kernel'), 'not a directory, give the one with the files'],
  ['/', 'give a directory of its own, not the root directory'],
])('--tftp %s', (path, message) => {
  const { status, stderr } = runOnce([...SAME_USER, '-q', '-s', join(base, 'x'), '--tftp', path]);
  expect([status, stderr]).toEqual([1, `tubetti: --tftp ${path}: ${message}\n`]);
});
