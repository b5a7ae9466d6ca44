/** What passed since the data plane looked last: it decides whether the guest's next frames may wait a moment. */
export class Traffic {
  /** TCP payload, both ways. */
  bytes: number;
  /**
   * Something that somebody may be waiting for: anything but TCP, the begin or end of a connection, a small segment from
   * the guest, all that a host socket had for the guest, or a guest's window that is used up.
   */
  light: boolean;

  constructor() {
    this.bytes = 0;
    this.light = false;
  }
}
