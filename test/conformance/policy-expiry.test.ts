/**
 * Names in the running service's policy, and their time: an answer opens its addresses for its time to live and a grace of a
 * minute. The data plane's clock is set on by test/fixtures/dataplane/faults.cjs, which is preloaded into the real service.
 */
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadNative } from '../../src/native';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { closeGuests, startGuest } from '../support/guest/exercises';
import type { Guest } from '../support/guest/guest';
import { GATEWAY_4, REMOTE_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';
import { command, type ManagedProcess, poll } from '../support/world/processes';
import { startPolicyRemote } from '../support/world/policy-remote';
import { dnsQuery } from '../support/stack/dns';

jest.setTimeout(60_000);

const ADDRESS_4 = '198.51.100.80';
const ADDRESS_6 = '2001:db8:0:2:0:0:0:80';
const NAMES = { 'good.example': [ADDRESS_4, ADDRESS_6] };

/** What the resolver says (policy-remote.cjs), and what the service adds, in steps of the clock, 10 s. */
const TTL_STEPS = 6;
const GRACE_STEPS = 6;

describeWith('the time of a name', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;
  let guest: Guest;
  let remote: ManagedProcess;
  let dir: string;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'tubetti-faults-'));
    expect(spawnSync('mkfifo', [join(dir, 'fifo')]).status).toBe(0);
    const preload = join(__dirname, '../fixtures/dataplane/faults.cjs');
    const env = { TUBETTI_FAULTS: dir, NODE_OPTIONS: `--require ${preload}` };
    bench = await setUpBench(['--allow', 'good.example', '--allow', 'icmp/any'], false, env);
    const script = `ip addr add ${ADDRESS_4}/32 dev lo; ip addr add ${ADDRESS_6}/128 dev lo nodad`;
    await command(bench.world.inRemote(['sh', '-ec', script]));
    remote = await startPolicyRemote(bench.world, NAMES);
  });

  beforeEach(async () => {
    guest = await startGuest(native, bench.service);
    await guest.dhcp();
    await guest.slaac();
  });

  afterEach(closeGuests);

  afterAll(async () => {
    await remote.stop();
    await bench.destroy();
    rmSync(dir, { recursive: true });
  });

  async function advance(steps: number): Promise<void> {
    const wanted = statSync(join(dir, 'done')).size + steps;
    appendFileSync(join(dir, 'asked'), 'a'.repeat(steps));
    await poll(
      'the clock',
      async () => {
        if (statSync(join(dir, 'done')).size >= wanted) return true;
        await guest.ping(GATEWAY_4, { timeoutMs: 100 }).catch(() => undefined);
        return null;
      },
      10_000,
      1,
    );
    // A turn of the loop that began before.
    await guest.ping(GATEWAY_4);
  }

  const lookUp = async (type: number): Promise<void> => {
    const socket = guest.udpBind();
    await socket.send(REMOTE_ADDRESS_4, 53, dnsQuery(type, 'good.example', type));
    expect((await socket.recv()).data[3] & 0xf).toBe(0);
    socket.close();
  };

  test.each([
    ['IPv4', ADDRESS_4, 1, 3],
    ['IPv6', ADDRESS_6, 28, 1],
  ])('%s: when it is over new flows are refused, those that live stay, and a new answer opens it', async (...row) => {
    const [, address, type, unreachable] = row;
    const { echo } = bench.world.remote.ports;
    const connect = (): ReturnType<Guest['tcpConnect']> => guest.tcpConnect(address, echo, { rtoMs: 5000 });
    const refused = (): Promise<unknown> => expect(connect()).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    await refused();
    await lookUp(type);
    const [stream, datagrams] = [await connect(), guest.udpBind()];
    const lives = async (text: string): Promise<void> => {
      await stream.write(Buffer.from(text));
      expect(Buffer.from(await stream.readExactly(text.length)).toString()).toBe(text);
      await datagrams.send(address, 443, text);
      await datagrams.recv();
    };
    await lives('fresh');
    await advance(TTL_STEPS);
    await lives('stale');
    (await connect()).reset();
    // The time runs from the answer, which came a moment ago.
    await advance(GRACE_STEPS - 1);
    await lives('in grace');
    (await connect()).reset();
    await advance(1);
    await refused();
    const late = guest.udpBind();
    await late.send(address, 443, 'new');
    expect(await late.nextError()).toMatchObject({ type: unreachable, dport: 443 });
    await lives('still there');
    await lookUp(type);
    (await connect()).reset();
    await late.send(address, 443, 'new');
    await late.recv();
    expect(guest.violations).toEqual([]);
  });
});
