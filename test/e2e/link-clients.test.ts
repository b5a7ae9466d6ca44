/**
 * Clients that people use, in a real guest: ISC's dhclient, nslookup, dig, tftp, tracepath and others, with Wireshark's word
 * on every frame; and the kernel while the host's network changes.
 */
import type { Guest } from '../support/world/guest';
import { GATEWAY_4, HOST_ADDRESS_4, HOST_ADDRESS_6, HOST_NETWORK_6, RESOLVER } from '../support/world/host-world';
import { hasDhclient } from '../support/world/image';
import { scratchDirectory } from '../support/world/paths';
import { ManagedProcess, command } from '../support/world/processes';
import { bootUml } from '../support/world/uml';
import { fieldsOf, problemsIn, whyNoTshark } from '../support/tshark';
import { DATAGRAM_CASES, prepareWorld } from './datagram-cases';
import { FAMILIES, bringUp } from './network-cases';
import { TRACEPATH_CASES, whyNoPrograms } from './program-cases';
import { describeWith, itShowing, setUpBench, whyNotGuest, type Bench } from './support';

jest.setTimeout(120_000);

const FORWARD = '10.255.255.53';
const FORWARD_6 = 'fd00:53::53';
const ANSWER = '203.0.113.99';

/** A name server on the host's loopback, by datagrams and connections: every name has one address. */
const NAME_SERVER = `
const answer = (query) => {
  let end = 12;
  while (query[end] !== 0) end += 1 + query[end];
  end += 5;
  const wantsA = query.readUInt16BE(end - 4) === 1;
  const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ${ANSWER.replaceAll('.', ', ')}]);
  const reply = Buffer.concat([query.subarray(0, end), ...(wantsA ? [record] : [])]);
  reply.writeUInt16BE(0x8580, 2);
  [1, wantsA ? 1 : 0, 0, 0].forEach((n, i) => reply.writeUInt16BE(n, 4 + 2 * i));
  return reply;
};
const ready = [];
for (const [type, address] of [['udp4', '127.0.0.1'], ['udp6', '::1']]) {
  const socket = require('node:dgram').createSocket(type);
  socket.on('message', (query, from) => socket.send(answer(query), from.port, from.address));
  ready.push(new Promise((bound) => socket.bind(53, address, bound)));
  for (const port of [53, 853]) {
    const server = require('node:net').createServer((connection) => {
      let got = Buffer.alloc(0);
      connection.on('error', () => {}).on('data', (data) => {
        got = Buffer.concat([got, data]);
        if (got.length < 2 || got.length < 2 + got.readUInt16BE(0)) return;
        const reply = answer(got.subarray(2));
        connection.end(Buffer.concat([Buffer.from([0, reply.length]), reply]));
      });
    });
    ready.push(new Promise((bound) => server.listen(port, address, bound)));
  }
}
Promise.all(ready).then(() => console.log('bound'));
`;

/** dhclient's hook: says what it was given. */
const DHCLIENT_4 = `
cat >/run/hook <<'END'
#!/bin/sh
case "$reason" in
  BOUND | REBOOT)
    echo "RESULT dhclient ip=$new_ip_address mask=$new_subnet_mask router=$new_routers dns=$new_domain_name_servers" >/run/lease
    ;;
esac
exit 0
END
chmod +x /run/hook
mkdir -p /var/lib/dhcp
ip link set eth0 up
dhclient -4 -1 -sf /run/hook -pf /run/dhclient4.pid -lf /var/lib/dhcp/leases4 eth0 || exit 1
kill "$(cat /run/dhclient4.pid)"
cat /run/lease
`;

const missing =
  whyNotGuest('uml') ?? (hasDhclient() ? null : 'no dhclient in .cache') ?? whyNoPrograms() ?? whyNoTshark();

