/** The segment of the guest's that is being handled, parsed once. Its numbers are checked against the frame's length. */
export class Segment {
  seq = 0;
  ack = 0;
  /** TCP_* bits. */
  flags = 0;
  /** The window field, not scaled. */
  window = 0;
  payloadLen = 0;
  /** Guest's port << 16 | other port, as in a flow's key. */
  ports = 0;
  /** The frame's rows were cut down to the payload already. */
  trimmed = false;
}
