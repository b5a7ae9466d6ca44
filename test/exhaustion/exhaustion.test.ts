/**
 * The service while its system calls fail: descriptors, memory, buffers and ports run out under a guest at work
 * (test/fixtures/dataplane/exhaust.cjs, preloaded into the real service). What could not be done may be lost; afterwards
 * everything is there again, and nothing is left over.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { withTimeout } from '../support/guest/connection';
import type { Guest } from '../support/guest/guest';
import { noise } from '../support/guest/noise';
import {
  FORWARDED_PORT,
  GUEST_PORT,
  REMOTES,
  SERVICE_ARGS,
  closeGuests,
  configure,
  datagrams,
  echo,
  expectAlive,
  inbound,
  killGuest,
  openFds,
  pings,
  startGuest,
  stopGuest,
} from '../support/guest/exercises';
import { GATEWAY_4, HOST_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';
import { poll } from '../support/world/processes';

jest.setTimeout(60_000);

/** How long a guest works while calls fail, and how long guests come and go. */
const WORK_MS = 2000;
const COME_AND_GO_MS = 1500;
const LONGEST_WORK_MS = 15_000;
/** What takes a second of a processor takes longer where more than one want it. */
const shareOf = (): number => Math.max(1, loadavg()[0] / availableParallelism());
const SERVED_MS = 1000;
/** Longest that one thing a guest does is waited for while calls fail. */
const TRY_MS = 300;
/** How often each thing is done at a time. */
const LANES = 4;
/** Complaints of the service about itself. */
const OWN_FAULTS = /internal error|data plane failed|data plane hangs|keeps failing|uncaught|unhandled|ERR_|Error:/i;
/** The log has a budget for each site. */
const MOST_LINES = 500;

/** Of a thousand calls so many fail; in runs of so many on average. */
const STORMS = [
  { title: '1 % of calls', seed: 1, permille: 10, run: 1 },
  { title: '3 % of calls, in runs of 10', seed: 2, permille: 30, run: 10 },
  { title: '10 % of calls', seed: 3, permille: 100, run: 1 },
  { title: '10 % of calls, in runs of 100', seed: 4, permille: 100, run: 100 },
];

