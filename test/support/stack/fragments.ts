/** IP fragments for tests: cut by a model of a sender, joined by a model of a receiver; shares no code with the stack. */
import { internetChecksum } from './link-rig';

const ETHERNET = 14;

interface Piece {
  readonly at: number;
  readonly more: boolean;
  readonly data: Uint8Array;
}

/** The one packet that `frames` (all its fragments, in any order) make, as a frame without fragment fields. */
export function join(frames: readonly Uint8Array[]): Uint8Array {
  const v4 = frames[0][ETHERNET] >> 4 === 4;
  const header = ETHERNET + (v4 ? 20 : 40);
  const ids = new Set<string>();
  const pieces = frames.map((frame): Piece => {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
    if (v4) {
      if (internetChecksum(frame.subarray(ETHERNET, header)) !== 0) throw new Error('header checksum of a fragment');
      const word = view.getUint16(ETHERNET + 6);
      if ((word & 0xc000) !== 0) throw new Error('a fragment with DF');
      ids.add(`${String(view.getUint16(ETHERNET + 4))} ${String(frame[ETHERNET + 9])}`);
      const end = ETHERNET + view.getUint16(ETHERNET + 2);
      return { at: (word & 0x1fff) * 8, more: (word & 0x2000) !== 0, data: frame.subarray(header, end) };
    }
    if (frame[ETHERNET + 6] !== 44) throw new Error('no fragment header');
    const word = view.getUint16(header + 2);
    ids.add(`${String(view.getUint32(header + 4))} ${String(frame[header])}`);
    const end = header + view.getUint16(ETHERNET + 4);
    return { at: word & 0xfff8, more: (word & 1) === 1, data: frame.subarray(header + 8, end) };
  });
  if (ids.size !== 1) throw new Error(`fragments of ${String(ids.size)} packets`);
  pieces.sort((a, b) => a.at - b.at);
  let at = 0;
  for (const [i, piece] of pieces.entries()) {
    if (piece.at !== at) throw new Error(`hole or overlap at ${String(at)}`);
    if (piece.more !== i < pieces.length - 1) throw new Error('more fragments, or not');
    if (piece.more && piece.data.length % 8 !== 0) throw new Error('a fragment of odd length');
    at += piece.data.length;
  }
  const out = Uint8Array.from(Buffer.concat([frames[0].subarray(0, header), ...pieces.map((p) => p.data)]));
  const view = new DataView(out.buffer);
  if (v4) {
    view.setUint16(ETHERNET + 2, 20 + at);
    view.setUint32(ETHERNET + 4, 0x4000);
    view.setUint16(ETHERNET + 10, 0);
    view.setUint16(ETHERNET + 10, internetChecksum(out.subarray(ETHERNET, header)));
  } else {
    out[ETHERNET + 6] = frames[0][header];
    view.setUint16(ETHERNET + 4, at);
  }
  return out;
}

/** `frames` with the fragments of each packet, which follow each other, joined. */
export function joinAll(frames: readonly Uint8Array[]): Uint8Array[] {
  const out: Uint8Array[] = [];
  let pieces: Uint8Array[] = [];
  for (const frame of frames) {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
    const type = view.getUint16(12);
    const fragment4 = type === 0x0800 && (view.getUint16(ETHERNET + 6) & 0x3fff) !== 0;
    if (!fragment4 && !(type === 0x86dd && frame[ETHERNET + 6] === 44)) {
      if (pieces.length > 0) throw new Error('the last fragment is missing');
      out.push(frame);
      continue;
    }
    pieces.push(frame);
    const more = fragment4 ? (view.getUint16(ETHERNET + 6) & 0x2000) !== 0 : (view.getUint16(ETHERNET + 42) & 1) === 1;
    if (more) continue;
    out.push(join(pieces));
    pieces = [];
  }
  if (pieces.length > 0) throw new Error('the last fragment is missing');
  return out;
}

/** `frame` as fragments of at most `size` payload bytes (a multiple of 8) each, in order. */
export function split(frame: Uint8Array, size: number, id = 0x1234): Uint8Array[] {
  const v4 = frame[ETHERNET] >> 4 === 4;
  const header = ETHERNET + (v4 ? 20 : 40);
  const whole = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const end = v4 ? ETHERNET + whole.getUint16(ETHERNET + 2) : header + whole.getUint16(ETHERNET + 4);
  const data = frame.subarray(header, end);
  const out: Uint8Array[] = [];
  for (let at = 0; at < Math.max(1, data.length); at += size) {
    out.push(piece(frame, at, data.subarray(at, at + size), at + size < data.length, id));
  }
  return out;
}

/** One fragment of `frame`'s packet: `data` at byte `at`. */
export function piece(frame: Uint8Array, at: number, data: Uint8Array, more: boolean, id = 0x1234): Uint8Array {
  const v4 = frame[ETHERNET] >> 4 === 4;
  const header = ETHERNET + (v4 ? 20 : 40);
  const word = at | (more ? 1 : 0);
  const extra = v4
    ? []
    : [frame[ETHERNET + 6], 0, word >> 8, word & 0xff, id >>> 24, (id >> 16) & 255, (id >> 8) & 255, id & 255];
  const out = Uint8Array.from([...frame.subarray(0, header), ...extra, ...data]);
  const view = new DataView(out.buffer);
  if (v4) {
    view.setUint16(ETHERNET + 2, 20 + data.length);
    view.setUint16(ETHERNET + 4, id);
    view.setUint16(ETHERNET + 6, (at >> 3) | (more ? 0x2000 : 0));
    view.setUint16(ETHERNET + 10, 0);
    view.setUint16(ETHERNET + 10, internetChecksum(out.subarray(ETHERNET, header)));
  } else {
    out[ETHERNET + 6] = 44;
    view.setUint16(ETHERNET + 4, 8 + data.length);
  }
  return out;
}
