/** `GuestPort` over a tap device in a namespace: joins the two sides. */
import type { Counters } from '../../stack/counters';
import { type GuestPort, MAX_FRAME } from '../../stack/ports';
import type { PrivateBlock } from '../private-block';
import { TapInput, type TapIo } from './input';
import { TapOutput } from './output';

/** TUN_F_* of linux/if_tun.h: what the kernel on the namespace's side was told that we take. */
const TUN_F_TSO4 = 0x02;
const TUN_F_USO4 = 0x20;
/** Frames have no virtio_net_hdr. */
export const TAP_PLAIN = -1;

export class TapGuestPort implements GuestPort {
  readonly input: TapInput;
  readonly output: TapOutput;
  readonly maxFrame = MAX_FRAME;
  readonly rowCount = 1;
  gsoTcp4: boolean;
  gsoTcp6: boolean;
  gsoUdp4: boolean;
  gsoUdp6: boolean;
  /** The device is there. */
  up: boolean;

  /** `input` of TAP_INPUT_BLOCK bytes, `output` of TAP_OUTPUT_BLOCK. */
  constructor(io: TapIo, input: PrivateBlock, output: PrivateBlock, counters: Counters) {
    this.input = new TapInput(io, input, counters);
    this.output = new TapOutput(io, output, counters);
    this.gsoTcp4 = false;
    this.gsoTcp6 = false;
    this.gsoUdp4 = false;
    this.gsoUdp6 = false;
    this.up = false;
  }

  /** Serves a non-blocking tap device, which stays its owner's; `offloads`: TUN_F_*, or TAP_PLAIN. */
  start(fd: number, offloads: number): void {
    const header = offloads !== TAP_PLAIN;
    // A kernel takes from us what it can give.
    const tso = header && (offloads & TUN_F_TSO4) !== 0;
    const uso = header && (offloads & TUN_F_USO4) !== 0;
    this.gsoTcp4 = tso;
    this.gsoTcp6 = tso;
    this.gsoUdp4 = uso;
    this.gsoUdp6 = uso;
    this.input.start(fd, header);
    this.output.start(fd, header);
    this.up = true;
  }

  /** Forgets the device and all that was on its way in either direction. */
  stop(): void {
    this.up = false;
    this.input.stop();
    this.output.stop();
  }

  get head(): DataView {
    return this.input.head;
  }
  get headLen(): number {
    return this.input.headLen;
  }
  get gsoType(): number {
    return this.input.gsoType;
  }
  get gsoSize(): number {
    return this.input.gsoSize;
  }
  get csumPartial(): boolean {
    return this.input.csumPartial;
  }
  receive(row: number): number {
    return this.input.receive(row);
  }
  substitute(from: DataView, off: number, length: number, _row: number): void {
    this.input.substitute(from, off, length);
  }
  pull(n: number): number {
    return this.input.pull(n);
  }
  releaseReceived(): void {
    this.input.releaseReceived();
  }

  get out(): DataView {
    return this.output.out;
  }
  get outOff(): number {
    return this.output.outOff;
  }
  reserve(headerLen: number, payloadLen: number, row: number): number {
    return this.output.reserve(headerLen, payloadLen, row);
  }
  front(): void {
    this.output.front();
  }
  commit(
    payloadLen: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
    gsoType: number,
    gsoSize: number,
  ): void {
    this.output.commit(payloadLen, flags, csumStart, csumOffset, gsoType, gsoSize);
  }
  cancel(): void {
    this.output.cancel();
  }
  flush(): void {
    this.output.flush();
  }
}
