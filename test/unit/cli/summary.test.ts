/** The report at the start: what the guest gets, and lines for the hypervisor that can be pasted as they are. */
import { shellWord, summary, type SummaryInput, xmlText } from '../../../src/cli/summary';
import { policyOf } from '../../../src/config/policy';
import { parseRule } from '../../../src/config/policy-rule';
import { parsePortSpec } from '../../../src/config/port-spec';
import { ip } from '../../support/stack/addresses';
import { stackConfig } from '../../support/stack/stack-config';

const EPHEMERAL = { first: 32768, last: 60999 };
const rules = (spec: string) => parsePortSpec('tcp', spec, EPHEMERAL, `-t ${spec}`) ?? [];

function input(over: Partial<SummaryInput> = {}): SummaryInput {
  const config = over.config ?? stackConfig({}, { mapHostLoopback: null }, { mapHostLoopback: null });
  return {
    version: '1.2.3',
    frontEnd: 'vhost-user',
    endpoint: { kind: 'listen', path: '/run/vm.sock' },
    oneOff: false,
    config,
    host: { ip4: config.ip4, ip6: config.ip6, search: [], template4: 'eth0', template6: null, notes: [] },
    rules: [],
    skipped: new Map(),
    policy: null,
    rates: { in: 0, out: 0 },
    control: null,
    metricsUrl: null,
    ...over,
  };
}

const lines = (over: Partial<SummaryInput> = {}): string[] => summary(input(over));

test('all of it, of a service that listens', () => {
  expect(lines()).toEqual([
    'Tubetti 1.2.3: vhost-user network back-end on /run/vm.sock. The guest gets:',
    '  IPv4     192.0.2.10/24, gateway 192.0.2.1 (from eth0)',
    '  IPv6     2001:db8::10/64, gateway fe80::1 (local mode)',
    '  link     MTU 65520, gateway MAC 9a:55:9a:55:9a:55',
    'QEMU (9.2 or newer: reconnect-ms=1000):',
    '  -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \\',
    '  -chardev socket,id=net0,path=/run/vm.sock,reconnect=1 \\',
    '  -netdev vhost-user,id=net0,chardev=net0 -device virtio-net-pci,netdev=net0',
    'libvirt:',
    "  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
    "  <interface type='vhostuser'><source type='unix' path='/run/vm.sock' mode='client'><reconnect enabled='yes' timeout='1'/></source><model type='virtio'/></interface>",
  ]);
});

test('a service that ends with its guest is not connected to again', () => {
  const text = lines({ oneOff: true }).join('\n');
  expect(text).not.toContain('reconnect');
  expect(text).toContain('\nQEMU:\n');
  expect(text).toContain("<source type='unix' path='/run/vm.sock' mode='client'/>");
});

test('to the front-end that listens: the hypervisor is the server', () => {
  const text = lines({ endpoint: { kind: 'connect', path: '/run/vm.sock' } });
  expect(text[0]).toContain('back-end for the front-end at /run/vm.sock. The guest gets:');
  expect(text).toContain('  -chardev socket,id=net0,path=/run/vm.sock,server=on,wait=off \\');
  expect(text.at(-1)).toContain("mode='server'/>");
});

test('paths are quoted for QEMU, the shell and XML', () => {
  const text = lines({ endpoint: { kind: 'listen', path: "/run/a,b/it's <1>" } });
  expect(text).toContain("  -chardev 'socket,id=net0,path=/run/a,,b/it'\\''s <1>,reconnect=1' \\");
  expect(text.at(-1)).toContain("path='/run/a,b/it&apos;s &lt;1&gt;'");
  expect([shellWord('a-b_c=1,/@%'), shellWord('a b'), shellWord('')]).toEqual(['a-b_c=1,/@%', "'a b'", "''"]);
  expect(xmlText(`&<>'"x`)).toBe('&amp;&lt;&gt;&apos;&quot;x');
});

test('a stream socket has lines of QEMU only', () => {
  const stream = (over: Partial<SummaryInput>): string[] => lines({ frontEnd: 'stream', ...over });
  const [head, ...rest] = stream({});
  expect(head).toBe('Tubetti 1.2.3: network back-end for a stream socket on /run/vm.sock. The guest gets:');
  expect(rest.slice(-3)).toEqual([
    'QEMU (9.2 or newer: reconnect-ms=1000; 7.2: neither):',
    '  -netdev stream,id=net0,server=off,reconnect=1,addr.type=unix,addr.path=/run/vm.sock \\',
    '  -device virtio-net-pci,netdev=net0',
  ]);
  expect(stream({ oneOff: true }).at(-3)).toBe('QEMU:');
  expect(stream({ endpoint: { kind: 'connect', path: '/run/x' } }).at(-2)).toBe(
    '  -netdev stream,id=net0,server=on,addr.type=unix,addr.path=/run/x \\',
  );
  expect(stream({ endpoint: { kind: 'fd', fd: 5 } }).join('\n')).not.toContain('QEMU');
});

