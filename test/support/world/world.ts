/** Servers and clients inside a network namespace: the caller's end of world-server.ts. */
import { join } from 'node:path';
import { ManagedProcess, dieWithParent } from './processes';
import { REPO_ROOT } from './paths';
import type { ServerPorts, WorldCall, WorldCalls, WorldReply, WorldRequest } from './world-protocol';

export class World {
  readonly ports: ServerPorts;
  private readonly server: ManagedProcess;
  private readonly waiting: Map<number, (reply: WorldReply) => void>;
  private static nextId = 1;

  private constructor(server: ManagedProcess, waiting: Map<number, (reply: WorldReply) => void>, ports: ServerPorts) {
    this.server = server;
    this.waiting = waiting;
    this.ports = ports;
  }

  /** `enter`: the command that enters the namespace. */
  static async start(name: string, enter: readonly string[]): Promise<World> {
    const hook = join(REPO_ROOT, 'scripts/lib/ts-hook.cjs');
    const argv = [process.execPath, '--require', hook, join(REPO_ROOT, 'test/support/world/world-server.ts')];
    const server = new ManagedProcess(name, [...enter, ...dieWithParent(argv)], { ipc: true });
    const waiting = new Map<number, (reply: WorldReply) => void>();
    server.child.on('message', (message) => {
      const reply = message as WorldReply;
      waiting.get(reply.id)?.(reply);
    });
    server.child.on('error', () => undefined);
    void server.exited.then(() => {
      for (const [id, settle] of waiting) settle({ id, error: `${name} ended:\n${server.tail()}` });
    });
    const ports = await call(server, waiting, World.nextId++, 'listen', {});
    return new World(server, waiting, ports);
  }

  call<C extends WorldCall>(name: C, args: WorldCalls[C]['args']): Promise<WorldCalls[C]['result']> {
    return call(this.server, this.waiting, World.nextId++, name, args);
  }

  async stop(): Promise<void> {
    await this.server.stop('SIGKILL');
  }
}

async function call<C extends WorldCall>(
  server: ManagedProcess,
  waiting: Map<number, (reply: WorldReply) => void>,
  id: number,
  name: C,
  args: WorldCalls[C]['args'],
): Promise<WorldCalls[C]['result']> {
  const reply = await new Promise<WorldReply>((settle) => {
    if (server.exitStatus !== null) {
      settle({ id, error: `${server.name} has ended:\n${server.tail()}` });
      return;
    }
    waiting.set(id, settle);
    const request: WorldRequest = { id, call: name, args };
    server.child.send(request, (error) => {
      if (error !== null) settle({ id, error: error.message });
    });
  });
  waiting.delete(id);
  if (reply.error !== undefined) throw new Error(`${name} in ${server.name}: ${reply.error}`);
  return reply.result as WorldCalls[C]['result'];
}
