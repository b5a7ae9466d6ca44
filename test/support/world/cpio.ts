/**
 * A writer of initramfs archives ("newc" cpio, Linux Documentation/driver-api/early-userspace/buffer-format.rst). The
 * kernel unpacks several archives, each compressed on its own, one after the other.
 *
 * By hand, because cpio programs (busybox' too) archive files that exist: a device node would take root, and each guest's
 * second archive a directory of its own on the disk.
 */
import { gzipSync } from 'node:zlib';

const MODE_DIRECTORY = 0o040755;
const MODE_FILE = 0o100000;
const MODE_SYMLINK = 0o120777;
const MODE_CHARACTER_DEVICE = 0o020600;

export class CpioArchive {
  private readonly parts: Buffer[] = [];
  private readonly directories = new Set<string>();
  private inode = 1;

  /** Adds a file, and the directories above it. `path` is absolute. */
  file(path: string, content: Buffer | string, permissions = 0o755): this {
    this.directory(parentOf(path));
    return this.entry(path, MODE_FILE | permissions, Buffer.from(content));
  }

  symlink(path: string, target: string): this {
    this.directory(parentOf(path));
    return this.entry(path, MODE_SYMLINK, Buffer.from(target));
  }

  characterDevice(path: string, major: number, minor: number): this {
    this.directory(parentOf(path));
    return this.entry(path, MODE_CHARACTER_DEVICE, Buffer.alloc(0), major, minor);
  }

  directory(path: string): this {
    if (path === '' || path === '/' || this.directories.has(path)) return this;
    this.directory(parentOf(path));
    this.directories.add(path);
    return this.entry(path, MODE_DIRECTORY, Buffer.alloc(0));
  }

  /** The archive so far with its trailer, gzip'd, padded so that another may follow. */
  compress(level = 6): Buffer {
    const trailer = new CpioArchive().entry('/TRAILER!!!', 0, Buffer.alloc(0));
    const gzip = gzipSync(Buffer.concat([...this.parts, ...trailer.parts]), { level });
    return Buffer.concat([gzip, padding(gzip.length)]);
  }

  private entry(path: string, mode: number, content: Buffer, major = 0, minor = 0): this {
    const name = Buffer.from(`${path.slice(1)}\0`);
    const fields = [this.inode++, mode, 0, 0, 1, 0, content.length, 0, 0, major, minor, name.length, 0];
    const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
    this.parts.push(header, name, padding(header.length + name.length), content, padding(content.length));
    return this;
  }
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'));
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}