describeWith('clients of a uml guest', missing, () => {
  let bench: Bench | undefined;
  let guest: Guest | undefined;
  let names: ManagedProcess | undefined;
  const scratch = scratchDirectory();
  const capture = `${scratch.path}/guest.pcap`;
  const stage = (): { bench: Bench; guest: Guest } => {
    if (bench === undefined || guest === undefined) throw new Error('the guest did not boot');
    return { bench, guest };
  };
  const test = itShowing(
    () => stage().bench,
    () => guest?.process.tail(40) ?? '',
  );

  beforeAll(async () => {
    const resolvers = [
      '--dns-forward',
      FORWARD,
      '--dns-host',
      '127.0.0.1',
      '--dns-forward',
      FORWARD_6,
      '--dns-host',
      '::1',
    ];
    bench = await setUpBench(['-m', '1500', ...resolvers, '--pcap', capture]);
    await prepareWorld(bench);
    names = new ManagedProcess('names', bench.world.inHost([process.execPath, '-e', NAME_SERVER]));
    await names.waitForLine(/^bound$/, 5000);
    guest = await bootUml({ socketPath: bench.socketPath, scratch: bench.scratch });
  });

  afterAll(async () => {
    await guest?.powerOff();
    await names?.stop('SIGKILL');
    await bench?.destroy();
    scratch.remove();
  });

  test('dhclient -4', async () => {
    const lease = await stage().guest.result(DHCLIENT_4, 'dhclient', { timeoutMs: 60_000 });
    expect(lease).toEqual({ ip: HOST_ADDRESS_4, mask: '255.255.255.0', router: GATEWAY_4, dns: RESOLVER });
  });

  test('dhclient -6', async () => {
    for (const family of FAMILIES) await bringUp(stage().guest, family);
    const lease = await stage().guest.result('net-up dhcp6', 'dhcp6', { timeoutMs: 60_000 });
    expect(lease).toMatchObject({ ip: HOST_ADDRESS_6 });
  });

  test('nslookup of an address whose queries go to a resolver on the loopback of the host', async () => {
    expect(await stage().guest.sh(`nslookup name.example.test ${FORWARD}`)).toContain(ANSWER);
  });

  test('dig of it, by datagrams and by connections to ports 53 and 853, in both families', async () => {
    // Few programs: their libraries are long to read through the guest's eyes. What is said of the way holds for all
    // questions of a program.
    const questions = [FORWARD, FORWARD_6].map((server) => `@${server} name.example.test A`);
    await stage().guest.sh(`echo '${questions.join('\n')}' >/tmp/questions`);
    for (const way of ['', '+tcp', '+tcp -p 853']) {
      const output = await stage().guest.sh(`from-host dig ${way} +short +tries=1 -f /tmp/questions`);
      expect(output.trim().split('\n')).toEqual([ANSWER, ANSWER]);
    }
  });

  for (const { title, run } of [...DATAGRAM_CASES, ...TRACEPATH_CASES])
    test(title, () => run({ ...stage(), questions: 0 }));

  test('in all of it, Wireshark finds no malformed packet and no wrong checksum', async () => {
    const { service } = stage().bench;
    const frames = await service.metric('tubetti_captured_frames_total');
    expect(await service.metric('tubetti_capture_lost_total')).toBe(0);
    expect(problemsIn(capture, frames)).toEqual([]);
    // It has seen what the tests above did.
    const layers = fieldsOf(capture, '', ['frame.protocols'], frames).flatMap(([[names]]) => names.split(':'));
    const seen = new Set(layers);
    for (const each of ['dhcp', 'dhcpv6', 'dns', 'ntp', 'tftp', 'icmp', 'icmpv6', 'arp']) expect(seen).toContain(each);
    for (const port of [53, 853]) {
      expect(fieldsOf(capture, `tcp.port == ${String(port)} && tcp.len > 0`, ['frame.number'], frames)).not.toEqual([]);
    }
  });

  test("the host's network changes: the kernel takes the prefix at once, the DHCP client the address when it asks", async () => {
    const host = `
      ip addr add 192.0.2.66/26 dev eth0
      ip addr add 2001:db8:0:9::2/64 dev eth0 nodad
      ip addr del ${HOST_NETWORK_6}:2/64 dev eth0
      ip -6 route replace default via 2001:db8:0:9::1`;
    const taken = `
      tries=0
      until ip -6 -o addr show dev eth0 scope global | grep -q 2001:db8:0:9:; do
        tries=$((tries + 1))
        [ $tries -gt 150 ] && exit 1
        usleep 100000
      done
      ip -6 -o addr show dev eth0 scope global`;
    const { bench: its, guest: one } = stage();
    await command(its.world.inHost(['sh', '-ec', host]));
    const addresses = await one.sh(taken);
    // That of the old network, made of its prefix, may be used no more for new connections.
    expect(addresses).toMatch(
      new RegExp(`${HOST_NETWORK_6}[^\\n]*/64[^\\n]* deprecated|${HOST_NETWORK_6}[^\\n]*/64[^\\n]*preferred_lft 0sec`),
    );
    expect(await one.result('net-up 4', 'dhcp', { timeoutMs: 60_000 })).toMatchObject({
      ip: '192.0.2.66',
      prefix: '26',
    });
  });
});
