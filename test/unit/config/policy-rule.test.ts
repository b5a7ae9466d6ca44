/** Rules from text. */
import { parseRule, RuleError } from '../../../src/config/policy-rule';
import { ip } from '../../support/stack/addresses';

const ALL = { verdict: 'allow', protocol: 'any', ports: [], private: false };

test.each([
  ['any', { host: { kind: 'any' } }],
  ['tcp/any:25', { protocol: 'tcp', host: { kind: 'any' }, ports: [[25, 25]] }],
  ['icmp/10.0.0.0/8', { protocol: 'icmp', host: { kind: 'prefix', address: ip('10.0.0.0'), length: 8 } }],
  [
    '10.1.2.3:80,8000-8999',
    {
      host: { kind: 'prefix', address: ip('10.1.2.3'), length: 32 },
      ports: [
        [80, 80],
        [8000, 8999],
      ],
    },
  ],
  ['2001:db8::1', { host: { kind: 'prefix', address: ip('2001:db8::1'), length: 128 } }],
  ['[2001:db8::1:443]', { host: { kind: 'prefix', address: ip('2001:db8::1:443'), length: 128 }, ports: [] }],
  ['2001:db8::443', { host: { kind: 'prefix', address: ip('2001:db8::443'), length: 128 }, ports: [] }],
  ['2001:db8::/32', { host: { kind: 'prefix', address: ip('2001:db8::'), length: 32 } }],
  ['[2001:db8::1]:443', { host: { kind: 'prefix', address: ip('2001:db8::1'), length: 128 }, ports: [[443, 443]] }],
  [
    'udp/[2001:db8::/32]:53',
    { protocol: 'udp', host: { kind: 'prefix', address: ip('2001:db8::'), length: 32 }, ports: [[53, 53]] },
  ],
  ['[2001:db8::]/32:53', { host: { kind: 'prefix', address: ip('2001:db8::'), length: 32 }, ports: [[53, 53]] }],
  ['GitHub.com.:443', { host: { kind: 'name', name: 'github.com', below: false }, ports: [[443, 443]] }],
  ['*.npmjs.org', { host: { kind: 'name', name: 'npmjs.org', below: true } }],
  ['bücher.example', { host: { kind: 'name', name: 'xn--bcher-kva.example', below: false } }],
  ['host', { host: { kind: 'host' } }],
  ['lan', { host: { kind: 'lan' } }],
  ['metadata:80', { host: { kind: 'metadata' }, ports: [[80, 80]] }],
  ['dns', { host: { kind: 'dns' }, ports: [[53, 53]] }],
])('%s', (text, rule) => {
  expect(parseRule('allow', text)).toEqual({ ...ALL, text, ...rule });
});

test.each([
  ['', 'the host is missing: give an address, a prefix, a name or "any"'],
  ['*', 'write "any" for everybody'],
  ['a.*.example', 'a name may have "*." in front, and no other "*"; write "any" for everybody'],
  ['300.1.1.1', '"300.1.1.1" is not an address, a prefix, a domain name, or one of any, host, lan, metadata, dns'],
  [
    '10.0.0.1/8',
    'the address has bits set behind its prefix of 8: write 10.0.0.0/8, or 10.0.0.1 for this address alone',
  ],
  ['10.0.0.0/33', 'give a prefix length from 0 to 32 after the slash'],
  ['sctp/any', '"sctp" is neither a protocol (tcp, udp, icmp) nor an address in front of a prefix length'],
  ['::ffff:10.0.0.1', 'write the IPv4 address itself'],
  ['any:', 'ports are numbers from 1 to 65535, like 443, 80,443 or 8000-8999, not ""'],
  ['any:0', 'ports are numbers from 1 to 65535, like 443, 80,443 or 8000-8999, not "0"'],
  ['any:9-8', 'ports are numbers from 1 to 65535, like 443, 80,443 or 8000-8999, not "9-8"'],
  [
    '2001:db8::1:443',
    'is 443 a port? Write [2001:db8::1]:443 if it is, [2001:db8::1:443] if it is part of the address',
  ],
  ['icmp/any:1', 'ICMP has no ports: leave them out, or give tcp/ or udp/'],
  ['[2001:db8::1', 'write IPv6 with ports like [2001:db8::1]:443'],
  ['localhost', '"localhost" is the guest itself there; write "host" for this host'],
  ['dns:5353', '"dns" is port 53 of the resolvers, by TCP and UDP'],
  ['-x.example', '"-x.example" is not an address, a prefix, a domain name, or one of any, host, lan, metadata, dns'],
])('%s is refused', (text, why) => {
  expect(() => parseRule('allow', text)).toThrow(new RuleError(why));
});
