/** Files that the user names: nothing makes us wait, and nothing is written to by somebody else's choice. */
import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openForAppending, openForCapture, openForWriting, readText } from '../../src/files';

let dir: string;
beforeEach(() => {
  dir = fs.mkdtempSync(join(tmpdir(), 'tubetti-files-'));
});
afterEach(() => {
  fs.rmSync(dir, { recursive: true });
});

const OPENERS = [openForAppending, openForCapture, openForWriting];

function fifo(): string {
  const path = join(dir, 'fifo');
  expect(spawnSync('mkfifo', [path]).status).toBe(0);
  return path;
}

describe.each(OPENERS)('%p', (open) => {
  test('makes a private file', () => {
    const path = join(dir, 'new');
    fs.closeSync(open(path).fd);
    expect(fs.statSync(path).mode & 0o777).toBe(0o600);
  });

  test('a pipe that nobody reads is refused at once', () => {
    expect(() => open(fifo())).toThrow(/a pipe/);
  });

  test('what is no file is refused by what it is', () => {
    expect(() => open(dir)).toThrow();
    expect(() => open('/dev/zero')).toThrow('it is a device, give a regular file');
  });

  test('/dev/null is taken', () => {
    fs.closeSync(open('/dev/null').fd);
  });

  test("a link in one's own directory is followed, to what is there and to what is not yet", () => {
    fs.symlinkSync('target', join(dir, 'link'));
    fs.symlinkSync(join(dir, 'link'), join(dir, 'link-to-link'));
    for (const name of ['link', 'link-to-link']) fs.closeSync(open(join(dir, name)).fd);
    expect(fs.statSync(join(dir, 'target')).isFile()).toBe(true);
  });

  test('links that bite their tail are refused', () => {
    fs.symlinkSync('b', join(dir, 'a'));
    fs.symlinkSync('a', join(dir, 'b'));
    expect(() => open(join(dir, 'a'))).toThrow('too many symbolic links');
  });
});

const describeAsRoot = process.getuid?.() === 0 ? describe : describe.skip;

describeAsRoot('in a directory that others may write to', () => {
  let shared: string;
  beforeEach(() => {
    shared = join(dir, 'shared');
    fs.mkdirSync(shared);
    fs.chmodSync(shared, 0o1777);
    fs.writeFileSync(join(dir, 'precious'), 'precious');
  });

  test.each(OPENERS)("%p: somebody else's link or file is refused, ours and the directory's owner's is not", (open) => {
    const link = join(shared, 'link');
    fs.symlinkSync(join(dir, 'precious'), link);
    fs.closeSync(open(link).fd);
    fs.writeFileSync(join(dir, 'precious'), 'precious');
    fs.lchownSync(link, 12345, 12345);
    expect(() => open(link)).toThrow(/symbolic link of another user/);
    fs.chownSync(shared, 12345, 12345);
    fs.closeSync(open(link).fd);
    fs.chownSync(shared, 0, 0);
    const file = join(shared, 'file');
    fs.writeFileSync(file, 'x');
    fs.chownSync(file, 12345, 12345);
    // The kernel says so itself where fs.protected_regular is on.
    expect(() => open(file)).toThrow(/belongs to another user|EACCES/);
  });

  test('a refused file is left as it was', () => {
    const link = join(shared, 'link');
    fs.symlinkSync(join(dir, 'precious'), link);
    fs.lchownSync(link, 12345, 12345);
    expect(() => openForCapture(link)).toThrow();
    expect(fs.readFileSync(join(dir, 'precious'), 'utf8')).toBe('precious');
  });
});

test('a pipe that somebody reads takes a log and a capture', () => {
  const path = fifo();
  const reader = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  for (const open of [openForAppending, openForCapture]) {
    const { fd } = open(path);
    fs.writeSync(fd, 'text');
    const got = Buffer.alloc(8);
    expect(fs.readSync(reader, got, 0, 8, null)).toBe(4);
    fs.closeSync(fd);
  }
  expect(() => openForWriting(path)).toThrow('it is a pipe, give a regular file');
  fs.closeSync(reader);
});

test('reading: a pipe is refused at once, so is a file without end; /proc has files of size 0', () => {
  expect(() => readText(fifo(), 100)).toThrow('it is a pipe');
  expect(() => readText('/dev/zero', 100)).toThrow('it is a device');
  const path = join(dir, 'file');
  fs.writeFileSync(path, 'x'.repeat(101));
  expect(() => readText(path, 100)).toThrow('it has more than 100 bytes');
  fs.writeFileSync(path, 'é'.repeat(50));
  expect(readText(path, 100)).toBe('é'.repeat(50));
  expect(readText('/proc/self/comm', 100)).toMatch(/\n$/);
});
