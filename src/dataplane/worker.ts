/** Entry of the data plane's thread: builds the stack over this thread's addon instance and runs the loop. */
import { getSystemErrorName } from 'node:util';
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { loadNative, type Native } from '../native';
import { SCRATCH_SIZE } from '../stack/scratch';
import type { StackContext } from '../stack/context';
import type { Counters } from '../stack/counters';
import type * as Loaded from '../stack/splice/bypass';
import type { GuestPort, Random } from '../stack/ports';
import { IcmpHandler } from '../stack/ping/handler';
import type { StationTable } from '../stack/link/stations';
import { createLinkState } from '../stack/link/guest-state';
import { FlowEnds } from '../stack/kit/flow-ends';
import { SiteLog } from '../stack/kit/site-log';
import type { FileSource } from '../stack/link/tftp';
import { Stack } from '../stack/stack';
import type { NameTable } from '../stack/policy/names';
import { TcpHandler } from '../stack/tcp/handler';
import { Traffic } from '../stack/ip/guest-hints';
import { UdpHandler } from '../stack/udp/handler';
import { AddressTeller } from './address-news';
import type { WorkerGate, WorkerMessage, WorkerSetup } from './commands';
import { Captures } from './capture/captures';
import { EventLoop } from './virtio/event-loop';
import { LoopClock } from './loop-clock';
import { confineThread } from './confine';
import { Moderation } from './moderation/moderation';
import { LineQueue, MAX_WAITING_ADDRESSES, MAX_WAITING_LOG, MAX_WAITING_NAMES, MAX_WAITING_TRACE } from './line-queue';
import { allocateBlock } from './private-block';
import { deriveQuicKeys } from './quic-keys';
import { RingControl } from './virtio/ring-control';
import { StreamControl } from './stream/control';
import { StreamLoop } from './stream/loop';
import { TapControl } from './tap/control';
import { TapLoop } from './tap/loop';
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

/** The port with a line for each of its frames, if the user wants these: by default bare, which costs nothing. */
function traced(port: GuestPort, setup: WorkerSetup, messages: MessagePort): GuestPort {
  if (setup.traced === null) return port;
  const queue = new LineQueue(setup.traced, MAX_WAITING_TRACE);
  return new TracingPort(port, (lines) => {
    if (!queue.take(lines.length)) return;
    const leftOut = queue.takeLeftOut();
    messages.postMessage({ kind: 'trace', lines, leftOut } satisfies WorkerMessage);
  });
}

/** Captures of what passes `port`: that of `--pcap`, and those that begin later. */
function capturesOf(
  port: GuestPort,
  native: Native,
  { captureFd }: WorkerSetup,
  counters: Counters,
  messages: MessagePort,
  use: (port: GuestPort) => void,
): Captures {
  const post = (message: WorkerMessage): void => {
    messages.postMessage(message);
  };
  const failed = (errno: number): void => {
    const message = `cannot write to the capture, further frames are counted as lost: ${getSystemErrorName(-errno)}`;
    post({ kind: 'log', level: 'warn', message, leftOut: 0 });
  };
  return new Captures(native, counters, port, captureFd < 0 ? null : { fd: captureFd, failed }, {
    use,
    ended: (id, end) => {
      post({ kind: 'captureEnded', id, end });
    },
  });
}

/** Tells the control plane by which names the guest finds addresses, if it wants to know. */
function tellNames(names: NameTable, { named }: WorkerSetup, messages: MessagePort): void {
  if (named === null) return;
  const queue = new LineQueue(named, MAX_WAITING_NAMES);
  names.onFound = (name, words, at) => {
    if (!queue.take(1)) return;
    messages.postMessage({ kind: 'name', name, address: words.slice(at, at + 4) } satisfies WorkerMessage);
  };
}