describeWith('exhaustion', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;
  let dir: string;
  let baseline = 0;
  let turnOn = (): void => undefined;

  const plan = (seed: number, permille: number, run: number): void =>
    writeFileSync(join(dir, 'plan'), new Uint8Array(Int32Array.of(seed, permille, run).buffer), { flag: 'r+' });

  /** How many calls failed so far. */
  function failures(): number {
    return readFileSync(join(dir, 'made')).filter((byte) => byte === 0x0a).length;
  }

  /** A guest that boots has no flows: those of the one before it are closed. Descriptors once it has left, too. */
  async function afterBoot(): Promise<number> {
    const { service } = bench;
    const guest = await startGuest(native, service);
    const flows = async (): Promise<true | null> => ((await service.metric('tubetti_flows')) === 0 ? true : null);
    await poll('no flows', flows, 5000, 20);
    await stopGuest(guest);
    const left = async (): Promise<true | null> =>
      (await service.metric('tubetti_guest_connected')) === 0 ? true : null;
    await poll('its end', left, 5000, 20);
    return openFds(service);
  }

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'tubetti-exhaust-'));
    writeFileSync(join(dir, 'plan'), new Uint8Array(12));
    writeFileSync(join(dir, 'made'), '');
    const preload = join(__dirname, '../fixtures/dataplane/exhaust.cjs');
    bench = await setUpBench(SERVICE_ARGS, false, { TUBETTI_EXHAUST: dir, NODE_OPTIONS: `--require ${preload}` });
    const guest = await startGuest(native, bench.service);
    await configure(guest, undefined);
    await pings(guest);
    await datagrams(guest, bench);
    await expectAlive(guest, bench);
    await stopGuest(guest);
    baseline = await afterBoot();
  });

  afterEach(() => {
    plan(0, 0, 1);
    closeGuests();
  });

  afterAll(async () => {
    await bench.destroy();
    rmSync(dir, { recursive: true });
  });

  /** A TCP echo either way; a connection that did not come to its end is reset. */
  async function exchange(guest: Guest, address: string): Promise<void> {
    const stream = await guest.tcpConnect(address, bench.world.remote.ports.echo, { rtoMs: 100 });
    try {
      const data = noise(50_000, 1);
      await withTimeout(Promise.all([stream.readAll(), stream.write(data).then(() => stream.end())]), TRY_MS, 'echo');
    } finally {
      stream.reset();
    }
  }

  async function fromOutside(guest: Guest): Promise<void> {
    const { host } = bench.world;
    const listener = guest.tcpListen(GUEST_PORT);
    const socket = guest.udpBind(GUEST_PORT);
    try {
      const client = host.call('tcpEcho', { address: HOST_ADDRESS_4, port: FORWARDED_PORT, bytes: 20_000 });
      client.catch(() => undefined);
      void host
        .call('udpEcho', { address: '127.0.0.1', port: FORWARDED_PORT, bytes: 1400, timeoutMs: TRY_MS })
        .catch(() => undefined);
      const answer = socket.recv().then(({ addr, port, data }) => socket.send(addr, port, data));
      answer.catch(() => undefined);
      const stream = await withTimeout(listener.accept(), TRY_MS, 'a connection');
      await withTimeout(stream.readAll(), TRY_MS, 'its bytes').catch(() => undefined);
      stream.reset();
    } finally {
      listener.close();
      socket.close();
    }
  }

  /** What was on its way through a forwarded port when nobody took it comes to the next guest. */
  async function takeOldDatagrams(guest: Guest): Promise<void> {
    const socket = guest.udpBind(GUEST_PORT);
    for (;;) {
      const came = await socket.recv(TRY_MS).then(
        () => true,
        () => false,
      );
      if (!came) break;
    }
    socket.close();
  }

  async function datagram(guest: Guest, address: string): Promise<void> {
    const socket = guest.udpBind();
    try {
      await socket.send(address, bench.world.remote.ports.udp, noise(1400, 5));
      await socket.recv(TRY_MS);
    } finally {
      socket.close();
    }
  }

  /** What a guest does all day, over and over until `end`; what fails, fails. Returns how much came to its end. */
  async function work(guest: Guest, end: number): Promise<number> {
    let done = 0;
    const lanes: (() => Promise<unknown>)[] = [
      () => guest.dhcp([], TRY_MS),
      () => guest.slaac(TRY_MS),
      () => guest.dhcp6(TRY_MS),
      () => fromOutside(guest),
      ...Array.from({ length: LANES }, () => REMOTES)
        .flat()
        .flatMap((address) => [
          () => exchange(guest, address),
          () => datagram(guest, address),
          () => guest.ping(address, { timeoutMs: TRY_MS }),
          () => guest.tcpConnect(address, 9),
        ]),
    ];
    await Promise.all(
      lanes.map(async (lane) => {
        while (performance.now() < end && !guest.frontEnd.connection.isClosed) {
          const came = await withTimeout(lane(), 3 * TRY_MS, 'one thing').then(
            () => 1,
            () => 0,
          );
          done += came;
          await new Promise((resolve) => setImmediate(resolve));
        }
      }),
    );
    return done;
  }

  /** A guest, or null if it is not served soon. One that is served later leaves at once. */
  async function start(): Promise<Guest | null> {
    const starting = startGuest(native, bench.service, { tcp: { timeWaitMs: 20 } });
    try {
      return await withTimeout(starting, TRY_MS, 'a start');
    } catch {
      void starting.then(killGuest, () => undefined);
      return null;
    }
  }

  /** Guests that come, ask for an address and go, each in another way. The last one stays, if it came so far. */
  async function comeAndGo(): Promise<Guest | null> {
    turnOn();
    const end = performance.now() + COME_AND_GO_MS;
    let guest: Guest | null = null;
    for (let n = 0; performance.now() < end; n++) {
      if (guest !== null && n % 2 === 0) killGuest(guest);
      else if (guest !== null) await stopGuest(guest).catch(() => undefined);
      guest = await start();
      await guest?.dhcp([], TRY_MS).catch(() => undefined);
      if (n % 3 !== 0 || guest === null) continue;
      // A front-end whose memory was refused on the way has rings that never start.
      const booted = await guest.reboot().then(
        () => true,
        () => false,
      );
      if (booted) continue;
      killGuest(guest);
      guest = null;
    }
    return guest;
  }

  /** A guest at work, the same one as long as its session lives. */
  async function workThrough(): Promise<Guest | null> {
    const end = performance.now() + WORK_MS;
    let guest = await start();
    let done = 0;
    if (guest !== null) await configure(guest, undefined);
    turnOn();
    // On a machine that others use, too, a guest may need longer than that to be served at all.
    const last = end + LONGEST_WORK_MS;
    while (performance.now() < (done > 0 ? end : last)) {
      guest ??= await start();
      if (guest === null) continue;
      done += await work(guest, Math.max(end, performance.now() + TRY_MS));
      if (!guest.frontEnd.connection.isClosed) continue;
      killGuest(guest);
      guest = null;
    }
    expect(done).toBeGreaterThan(0);
    return guest;
  }

  /**
   * A guest's SYNs have a share of the data plane's time (tcp/admission-bounds.ts). Calls that fail cost it more than others
   * here, as each is written down: what was overdrawn grows back in some tenths of a second.
   */
  async function untilConnected(guest: Guest): Promise<void> {
    const stream = await guest.tcpConnect(REMOTES[0], bench.world.remote.ports.echo, { rtoMs: 50 });
    stream.reset();
  }

  /** All is as if nothing had been. `guest` lived through it: a session that lives has rings and tables that work. */
  async function expectUnharmed(guest: Guest | null, mark: number): Promise<void> {
    const { service } = bench;
    expect(service.process.exitStatus).toBeNull();
    if (guest !== null) {
      await guest.dhcp();
      await guest.slaac();
      await guest.ping(GATEWAY_4);
      await untilConnected(guest);
      for (const address of REMOTES) await echo(guest, bench, address, 100_000);
      // A guest that has no address yet gets what was on its way to the one before it.
      expect(guest.violations.filter((text) => !text.endsWith(` for ${HOST_ADDRESS_4}`))).toEqual([]);
      killGuest(guest);
    }
    closeGuests();
    const began = performance.now();
    // As a front-end that connects again until it is served: those that gave up may still wait in the backlog before it.
    const next = await poll('a session', start, SERVED_MS * shareOf(), 1);
    await next.dhcp();
    await next.ping(GATEWAY_4);
    expect(performance.now() - began).toBeLessThan(SERVED_MS * shareOf());
    await configure(next, undefined);
    await pings(next);
    await datagrams(next, bench);
    await takeOldDatagrams(next);
    await inbound(next, bench);
    await expectAlive(next, bench);
    expect(next.violations).toEqual([]);
    await stopGuest(next);
    await afterBoot();
    // Some are closed by a thread of their own.
    await poll('descriptors as before', () => (openFds(service) <= baseline ? true : null), 5000, 20);
    expect(await service.metric('tubetti_data_plane_restarts_total')).toBe(0);
    expect(service.process.lines.slice(mark).filter((line) => OWN_FAULTS.test(line))).toEqual([]);
    expect(service.process.lines.length - mark).toBeLessThan(MOST_LINES);
  }

  describe.each(STORMS)('$title', ({ seed, permille, run }) => {
    test.each([
      ['a guest at work', seed, workThrough],
      ['guests that come and go', seed + 100, comeAndGo],
    ] as const)('%s', async (_title, theSeed, storm) => {
      const mark = bench.service.process.lines.length;
      const before = failures();
      const signals = setInterval(() => bench.service.process.kill('SIGURG'), 5);
      turnOn = () => plan(theSeed, permille, run);
      const guest = await storm().finally(() => {
        clearInterval(signals);
        plan(0, 0, 1);
      });
      expect(failures() - before).toBeGreaterThan(0);
      await expectUnharmed(guest, mark).catch((error: unknown) => {
        if (error instanceof Error) error.message += `\n--- service\n${bench.service.process.tail(30)}`;
        throw error;
      });
    });
  });
});