test.each<[SummaryInput['endpoint'], string]>([
  [{ kind: 'fd', fd: 5 }, 'vhost-user network back-end on descriptor 5. The guest gets:'],
  [{ kind: 'namespace', name: '/proc/7/ns/net' }, 'network of a namespace for /proc/7/ns/net. The namespace gets:'],
])('%j: nothing to paste', (endpoint, head) => {
  const text = lines({ endpoint });
  expect(text[0]).toBe(`Tubetti 1.2.3: ${head}`);
  expect(text).toHaveLength(4);
});

test('addresses, resolvers and what stands for the host', () => {
  const config = stackConfig(
    { mtu: 0, search: ['example.com', 'lan'], advertiseSearch: true, advertiseDns: true, dhcp: false },
    { gateway: null, dns: [ip('192.0.2.53'), ip('192.0.2.54')], dnsMatch: ip('192.0.2.53'), dnsHost: ip('127.0.0.53') },
    { guestAddr: null, gateway: null, mapGuestAddr: ip('2001:db8::2') },
  );
  expect(lines({ config, endpoint: { kind: 'fd', fd: 3 } }).slice(1)).toEqual([
    '  IPv4     192.0.2.10/24, no gateway, DNS 192.0.2.53, 192.0.2.54, no DHCP (from eth0)',
    '  IPv6     no global address, no gateway (local mode)',
    '  link     MTU not advertised, gateway MAC 9a:55:9a:55:9a:55, search example.com lan',
    "  host     192.0.2.1 is this host's 127.0.0.1",
    '  DNS      queries to 192.0.2.53 go to 127.0.0.53:53',
    "  host     fe80::1 is this host's ::1",
    "  host     2001:db8::2 is this host's own address",
  ]);
  const hidden = stackConfig(
    { advertiseDns: false, advertiseSearch: false, search: ['lan'] },
    { dns: [ip('192.0.2.53')] },
    null,
  );
  const text = lines({ config: hidden }).join('\n');
  expect(text).not.toMatch(/DNS|search|IPv6/);
});

test('forwarded ports, a few of them, and those that were left out', () => {
  const skipped = new Map([
    ['-t all', { taken: 3, noFiles: 0 }],
    ['-u all', { taken: 0, noFiles: 200 }],
  ]);
  const forwards = (spec: string): string[] =>
    lines({ rules: rules(spec), skipped }).filter((line) => line.startsWith('  forward'));
  expect(forwards('127.0.0.1/2222:22,8000-8001')).toEqual([
    '  forward  tcp 127.0.0.1:2222 -> 22',
    '  forward  tcp 127.0.0.1:8000-8001 -> 8000-8001',
    '  forward  -t all: left out 3 ports that are in use',
    '  forward  -u all: left out the highest 200 ports, the limit of open files is too low',
  ]);
  const many = forwards('1001,1003,1005,1007,1009,1011,1013,1015,1017,1019');
  expect(many.slice(7, 9)).toEqual(['  forward  tcp *:1015 -> 1015', '  forward  … and 2 more']);
});

test('whom the guest may talk to and how much, and where orders are taken', () => {
  const of = (over: Partial<SummaryInput>): string[] =>
    lines(over).filter((line) => /^ {2}(policy|rates|control)/.test(line));
  const policy = policyOf([parseRule('allow', 'github.com:443'), parseRule('deny', 'lan')], false);
  expect(of({ policy, rates: { in: 50e6, out: 0 }, control: '/run/c' })).toEqual([
    '  policy   2 rules, else deny',
    '  rates    to the guest 50 Mbit/s, from it no limit',
    '  control  /run/c',
  ]);
  expect(of({ policy: policyOf([parseRule('deny', 'host')], true) })).toEqual([
    '  policy   1 rule, else allow; audit: what would be refused passes, and is logged',
  ]);
});

test('where the metrics are; a page for browsers where there is HTTP', () => {
  const of = (metricsUrl: string): string[] => lines({ metricsUrl }).filter((line) => /^ {2}(metrics|page)/.test(line));
  expect(of('http://127.0.0.1:9100/metrics')).toEqual([
    '  metrics  http://127.0.0.1:9100/metrics',
    '  page     http://127.0.0.1:9100/',
  ]);
  expect(of('unix:/run/metrics')).toEqual(['  metrics  unix:/run/metrics']);
});
