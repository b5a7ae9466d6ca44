/**
 * What happens when a plane of the service fails: the data plane is replaced under the running guest, the control plane
 * ends the process. The faults are made by test/fixtures/dataplane/faults.cjs, which is preloaded into the real service.
 */
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { ControlClient } from '../../src/ctl/client';
import type { Guest } from '../support/guest/guest';
import { closeGuests, echo, expectAlive, startGuest } from '../support/guest/exercises';
import { GATEWAY_4, REMOTE_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';
import { openFdsOf } from '../support/open-fds';
import { poll } from '../support/world/processes';
import { PROGRAM, connected, launchProgram, SAME_USER } from '../support/program';

jest.setTimeout(40_000);

/** From the fault, or from its detection, to an answer on the old rings, on a machine that has a processor for us. */
const BACK_MS = 1000;
/** How many want each processor: what takes a second of one takes so many then. */
const shareOf = (): number => Math.max(1, loadavg()[0] / availableParallelism());
/** What the end may take; the limit is 3 s. */
const END_MS = 3500;

describeWith('the service survives', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;
  let dir: string;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'tubetti-faults-'));
    expect(spawnSync('mkfifo', [join(dir, 'fifo')]).status).toBe(0);
    const preload = join(__dirname, '../fixtures/dataplane/faults.cjs');
    const env = { TUBETTI_FAULTS: dir, NODE_OPTIONS: `--require ${preload}` };
    bench = await setUpBench(['--control', join(dir, 'control')], false, env);
  });

  beforeEach(async () => {
    if (bench.service.process.exitStatus !== null) await bench.restart();
  });

  afterEach(() => {
    closeGuests();
    writeFileSync(join(dir, 'die-on-ring'), '');
  });

  afterAll(async () => {
    await bench.destroy();
    rmSync(dir, { recursive: true });
  });

  const wake = (guest: Guest): void => void guest.ping(GATEWAY_4, { timeoutMs: 100 }).catch(() => undefined);

  /** Asks for the fault, and has the loop turn until it is there. */
  async function bringAbout(name: string, guest: Guest): Promise<void> {
    const done = statSync(join(dir, 'done')).size;
    appendFileSync(join(dir, 'asked'), name[0]);
    await poll(
      `the fault "${name}"`,
      () => {
        if (statSync(join(dir, 'done')).size > done) return true;
        wake(guest);
        return null;
      },
      5000,
      5,
    );
  }

  async function answered(guest: Guest): Promise<void> {
    await poll(
      'an answer',
      () =>
        guest.ping(GATEWAY_4, { timeoutMs: 50 }).then(
          () => true,
          () => null,
        ),
      20_000,
      1,
    );
  }

  const restarts = (reason: string): Promise<number> =>
    bench.service.metric('tubetti_data_plane_restarts_total', { reason });

  const used = (guest: Guest): number => {
    const { ram, rings } = guest.frontEnd;
    return ram.view.getUint16(rings[1].layout.used.offset + 2, true);
  };

  test.each([
    ['throw', 'exit', /data plane failed, starting a new one .*a fault of the test/],
    ['loop', 'hung', /data plane hangs, starting a new one .*its event loop is stuck/],
    ['heap', 'heap', /data plane is out of memory, starting a new one/],
  ])('a data plane that meets "%s": another one has the same rings', async (name, reason, line) => {
    const { service, world } = bench;
    const guest = await startGuest(native, service);
    await expectAlive(guest, bench);
    const lost = await guest.tcpConnect(REMOTE_ADDRESS_4, world.remote.ports.echo);
    const before = { restarts: await restarts(reason), used: used(guest) };
    const mark = service.process.mark();
    await bringAbout(name, guest);
    // Filling a heap takes as long as it takes: there the time runs from its end.
    if (name === 'heap') await service.process.waitForLine(line, 20_000, mark);
    const began = performance.now();
    await answered(guest);
    const tookMs = performance.now() - began;
    await service.process.waitForLine(line, 1000, mark);
    expect(service.process.lines.filter((l) => line.test(l))).toHaveLength(1);
    expect(await restarts(reason)).toBe(before.restarts + 1);
    expect(tookMs).toBeLessThan(BACK_MS * shareOf());
    expect(used(guest)).toBeGreaterThan(before.used);
    // Its flow went with the one that died, and is not counted any more.
    expect(await service.metric('tubetti_flows', { protocol: 'tcp' })).toBe(0);
    await expect(lost.write(Buffer.from('!')).then(() => lost.flush())).rejects.toMatchObject({ code: 'ECONNRESET' });
    await echo(guest, bench, REMOTE_ADDRESS_4, 300_000);
    expect(guest.violations).toEqual([]);
  });

  test('a turn that closes very many flows is no hang', async () => {
    const guest = await startGuest(native, bench.service);
    await expectAlive(guest, bench);
    const before = await restarts('hung');
    await bringAbout('close', guest);
    await answered(guest);
    expect(await restarts('hung')).toBe(before);
  });

  test('a capture ends with the data plane that wrote it, and the next one has captures of its own', async () => {
    const client = new ControlClient(join(dir, 'control'));
    const guest = await startGuest(native, bench.service);
    await expectAlive(guest, bench);
    const { id, stream } = await client.capture();
    await answered(guest);
    const before = openFdsOf(bench.service.process.pid);
    await bringAbout('throw', guest);
    // To its end, which is no error.
    let bytes = 0;
    for await (const chunk of stream) bytes += (chunk as Buffer).length;
    expect(bytes).toBeGreaterThan(24);
    expect((await client.captures()).find((one) => one.id === id)).toMatchObject({ reason: 'data-plane' });
    await answered(guest);
    const again = await client.capture({ packets: 2 });
    await answered(guest);
    bytes = 0;
    for await (const chunk of again.stream) bytes += (chunk as Buffer).length;
    expect(bytes).toBeGreaterThan(24 + 2 * 16);
    expect((await client.captures()).find((one) => one.id === again.id)).toMatchObject({ reason: 'limit', packets: 2 });
    await poll('descriptors', () => (openFdsOf(bench.service.process.pid) <= before ? true : null), 10_000);
  });

  test('state that each data plane dies of costs its session, not the service', async () => {
    const { service } = bench;
    const mark = service.process.mark();
    writeFileSync(join(dir, 'die-on-ring'), 'yes');
    // Its start may fail, or it may come to its end before it sees the connection close.
    await startGuest(native, service).catch(() => undefined);
    await service.process.waitForLine(/front-end connection closed: .*died 3 times/, 5000, mark);
    expect(service.process.lines.slice(-30).filter((l) => l.includes('a ring of the test'))).toHaveLength(3);
    writeFileSync(join(dir, 'die-on-ring'), '');
    await expectAlive(await startGuest(native, service), bench);
    expect(service.process.exitStatus).toBeNull();
  });

  test('front-ends that kill it one after the other do not end it', async () => {
    const { service } = bench;
    writeFileSync(join(dir, 'die-on-ring'), 'yes');
    for (let i = 0; i < 4; i++) {
      const mark = service.process.mark();
      await startGuest(native, service).catch(() => undefined);
      await service.process.waitForLine(/front-end connection closed/, 5000, mark);
      closeGuests();
    }
    writeFileSync(join(dir, 'die-on-ring'), '');
    await expectAlive(await startGuest(native, service), bench);
  });

  test('a data plane that does not return from a system call is replaced, and left behind at the end', async () => {
    const { service } = bench;
    const guest = await startGuest(native, service);
    await guest.dhcp();
    const mark = service.process.mark();
    await bringAbout('block', guest);
    await service.process.waitForLine(/data plane hangs/, 20_000, mark);
    await expectAlive(guest, bench);
    const began = performance.now();
    expect(await service.stop()).toEqual({ code: 0, signal: null });
    expect(performance.now() - began).toBeLessThan(END_MS);
  });

  test('hangs that take seconds to be noticed, one after the other, cost the session and not the service', async () => {
    const { service } = bench;
    const guest = await startGuest(native, service);
    await expectAlive(guest, bench);
    const mark = service.process.mark();
    const ended = service.process.waitForLine(/the data plane died 3 times with this front-end's rings/, 30_000, mark);
    const { connection } = guest.frontEnd;
    for (let hangs = 0; hangs < 3; hangs++) {
      await answered(guest);
      const hung = service.process.waitForLine(/data plane hangs, starting a new one/, 20_000, service.process.mark());
      await bringAbout('block', guest);
      await hung;
    }
    await ended;
    await poll('the end of the session', () => (connection.isClosed ? true : null), 5000);
    closeGuests();
    await expectAlive(await startGuest(native, service), bench);
    // Three of its threads wait for ever by now.
    await service.stop('SIGKILL');
  });

  test.each(['loop', 'block'])('SIGTERM while the data plane hangs ("%s")', async (name) => {
    const { service } = bench;
    const guest = await startGuest(native, service);
    await guest.dhcp();
    await bringAbout(name, guest);
    const began = performance.now();
    const { code, signal } = await service.stop();
    expect(performance.now() - began).toBeLessThan(END_MS);
    expect([code, signal]).not.toEqual([null, 'SIGKILL']);
  });

  test('SIGTERM while the control plane hangs', async () => {
    const { service } = bench;
    await expectAlive(await startGuest(native, service), bench);
    process.kill(service.process.pid, 'SIGUSR2');
    const began = performance.now();
    service.process.kill('SIGTERM');
    await service.process.waitForLine(/the end took too long|the control plane hangs/, END_MS);
    const { code } = await service.process.exited;
    expect([1, 70]).toContain(code);
    expect(performance.now() - began).toBeLessThan(END_MS);
  });

  test('a control plane that hangs while somebody waits for it ends the process', async () => {
    const { service } = bench;
    await expectAlive(await startGuest(native, service), bench);
    const loops = service.process.waitForLine(/the control plane loops/, 5000);
    process.kill(service.process.pid, 'SIGUSR2');
    await loops; // a connection that it takes before leaves nobody waiting
    const waiting = await connected(bench.socketPath);
    await service.process.waitForLine(/the control plane hangs/, 10_000);
    expect(await service.process.exited).toEqual({ code: 70, signal: null });
    waiting.destroy();
  });

  test('SIGTERM at any moment of the start', async () => {
    await bench.service.stop('SIGKILL');
    for (let ms = 0; ms < 400; ms += 40) {
      const { child, exit } = launchProgram([...PROGRAM, '-f', ...SAME_USER, '--socket', bench.socketPath]);
      await new Promise((resolve) => setTimeout(resolve, ms)); // a moment is what is tested
      const began = performance.now();
      child.kill('SIGTERM');
      const { status, signal } = await exit;
      // Before it listens to signals it ends by them.
      expect([0, 'SIGTERM']).toContain(status ?? signal);
      expect(performance.now() - began).toBeLessThan(END_MS);
    }
  });

  test('a process that was stopped does not hang', async () => {
    const { service } = bench;
    const guest = await startGuest(native, service);
    await expectAlive(guest, bench);
    const before = await restarts('hung');
    service.process.kill('SIGSTOP');
    wake(guest);
    const waiting = await connected(bench.socketPath);
    await new Promise((resolve) => setTimeout(resolve, 2500)); // time itself is what is tested
    service.process.kill('SIGCONT');
    waiting.destroy();
    await expectAlive(guest, bench);
    expect(await restarts('hung')).toBe(before);
    expect(service.process.exitStatus).toBeNull();
  });

  test('an idle service sleeps: nobody is woken to look at it', async () => {
    const { service } = bench;
    await expectAlive(await startGuest(native, service), bench);
    closeGuests();
    await poll('the end', async () => ((await service.metric('tubetti_guest_connected')) === 0 ? true : null), 5000);
    const switches = (): number => {
      const tid = spawnSync('sh', ['-c', `grep -l watchdog /proc/${service.process.pid}/task/*/comm`], {
        encoding: 'utf8',
      }).stdout.trim();
      const status = readFileSync(tid.replace(/comm$/, 'status'), 'utf8');
      return Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)?.[1]);
    };
    // Once it has parked it stays so.
    await poll(
      'two seconds without a wake-up',
      async () => {
        const before = switches();
        await new Promise((resolve) => setTimeout(resolve, 2000));
        return switches() === before ? true : null;
      },
      20_000,
    );
  });
});
