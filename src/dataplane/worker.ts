/** Entry of the data plane's thread: builds the stack over this thread's addon instance and runs the loop. */
import { randomFillSync } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { loadNative } from '../native';
import { SCRATCH_SIZE } from '../stack/context';
import type { StackContext } from '../stack/context';
import type { Random } from '../stack/ports';
import { IcmpHandler } from '../stack/icmp';
import { createLinkState } from '../stack/link';
import { Stack } from '../stack/stack';
import { TcpHandler } from '../stack/tcp/tcp';
import { UdpHandler } from '../stack/udp';
import type { WorkerMessage, WorkerSetup } from './commands';
import { EventLoop, LoopClock } from './event-loop';
import { RingControl } from './ring-control';
import { StreamControl } from './stream-control';
import { StreamLoop } from './stream-loop';

/** Random numbers by the pool: one system call a thousand. */
class PooledRandom implements Random {
  private readonly pool: Int32Array;
  private next: number;

  constructor() {
    this.pool = new Int32Array(1024);
    this.next = this.pool.length;
  }

  u32(): number {
    if (this.next === this.pool.length) {
      randomFillSync(this.pool);
      this.next = 0;
    }
    return this.pool[this.next++];
  }
}

function main(): void {
  if (parentPort === null) throw new Error('worker.js runs in a worker thread only');
  const port = parentPort;
  const setup = workerData as WorkerSetup;
  const native = loadNative();
  const counters = new Float64Array(setup.counters);
  if (native.scratch.byteLength < SCRATCH_SIZE) throw new Error('the native addon was built for another version');
  const control =
    setup.link === 'stream'
      ? new StreamControl(native, port, setup.wakeFd, counters)
      : new RingControl(native, port, setup.wakeFd, counters);
  const clock = new LoopClock(native);
  const context: StackContext = {
    config: setup.config,
    port: control.port,
    io: native,
    clock,
    random: new PooledRandom(),
    counters,
    link: createLinkState(setup.config),
    log: (level, message) => {
      port.postMessage({ kind: 'log', level, message } satisfies WorkerMessage);
    },
  };
  const stack = new Stack(context, {
    tcp: new TcpHandler(context, setup.listeners),
    udp: new UdpHandler(context, setup.listeners),
    icmp: new IcmpHandler(context),
  });
  port.postMessage({ kind: 'ready' } satisfies WorkerMessage);
  control.serve(stack);
  if (control instanceof StreamControl) new StreamLoop(native, clock, control, stack, counters).run();
  else new EventLoop(native, clock, control, stack, counters).run();
}

main();