/** Tells the control plane which addresses the guest uses, if it wants to know. */
function tellAddresses(stations: StationTable, clock: LoopClock, { addressed }: WorkerSetup, to: MessagePort): void {
  if (addressed === null) return;
  const teller = new AddressTeller(new LineQueue(addressed, MAX_WAITING_ADDRESSES), clock, (news) => {
    to.postMessage({ kind: 'address', news } satisfies WorkerMessage);
  });
  stations.onStation = teller.told;
}

/** What the kind of link has for the control plane's commands. */
function linkControl(
  native: Native,
  setup: WorkerSetup,
  port: MessagePort,
  moderation: Moderation,
): RingControl | StreamControl | TapControl {
  const counters = new Float64Array(setup.counters);
  switch (setup.link) {
    case 'stream':
      return new StreamControl(native, port, setup.wakeFd, counters);
    case 'tap':
      return new TapControl(native, port, setup.wakeFd, counters);
    case 'vhost-user':
      return new RingControl(native, port, setup.wakeFd, counters, moderation);
  }
}

/** `loaded`: what makes the bypass; null: there is none. */
function serve(port: MessagePort, native: Native, setup: WorkerSetup, loaded: typeof Loaded | null): void {
  const counters = new Float64Array(setup.counters);
  if (native.scratch.byteLength < SCRATCH_SIZE) throw new Error('the native addon was built for another version');
  const clock = new LoopClock(native);
  const traffic = new Traffic();
  const control = linkControl(
    native,
    setup,
    port,
    new Moderation(clock, traffic, { level: setup.moderation, pollUs: setup.pollUs }),
  );
  const logged = new LineQueue(setup.logged, MAX_WAITING_LOG);
  const files: FileSource = (request) => {
    port.postMessage({ kind: 'file', request } satisfies WorkerMessage);
  };
  const captures = capturesOf(traced(control.port, setup, port), native, setup, counters, port, (link) => {
    stack.usePort(link);
  });
  const context: StackContext = {
    ...(setup.config.extras.tftp ? { files } : {}),
    quicKeys: deriveQuicKeys,
    config: setup.config,
    port: captures.port,
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
    ends:
      setup.ends === null
        ? null
        : new FlowEnds(setup.ends, clock, () => {
            port.postMessage({ kind: 'ended' } satisfies WorkerMessage);
          }),
  };
  if (setup.bypass !== null && loaded !== null) {
    const block = allocateBlock(native, loaded.SPLICE_BLOCK);
    context.bypass = new loaded.LoopbackBypass(context, native, setup.bypass, setup.listeners, block);
  }
  const stack = new Stack(context, {
    tcp: new TcpHandler(context, setup.listeners, setup.moreListeners),
    udp: new UdpHandler(context, setup.listeners, setup.moreListeners),
    icmp: new IcmpHandler(context),
  });
  tellNames(context.link.policy.names, setup, port);
  tellAddresses(context.link.stations, clock, setup, port);
  stack.setPolicy(setup.policy);
  stack.setRates(setup.rates.in, setup.rates.out);
  native.watchdogEnter(setup.id);
  // One that takes another's place; the first one is told when the start is over.
  if (setup.filter !== null) confineThread(native, setup.filter, port);
  port.postMessage({ kind: 'ready' } satisfies WorkerMessage);
  control.serve(stack, captures);
  if (control instanceof StreamControl) new StreamLoop(native, clock, control, stack, counters, context).run();
  else if (control instanceof TapControl) new TapLoop(native, clock, control, stack, counters, context).run();
  else new EventLoop(native, clock, control, stack, counters, context).run();
}

function main(): void {
  if (parentPort === null) throw new Error('worker.js runs in a worker thread only');
  const port = parentPort;
  const native = loadNative();
  const setup = takeSetup(port);
  if (setup.bypass === null) {
    serve(port, native, setup, null);
    return;
  }
  // On demand: it is for namespaces.
  void import('../stack/splice/bypass.js').then((loaded) => {
    serve(port, native, setup, loaded);
  });
}

main();
