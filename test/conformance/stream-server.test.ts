/** The service as it is run, on a stream socket: clients that come, go, and break the protocol. */
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { GATEWAY_4, whyNoNamespaces } from '../support/world/host-world';
import { poll } from '../support/world/processes';
import { Service } from '../support/world/service';
import { StreamClient } from '../support/stream/stream-client';
import { framed } from '../support/stream/stream-rig';

jest.setTimeout(30_000);

const ip4 = (text: string): number[] => text.split('.').map(Number);
const MAC = [0x52, 0x54, 0, 0, 0, 1];

/** Who has the gateway's address? */
const ARP = Buffer.from([
  ...[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, ...MAC, 0x08, 0x06],
  ...[0, 1, 0x08, 0, 6, 4, 0, 1, ...MAC, ...ip4('192.0.2.10'), 0, 0, 0, 0, 0, 0, ...ip4(GATEWAY_4)],
]);
/** An answer to it, and not the service's own question. */
const isReply = (frame: Buffer): boolean => frame.readUInt16BE(12) === 0x0806 && frame.readUInt16BE(20) === 2;

async function expectServed(client: StreamClient): Promise<void> {
  client.send(ARP);
  const reply = await client.receive(isReply);
  expect(reply).toHaveLength(60);
  expect([...reply.subarray(28, 32)]).toEqual(ip4(GATEWAY_4));
}

describeWith('a stream socket', whyNoNamespaces(), () => {
  let bench: Bench;
  const clients: StreamClient[] = [];
  const connect = async (): Promise<StreamClient> => {
    const client = await StreamClient.connect(bench.socketPath);
    clients.push(client);
    return client;
  };
  const resets = (): Promise<number> => bench.service.metric('tubetti_stream_resets_total');

  beforeAll(async () => {
    bench = await setUpBench(['--stream']);
  });

  // The service serves one client at a time.
  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.destroy()));
  });

  afterAll(async () => {
    await bench.destroy();
  });

  test('clients one after the other; one that left in the middle of a frame does the next no harm', async () => {
    for (let cut = 0; cut < 4 + ARP.length; cut += 3) {
      const client = await connect();
      client.write(framed(ARP).subarray(0, cut));
      await client.receive(() => true); // it was taken on before it left
      await client.destroy();
    }
    await expectServed(await connect());
    expect(await resets()).toBe(0);
  });

  test.each([0, 13, 65536, 0xffffffff])(
    'a length of %d: closed and counted, and the next is served',
    async (length) => {
      const before = await resets();
      const client = await connect();
      await expectServed(client);
      const bytes = Buffer.alloc(20);
      bytes.writeUInt32BE(length);
      client.write(bytes);
      await client.closed;
      await expectServed(await connect());
      expect(await resets()).toBe(before + 1);
      const said = bench.service.process.tail(20);
      expect(said).toContain(`frame length ${length} is out of range (14 to 65535)`);
    },
  );

  test('a second client is turned away, and the first stays', async () => {
    const first = await connect();
    await expectServed(first);
    const second = await connect();
    await second.closed;
    await expectServed(first);
  });

  test('a client that reads nothing gets whole frames, and answers again, once it reads', async () => {
    const before = await resets();
    const lazy = await connect();
    await expectServed(lazy);
    lazy.pause();
    // Answers to these fill its socket; what finds no room is dropped, as with a guest without receive buffers.
    const full = async (): Promise<true | null> => {
      for (let i = 0; i < 10_000; i++) lazy.send(ARP);
      return (await bench.service.metric('tubetti_stream_blocked_total')) > 0 ? true : null;
    };
    await poll('a full socket', full, 20_000);
    lazy.resume();
    await expectServed(lazy);
    expect(await resets()).toBe(before);
  });

  // The last one: the service that is left is another.
  test('--one-off: the end of the client is the end of the service, status 0', async () => {
    await bench.service.stop('SIGKILL');
    const { world, socketPath } = bench;
    bench.service = await Service.start({ world, socketPath, args: ['--stream', '--one-off'] });
    const client = await connect();
    await expectServed(client);
    await client.destroy();
    expect(await bench.service.process.exited).toEqual({ code: 0, signal: null });
  });
});
