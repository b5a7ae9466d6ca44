/** `--pcap`: opens the file and writes the capture's header; the data plane writes the records. */
import { closeSync, writeSync } from 'node:fs';
import { describeSystemError } from '../errors';
import { openForCapture } from '../files';
import type { Log } from '../log';

/**
 * Longest record. passt says 65535 and cuts what is longer; with segmentation offloads frames are, so it is Wireshark's
 * usual value here.
 */
const SNAPLEN = 262144;
const LINKTYPE_ETHERNET = 1;

/** The header of a capture with microseconds, in the byte order of the machine (little-endian). */
export function captureHeader(): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(SNAPLEN, 16);
  header.writeUInt32LE(LINKTYPE_ETHERNET, 20);
  return header;
}

/**
 * The file's descriptor, or -1 after an error, which is logged and does not end the service, as with passt. Mode 0600,
 * truncated. A pipe must have a reader already: the open does not wait for one.
 */
export function openCapture(path: string, log: Log): number {
  let fd = -1;
  try {
    fd = openForCapture(path).fd;
    const header = captureHeader();
    // Without its header the rest cannot be read.
    if (writeSync(fd, header) !== header.length) throw new Error('no room for the header');
    return fd;
  } catch (error) {
    if (fd >= 0) closeSync(fd);
    log.error(`--pcap ${path}: cannot write the capture: ${describeSystemError(error)}`);
    return -1;
  }
}
