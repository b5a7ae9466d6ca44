/** Clients that people use, in a real guest: ISC's dhclient, nslookup, and the kernel while the host's network changes. */
import type { Guest } from '../support/rig/guest';
import {
  GATEWAY_4,
  HOST_ADDRESS_4,
  HOST_ADDRESS_6,
  HOST_NETWORK_6,
  RESOLVER,
  whyNoNamespaces,
} from '../support/rig/host-world';
import { hasDhclient, whyNoGuest } from '../support/rig/image';
import { ManagedProcess, command } from '../support/rig/processes';
import { bootUml } from '../support/rig/uml';
import { FAMILIES, bringUp } from './network-cases';
import { describeWith, itShowing, setUpBench, type Bench } from './support';

jest.setTimeout(120_000);

const FORWARD = '10.255.255.53';
const ANSWER = '203.0.113.99';

/** A name server on the host's loopback: every name has one address. */
const NAME_SERVER = `
const socket = require('node:dgram').createSocket('udp4');
socket.on('message', (query, from) => {
  const wantsA = query.readUInt16BE(query.length - 4) === 1;
  const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ${ANSWER.replaceAll('.', ', ')}]);
  const reply = Buffer.concat(wantsA ? [query, record] : [query]);
  reply.writeUInt16BE(0x8580, 2);
  reply.writeUInt16BE(wantsA ? 1 : 0, 6);
  socket.send(reply, from.port, from.address);
});
socket.bind(53, '127.0.0.1', () => console.log('bound'));
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

const missing = whyNoNamespaces() ?? whyNoGuest('uml') ?? (hasDhclient() ? null : 'no dhclient in .cache');

describeWith('clients of a uml guest', missing, () => {
  let bench: Bench | undefined;
  let guest: Guest | undefined;
  let names: ManagedProcess | undefined;
  const stage = (): { bench: Bench; guest: Guest } => {
    if (bench === undefined || guest === undefined) throw new Error('the guest did not boot');
    return { bench, guest };
  };
  const test = itShowing(
    () => stage().bench,
    () => guest?.process.tail(40) ?? '',
  );

  beforeAll(async () => {
    bench = await setUpBench(['-m', '1500', '--dns-forward', FORWARD, '--dns-host', '127.0.0.1']);
    names = new ManagedProcess('names', bench.world.inHost([process.execPath, '-e', NAME_SERVER]));
    await names.waitForLine(/^bound$/, 5000);
    guest = await bootUml({ socketPath: bench.socketPath, scratch: bench.scratch });
  });

  afterAll(async () => {
    await guest?.powerOff();
    await names?.stop('SIGKILL');
    await bench?.destroy();
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
