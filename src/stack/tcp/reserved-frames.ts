/** Segments filled by one system call. */
export const MAX_FRAMES = 128;

/** Frames reserved on the guest's receive queue for what is read from a socket: what `reserveFrames` (output.ts) got. */
export class ReservedFrames {
  /** Payload room of each frame. */
  readonly room = new Int32Array(MAX_FRAMES);
  /** Payload room of all, and the rows that name it. */
  bytes = 0;
  rows = 0;
  /** The guest had no buffers for more. */
  ranOut = false;
}
