/** A hostile front-end's memory before the running service: sizes, tables without end, files cut short. */
import { readFileSync, readdirSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { loadNative } from '../../src/native';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import {
  RingWords,
  SERVICE_ARGS,
  closeGuests,
  expectAlive,
  killGuest,
  openFds,
  startGuest,
} from '../support/guest/exercises';
import * as vu from '../support/guest/constants';
import type { Guest } from '../support/guest/guest';
import { HOST_ADDRESS_4, REMOTE_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';
import { poll } from '../support/world/processes';
import { logBase, memTable, u64, type RegionFields } from '../support/vhost/payloads';

jest.setTimeout(60_000);

const MIB = 1 << 20;
const PAGE = 4096;
/** Together more regions than the addon's table has slots. */
const TABLES = 700;
const DIMMS = 7;
const DIMM = 64 * MIB;
/** Regions that may wait for the collection of their garbage, and what else comes and goes in a process. */
const SLACK = 300;

describeWith('the memory of a hostile front-end', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;
  let fds = 0;
  let mappings = 0;

  const maps = (): string[] => readFileSync(`/proc/${bench.service.process.pid}/maps`, 'utf8').split('\n');

  /** Bytes of addresses that the service's process uses: what mappings that were joined to one do not hide. */
  const addresses = (): number => {
    const status = readFileSync(`/proc/${bench.service.process.pid}/status`, 'utf8');
    return 1024 * Number(/^VmSize:\s*(\d+) kB$/m.exec(status)?.[1]);
  };

  /** Nobody is connected, and of what front-ends shared nothing is left. */
  async function rested(): Promise<void> {
    await poll(
      'the end of the session',
      async () => ((await bench.service.metric('tubetti_guest_connected')) === 0 ? true : null),
      5000,
    );
    expect(maps().filter((line) => line.includes('memfd:'))).toEqual([]);
  }

  /** The service has been what it was: a guest is served at once, and nothing was left behind. */
  async function expectUnharmed(): Promise<void> {
    await rested();
    const began = Date.now();
    const next = await startGuest(native, bench.service);
    expect((await next.dhcp()).address).toBe(HOST_ADDRESS_4);
    expect(Date.now() - began).toBeLessThan(1000);
    await expectAlive(next, bench);
    expect(next.violations).toEqual([]);
    killGuest(next);
    await rested();
    await poll('its descriptors', () => (openFds(bench.service) <= fds ? true : null), 5000);
    expect(maps().length).toBeLessThan(mappings + SLACK);
    expect(bench.service.process.exitStatus).toBeNull();
    expect(bench.service.process.lines.filter((line) => line.includes('data plane failed'))).toEqual([]);
  }

  beforeAll(async () => {
    bench = await setUpBench(SERVICE_ARGS);
    const guest = await startGuest(native, bench.service);
    await expectAlive(guest, bench);
    killGuest(guest);
    await rested();
    fds = readdirSync(`/proc/${bench.service.process.pid}/fd`).length;
    mappings = maps().length;
  });

  afterEach(closeGuests);

  afterAll(async () => {
    await bench.destroy();
  });

  test('a dirty log of 8 GiB is no reason to die: the guest goes on, its pages are marked', async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const { frontEnd } = guest;
    const size = 2 ** 33;
    const fd = native.memfdCreate('log', size, 0);
    await frontEnd.connection.call(vu.VHOST_USER_SET_LOG_BASE, logBase(BigInt(size), 0n), [fd]);
    await frontEnd.ask(vu.VHOST_USER_SET_FEATURES, u64(frontEnd.features | vu.VHOST_F_LOG_ALL));
    for (const ring of frontEnd.rings) await frontEnd.ask(vu.VHOST_USER_SET_VRING_ADDR, ring.addrPayload(1));
    await guest.ping(REMOTE_ADDRESS_4);
    const head = native.mapRegion(fd, 0, PAGE);
    const log = new Uint8Array(native.regionBuffer(head));
    for (const { layout } of frontEnd.rings) {
      const page = frontEnd.ram.gpa(layout.used.offset) / PAGE;
      expect((log[page >>> 3] >>> (page & 7)) & 1).toBe(1);
    }
    native.retireRegion(head);
    native.close(fd);
    killGuest(guest);
    await expectUnharmed();
  });

  test(`${TABLES} memory tables in a session, each with ${DIMMS} new regions`, async () => {
    const guest = await startGuest(native, bench.service);
    await guest.dhcp();
    const { connection, ram } = guest.frontEnd;
    const [{ gpa, size, userAddr, mmapOffset }] = ram.regions;
    const own: RegionFields = {
      gpa: BigInt(gpa),
      size: BigInt(size),
      uva: BigInt(userAddr),
      offset: BigInt(mmapOffset),
    };
    const dimms = Array.from({ length: DIMMS }, (_, i): RegionFields => {
      const at = BigInt(i * DIMM);
      return { gpa: 2n ** 40n + at, size: BigInt(DIMM), uva: 0x6000_0000_0000n + at, offset: 0n };
    });
    const files = [native.memfdCreate('dimm', DIMM, 0), native.memfdCreate('dimm', DIMM, 0)];
    const before = addresses();
    const table = memTable([own, ...dimms]);
    let most = 0;
    for (let i = 0; i < TABLES; i++) {
      const fd = files[i % 2];
      expect(await connection.callAck(vu.VHOST_USER_SET_MEM_TABLE, table, [ram.fd, ...dimms.map(() => fd)])).toBe(0n);
      if (i % 10 === 0) most = Math.max(most, addresses() - before);
    }
    expect(most).toBeLessThan(SLACK * DIMM);
    expect(maps().length).toBeLessThan(mappings + SLACK);
    for (const fd of files) native.close(fd);
    await guest.ping(REMOTE_ADDRESS_4);
    killGuest(guest);
    await expectUnharmed();
    expect(addresses() - before).toBeLessThan(SLACK * DIMM);
  });

  /**
   * Sends frames whose bytes lie in every second page from `from` on, until the service has had enough. Returns the most
   * mappings it was seen to have.
   */
  async function touch(guest: Guest, from: number): Promise<number> {
    const { connection, ram, rings } = guest.frontEnd;
    const [, ring] = rings;
    const words = new RingWords(guest, 1);
    let done = ring.usedIdx;
    let page = from;
    let most = 0;
    while (!connection.isClosed) {
      if (ring.usedIdx === done) {
        for (let n = 0; n < ring.size; n++) {
          words.descriptor(n, BigInt(ram.gpa(page)), 64, 0);
          words.offer(n);
          page += 2 * PAGE;
          if (page >= ram.view.byteLength) page = from;
        }
        done = (done + ring.size) & 0xffff;
        ring.kick();
      }
      await turn();
      most = Math.max(most, maps().length);
    }
    return most;
  }

  test('a file cut short under many regions, ten times', async () => {
    const size = 62 * 64 * MIB;
    const regions = Array.from({ length: 62 }, (_, i) => ({ gpa: i * 64 * MIB, size: 64 * MIB }));
    for (let round = 0; round < 10; round++) {
      const guest = await startGuest(native, bench.service, { ringSize: 1024, ram: { size, regions, seals: 0 } });
      await guest.dhcp();
      await guest.driver.drained();
      const { ram, connection } = guest.frontEnd;
      const end = 64 * MIB; // rings and buffers of the driver lie before
      expect(ram.alloc(1)).toBeLessThan(end);
      native.ftruncate(ram.fd, end);
      const most = await touch(guest, end);
      await connection.closed;
      // 512 pages by themselves, and the regions.
      expect(most).toBeLessThan(mappings + 2 * 512 + SLACK);
      killGuest(guest);
      await rested();
    }
    // Once at least: the log has a budget for it.
    await bench.service.process.waitForLine(/guest memory was truncated/, 5000, 0);
    await expectUnharmed();
  });
});
