/** A guest that downloads over and over: the load of benches and of tests that look at a rate. */
import { REMOTE_ADDRESS_4 } from '../world/host-world';
import type { Guest } from './guest';

/** What the blob server of the remote world is to have (`setBlob`). */
export const BLOB = 64 << 20;
const STEP = 1 << 16;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export class GoodFlow {
  /** Payload that came. */
  bytes = 0;
  private stopped = false;
  private readonly guest: Guest;
  private readonly port: number;

  constructor(guest: Guest, port: number) {
    this.guest = guest;
    this.port = port;
  }

  /** Settles some time after `stop`. */
  async run(): Promise<void> {
    while (!this.stopped) {
      const stream = await this.guest.tcpConnect(REMOTE_ADDRESS_4, this.port, { timeoutMs: 30_000 });
      for (let left = BLOB; left > 0 && !this.stopped; left -= STEP) {
        await stream.readExactly(STEP);
        this.bytes += STEP;
      }
      stream.reset();
    }
  }

  stop(): void {
    this.stopped = true;
  }

  /** MB/s over `seconds` from now on. */
  async rate(seconds: number): Promise<number> {
    const [before, at] = [this.bytes, performance.now()];
    await sleep(seconds * 1000);
    return (this.bytes - before) / (performance.now() - at) / 1000;
  }
}
