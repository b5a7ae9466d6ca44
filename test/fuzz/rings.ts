/** Rings: random descriptors, indirect tables, heads and indices, mostly almost right, in the memory of a guest. */
import { concat, parseAddr, parseMac } from '../support/guest/bytes';
import type { FrontEnd, FrontEndRing } from '../support/guest/front-end';
import { BROADCAST_MAC } from '../support/guest/bytes';
import { ETHER_ARP, arp, ethernet } from '../support/guest/packets';
import { GATEWAY_4, HOST_ADDRESS_4 } from '../support/world/host-world';
import { GUEST_MAC } from './frames';
import type { Place } from './memory-writer';
import type { Seeded } from './random';

const [NEXT, WRITE, INDIRECT] = [1, 2, 4];
const DESC = 16;
const TABLE_ENTRIES = 64;
const BUFFERS = 1 << 16;

export class HostileRings {
  private readonly frontEnd: FrontEnd;
  private readonly random: Seeded;
  /** Offsets in memory: an ARP request with its header, a table of descriptors, room for frames. */
  private readonly frameAt: number;
  private readonly frameLen: number;
  private readonly tableAt: number;
  private readonly buffersAt: number;
  private readonly avail: [number, number] = [0, 0];

  constructor(frontEnd: FrontEnd, random: Seeded) {
    this.frontEnd = frontEnd;
    this.random = random;
    const { ram } = frontEnd;
    const mac = parseMac(GUEST_MAC);
    const [senderIp, targetIp] = [parseAddr(HOST_ADDRESS_4), parseAddr(GATEWAY_4)];
    const request = arp({ op: 1, senderMac: mac, senderIp, targetMac: new Uint8Array(6), targetIp });
    const frame = concat(new Uint8Array(12), ethernet(BROADCAST_MAC, mac, ETHER_ARP, request));
    this.frameAt = ram.alloc(frame.length);
    this.frameLen = frame.length;
    this.tableAt = ram.alloc(DESC * TABLE_ENTRIES, DESC);
    this.buffersAt = ram.alloc(BUFFERS);
    ram.bytes.set(frame, this.frameAt);
  }

  /** Where a second process may write: both rings, the table, the frame. */
  get places(): readonly Place[] {
    const rings = this.frontEnd.rings.flatMap((ring): Place[] => [
      [ring.layout.desc.offset, DESC * ring.size],
      [ring.layout.avail.offset, 6 + 2 * ring.size],
      [ring.layout.used.offset, 6 + 8 * ring.size],
    ]);
    return [...rings, [this.tableAt, DESC * TABLE_ENTRIES], [this.frameAt, this.frameLen]];
  }

  /** Both rings as a driver that has just started has them. */
  clear(): void {
    for (const [from, length] of this.places.slice(0, 6)) this.frontEnd.ram.bytes.fill(0, from, from + length);
    for (const ring of this.frontEnd.rings) {
      ring.base = 0;
      this.avail[ring.index] = 0;
    }
  }

  /** Writes a few entries everywhere and kicks. Returns how many were written. */
  round(): number {
    const random = this.random;
    let entries = 0;
    for (const ring of this.frontEnd.rings) {
      for (let n = random.below(24); n > 0; n--, entries++) {
        this.descriptor(ring.layout.desc.offset + DESC * random.below(ring.size), ring);
      }
      for (let n = random.below(8); n > 0; n--, entries++) {
        this.descriptor(this.tableAt + DESC * random.below(TABLE_ENTRIES), ring);
      }
      this.offer(ring);
      entries++;
      ring.kick();
    }
    return entries;
  }

  private descriptor(at: number, ring: FrontEndRing): void {
    const { ram } = this.frontEnd;
    const random = this.random;
    const transmits = ring.index === 1;
    const where = random.below(10);
    let gpa = BigInt(ram.gpa(this.buffersAt + random.below(BUFFERS - 4096)));
    let length = random.pick([0, 1, 11, 12, 13, 60, 1526, 4096, random.below(70_000)]);
    let flags = transmits ? 0 : WRITE;
    if (where < 4 && transmits) [gpa, length] = [BigInt(ram.gpa(this.frameAt)), this.frameLen];
    else if (where === 4) [gpa, length, flags] = [BigInt(ram.gpa(this.tableAt)), DESC * random.below(70), INDIRECT];
    else if (where === 5) gpa = (BigInt(random.edge32()) << 32n) | BigInt(random.edge32());
    else if (where === 6) length = random.edge32();
    else if (where === 7) gpa = BigInt(ram.gpa(ring.layout.used.offset)); // a buffer in the ring itself
    if (random.oneIn(4)) flags |= NEXT;
    if (random.oneIn(40)) flags ^= random.below(16);
    ram.view.setBigUint64(at, gpa, true);
    ram.view.setUint32(at + 8, length, true);
    ram.view.setUint16(at + 12, flags, true);
    ram.view.setUint16(at + 14, random.oneIn(20) ? random.edge16() : random.below(Math.min(ring.size, 64)), true);
  }

  private offer(ring: FrontEndRing): void {
    const { view } = this.frontEnd.ram;
    const random = this.random;
    const avail = ring.layout.avail.offset;
    const ahead = random.oneIn(60) ? random.edge16() : random.below(8);
    for (let i = 0; i < Math.min(ahead, ring.size); i++) {
      const slot = (this.avail[ring.index] + i) & (ring.size - 1);
      view.setUint16(avail + 4 + 2 * slot, random.oneIn(60) ? random.edge16() : random.below(ring.size), true);
    }
    this.avail[ring.index] = (this.avail[ring.index] + ahead) & 0xffff;
    Atomics.store(new Uint16Array(ring.layout.avail.buffer, avail + 2, 1), 0, this.avail[ring.index]);
    view.setUint16(avail, random.oneIn(8) ? random.below(4) : 0, true);
    view.setUint16(avail + 4 + 2 * ring.size, random.edge16(), true); // used_event
  }
}
