/**
 * What happens to a service in its life, fast: connections either way, datagrams, addresses, reboots, VMMs that end or are
 * killed, other MTUs and memory tables, a host that sleeps. Nothing here breaks a rule; what is looked for is what is left.
 */
import { withTimeout } from '../support/guest/connection';
import * as vu from '../support/guest/constants';
import { Guest } from '../support/guest/guest';
import type { FrontEndStyle } from '../support/guest/front-end';
import { noise } from '../support/guest/noise';
import { HOST_ADDRESS_4, HOST_ADDRESS_6, REMOTE_ADDRESS_4, REMOTE_ADDRESS_6 } from '../support/world/host-world';
import { GUEST_MAC } from './frames';
import type { Seeded } from './random';
import type { Target } from './sequences';

const EVENTS_PER_SEQUENCE = 16;
const CONNECTIONS = 100;
const AT_ONCE = 25;
const INBOUND = 40;
const DATAGRAMS = 100;
const LEASES = 20;
const TRY_MS = 5000;
const REMOTES = [REMOTE_ADDRESS_4, REMOTE_ADDRESS_6];
const HOST_ADDRESSES = [HOST_ADDRESS_4, HOST_ADDRESS_6, '127.0.0.1', '::1'];
const STYLES: readonly FrontEndStyle[] = ['qemu10', 'qemu7', 'uml'];
const NO_SLOTS = ~vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** `count` of something, some at a time. Returns how many came to their end. */
async function many(count: number, once: (i: number) => Promise<unknown>): Promise<number> {
  let next = 0;
  let done = 0;
  const lane = async (): Promise<void> => {
    while (next < count) {
      const came = await withTimeout(once(next++), TRY_MS, 'one of many').then(
        () => 1,
        () => 0,
      );
      done += came;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  return done;
}

class Life {
  private readonly target: Target;
  private readonly random: Seeded;
  private guest: Guest | null = null;

  constructor(target: Target, random: Seeded) {
    this.target = target;
    this.random = random;
  }

  /** The guest, booted and with its addresses. */
  private async booted(): Promise<Guest> {
    if (this.guest !== null) return this.guest;
    const { native, socket } = this.target;
    const random = this.random;
    const end = performance.now() + TRY_MS;
    for (;;) {
      try {
        const style = random.pick(STYLES);
        // Regions one by one, or a table of all.
        const one =
          style !== 'uml' && random.oneIn(2) ? { protocolFeatures: vu.QEMU_PROTOCOL_FEATURES & NO_SLOTS } : {};
        this.guest = await Guest.start(native, {
          socket,
          mac: GUEST_MAC,
          style,
          ...one,
          tcp: { timeWaitMs: 20 },
          ram: { size: 32 << 20 },
          hostMtu: random.pick([1280, 1500, 9000, 65520]),
        });
        break;
      } catch (error) {
        if (performance.now() > end) throw error;
        await pause(10); // turned away: the one before it is not quite gone
      }
    }
    await this.configure(this.guest);
    return this.guest;
  }

  private async configure(guest: Guest): Promise<void> {
    await guest.dhcp();
    await guest.slaac();
    await guest.dhcp6();
    this.target.tally.happened('leases', 1);
  }

  /** Connections of the guest's, each ended in one of the ways there are. */
  private async outbound(guest: Guest): Promise<void> {
    const { echo, blob } = this.target.world.remote.ports;
    const done = await many(CONNECTIONS, async (i) => {
      const stream = await guest.tcpConnect(REMOTES[i % 2], i % 5 === 0 ? blob : echo);
      try {
        const data = noise(1000 + i, i);
        await stream.write(data);
        if (i % 5 !== 0) await stream.readExactly(data.length);
        if (i % 3 === 0) return;
        await stream.end();
        await stream.readAll();
        await stream.closed;
      } finally {
        stream.reset();
      }
    });
    this.target.tally.happened('connections', done);
  }

  private async inbound(guest: Guest): Promise<void> {
    const { host } = this.target.world;
    const listener = guest.tcpListen(22);
    let serving = true;
    const serve = async (): Promise<void> => {
      while (serving) {
        const stream = await listener.accept();
        const data = await stream.readAll();
        await stream.write(data);
        await stream.end();
      }
    };
    const server = serve().catch(() => undefined);
    const ask = (i: number): Promise<unknown> =>
      host.call('tcpEcho', { address: HOST_ADDRESSES[i % 4], port: 2222, bytes: 2000 });
    this.target.tally.happened('connections', await many(INBOUND, ask));
    serving = false;
    listener.close();
    void server;
  }

  private async datagrams(guest: Guest): Promise<void> {
    const done = await many(DATAGRAMS, async (i) => {
      const udp = guest.udpBind();
      try {
        await udp.send(REMOTES[i % 2], this.target.world.remote.ports.udp, noise(500, i));
        await udp.recv();
      } finally {
        udp.close();
      }
    });
    this.target.tally.happened('datagrams', done);
  }

  private async leases(guest: Guest): Promise<void> {
    for (let i = 0; i < LEASES; i++) {
      await guest.dhcp();
      await guest.slaac();
    }
    this.target.tally.happened('leases', LEASES);
  }

  private async reboot(guest: Guest): Promise<void> {
    await guest.reboot();
    await this.configure(guest);
    this.target.tally.happened('lives', 1);
  }

  /** The VMM ends, in good order or not. The next one may have another MTU, another style, other rings. */
  private async end(guest: Guest): Promise<void> {
    this.guest = null;
    if (this.random.oneIn(2)) await guest.stop();
    else guest.close();
    this.target.tally.happened('lives', 1);
  }

  /** A new memory table, as when memory is added to a guest: rings are stopped for it. */
  private async memory(guest: Guest): Promise<void> {
    const { frontEnd } = guest;
    if (frontEnd.style === 'uml' || (frontEnd.protocolFeatures | NO_SLOTS) !== NO_SLOTS) return;
    for (let i = 0; i < 5; i++) {
      await guest.pause();
      await frontEnd.setMemory();
      await guest.resume();
    }
    await guest.ping(REMOTE_ADDRESS_4);
    this.target.tally.happened('memory tables', 5);
  }

  /** The host sleeps: nothing of the service runs, while the guest's clock goes on. */
  private async sleep(guest: Guest): Promise<void> {
    const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, this.target.world.remote.ports.echo);
    this.target.signal('SIGSTOP');
    try {
      await stream.write(noise(1000, 1));
      await pause(50 + this.random.below(400));
    } finally {
      this.target.signal('SIGCONT');
    }
    await stream.readExactly(1000);
    stream.reset();
    this.target.tally.happened('sleeps', 1);
  }

  async run(): Promise<void> {
    const events = [
      (guest: Guest) => this.outbound(guest),
      (guest: Guest) => this.outbound(guest),
      (guest: Guest) => this.inbound(guest),
      (guest: Guest) => this.datagrams(guest),
      (guest: Guest) => this.leases(guest),
      (guest: Guest) => this.reboot(guest),
      (guest: Guest) => this.end(guest),
      (guest: Guest) => this.memory(guest),
      (guest: Guest) => this.sleep(guest),
    ];
    try {
      for (let i = 0; i < EVENTS_PER_SEQUENCE; i++) {
        await withTimeout(this.random.pick(events)(await this.booted()), 30_000, 'an event of a life');
      }
    } finally {
      this.guest?.close();
    }
  }
}

export async function life(target: Target, random: Seeded): Promise<void> {
  try {
    await new Life(target, random).run();
  } catch (error) {
    // Nobody broke a rule here: nothing may fail.
    target.tally.finds.push(`life --seed ${String(random.seed)}: ${String(error)}`);
  }
}
