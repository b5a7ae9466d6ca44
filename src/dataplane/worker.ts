/** Entry of the data plane's thread: builds the stack over this thread's addon instance and runs the loop. */
import { getSystemErrorName } from 'node:util';
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { loadNative, type Native } from '../native';
import { SCRATCH_SIZE } from '../stack/scratch';
import type { StackContext } from '../stack/context';
import type { Counters } from '../stack/counters';
import type { GuestPort, Random } from '../stack/ports';
import { IcmpHandler } from '../stack/ping/handler';
import { createLinkState } from '../stack/link/guest-state';
import { SiteLog } from '../stack/kit/site-log';
import { Stack } from '../stack/stack';
import { TcpHandler } from '../stack/tcp/handler';
import { Traffic } from '../stack/ip/guest-hints';
import { UdpHandler } from '../stack/udp/handler';
import type { WorkerGate, WorkerMessage, WorkerSetup } from './commands';
import { CAPTURE_BLOCK, CapturingPort } from './capture/capturing-port';
import { EventLoop } from './virtio/event-loop';
import { LoopClock } from './loop-clock';
import { confineThread } from './confine';
import { Moderation } from './moderation/moderation';
import { LineQueue, MAX_WAITING_LOG, MAX_WAITING_TRACE } from './line-queue';
import { allocateBlock } from './private-block';
import { RingControl } from './virtio/ring-control';
import { StreamControl } from './stream/control';
import { StreamLoop } from './stream/loop';
import { TracingPort } from './capture/tracing-port';

/** Random numbers by the pool: one system call a thousand. node:crypto would cost this thread a tenth of its memory. */
class PooledRandom implements Random {
  private readonly native: Native;
  private readonly pool: Int32Array;
  private next: number;

  constructor(native: Native) {
    this.native = native;
    this.pool = new Int32Array(1024);
    this.next = this.pool.length;
  }

  u32(): number {
    if (this.next === this.pool.length) {
      if (this.native.randomFill(this.pool) < 0) throw new Error('getrandom(2) failed');
      this.next = 0;
    }
    return this.pool[this.next++];
  }
}

/** Sleeps until the control plane has said what to do. */
function takeSetup(port: MessagePort): WorkerSetup {
  Atomics.wait((workerData as WorkerGate).gate, 0, 0);
  const first = receiveMessageOnPort(port) as { message: WorkerSetup } | undefined;
  if (first === undefined) throw new Error('the gate was opened before the set-up was sent');
  return first.message;
}

/** The port with what the user wants to see of its frames around it: by default nothing, which costs nothing. */
function decorated(
  port: GuestPort,
  native: Native,
  setup: WorkerSetup,
  counters: Counters,
  messages: MessagePort,
): GuestPort {
  const post = (message: WorkerMessage): void => {
    messages.postMessage(message);
  };
  let link = port;
  if (setup.captureFd >= 0) {
    link = new CapturingPort(link, native, allocateBlock(native, CAPTURE_BLOCK), setup.captureFd, counters, (errno) => {
      post({
        kind: 'log',
        level: 'warn',
        message: `cannot write to the capture, further frames are counted as lost: ${getSystemErrorName(-errno)}`,
        leftOut: 0,
      });
    });
  }
  if (setup.traced !== null) {
    const queue = new LineQueue(setup.traced, MAX_WAITING_TRACE);
    link = new TracingPort(link, (lines) => {
      if (!queue.take(lines.length)) return;
      const leftOut = queue.takeLeftOut();
      post({ kind: 'trace', lines, leftOut });
    });
  }
  return link;
}

function main(): void {
  if (parentPort === null) throw new Error('worker.js runs in a worker thread only');
  const port = parentPort;
  const native = loadNative();
  const setup = takeSetup(port);
  const counters = new Float64Array(setup.counters);
  if (native.scratch.byteLength < SCRATCH_SIZE) throw new Error('the native addon was built for another version');
  const clock = new LoopClock(native);
  const traffic = new Traffic();
  const control =
    setup.link === 'stream'
      ? new StreamControl(native, port, setup.wakeFd, counters)
      : new RingControl(
          native,
          port,
          setup.wakeFd,
          counters,
          new Moderation(clock, traffic, { level: setup.moderation, pollUs: setup.pollUs }),
        );
  const logged = new LineQueue(setup.logged, MAX_WAITING_LOG);
  const context: StackContext = {
    config: setup.config,
    port: decorated(control.port, native, setup, counters, port),
    io: native,
    clock,
    random: new PooledRandom(native),
    counters,
    link: createLinkState(setup.config),
    traffic,
    log: new SiteLog(clock, (level, message) => {
      if (!logged.take(1)) return;
      const leftOut = logged.takeLeftOut();
      port.postMessage({ kind: 'log', level, message, leftOut } satisfies WorkerMessage);
    }),
  };
  const stack = new Stack(context, {
    tcp: new TcpHandler(context, setup.listeners),
    udp: new UdpHandler(context, setup.listeners),
    icmp: new IcmpHandler(context),
  });
  native.watchdogEnter(setup.id);
  // One that takes another's place; the first one is told when the start is over.
  if (setup.sandbox !== null) confineThread(native, setup.sandbox, port);
  port.postMessage({ kind: 'ready' } satisfies WorkerMessage);
  control.serve(stack);
  if (control instanceof StreamControl) new StreamLoop(native, clock, control, stack, counters, context.port).run();
  else new EventLoop(native, clock, control, stack, counters, context.port).run();
}

main();
