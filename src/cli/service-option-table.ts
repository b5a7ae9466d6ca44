/** Rows of the option table for DHCP, DHCPv6 and booting by network. */
import { option, type OptionSpec, taking } from './option-spec';
import {
  applyBootFile,
  applyDhcpOption,
  applyDnsName,
  applyLeaseTime,
  applyNextServer,
  applyNtp,
  applyTftp,
} from './service-options';

export const SERVICE_OPTIONS: readonly OptionSpec[] = [
  option(
    'services',
    '',
    'dhcp-option',
    'CODE=VALUE',
    'send this DHCP option too, repeatable; CODE is a number or a name, an empty VALUE leaves the option out',
    applyDhcpOption(4),
  ),
  option('services', '', 'dhcp6-option', 'CODE=VALUE', 'the same for DHCPv6', applyDhcpOption(6)),
  taking(
    ['infinite'],
    option(
      'services',
      '',
      'lease-time',
      'TIME',
      'how long leases last: seconds, or a number with m, h, d or w; "infinite" (default 1h)',
      applyLeaseTime,
    ),
  ),
  option('services', '', 'ntp', 'ADDR', 'time server to advertise (DHCP, DHCPv6), repeatable', applyNtp),
  option('services', '', 'tftp', 'DIR', 'give the guest the files of this directory by TFTP, to read', applyTftp),
  option('services', '', 'boot-file', 'FILE', 'what the guest boots by network: a path, or a URL', applyBootFile),
  option(
    'services',
    '',
    'next-server',
    'ADDR',
    'server that the guest gets --boot-file from, once per family',
    applyNextServer,
  ),
  option(
    'services',
    '',
    'dns-name',
    'NAME=ADDR',
    "answer the guest's queries for this name, further addresses behind commas, repeatable",
    applyDnsName,
  ),
];
