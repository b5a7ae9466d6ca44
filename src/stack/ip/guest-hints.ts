/** Traffic since the data plane last looked: it decides whether the guest's next frames may wait. */
export class Traffic {
  /** TCP payload from the guest, and to it. */
  fromGuest: number;
  toGuest: number;
  /**
   * Traffic that a user may be waiting for: anything but TCP, the begin or end of a connection, a message from
   * the guest, the answer to what it sent, or a narrow window of the guest that is used up (tcp/traffic-hints.ts).
   */
  light: boolean;
  /** A message from the guest went out over TCP: an answer may be on its way soon. */
  message: boolean;

  constructor() {
    this.fromGuest = 0;
    this.toGuest = 0;
    this.light = false;
    this.message = false;
  }
}
