/**
 * The data plane's loop: one thread, one epoll set, nothing awaited, nothing allocated in the steady state.
 *
 * One turn: wait → note which descriptors are ready (sockets go to the stack at once, kicks and the control plane's
 * wake-up are remembered) → commands → frames from the guest, up to a budget → flows that waited for receive buffers
 * → timers → publish to the guest. Whatever is left over makes the next wait a poll. Because publishing comes last,
 * a turn costs the guest one interrupt a queue at the most.
 */
import { receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { GuestMemory, SplitQueueDevice, faultName } from 'virtio-ring-ts';
import type { Native } from '../native';
import { C_KICKS_FROM_GUEST, C_LOOP_TURNS, C_RING_FAULTS } from '../stack/counters';
import type { Counters } from '../stack/counters';
import { KEY_DATAPLANE, KEY_INDEX_MASK, KEY_KIND_SHIFT, SCRATCH_SIZE } from '../stack/context';
import { EPOLLERR, EPOLLHUP, EPOLLIN } from '../stack/ports';
import type { Clock } from '../stack/ports';
import type { Stack } from '../stack/stack';
import type { DeviceMemoryRegion, DevicePlace, DeviceRing, DirtyLog } from '../vhost/device';
import { BASE_FROM_USED_INDEX } from './commands';
import type { Command, CommandMessage, WorkerMessage } from './commands';
import { DirtyLogMarker } from './dirty-log';
import { VHOST_F_LOG_ALL, has, negotiated } from './features';
import type { NegotiatedFeatures } from './features';
import { RING_RECEIVE, RING_TRANSMIT, VirtioGuestPort } from './guest-port';
import { BAD_RECEIVE_BUFFER } from './receive-side';

const KEY_WAKE = KEY_DATAPLANE << KEY_KIND_SHIFT;
const KIND_KICK = KEY_DATAPLANE + 1;

/** Frames taken from the guest in one turn: keeps sockets and timers served under a flood (CVE-2019-3900). */
const FRAMES_PER_TURN = 256;

/** How often a ring without kick descriptor is looked at, ms. */
const POLL_INTERVAL_MS = 1;

export class LoopClock implements Clock {
  nowMs: number;
  private readonly native: Native;

  constructor(native: Native) {
    this.native = native;
    this.nowMs = 0;
    this.update();
  }

  update(): void {
    this.nowMs = Math.floor(this.native.nowUs() / 1000);
  }

  nowUs(): number {
    return this.native.nowUs();
  }
}

/** State of one ring that the queue object does not know. */
interface RingState {
  ring: DeviceRing | null;
  kickFd: number;
  /** Distinguishes events of a kick descriptor from those of its predecessor with the same number. */
  generation: number;
  faultReported: boolean;
  logAddr: number;
}

export class EventLoop {
  readonly memory: GuestMemory;
  readonly port: VirtioGuestPort;
  readonly clock: LoopClock;
  private readonly native: Native;
  private readonly counters: Counters;
  private readonly messages: MessagePort;
  private readonly wakeFd: number;
  private readonly rings: readonly [RingState, RingState];
  private stack: Stack | null;
  private features: NegotiatedFeatures;
  private logAll: boolean;
  private regions: readonly DeviceMemoryRegion[];
  private log: DirtyLog | null;
  private running: boolean;
  private commandsPending: boolean;
  private transmitPending: boolean;
  private receiveReady: boolean;
  private wasUp: boolean;

  constructor(native: Native, messages: MessagePort, wakeFd: number, counters: Counters) {
    this.native = native;
    this.messages = messages;
    this.wakeFd = wakeFd;
    this.counters = counters;
    this.memory = new GuestMemory();
    this.clock = new LoopClock(native);
    this.features = negotiated(0n);
    this.logAll = false;
    const region = native.allocRegion(8192);
    if (region < 0) throw new Error(`cannot allocate memory (errno ${String(-region)})`);
    const header = { region, view: new DataView(native.regionBuffer(region)) };
    this.port = new VirtioGuestPort(native, this.memory, header, counters, this.features);
    this.rings = [newRingState(), newRingState()];
    this.stack = null;
    this.regions = [];
    this.log = null;
    this.running = false;
    this.commandsPending = false;
    this.transmitPending = false;
    this.receiveReady = false;
    this.wasUp = false;
    if (native.scratch.byteLength < SCRATCH_SIZE) throw new Error('the addon was built for another version');
  }

  /** Runs until the control plane says stop. */
  run(stack: Stack): void {
    this.stack = stack;
    this.native.epollInit();
    this.native.watch(this.wakeFd, EPOLLIN, KEY_WAKE, 0);
    stack.start();
    this.running = true;
    while (this.running) this.turn(stack);
  }

  private turn(stack: Stack): void {
    const native = this.native;
    const n = native.epollWait(this.timeoutUs(stack));
    this.clock.update();
    this.counters[C_LOOP_TURNS]++;
    const events = native.epollOut;
    for (let i = 0; i < n; i++) this.event(stack, events[3 * i], events[3 * i + 1], events[3 * i + 2]);
    if (this.commandsPending) this.takeCommands();
    if (this.polling()) this.pollRings();
    if (this.transmitPending) this.transmit(stack);
    if (this.receiveReady) {
      this.receiveReady = false;
      const { queue } = this.port.rx;
      if (queue !== null) queue.disableNotify();
      stack.onGuestReady();
    }
    stack.onTimer();
    this.port.flush();
    this.rearmReceive();
    this.checkFaults();
  }

  private timeoutUs(stack: Stack): number {
    if (this.transmitPending || this.receiveReady || this.commandsPending || stack.busy) return 0;
    let deadline = stack.nextDeadline();
    if (this.polling()) deadline = Math.min(deadline, this.clock.nowMs + POLL_INTERVAL_MS);
    if (deadline === Infinity) return -1;
    this.clock.update();
    return deadline <= this.clock.nowMs ? 0 : (deadline - this.clock.nowMs) * 1000;
  }

  /** True if a running ring has no kick descriptor (vhost-user: VHOST_USER_VRING_NOFD_MASK). */
  private polling(): boolean {
    for (const s of this.rings) if (s.ring !== null && s.kickFd < 0) return true;
    return false;
  }

  private pollRings(): void {
    for (let i = 0; i < this.rings.length; i++) {
      if (this.rings[i].ring !== null && this.rings[i].kickFd < 0) this.kicked(i);
    }
  }

  private event(stack: Stack, key: number, generation: number, events: number): void {
    const kind = key >>> KEY_KIND_SHIFT;
    if (kind < KEY_DATAPLANE) {
      stack.onSocket(key, generation, events);
    } else if (kind === KIND_KICK) {
      this.kick(key & KEY_INDEX_MASK, generation, events);
    } else {
      this.native.drain(this.wakeFd);
      this.commandsPending = true;
    }
  }

  private kick(index: number, generation: number, events: number): void {
    const state = this.rings[index];
    if (state.generation !== generation || state.kickFd < 0) return;
    this.counters[C_KICKS_FROM_GUEST]++;
    if ((events & (EPOLLHUP | EPOLLERR)) !== 0) {
      // The other end is gone: it would be "ready" for ever. The session learns of it on its own socket.
      this.native.unwatch(state.kickFd);
    } else {
      this.native.drain(state.kickFd);
    }
    this.kicked(index);
  }

  private kicked(index: number): void {
    if (index === RING_TRANSMIT) this.transmitPending = true;
    else this.receiveReady = true;
  }

  private transmit(stack: Stack): void {
    const queue = this.port.tx.queue;
    if (queue === null || this.port.tx.fault !== 0) {
      this.transmitPending = false;
      return;
    }
    queue.disableNotify();
    if (stack.fromGuest(FRAMES_PER_TURN)) return;
    this.transmitPending = this.port.tx.fault === 0 && queue.enableNotify();
  }

  /** After the turn's frames: if a flow waits for receive buffers, ask for a kick, unless more came meanwhile. */
  private rearmReceive(): void {
    const rx = this.port.rx;
    const queue = rx.queue;
    if (queue === null) return;
    if (rx.retry) {
      rx.retry = false;
      this.receiveReady = true;
    }
    if (rx.wanted) {
      rx.wanted = false;
      if (queue.enableNotify()) this.receiveReady = true;
    }
  }

  private checkFaults(): void {
    if (this.port.rx.fault !== 0) this.reportFault(RING_RECEIVE, this.port.rx.fault);
    if (this.port.tx.fault !== 0) this.reportFault(RING_TRANSMIT, this.port.tx.fault);
  }

  private reportFault(index: number, fault: number): void {
    const state = this.rings[index];
    if (state.faultReported) return;
    state.faultReported = true;
    this.counters[C_RING_FAULTS]++;
    if (state.kickFd >= 0) this.native.unwatch(state.kickFd);
    const reason = fault === BAD_RECEIVE_BUFFER ? 'receive buffer is not writable' : faultName(fault);
    this.post({ kind: 'fault', index, reason });
  }

  private post(message: WorkerMessage): void {
    this.messages.postMessage(message);
  }

  private takeCommands(): void {
    this.commandsPending = false;
    for (;;) {
      const received = receiveMessageOnPort(this.messages) as { message: CommandMessage } | undefined;
      if (received === undefined) return;
      const value = this.execute(received.message.command);
      this.post({ kind: 'done', seq: received.message.seq, value });
    }
  }

  private execute(command: Command): number {
    switch (command.kind) {
      case 'features':
        this.setFeatures(command.features);
        return 0;
      case 'memory':
        this.setMemory(command.regions);
        return 0;
      case 'startRing':
        this.startRing(command.ring);
        return 0;
      case 'stopRing':
        return this.stopRing(command.index);
      case 'enable':
        this.enable(command.index, command.enabled);
        return 0;
      case 'call':
        this.setCall(command.index, command.fd);
        return 0;
      case 'kick':
        this.setKick(command.index, command.fd);
        return 0;
      case 'logRing':
        this.rings[command.index].logAddr = command.logAddr;
        this.applyLog();
        return 0;
      case 'log':
        this.log = command.log;
        this.applyLog();
        return 0;
      case 'reset':
        if (this.stack !== null) this.stack.reset();
        return 0;
      case 'stop':
        if (this.stack !== null) this.stack.reset();
        this.running = false;
        return 0;
    }
  }

  private setFeatures(features: bigint): void {
    this.logAll = has(features, VHOST_F_LOG_ALL);
    this.features = negotiated(features);
    this.port.setFeatures(this.features);
    this.applyLog();
  }

  private setMemory(regions: readonly DeviceMemoryRegion[]): void {
    this.regions = regions;
    this.memory.clear();
    for (const r of regions) this.memory.add(r.region, r.buffer, r.gpa, r.size);
    // Ring structures keep the places the session gave them: it stops rings whose memory went away.
    this.applyLog();
  }

  private place(place: DevicePlace): { buffer: SharedArrayBuffer; offset: number } {
    const region = this.regions.find((r) => r.region === place.region);
    if (region === undefined) throw new Error(`ring in unknown region ${String(place.region)}`);
    return { buffer: region.buffer, offset: place.offset };
  }

  private startRing(ring: DeviceRing): void {
    const layout = {
      size: ring.size,
      desc: this.place(ring.desc),
      avail: this.place(ring.avail),
      used: this.place(ring.used),
    };
    const { indirect, eventIdx } = this.features;
    let queue = new SplitQueueDevice(this.memory, layout, { indirect, eventIdx }, Math.max(0, ring.base));
    if (ring.base === BASE_FROM_USED_INDEX) {
      queue = new SplitQueueDevice(this.memory, layout, { indirect, eventIdx }, queue.usedIdx);
    }
    if (ring.index === RING_RECEIVE && queue.lastAvail === 0 && queue.usedIdx === 0) {
      // A ring that starts from nothing is a guest that booted or bound its driver anew: its connections are gone.
      // (A stop and start, a reconnect or a migration goes on from where the ring was.)
      this.stack?.reset();
    }
    const state = this.rings[ring.index];
    state.ring = ring;
    state.faultReported = false;
    state.logAddr = ring.logAddr;
    this.port.startRing(ring.index, queue, ring.enabled, ring.callFd);
    this.watchKick(ring.index, ring.kickFd);
    this.applyLog();
    this.kicked(ring.index); // kicks from before the start are not repeated
    this.linkChanged();
  }

  private stopRing(index: number): number {
    const state = this.rings[index];
    const side = index === RING_RECEIVE ? this.port.rx : this.port.tx;
    const queue = side.queue;
    this.port.releaseReceived();
    this.port.flush();
    side.stop();
    this.unwatchKick(index);
    state.ring = null;
    this.linkChanged();
    return queue === null ? 0 : queue.lastAvail;
  }

  private enable(index: number, enabled: boolean): void {
    const side = index === RING_RECEIVE ? this.port.rx : this.port.tx;
    side.enabled = enabled;
    if (enabled) this.kicked(index);
    this.linkChanged();
  }

  private setCall(index: number, fd: number): void {
    if (index === RING_RECEIVE) this.port.rxCallFd = fd;
    else this.port.txCallFd = fd;
    // A notification may have gone to the descriptor just replaced: one too many does no harm.
    if (fd >= 0 && this.rings[index].ring !== null) this.native.signal(fd);
  }

  private setKick(index: number, fd: number): void {
    this.unwatchKick(index);
    this.watchKick(index, fd);
    this.kicked(index);
  }

  private watchKick(index: number, fd: number): void {
    const state = this.rings[index];
    state.kickFd = fd;
    state.generation = (state.generation + 1) & 0x7fffffff;
    if (fd >= 0) this.native.watch(fd, EPOLLIN, (KIND_KICK << KEY_KIND_SHIFT) | index, state.generation);
  }

  private unwatchKick(index: number): void {
    const state = this.rings[index];
    if (state.kickFd >= 0) this.native.unwatch(state.kickFd);
    state.kickFd = -1;
  }

  private linkChanged(): void {
    const up = this.port.up;
    if (up && !this.wasUp) this.stack?.onLinkUp();
    this.wasUp = up;
  }

  private applyLog(): void {
    this.port.rx.dirty = this.marker(RING_RECEIVE);
    this.port.tx.dirty = this.marker(RING_TRANSMIT);
  }

  private marker(index: number): DirtyLogMarker | null {
    const { logAddr } = this.rings[index];
    if (this.log === null || (!this.logAll && logAddr < 0)) return null;
    return new DirtyLogMarker(this.log, this.regions, logAddr, this.logAll);
  }
}

function newRingState(): RingState {
  return { ring: null, kickFd: -1, generation: 0, faultReported: false, logAddr: -1 };
}
