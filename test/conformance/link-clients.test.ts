/** The service as it is run: who gets the address, what MTU is offered, and tags that have a priority only. */
import { loadNative } from '../../src/native';
import { describeWith, setUpBench, type Bench } from '../e2e/support';
import { useBench, startGuest, stopGuest } from '../support/guest/exercises';
import { GATEWAY_4, HOST_ADDRESS_4, whyNoNamespaces } from '../support/world/host-world';
import { datagram, bytes } from '../support/stack/link-rig';
import { StreamClient } from '../support/stream/stream-client';

jest.setTimeout(30_000);

const ip4 = (text: string): number[] => text.split('.').map(Number);
const macOf = (n: number): string =>
  `52 54 00 00 ${[n >> 8, n & 255].map((b) => b.toString(16).padStart(2, '0')).join(' ')}`;

/** A client's message of the type given, tagged if so. */
function dhcp(mac: string, type: number, tagged = false): Uint8Array {
  const fixed = bytes('01 01 06 00 deadbeef 00000000', new Uint8Array(16), mac, new Uint8Array(202));
  const request = bytes(fixed, '63825363 3501', [type], 'ff');
  const frame = datagram('0.0.0.0', 68, '255.255.255.255', 67, request, { srcMac: mac });
  return tagged ? bytes(frame.subarray(0, 12), '8100 e000', frame.subarray(12)) : frame;
}

/** DHCP messages to the client, by their type (option 53 comes first) and address. */
const isDhcp = (frame: Buffer): boolean =>
  frame.readUInt16BE(12) === 0x0800 && frame[23] === 17 && frame.readUInt16BE(36) === 68;
const typeOf = (frame: Buffer): number => frame[42 + 242];
const addressOf = (frame: Buffer): number[] => [...frame.subarray(42 + 16, 42 + 20)];

describeWith('clients on a stream', whyNoNamespaces(), () => {
  let bench: Bench;
  const clients: StreamClient[] = [];
  const connect = async (): Promise<StreamClient> => {
    const client = await StreamClient.connect(bench.socketPath);
    clients.push(client);
    return client;
  };

  beforeAll(async () => {
    bench = await setUpBench(['--stream']);
  });
  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.destroy()));
  });
  afterAll(async () => {
    await bench.destroy();
  });

  test('the first gets the address, a thousand others do not, and the log says so once', async () => {
    const client = await connect();
    client.send(dhcp(macOf(1), 3));
    expect(addressOf(await client.receive(isDhcp))).toEqual(ip4(HOST_ADDRESS_4));
    // A DISCOVER of each other client hears nothing; a REQUEST is refused, so that the answers can be counted.
    for (let n = 2; n < 1000; n++) {
      client.send(dhcp(macOf(n), 1));
      client.send(dhcp(macOf(n), 3));
      expect(typeOf(await client.receive(isDhcp))).toBe(6);
    }
    client.send(dhcp(macOf(1), 3));
    expect(typeOf(await client.receive(isDhcp))).toBe(5);
    const said = bench.service.process.tail(100).split('\n');
    expect(said.filter((line) => line.includes('one address for one client'))).toHaveLength(1);
    expect(said.filter((line) => line.includes('Ethernet address is')).length).toBeLessThanOrEqual(8);
  });

  test('the next client of the stream is another guest, perhaps: it gets it', async () => {
    const client = await connect();
    client.send(dhcp(macOf(2), 3));
    expect(typeOf(await client.receive(isDhcp))).toBe(5);
  });

  test('a priority tag is as none', async () => {
    const client = await connect();
    client.send(dhcp(macOf(3), 3, true));
    const answer = await client.receive(isDhcp);
    expect([typeOf(answer), addressOf(answer)]).toEqual([5, ip4(HOST_ADDRESS_4)]);
    expect([...answer.subarray(26, 30)]).toEqual(ip4(GATEWAY_4));
  });
});

describeWith('NET_SET_MTU', whyNoNamespaces(), () => {
  const native = loadNative();
  let bench: Bench;

  useBench([], (made) => {
    bench = made;
  });

  test('what the front-end says is offered, for as long as it is there', async () => {
    for (const hostMtu of [1500, undefined, 9000]) {
      const guest = await startGuest(native, bench.service, hostMtu === undefined ? {} : { hostMtu });
      const lease = await guest.dhcp();
      expect(lease.mtu).toBe(hostMtu ?? 65520);
      await guest.slaac();
      await stopGuest(guest);
    }
  });
});
