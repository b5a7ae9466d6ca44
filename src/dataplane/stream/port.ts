/**
 * `GuestPort` over a stream socket that speaks QEMU's framing (`-netdev stream`, `-netdev socket`): joins the two
 * sides. There is no virtio_net_hdr, so no segmentation and no unfinished checksums in either direction.
 */
import type { GuestPort } from '../../stack/ports';
import { GSO_NONE } from '../../stack/ports';
import { MAX_STREAM_FRAME, StreamInput } from './input';
import type { StreamIo } from './input';
import type { PrivateBlock } from '../private-block';
import { StreamOutput } from './output';

export class StreamGuestPort implements GuestPort {
  readonly input: StreamInput;
  readonly output: StreamOutput;
  readonly gsoTcp4 = false;
  readonly gsoTcp6 = false;
  readonly gsoUdp4 = false;
  readonly gsoUdp6 = false;
  readonly maxFrame = MAX_STREAM_FRAME;
  readonly rowCount = 1;
  readonly gsoType = GSO_NONE;
  readonly gsoSize = 0;
  readonly csumPartial = false;
  /** A connection is there. */
  up: boolean;

  /** `input` of INPUT_BLOCK bytes, `output` of OUTPUT_BLOCK. */
  constructor(io: StreamIo, input: PrivateBlock, output: PrivateBlock) {
    this.input = new StreamInput(io, input);
    this.output = new StreamOutput(io, output);
    this.up = false;
  }

  /** Serves a connected non-blocking stream socket, which stays its owner's. */
  start(fd: number): void {
    this.input.start(fd);
    this.output.start(fd);
    this.up = true;
  }

  /** Forgets the connection and all that was on its way in either direction. */
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
  commit(payloadLen: number, flags: number, csumStart: number, csumOffset: number): void {
    this.output.commit(payloadLen, flags, csumStart, csumOffset);
  }
  cancel(): void {
    this.output.cancel();
  }
  flush(): void {
    this.output.flush();
  }
}
