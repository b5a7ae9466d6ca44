/** `--pcap`: opens the file and writes the capture's header; the data plane writes the records. */
import { closeSync, writeSync } from 'node:fs';
import { describeSystemError } from '../errors';
import { openForCapture } from '../files';
import type { Log } from '../log';
import { captureHeader } from '../pcap';

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
