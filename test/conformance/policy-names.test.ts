/** Names in the running service's policy, with a resolver and a server of their own, and a guest that cheats. */
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { readFileSync, writeFileSync } from 'node:fs';
import { loadNative } from '../../src/native';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { closeGuests, startGuest } from '../support/guest/exercises';
import type { Guest } from '../support/guest/guest';
import type { UdpSocket } from '../support/guest/udp';
import { GATEWAY_4, REMOTE_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';
import { command, type ManagedProcess, poll } from '../support/world/processes';
import { startPolicyRemote } from '../support/world/policy-remote';
import { GREASE, hello, realHello, serverName } from '../support/stack/client-hello';
import { dnsAnswer, dnsQuery } from '../support/stack/dns';
import { cryptoFrame, helloMessage, initialPacket, QUIC_V1, QUIC_V2, quicHello } from '../support/stack/quic';

jest.setTimeout(60_000);

/** "Good" and "bad" servers share an address, and "alone" has one of its own. */
const SHARED = '198.51.100.80';
const ALONE = '198.51.100.81';
const SHARED_6 = '2001:db8:0:2:0:0:0:80';
/** What the service answers itself. */
const PRINTER = '198.51.100.82';
/** The guest's own idea of a resolver. */
const OTHER_RESOLVER = '198.51.100.53';

const NAMES = {
  'good.example': [SHARED, SHARED_6],
  'bad.example': [SHARED],
  'alone.example': [ALONE],
  // The owner of the name points it at the host's loopback, and at the cloud's.
  'rebinding.example': [GATEWAY_4, '169.254.169.254'],
};

const POLICY = `
rules:
  - allow: ['good.example:443', 'rebinding.example', 'printer.example:443', 'inside.example:9', 'icmp/any']
sni: require
`;

describeWith('a policy of names', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;
  let guest: Guest;
  let remote: ManagedProcess;
  let flowLog: string;

  beforeAll(async () => {
    bench = await setUpBench();
    await bench.service.stop();
    const addresses = [SHARED, ALONE, PRINTER, OTHER_RESOLVER].map((a) => `ip addr add ${a}/32 dev lo;`).join(' ');
    const script = `${addresses} ip addr add ${SHARED_6}/128 dev lo nodad`;
    await command(bench.world.inRemote(['sh', '-ec', script]));
    remote = await startPolicyRemote(bench.world, NAMES);
    const file = join(bench.scratch, 'policy.yaml');
    writeFileSync(file, POLICY);
    flowLog = join(bench.scratch, 'flows.log');
    const given = [`printer.example=${PRINTER}`, `unknown.example=${PRINTER}`, `inside.example=${GATEWAY_4}`];
    const names = given.flatMap((one) => ['--dns-name', one]);
    await bench.restartWith(['--policy', file, '--flow-log', flowLog, ...names]);
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
  });

  let id = 0;
  /** The answer's code, and how many records it has. */
  const lookUp = async (
    name: string,
    type = 1,
    server = REMOTE_ADDRESS_4,
  ): Promise<{ rcode: number; records: number }> => {
    const socket = guest.udpBind();
    await socket.send(server, 53, dnsQuery(++id, name, type));
    const { data } = await socket.recv();
    expect([(data[0] << 8) | data[1], data[2] >> 7]).toEqual([id, 1]);
    return { rcode: data[3] & 0xf, records: (data[6] << 8) | data[7] };
  };

  const refused = (address: string, port = 443): Promise<unknown> =>
    expect(guest.tcpConnect(address, port, { rtoMs: 5000 })).rejects.toMatchObject({ code: 'ECONNREFUSED' });

  /** What the server got first of `pieces`, or the error's code. */
  const greet = async (address: string, pieces: readonly Uint8Array[]): Promise<string> => {
    const stream = await guest.tcpConnect(address, 443, { rtoMs: 5000 });
    try {
      for (const piece of pieces) {
        await stream.write(piece);
        await stream.flush();
      }
      return Buffer.from(await stream.readAll()).toString();
    } catch (error) {
      return (error as { code?: string }).code ?? String(error);
    }
  };

  test('an address is open when its name was looked up, and to those who name its server', async () => {
    await refused(SHARED);
    expect(await lookUp('good.example')).toEqual({ rcode: 0, records: 1 });
    const bytes = await realHello('good.example');
    expect(await greet(SHARED, [bytes])).toBe(bytes.toString('hex'));
    await refused(SHARED, 80);
    await refused(SHARED_6);
    expect(await lookUp('good.example', 28)).toEqual({ rcode: 0, records: 1 });
    expect(await greet(SHARED_6, [bytes])).toBe(bytes.toString('hex'));
    expect(await bench.service.metric('tubetti_policy_verdicts_total', { rule: 'good.example:443' })).toBe(2);
  });

  test('flows to an address have the name that the guest found it by', async () => {
    await lookUp('good.example');
    await refused(SHARED, 81);
    const line = await poll(
      'the flow in the log',
      () =>
        readFileSync(flowLog, 'utf8')
          .split('\n')
          .find((text) => text.includes(`{"address":"${SHARED}","port":81}`)) ?? null,
      10_000,
    );
    expect(JSON.parse(line)).toMatchObject({ name: 'good.example', reason: 'denied' });
  });

  test('a hello in segments of a byte, with extensions that nobody knows: the server gets it whole', async () => {
    await lookUp('good.example');
    const bytes = hello([...GREASE, ...serverName('good.example')], 50);
    const pieces = Array.from(bytes, (byte) => Uint8Array.of(byte));
    expect(await greet(SHARED, pieces)).toBe(Buffer.from(bytes).toString('hex'));
  });

  test('another name of the same address, none, or no TLS: reset, and the server saw nothing', async () => {
    await lookUp('good.example');
    const before = await bench.service.metric('tubetti_drops_total', { reason: 'policy_denied' });
    for (const bytes of [await realHello('bad.example'), hello(GREASE), Buffer.from('GET / HTTP/1.1\r\n\r\n')]) {
      expect(await greet(SHARED, [bytes])).toBe('ECONNRESET');
    }
    // The name a byte at a time is the same name.
    const bad = hello(serverName('bad.example'));
    expect(
      await greet(
        SHARED,
        Array.from(bad, (byte) => Uint8Array.of(byte)),
      ),
    ).toBe('ECONNRESET');
    expect(await bench.service.metric('tubetti_drops_total', { reason: 'policy_denied' })).toBe(before + 4);
  });

  test('names that are not allowed are not looked up, by UDP or TCP, and their addresses stay closed', async () => {
    expect(await lookUp('bad.example')).toEqual({ rcode: 5, records: 0 });
    expect(await lookUp('alone.example')).toEqual({ rcode: 5, records: 0 });
    expect(await lookUp('exfiltrated-data.attacker.example', 16)).toEqual({ rcode: 5, records: 0 });
    const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, 53);
    const query = dnsQuery(1, 'alone.example');
    await stream.write(Uint8Array.from([0, query.length, ...query]));
    await expect(stream.readAll()).rejects.toMatchObject({ code: 'ECONNRESET' });
    expect(remote.tail(1000)).not.toMatch(/query (bad|alone|exfil)/);
    await refused(ALONE);
  });

  test('by TCP, too, an answer opens its addresses', async () => {
    await refused(SHARED);
    const stream = await guest.tcpConnect(REMOTE_ADDRESS_4, 53);
    const query = dnsQuery(77, 'good.example');
    await stream.write(Uint8Array.from([0, query.length, ...query]));
    const [high, low] = await stream.readExactly(2);
    await stream.readExactly((high << 8) | low);
    const bytes = hello(serverName('good.example'));
    expect(await greet(SHARED, [bytes])).toBe(Buffer.from(bytes).toString('hex'));
  });

  test('another resolver is not to be had, nor answers that the guest makes itself', async () => {
    const socket = guest.udpBind();
    await socket.send(OTHER_RESOLVER, 53, dnsQuery(1, 'good.example'));
    expect(await socket.nextError()).toMatchObject({ type: 3, code: 13, dport: 53 });
    await refused(OTHER_RESOLVER, 53);
    // A message to the resolver that is an answer is no query.
    await socket.send(REMOTE_ADDRESS_4, 53, dnsAnswer(1, 'good.example', [{ name: 'good.example', a: ALONE }]));
    await guest.ping(REMOTE_ADDRESS_4);
    await refused(ALONE);
  });

  const hash = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');
  /** What the server says to have got. */
  const heard = async (socket: UdpSocket): Promise<string> => Buffer.from((await socket.recv()).data).toString();

  test.each([
    ['1', QUIC_V1],
    ['2', QUIC_V2],
  ])('QUIC version %s names its server in the first datagram, over both families', async (_name, version) => {
    await lookUp('good.example');
    await lookUp('good.example', 28);
    for (const address of [SHARED, SHARED_6]) {
      const socket = guest.udpBind();
      const datagram = quicHello('good.example', randomBytes(8), version);
      await socket.send(address, 443, datagram);
      expect(await heard(socket)).toBe(hash(datagram));
      // Packets with a short header follow: as many as there are, and not only the first.
      for (let i = 0; i < 20; i++) await socket.send(address, 443, Buffer.from([0x40, i]));
      for (let i = 0; i < 20; i++) expect(await heard(socket)).toBe(hash(Buffer.from([0x40, i])));
    }
  });

  test('a hello of QUIC in datagrams out of order: the server gets them when it is complete, and in their order', async () => {
    await lookUp('good.example');
    const message = helloMessage('good.example', GREASE);
    const destination = randomBytes(8);
    const part = (number: number, from: number, to: number): Buffer =>
      initialPacket({ destination, number, frames: [cryptoFrame(message.slice(from, to), from)] });
    const datagrams = [part(0, 40, message.length), part(1, 0, 20), part(2, 20, 40)];
    const socket = guest.udpBind();
    for (const datagram of datagrams.slice(0, 2)) await socket.send(SHARED, 443, datagram);
    await expect(socket.recv(200)).rejects.toThrow();
    await socket.send(SHARED, 443, datagrams[2]);
    for (const datagram of datagrams) expect(await heard(socket)).toBe(hash(datagram));
  });

  test('datagrams that the device cuts are read each: a hello in two, and a hidden one behind what is harmless', async () => {
    await lookUp('good.example');
    const message = helloMessage('good.example');
    const destination = randomBytes(8);
    const parts = [message.slice(20), message.slice(0, 20)].map((part, number) =>
      initialPacket({ destination, number, frames: [cryptoFrame(part, number === 0 ? 20 : 0)] }),
    );
    const socket = guest.udpBind();
    await socket.sendMany(SHARED, 443, Buffer.concat(parts), 1200);
    for (const part of parts) expect(await heard(socket)).toBe(hash(part));
    const data = Buffer.alloc(1200, 0x40);
    await socket.sendMany(SHARED, 443, Buffer.concat([data, quicHello('bad.example', randomBytes(8))]), 1200);
    expect(await socket.nextError()).toMatchObject({ type: 3, code: 13, dport: 443 });
  });

  test('QUIC to another name of the address, of no known version, or none: an error at once, and the server saw nothing', async () => {
    await lookUp('good.example');
    const bad = [
      quicHello('bad.example', randomBytes(8)),
      initialPacket({ version: 0xbabababa, destination: randomBytes(8), frames: [] }),
      Buffer.concat([quicHello('good.example', randomBytes(8)).subarray(0, 1199), Buffer.from([0])]),
      Buffer.from([0x40, 1, 2, 3]),
      Buffer.from('DTLS, say'),
    ];
    for (const datagram of bad) {
      const socket = guest.udpBind();
      await socket.send(SHARED, 443, datagram);
      expect(await socket.nextError()).toMatchObject({ type: 3, code: 13, dport: 443 });
      await expect(socket.recv(50)).rejects.toThrow();
    }
  });

  test('a connection hidden behind one that is allowed has to name its server, too', async () => {
    await lookUp('good.example');
    const socket = guest.udpBind();
    const good = quicHello('good.example', Buffer.from('firstone'));
    await socket.send(SHARED, 443, good);
    expect(await heard(socket)).toBe(hash(good));
    await socket.send(SHARED, 443, quicHello('bad.example', Buffer.from('secondid')));
    expect(await socket.nextError()).toMatchObject({ type: 3, code: 13, dport: 443 });
    expect(socket.received).toHaveLength(0);
  });

  test('Initial packets that nobody can open, as many as there may be, take a bounded part of the time', async () => {
    await lookUp('good.example');
    const socket = guest.udpBind();
    const good = quicHello('good.example', randomBytes(8));
    await socket.send(SHARED, 443, good);
    expect(await heard(socket)).toBe(hash(good));
    const drops = (reason: string): Promise<number> => bench.service.metric('tubetti_drops_total', { reason });
    const before = { read: await drops('policy_denied'), unread: await drops('flow_limit') };
    const start = performance.now();
    const count = 20_000;
    const garbage = Buffer.from(quicHello('good.example', randomBytes(8)));
    for (let i = 0; i < count; i++) {
      // Another destination each, so the keys are derived again.
      garbage.writeUInt32BE(i, 6);
      await socket.send(SHARED, 443, garbage);
      if (i % 200 === 0) await guest.driver.drained();
    }
    await guest.ping(REMOTE_ADDRESS_4);
    const read = (await drops('policy_denied')) - before.read;
    const unread = (await drops('flow_limit')) - before.unread;
    expect(read + unread).toBe(count);
    // A sixteenth of the time and what was saved up (src/stack/kit/credit.ts); none is read in less than 15 µs.
    expect(read).toBeLessThan(((performance.now() - start) / 16 + 20) / 0.015);
    expect(unread).toBeGreaterThan(0);
    // Others get through as soon as there is time again.
    const other = guest.udpBind();
    await poll(
      'a hello that is read',
      async () => {
        await other.send(SHARED, 443, good);
        return other.recv(200).catch(() => null);
      },
      10_000,
    );
  });

  test('a name that leads to the host or the metadata service opens neither', async () => {
    expect(await lookUp('rebinding.example')).toEqual({ rcode: 0, records: 2 });
    await refused(GATEWAY_4, bench.service.metricsPort);
    await refused(GATEWAY_4, 22);
    await refused('169.254.169.254', 80);
  });

  test('names that the user gave (--dns-name) open their addresses, private ones too, to the rules of the name', async () => {
    const bytes = hello(serverName('printer.example'));
    await refused(PRINTER);
    expect(await lookUp('unknown.example')).toEqual({ rcode: 0, records: 1 });
    await refused(PRINTER);
    expect(await lookUp('Printer.example')).toEqual({ rcode: 0, records: 1 });
    expect(await greet(PRINTER, [bytes])).toBe(Buffer.from(bytes).toString('hex'));
    await refused(PRINTER, 80);
    const verdicts = (): Promise<number> =>
      bench.service.metric('tubetti_policy_verdicts_total', { rule: 'inside.example:9', verdict: 'allow' });
    // Nobody listens there: the policy says nothing against it, however.
    await refused(GATEWAY_4, 9);
    expect(await verdicts()).toBe(0);
    await lookUp('inside.example');
    await refused(GATEWAY_4, 9);
    expect(await verdicts()).toBe(1);
  });

  test('a guest that has rebooted has looked nothing up', async () => {
    await lookUp('good.example');
    await guest.reboot();
    await guest.dhcp();
    await refused(SHARED);
  });
});
