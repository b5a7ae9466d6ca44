/** Damage done to recorded traces: by the property test of the session and by the fuzzer of the running service. */
import { encode } from './mock-front-end';
import type { FdKind, Step } from './traces';

export const DAMAGE_KINDS = [
  'drop',
  'twice',
  'swap',
  'byte',
  'word',
  'length',
  'fds',
  'noise',
  'cut',
  'request',
  'ack',
] as const;

/** A step as it goes out: its bytes, its descriptors, and where they are cut into several sends. */
export interface Wire {
  readonly bytes: Uint8Array;
  readonly fds: readonly FdKind[];
  readonly cut: number;
}

export interface Damage {
  readonly kind: (typeof DAMAGE_KINDS)[number];
  readonly at: number;
  readonly offset: number;
  readonly value: number;
  readonly fds: readonly FdKind[];
}

/** Numbers at the edges of what fields hold. */
export const INTERESTING = [
  0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff,
];

export function onWire(step: Step): Wire {
  return { bytes: encode(step.request, step.payload, { needReply: step.needReply }), fds: step.fds, cut: 0 };
}

function patched(bytes: Uint8Array, patch: (dv: DataView, length: number) => void): Uint8Array {
  const copy = Uint8Array.from(bytes);
  patch(new DataView(copy.buffer), copy.length);
  return copy;
}

/** The steps with one damage done to them. */
export function apply(wires: readonly Wire[], d: Damage): readonly Wire[] {
  if (wires.length === 0) return wires;
  const at = d.at % wires.length;
  const wire = wires[at];
  // A piece of noise may be shorter than a header.
  if ((d.kind === 'request' || d.kind === 'ack') && wire.bytes.length < 12) return wires;
  const replaced = (...by: Wire[]): Wire[] => [...wires.slice(0, at), ...by, ...wires.slice(at + 1)];
  switch (d.kind) {
    case 'drop':
      return replaced();
    case 'twice':
      return replaced(wire, wire);
    case 'swap': {
      const next = wires.at(at + 1) ?? wire;
      return next === wire ? wires : [...wires.slice(0, at), next, wire, ...wires.slice(at + 2)];
    }
    case 'byte':
      return replaced({ ...wire, bytes: patched(wire.bytes, (dv, n) => dv.setUint8(d.offset % n, d.value & 0xff)) });
    case 'word': {
      // Only in the payload, on a field's boundary: the header would end most runs at once.
      if (wire.bytes.length < 16) return wires;
      const words = (wire.bytes.length - 12) >> 2;
      return replaced({
        ...wire,
        bytes: patched(wire.bytes, (dv) => dv.setUint32(12 + 4 * (d.offset % words), d.value, true)),
      });
    }
    case 'length': {
      // A payload that is longer or shorter, with a header that agrees.
      const size = d.offset;
      const bytes = new Uint8Array(12 + size);
      bytes.set(wire.bytes.subarray(0, bytes.length));
      return replaced({ ...wire, bytes: patched(bytes, (dv) => dv.setUint32(8, size, true)) });
    }
    case 'fds':
      return replaced({ ...wire, fds: d.fds });
    case 'noise': {
      const bytes = new Uint8Array(d.offset + 1).fill(d.value & 0xff);
      return replaced({ bytes, fds: d.fds, cut: 0 }, wire);
    }
    case 'cut':
      return replaced({ ...wire, cut: 1 + (d.offset % wire.bytes.length) });
    case 'request':
      return replaced({ ...wire, bytes: patched(wire.bytes, (dv) => dv.setUint32(0, d.value % 48, true)) });
    case 'ack':
      return replaced({
        ...wire,
        bytes: patched(wire.bytes, (dv) => dv.setUint32(4, dv.getUint32(4, true) ^ 8, true)),
      });
  }
}
