/** The head of a capture: classic pcap, which is what the data plane writes (dataplane/capture/capture-sink.ts). */

/**
 * Longest record. passt says 65535 and cuts what is longer; with segmentation offloads frames are, so it is Wireshark's
 * usual value here.
 */
export const SNAPLEN = 262144;
const LINKTYPE_ETHERNET = 1;

/** The header of a capture with microseconds, in the byte order of the machine (little-endian). `snap`: longest record. */
export function captureHeader(snap = SNAPLEN): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(snap, 16);
  header.writeUInt32LE(LINKTYPE_ETHERNET, 20);
  return header;
}
