/**
 * Forwarded ports at an interface or an address, while the host's interfaces and addresses come, go and change under the
 * running service, without orders to it. Needs a build.
 */
import { loadNative } from '../../src/native';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { closeGuests, startGuest } from '../support/guest/exercises';
import type { Guest } from '../support/guest/guest';
import type { UdpSocket } from '../support/guest/udp';
import { whyNoNamespaces } from '../support/world/host-world';
import { command, poll } from '../support/world/processes';

jest.setTimeout(60_000);

const HERE_4 = '10.77.0.2';
const HERE_6 = '2001:db8:77::2';
const LINK_LOCAL = 'fe80::77';
const WAIT_MS = 10_000;

/** Protocol, what is forwarded, and where clients of the other side connect to. */
const FORWARDS = [
  ['tcp', '%lan0/8001:80', HERE_4, 8001],
  ['tcp', '%lan0/8001:80', HERE_6, 8001],
  ['tcp', `${HERE_4}%lan0/8002:80`, HERE_4, 8002],
  ['tcp', `${HERE_4}/8003:80`, HERE_4, 8003],
  ['tcp', `${HERE_6}%lan0/8004:80`, HERE_6, 8004],
  ['tcp', `${HERE_6}/8005:80`, HERE_6, 8005],
  ['tcp', `${LINK_LOCAL}%lan0/8006:80`, `${LINK_LOCAL}%lan1`, 8006],
  ['udp', '%lan0/8001:53', HERE_4, 8001],
  ['udp', '%lan0/8001:53', HERE_6, 8001],
  ['udp', `${HERE_4}%lan0/8002:53`, HERE_4, 8002],
  ['udp', `${HERE_4}/8003:53`, HERE_4, 8003],
  ['udp', `${HERE_6}/8005:53`, HERE_6, 8005],
] as const;

const ADDRESSES = (device: string): string => `
  ip addr add ${HERE_4}/24 dev ${device}
  ip addr add ${HERE_6}/64 dev ${device} nodad
  ip addr add ${LINK_LOCAL}/64 dev ${device} nodad`;

describeWith('forwarded ports follow the host', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;
  let guest: Guest;
  let listener: ReturnType<Guest['tcpListen']>;
  let datagrams: UdpSocket;

  const onHost = (script: string): Promise<string> => command(bench.world.inHost(['sh', '-ec', script]));

  /** A new cable; the other end, on the remote side, is lan1. */
  async function plug(): Promise<void> {
    await onHost('ip link add lan0 type veth peer name lan1');
    await bench.world.moveToRemote('lan1');
    const script = `
      ip addr add 10.77.0.1/24 dev lan1
      ip addr add 2001:db8:77::1/64 dev lan1 nodad
      ip addr add fe80::1/64 dev lan1 nodad
      ip link set lan1 up`;
    await command(bench.world.inRemote(['sh', '-ec', script]));
    await onHost(`ip link set lan0 up; ${ADDRESSES('lan0')}`);
  }

  beforeAll(async () => {
    bench = await setUpBench();
    await bench.service.stop();
    await plug();
    const specs = new Set(FORWARDS.map(([protocol, spec]) => `${protocol === 'tcp' ? '-t' : '-u'} ${spec}`));
    await bench.restartWith([...specs].flatMap((words) => words.split(' ')));
    guest = await startGuest(native, bench.service);
    await guest.dhcp();
    await guest.slaac();
    await guest.dhcp6();
    listener = guest.tcpListen(80);
    datagrams = guest.udpBind(53);
  });

  afterAll(async () => {
    closeGuests();
    await bench.destroy();
  });

  async function works(protocol: 'tcp' | 'udp', address: string, port: number): Promise<boolean> {
    const { remote } = bench.world;
    if (protocol === 'udp') {
      const asked = remote.call('udpEcho', { address, port, bytes: 100, timeoutMs: 500 });
      const answered = datagrams.recv(500).then(({ addr, port: from, data }) => datagrams.send(addr, from, data));
      const [{ ok }] = await Promise.all([asked, answered.catch(() => undefined)]);
      return ok;
    }
    const asked = remote.call('tcpEcho', { address, port, bytes: 1000 }).then(
      ({ received }) => received.bytes === 1000,
      () => false,
    );
    const served = listener.accept(500).then(async (stream) => {
      await stream.write(await stream.readAll());
      await stream.end();
    });
    const [ok] = await Promise.all([asked, served.catch(() => undefined)]);
    return ok;
  }

  /** All forwards work, or will soon. */
  async function expectAll(except: (spec: string) => boolean = () => false): Promise<void> {
    for (const [protocol, spec, address, port] of FORWARDS) {
      if (except(spec)) continue;
      await poll(
        `${protocol} ${spec} at ${address}`,
        async () => ((await works(protocol, address, port)) ? true : null),
        WAIT_MS,
        100,
      );
    }
  }

  test('from the start', async () => {
    await expectAll();
  });

  test('the addresses go, and come back', async () => {
    await onHost(`ip addr flush dev lan0; ${ADDRESSES('lan0')}`);
    await expectAll();
  });

  test('the link goes down, and up', async () => {
    await onHost(
      `ip link set lan0 down; ip link set lan0 up; ${ADDRESSES('lan0').replaceAll('\n', ' 2>/dev/null || true\n')}`,
    );
    await expectAll();
  });

  test('the interface has other addresses', async () => {
    await onHost('ip addr add 10.77.0.3/24 dev lan0');
    await poll('the other address', async () => ((await works('tcp', '10.77.0.3', 8001)) ? true : null), WAIT_MS, 100);
    await onHost('ip addr del 10.77.0.3/24 dev lan0');
  });

  test('the interface is removed, and there is another one of that name', async () => {
    await onHost('ip link del lan0');
    await plug();
    await expectAll();
  });

  test('the interface is renamed: it works on; then there is another one of its name, which has the ports', async () => {
    await onHost(
      `ip link set lan0 down; ip link set lan0 name lan9; ip link set lan9 up; ${ADDRESSES('lan9').replaceAll('\n', ' 2>/dev/null || true\n')}`,
    );
    await expectAll();
    await command(bench.world.inRemote(['ip', 'link', 'set', 'lan1', 'name', 'lan8']));
    await command(bench.world.inRemote(['sh', '-ec', 'ip addr flush dev lan8']));
    await onHost('ip addr flush dev lan9');
    await plug();
    await expectAll();
    await onHost('ip link del lan9');
  });
});
