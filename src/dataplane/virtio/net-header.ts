/**
 * struct virtio_net_hdr (virtio 1.2 §5.1.6): 12 bytes, little-endian; a legacy guest without merged buffers uses the
 * first 10.
 */

export const VIRTIO_NET_HDR_LEN = 12;

export const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;

export const VIRTIO_NET_HDR_GSO_NONE = 0;
export const VIRTIO_NET_HDR_GSO_TCPV4 = 1;
export const VIRTIO_NET_HDR_GSO_TCPV6 = 4;
export const VIRTIO_NET_HDR_GSO_UDP_L4 = 5;
export const VIRTIO_NET_HDR_GSO_ECN = 0x80;

const LE = true;
const FLAGS = 0;
const GSO_TYPE = 1;
const HDR_LEN = 2;
const GSO_SIZE = 4;
const CSUM_START = 6;
const CSUM_OFFSET = 8;
const NUM_BUFFERS = 10;

export function netHdrFlags(dv: DataView, off: number): number {
  return dv.getUint8(off + FLAGS);
}
export function netHdrGsoType(dv: DataView, off: number): number {
  return dv.getUint8(off + GSO_TYPE);
}
export function netHdrGsoSize(dv: DataView, off: number): number {
  return dv.getUint16(off + GSO_SIZE, LE);
}
export function netHdrCsumStart(dv: DataView, off: number): number {
  return dv.getUint16(off + CSUM_START, LE);
}
export function netHdrCsumOffset(dv: DataView, off: number): number {
  return dv.getUint16(off + CSUM_OFFSET, LE);
}
/** Writes the 10 bytes that every header has. */
export function netHdrWrite(
  dv: DataView,
  off: number,
  flags: number,
  gsoType: number,
  hdrLen: number,
  gsoSize: number,
  csumStart: number,
  csumOffset: number,
): void {
  dv.setUint8(off + FLAGS, flags);
  dv.setUint8(off + GSO_TYPE, gsoType);
  dv.setUint16(off + HDR_LEN, hdrLen, LE);
  dv.setUint16(off + GSO_SIZE, gsoSize, LE);
  dv.setUint16(off + CSUM_START, csumStart, LE);
  dv.setUint16(off + CSUM_OFFSET, csumOffset, LE);
}

/** Writes num_buffers, which only a 12-byte header has. */
export function netHdrSetNumBuffers(dv: DataView, off: number, n: number): void {
  dv.setUint16(off + NUM_BUFFERS, n, LE);
}
