/** What a stream session asks of the device behind it: to serve one connected socket at a time. */

/** How a stream ended without having been asked to: its client left, broke the protocol, or something failed. */
export interface StreamEnd {
  readonly reason: 'left' | 'protocol' | 'failed';
  /** One line for people; empty if the client left. */
  readonly detail: string;
}

export interface StreamDevice {
  /** Serves the client on `fd`, a connected non-blocking stream socket that stays the caller's. Flows are kept. */
  openStream(fd: number): Promise<void>;
  /** Lets go of the socket; settles when it is not used any more. */
  closeStream(): Promise<void>;
  /** Looks whether the client is still there. If it is not, `onStreamEnded` is called before this settles. */
  probeStream(): Promise<boolean>;
  /** Called when the data plane gave up the socket without a request to. Set by the session. */
  onStreamEnded: ((end: StreamEnd) => void) | null;
}
