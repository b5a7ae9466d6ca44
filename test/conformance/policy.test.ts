/** The running service's policy, and a guest that tries to get around it. */
import { loadNative } from '../../src/native';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { be16, concat, parseAddr } from '../support/guest/bytes';
import { closeGuests, startGuest } from '../support/guest/exercises';
import type { Guest } from '../support/guest/guest';
import { ETHER_IPV4, ETHER_IPV6, ethernet, ipHeader, PROTO_UDP, udp } from '../support/guest/packets';
import { split } from '../support/stack/fragments';
import {
  GATEWAY_4,
  HOST_ADDRESS_4,
  REMOTE_ADDRESS_4,
  REMOTE_ADDRESS_6,
  whyNoNamespaces,
} from '../support/world/host-world';

jest.setTimeout(60_000);

/** Addresses of "remote" that no rule allows. */
const OTHER_4 = '198.51.100.2';
const OTHER_6 = '2001:db8:0:2::2';
const ECHO = 7007;

describeWith('a policy of addresses', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;
  let guest: Guest;
  let tcpPort: number;

  beforeAll(async () => {
    bench = await setUpBench(['-t', '2222:22']);
    await bench.service.stop();
    const { remote } = bench.world;
    tcpPort = remote.ports.echo;
    await remote.call('udpEchoOn', { port: ECHO });
    await bench.restartWith([
      ...['--allow', `tcp/${REMOTE_ADDRESS_4}:${tcpPort}`, '--allow', `udp/[${REMOTE_ADDRESS_6}]:${ECHO}`],
      ...['--allow', `icmp/${REMOTE_ADDRESS_4}`],
    ]);
  });

  beforeEach(async () => {
    guest = await startGuest(native, bench.service);
    await guest.dhcp();
    await guest.slaac();
  });

  afterEach(closeGuests);

  afterAll(async () => {
    await bench.destroy();
  });

  const refused = (address: string, port: number): Promise<unknown> =>
    expect(guest.tcpConnect(address, port, { rtoMs: 5000 })).rejects.toMatchObject({ code: 'ECONNREFUSED' });

  test('what is allowed works, all else is refused at once', async () => {
    const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, tcpPort);
    await stream.write(Buffer.from('hello'));
    expect(Buffer.from(await stream.readExactly(5)).toString()).toBe('hello');
    await guest.ping(REMOTE_ADDRESS_4);
    const start = performance.now();
    // By literal addresses: another address of the same server, another port, the other family, the host by its names.
    await refused(OTHER_4, tcpPort);
    await refused(REMOTE_ADDRESS_4, tcpPort + 1);
    await refused(REMOTE_ADDRESS_6, tcpPort);
    await refused(GATEWAY_4, tcpPort);
    expect(performance.now() - start).toBeLessThan(4000);
    const page = await bench.service.metricsPage();
    expect(page).toContain(
      `tubetti_policy_verdicts_total{rule="tcp/${REMOTE_ADDRESS_4}:${tcpPort}",verdict="allow"} 1`,
    );
    expect(await bench.service.metric('tubetti_drops_total', { reason: 'policy_denied' })).toBeGreaterThanOrEqual(4);
  });

  test('datagrams and echo requests get errors of both families', async () => {
    const socket = guest.udpBind();
    await socket.send(REMOTE_ADDRESS_6, ECHO, 'allowed');
    expect(Buffer.from((await socket.recv()).data).toString()).toBe('allowed');
    await socket.send(OTHER_6, ECHO, 'not');
    expect(await socket.nextError()).toMatchObject({ type: 1, code: 1, dst: OTHER_6, dport: ECHO });
    await socket.send(REMOTE_ADDRESS_4, ECHO, 'not');
    expect(await socket.nextError()).toMatchObject({ type: 3, code: 13, dst: REMOTE_ADDRESS_4, dport: ECHO });
    await expect(guest.ping(OTHER_4)).rejects.toThrow(/type 3/);
    await expect(guest.ping(REMOTE_ADDRESS_6)).rejects.toThrow(/type 1/);
  });

  test('errors are few however many flows are refused, and those of others go on', async () => {
    const sockets = Array.from({ length: 200 }, () => guest.udpBind());
    for (const socket of sockets) await socket.send(OTHER_4, ECHO, 'flood');
    const errors = await Promise.allSettled(sockets.map((socket) => socket.nextError(300)));
    expect(errors.filter(({ status }) => status === 'fulfilled').length).toBeLessThan(20);
    await guest.ping(REMOTE_ADDRESS_4);
  });

  test('fragments and a v4-mapped destination are no way around', async () => {
    const denied = await bench.service.metric('tubetti_drops_total', { reason: 'policy_denied' });
    const socket = guest.udpBind();
    const inPieces = async (address: string, text: string): Promise<void> => {
      const dst = parseAddr(address);
      const src = guest.link.source(dst);
      const datagram = udp(src, dst, socket.port, ECHO, Buffer.from(text));
      const type = dst.length === 4 ? ETHER_IPV4 : ETHER_IPV6;
      const packet = concat(ipHeader(src, dst, PROTO_UDP, datagram.length), datagram);
      const frame = ethernet(await guest.link.nextHop(dst), guest.link.mac, type, packet);
      // The first piece alone does not even have all of the UDP header.
      for (const piece of split(frame, 8)) guest.sendFrame(piece);
    };
    await inPieces(REMOTE_ADDRESS_6, 'in many pieces');
    expect(Buffer.from((await socket.recv()).data).toString()).toBe('in many pieces');
    await inPieces(OTHER_6, 'in many pieces');
    expect(await socket.nextError()).toMatchObject({ type: 1, code: 1, dst: OTHER_6 });
    await inPieces(REMOTE_ADDRESS_4, 'in many pieces');
    expect(await socket.nextError()).toMatchObject({ type: 3, code: 13, dst: REMOTE_ADDRESS_4 });
    expect(await bench.service.metric('tubetti_drops_total', { reason: 'policy_denied' })).toBe(denied + 2);
    const mapped = await bench.service.metric('tubetti_drops_total', { reason: 'destination_invalid' });
    const payload = concat(be16(socket.port), be16(ECHO), be16(8), be16(0));
    await guest.link.send(Uint8Array.from([...Buffer.alloc(10), 0xff, 0xff, 198, 51, 100, 2]), PROTO_UDP, payload);
    await guest.ping(REMOTE_ADDRESS_4);
    expect(await bench.service.metric('tubetti_drops_total', { reason: 'destination_invalid' })).toBe(mapped + 1);
  });

  test('what comes in by a forwarded port is answered, from every sender', async () => {
    const listener = guest.tcpListen(22);
    const client = bench.world.remote.call('tcpEcho', { address: HOST_ADDRESS_4, port: 2222, bytes: 1000 });
    const stream = await listener.accept();
    await stream.write(await stream.readAll());
    void stream.end();
    const { sent, received } = await client;
    expect(received.sha256).toBe(sent.sha256);
  });

  test('what is near is not to be had by groups and broadcasts either', async () => {
    const GROUP = '239.1.2.3';
    const PORT = 5007;
    await bench.world.remote.call('groupResponder', { group: GROUP, address: GATEWAY_4, port: PORT });
    const asks = async (address: string, ms = 2000): Promise<string> => {
      const socket = guest.udpBind();
      await socket.send(address, PORT, 'who is there?');
      const answered = socket.recv(ms).then(({ data }) => Buffer.from(data).toString());
      const refusedNow = socket.nextError(ms).then(({ type, code }) => `error ${type}/${code}`);
      const [first] = await Promise.allSettled([Promise.any([answered, refusedNow])]);
      return first.status === 'fulfilled' ? first.value : 'nothing';
    };
    const serve = async (...argv: string[]): Promise<void> => {
      closeGuests();
      await bench.service.stop();
      await bench.restartWith(argv);
      guest = await startGuest(native, bench.service);
      await guest.dhcp();
      await guest.slaac();
    };
    await serve('--allow', 'any');
    expect(await asks(GROUP)).toBe('who is there?');
    const ICMP = '--deny icmp/host';
    for (const argv of ['--deny host --deny lan --deny metadata', '--deny lan', `--deny udp/host ${ICMP}`]) {
      await serve(...argv.split(' '));
      // No ICMP error answers what was sent to a group (RFC 1122 §3.2.2).
      expect([argv, await asks(GROUP, 300)]).toEqual([argv, 'nothing']);
      const before = await bench.service.metric('tubetti_drops_total', { reason: 'policy_denied' });
      for (const address of ['255.255.255.255', '192.0.2.255', 'ff02::fb']) {
        const socket = guest.udpBind();
        await socket.send(address, 5353, 'who is there?');
      }
      await guest.ping('ff02::1', { timeoutMs: 300 }).catch(() => undefined);
      const after = await bench.service.metric('tubetti_drops_total', { reason: 'policy_denied' });
      expect([argv, after - before]).toEqual([argv, 4]);
    }
  });
});
