/** A server on a real socket with a fake device behind it, and ways to talk to it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Native } from '../../../src/native';
import type { LogLevel } from '../../../src/vhost/log';
import type { VhostServerOptions } from '../../../src/vhost/server';
import { VhostServer } from '../../../src/vhost/server';
import type { SessionEnd } from '../../../src/vhost/session';
import { FakeDevice } from './fake-device';
import { MockFrontEnd, encode } from './mock-front-end';
import type { FdKind, Step, Trace } from './traces';
import { LOG_SIZE, MEMORY_SIZE } from './traces';

export class Rig {
  readonly native: Native;
  readonly device = new FakeDevice();
  readonly dir = mkdtempSync(join(tmpdir(), 'tubetti-vhost-'));
  readonly path = join(this.dir, 's.sock');
  readonly server: VhostServer;
  readonly log: { readonly level: LogLevel; readonly message: string }[] = [];
  private readonly frontEnds: MockFrontEnd[] = [];
  private readonly ends: SessionEnd[] = [];
  private waiting: (() => void)[] = [];

  constructor(native: Native, options: Partial<VhostServerOptions> = {}) {
    this.native = native;
    this.server = new VhostServer({
      native,
      device: this.device,
      log: (level, message) => this.log.push({ level, message }),
      source: { listen: this.path },
      ...options,
    });
    this.server.on('disconnected', (end) => {
      this.ends.push(end);
      for (const wake of this.waiting.splice(0)) wake();
    });
  }

  /** Log messages of level warn and error. */
  get complaints(): string[] {
    return this.log.filter(({ level }) => level === 'warn' || level === 'error').map(({ message }) => message);
  }

  connect(): MockFrontEnd {
    return this.adopt(MockFrontEnd.connect(this.native, this.path));
  }

  adopt(frontEnd: MockFrontEnd): MockFrontEnd {
    this.frontEnds.push(frontEnd);
    return frontEnd;
  }

  /** All front-ends leave. */
  closeFrontEnds(): void {
    for (const frontEnd of this.frontEnds.splice(0)) frontEnd.close();
  }

  /** How the next session (or one that ended and was not asked for yet) ended, all given back. */
  async sessionEnd(): Promise<SessionEnd> {
    for (;;) {
      const end = this.ends.shift();
      if (end !== undefined) return end;
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
  }

  async close(): Promise<void> {
    this.closeFrontEnds();
    await this.server.stop();
    this.device.memory = []; // a test may have kept it from letting go
    rmSync(this.dir, { recursive: true, force: true });
    // Poll handles are closed by the loop.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The descriptors a trace speaks of; memory and log are the same ones throughout. */
export class Descriptors {
  private readonly frontEnd: MockFrontEnd;
  readonly memory: number;
  readonly log: number;
  readonly events: number[] = [];

  constructor(frontEnd: MockFrontEnd) {
    this.frontEnd = frontEnd;
    this.memory = frontEnd.memfd(MEMORY_SIZE);
    this.log = frontEnd.memfd(LOG_SIZE);
  }

  make(kind: FdKind): number {
    switch (kind) {
      case 'memory':
        return this.memory;
      case 'log':
        return this.log;
      case 'socket':
        return this.frontEnd.socket();
      case 'event': {
        const fd = this.frontEnd.eventFd();
        this.events.push(fd);
        return fd;
      }
    }
  }
}

/** Says a trace; where the front-end waits for a reply, so do we, and it must be for that request with flags 0x5. */
export async function replay(
  frontEnd: MockFrontEnd,
  trace: Trace,
  fds = new Descriptors(frontEnd),
): Promise<DataView[]> {
  const replies: DataView[] = [];
  for (const { request, payload, needReply, fds: kinds, waits } of trace) {
    const options = { needReply, fds: kinds.map((kind) => fds.make(kind)) };
    if (waits) replies.push(await frontEnd.ask(request, payload, options));
    else frontEnd.send(request, payload, options);
  }
  return replies;
}

/** Says a trace without a look at what comes back. */
export function blurt(frontEnd: MockFrontEnd, trace: readonly Step[], fds = new Descriptors(frontEnd)): void {
  for (const { request, payload, needReply, fds: kinds } of trace) {
    const sent = frontEnd.sendRaw(
      encode(request, payload, { needReply }),
      kinds.map((kind) => fds.make(kind)),
    );
    if (!sent) return;
  }
}
