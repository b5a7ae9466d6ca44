/** Options of DHCP, DHCPv6 and booting by network, from text to bytes. */
import { dhcpOptionValue, leaseTimeValue } from '../../../src/cli/dhcp-options';
import { parseOptions } from '../../../src/cli/options';
import type { HostRequest } from '../../../src/config/host-config';

const hex = (version: 4 | 6, value: string): string => {
  const { code, data } = dhcpOptionValue(version, '--dhcp-option', value);
  return `${code} ${data === null ? 'none' : Buffer.from(data).toString('hex')}`;
};

function request(...argv: string[]): HostRequest {
  const command = parseOptions(argv);
  if (command.action !== 'run') throw new Error('not run');
  return command.options.host;
}

test.each([
  ['42=192.0.2.1,192.0.2.2', '42 c0000201c0000202'],
  ['option:ntp-server,192.0.2.1', '42 c0000201'],
  ['ntp-server=192.0.2.1', '42 c0000201'],
  ['15=example.org', '15 6578616d706c652e6f7267'],
  ['66=tftp.example', '66 746674702e6578616d706c65'],
  ['19=1', '19 01'],
  ['mtu=1400', '26 0578'],
  ['2=-3600', '2 fffff1f0'],
  ['T1=100', '58 00000064'],
  ['domain-search=a.example,b', '119 01610765' + '78616d706c6500' + '016200'],
  ['121=10.0.0.0/8,192.0.2.1,0.0.0.0/0,192.0.2.2', '121 080ac0000201' + '00c0000202'],
  ['43=01:02:ab', '43 0102ab'],
  ['43=0x0102ab', '43 0102ab'],
  ['224=0xdeadbeef', '224 deadbeef'],
  ['224=192.0.2.1', '224 c0000201'],
  ['224=hello, world', '224 68656c6c6f2c20776f726c64'],
  ['224=de:ad', '224 dead'],
  ['6=', '6 none'],
])('DHCP %s', (value, expected) => {
  expect(hex(4, value)).toBe(expected);
});

test.each([
  ['23=2001:db8::53,[2001:db8::54]', '23 20010db8000000000000000000000053' + '20010db8000000000000000000000054'],
  ['option6:domain-search,example.org', '24 076578616d706c65036f726700'],
  ['ntp-server=2001:db8::1', '56 0001001020010db8000000000000000000000001'],
  ['56=ntp.example', '56 0003000d036e7470076578616d706c6500'],
  ['59=tftp://[2001:db8::1]/x', '59 746674703a2f2f5b323030313a6462383a3a315d2f78'],
  ['bootfile-param=a=b,c', '60 0003613d62000163'],
  ['information-refresh-time=3600', '32 00000e10'],
  ['1000=2001:db8::1', '1000 20010db8000000000000000000000001'],
])('DHCPv6 %s', (value, expected) => {
  expect(hex(6, value)).toBe(expected);
});

test.each<[4 | 6, string, string]>([
  [4, 'nothing', 'give CODE=VALUE, the code a number or option:NAME'],
  [4, '=x', 'give CODE=VALUE'],
  [4, '0=1', 'give a code from 1 to 254'],
  [4, '255=1', 'give a code from 1 to 254'],
  [4, 'option:nosuch,1', 'there is no option "nosuch", give its number, or one of netmask,'],
  [4, 'ntp=192.0.2.1', 'there is no option "ntp", did you mean "ntp-server"?'],
  [4, 'roter=192.0.2.1', 'there is no option "roter", did you mean "router"?'],
  [4, '53=5', 'the server sets this option itself, leave it out'],
  [4, '51=60', 'give --lease-time'],
  [4, '81=x', 'give --fqdn'],
  [4, '42=2001:db8::1', 'give IPv4 addresses, with commas between them'],
  [4, '42=192.0.2.1,', 'give IPv4 addresses'],
  [4, '26=70000', 'give a number from 0 to 65535'],
  [4, '121=10.0.0.0/8', 'give NETWORK/LENGTH,GATEWAY pairs'],
  [4, '121=10.0.0.0/33,192.0.2.1', 'give NETWORK/LENGTH,GATEWAY pairs'],
  [4, '224=0x1', 'give pairs of hexadecimal digits'],
  [4, '119=a..b', 'give domain names'],
  [4, `224=${'x'.repeat(256)}`, 'give a value of at most 255 bytes'],
  [6, '23=192.0.2.1', 'give IPv6 addresses'],
  [6, '3=x', 'the server sets this option itself, leave it out'],
  [6, '70000=x', 'give a code from 1 to 65535'],
  [6, `1000=${'x'.repeat(1025)}`, 'give a value of at most 1024 bytes'],
])('DHCPv%d: %s is refused', (version, value, message) => {
  expect(() => dhcpOptionValue(version, '--opt', value)).toThrow(message);
});

test.each([
  ['3600', 3600],
  ['45m', 2700],
  ['12h', 43200],
  ['7d', 604800],
  ['infinite', 0xffffffff],
])('a lease of %s', (value, seconds) => {
  expect(leaseTimeValue('--lease-time', value)).toBe(seconds);
  expect(request('--lease-time', value).leaseSec).toBe(seconds);
});

test.each(['59', '1h30', '', '-1', '4294967295', '99999999w'])('no lease of %s', (value) => {
  expect(() => leaseTimeValue('--lease-time', value)).toThrow('give at least 60 seconds');
});

test('time servers become options, unless the user gave those', () => {
  const { extras } = request('--ntp', '192.0.2.1', '--ntp', '192.0.2.2', '--ntp', '2001:db8::1');
  expect(extras.options4).toEqual([{ code: 42, data: Uint8Array.of(192, 0, 2, 1, 192, 0, 2, 2) }]);
  expect(extras.options6.map(({ code, data }) => [code, data?.length])).toEqual([
    [31, 16],
    [56, 20],
  ]);
  expect(request('--ntp', '192.0.2.1', '--dhcp-option', '42=').extras.options4).toEqual([{ code: 42, data: null }]);
});

test('a boot file has a server, or is a URL', () => {
  expect(() => request('--boot-file', 'ipxe.efi')).toThrow(
    '--boot-file ipxe.efi: nobody has it; add --tftp DIR or --next-server ADDR',
  );
  expect(request('--boot-file', 'http://x/y').extras.boot).toEqual({
    file: 'http://x/y',
    server4: null,
    server6: null,
  });
  const { boot } = request('--boot-file', 'a', '--next-server', '192.0.2.1', '--next-server', '2001:db8::1').extras;
  expect([boot?.server4?.length, boot?.server6?.length]).toEqual([4, 16]);
});

test('twice the same, and too many', () => {
  expect(() => request('--dhcp-option', '42=192.0.2.1', '--dhcp-option', 'ntp-server=192.0.2.2')).toThrow(
    '--dhcp-option ntp-server=192.0.2.2: option 42 is given twice',
  );
  const many = Array.from({ length: 65 }, (_, i) => ['--dhcp6-option', `${1000 + i}=x`]).flat();
  expect(() => request(...many)).toThrow('give at most 64 options');
});
