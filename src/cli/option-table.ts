/**
 * The command line: passt's, so that Tubetti can replace it, and a few options of our own. One table gives
 * for each option its names, its argument, its help text and its effect (the longer ones are in option-effects.ts).
 * Options of passt that we do not support are in the table too: they are refused by name, not as unknown.
 */
import { formatMac } from '../config/address-text';
import { LOG_FORMATS } from '../log-format';
import { SANDBOX_MODES } from '../sandbox/layer';
import { type Action, DEFAULT_LOG_SIZE, DEFAULT_MAC } from './draft';
import { option, type OptionSpec, taking } from './option-spec';
import { PASTA_OPTIONS } from './pasta-options';
import { REFUSED } from './refused-options';
import { SERVICE_OPTIONS } from './service-option-table';
import { MODERATION_LEVELS } from '../dataplane/commands';
import { DEFAULT_MTU } from '../stack/config';
import * as values from './option-values';
import {
  perFamily,
  applyOutbound,
  applyAddress,
  applyDns,
  applySearch,
  applyMapLoopback,
  applyMapGuest,
  applyMtu,
  applyFd,
  applyPoll,
  applyModeration,
  DF_WORDS,
  applyDf,
  applyStats,
  applyLabel,
  ports,
  rule,
  applyPolicy,
  off,
  only,
  level,
} from './option-effects';

export { type Group, GROUPS, type OptionSpec } from './option-spec';

const MIN_LOG_SIZE = 40960;

function instead(action: Action, short: string, long: string, help: string): OptionSpec {
  return { ...option('general', short, long, '', help, () => undefined), action };
}

export const OPTIONS: readonly OptionSpec[] = [
  instead('help', 'h', 'help', 'show this help'),
  instead('version', '', 'version', 'show version and licence'),
  instead('capabilities', '', 'print-capabilities', 'print the type of back-end as JSON'),
  // Read before the others are looked at (options.ts).
  option('general', '', 'config', 'FILE', 'read options from this file, JSON or YAML: see below', () => undefined),
  option('general', 'f', 'foreground', '', 'stay in the foreground (default)', (draft) => {
    draft.background = false;
  }),
  option(
    'general',
    'b',
    'background',
    '',
    'run in the background once ready (default if called as passt, or with --fd and --pid)',
    (draft) => {
      draft.background = true;
    },
  ),
  option('general', 'P', 'pid', 'FILE', 'write the process ID to this file', (draft, value, shown) => {
    draft.pid = values.fileValue(shown, value);
  }),
  option(
    'general',
    '',
    'runas',
    'USER',
    'run as UID[:GID] or LOGIN[:GROUP] (default for root: nobody)',
    (draft, value) => {
      draft.runAs = value;
    },
  ),
  taking(
    SANDBOX_MODES,
    option(
      'general',
      '',
      'sandbox',
      'MODE',
      'on (default); strict: refuse to start without a part of it; log: say what would be refused; off',
      (draft, value, shown) => {
        draft.sandbox = values.wordValue(shown, value, SANDBOX_MODES);
      },
    ),
  ),
  option('general', '', 'chroot-fallback', '', 'no effect, accepted for compatibility', (draft, _value, shown) => {
    draft.warnings.push(`${shown} has no effect: chroot(2) is taken by itself where pivot_root(2) fails`);
  }),
  option('general', 'q', 'quiet', '', 'log warnings and errors only', level('warn')),
  option('general', 'd', 'debug', '', 'log debug messages', level('debug')),
  option('general', '', 'trace', '', 'as -d, plus one line per frame', level('trace')),
  option('general', 'l', 'log-file', 'PATH', 'log to this file instead of the system log', (draft, value, shown) => {
    draft.logFile = values.fileValue(shown, value);
  }),
  option(
    'general',
    '',
    'log-size',
    'BYTES',
    `maximum size of the log file (default ${DEFAULT_LOG_SIZE})`,
    (draft, value, shown) => {
      draft.logSize = values.numberValue(shown, value, MIN_LOG_SIZE, 0x7fffffff);
    },
  ),
  taking(
    LOG_FORMATS,
    option(
      'general',
      '',
      'log-format',
      'FORMAT',
      '"text" (default), or "json": one object a line, with time, level and message',
      (draft, value, shown) => {
        draft.logFormat = values.wordValue(shown, value, LOG_FORMATS);
      },
    ),
  ),
  option(
    'general',
    '',
    'ready-fd',
    'FD',
    'write a newline to this descriptor and close it when ready',
    (draft, value, shown) => {
      draft.readyFd = values.numberValue(shown, value, 1, 0x7fffffff);
    },
  ),
  option('general', 'e', 'stderr', '', 'no effect, accepted for compatibility', (draft, _value, shown) => {
    draft.warnings.push(`${shown} has no effect: the log goes to stderr while there is one`);
  }),
  option('general', 'p', 'pcap', 'FILE', 'capture all frames to this file, in pcap format', (draft, value, shown) => {
    draft.pcap = values.fileValue(shown, value);
  }),
  option(
    'general',
    '',
    'flow-log',
    'FILE',
    'write a line of JSON to this file at the end of each flow (its limit: --log-size)',
    (draft, value, shown) => {
      draft.flowLog = values.fileValue(shown, value);
    },
  ),
  option('general', '', 'stats', 'SECONDS', 'print changed counters to stderr every SECONDS', applyStats),
  option(
    'general',
    '',
    'metrics',
    '[ADDR:]PORT',
    'serve Prometheus metrics and a page to look at over HTTP (default address 127.0.0.1), or at unix:PATH[,mode=600]',
    (draft, value, shown) => {
      draft.metrics = values.metricsValue(shown, value);
    },
  ),
  option(
    'general',
    '',
    'control',
    'PATH',
    'take orders at this UNIX socket while the service runs: see "tubetti ctl --help"',
    (draft, value, shown) => {
      draft.control = values.socketPathValue(shown, value);
    },
  ),
  option(
    'general',
    'c',
    'conf-path',
    'PATH',
    'let pesto change forwarded ports at this UNIX socket',
    (draft, value, shown) => {
      draft.confPath = values.socketPathValue(shown, value);
    },
  ),
  option(
    'general',
    '',
    'slirp-api',
    'PATH',
    "slirp4netns's API for forwarded ports at this UNIX socket",
    (draft, value, shown) => {
      draft.slirpApi = values.socketPathValue(shown, value);
    },
  ),
  option('general', '', 'label', 'NAME=VALUE', 'label of tubetti_info in the metrics, repeatable', applyLabel),

  option(
    'link',
    's',
    'socket',
    'PATH',
    "listen on this socket (default: systemd's, if it passes one, or the first free of /tmp/passt_1.socket …)",
    (draft, value, shown) => {
      draft.socket = values.socketPathValue(shown, value);
    },
    'socket-path',
  ),
  option(
    'link',
    '',
    'connect',
    'PATH',
    'connect to a front-end that listens here (QEMU: server=on)',
    (draft, value, shown) => {
      draft.connect = values.socketPathValue(shown, value);
    },
  ),
  option('link', 'F', 'fd', 'FD', 'use this connected socket, implies --one-off', applyFd),
  option('link', '1', 'one-off', '', 'exit when the first front-end disconnects', (draft) => {
    draft.oneOff = true;
  }),
  option('link', '', 'vhost-user', '', 'use the vhost-user protocol (default)', (draft) => {
    draft.frontEnd = 'vhost-user';
  }),
  option(
    'link',
    '',
    'stream',
    '',
    "use the protocol of QEMU's -netdev stream (default if called as passt)",
    (draft) => {
      draft.frontEnd = 'stream';
    },
  ),
  option(
    'link',
    '',
    'poll-us',
    'US',
    'busy-poll for up to this many microseconds before sleeping, 0 to 1000 (default 0)',
    applyPoll,
  ),
  taking(
    MODERATION_LEVELS,
    option(
      'link',
      '',
      'moderation',
      'LEVEL',
      'delay of interrupts and kicks: "off" for none; "standard" for up to 50 us after small frames; "adaptive" to what is observed of the guest (default)',
      applyModeration,
    ),
  ),

  option(
    'address',
    'm',
    'mtu',
    'BYTES',
    `MTU to advertise to the guest, 0 for none (default ${DEFAULT_MTU})`,
    applyMtu,
  ),
  option(
    'address',
    'a',
    'address',
    'ADDR[/LEN]',
    "address to assign to the guest, once per family (default: the host's)",
    applyAddress,
  ),
  taking(
    DF_WORDS,
    option(
      'address',
      '',
      'df',
      'WHAT',
      'guest datagrams with DF that exceed the path MTU: "fragment" them, or "keep" DF and answer with an ICMP error (default: fragment)',
      applyDf,
    ),
  ),
  option(
    'address',
    'n',
    'netmask',
    'MASK',
    "IPv4 netmask or prefix length of the guest (default: the host's)",
    (draft, value, shown) => {
      draft.netmask = values.netmaskValue(shown, value);
    },
  ),
  option(
    'address',
    'M',
    'mac-addr',
    'MAC',
    `MAC address of Tubetti on the link (default ${formatMac(DEFAULT_MAC)})`,
    (draft, value, shown) => {
      draft.mac = values.macValue(shown, value);
    },
  ),
  option(
    'address',
    'g',
    'gateway',
    'ADDR',
    "default gateway of the guest, once per family (default: the host's)",
    perFamily('gateway', ['unspecified', 'loopback', 'broadcast', 'multicast', 'mapped']),
  ),
  option(
    'address',
    'i',
    'interface',
    'IFNAME',
    'copy addresses and routes from this interface of the host',
    (draft, value, shown) => {
      draft.iface = values.interfaceValue(shown, value);
    },
  ),
  option('address', '', 'no-follow', '', "do not follow changes of the host's network at run time", off('follow')),
  option('address', 'o', 'outbound', 'ADDR', 'source address of outbound connections, once per family', applyOutbound),
  option(
    'address',
    '',
    'outbound-if4',
    'IFNAME',
    'send outbound IPv4 through this interface',
    (draft, value, shown) => {
      draft.v4.outboundIf = values.interfaceValue(shown, value);
    },
  ),
  option(
    'address',
    '',
    'outbound-if6',
    'IFNAME',
    'send outbound IPv6 through this interface',
    (draft, value, shown) => {
      draft.v6.outboundIf = values.interfaceValue(shown, value);
    },
  ),

  taking(
    ['none'],
    option(
      'dns',
      'D',
      'dns',
      'ADDR',
      'DNS resolver to advertise, repeatable; "none" for none (default: from resolv.conf)',
      applyDns,
    ),
  ),
  option(
    'dns',
    '',
    'dns-forward',
    'ADDR',
    'address for the guest whose DNS queries go to --dns-host, once per family',
    perFamily('dnsForward', ['unspecified', 'loopback', 'broadcast', 'multicast', 'mapped']),
  ),
  option(
    'dns',
    '',
    'dns-host',
    'ADDR',
    'resolver of the host for --dns-forward (default: first in resolv.conf)',
    perFamily('dnsHost', ['unspecified', 'broadcast', 'multicast', 'mapped']),
  ),
  taking(
    ['none'],
    option(
      'dns',
      'S',
      'search',
      'NAMES',
      'search domains to advertise, repeatable; "none" for none (default: from resolv.conf)',
      applySearch,
    ),
  ),
  option('dns', '', 'no-dhcp-dns', '', 'do not advertise DNS resolvers', off('advertiseDns')),
  option('dns', '', 'no-dhcp-search', '', 'do not advertise search domains', off('advertiseSearch')),
  option('dns', 'H', 'hostname', 'NAME', 'host name to give the guest (DHCP)', (draft, value, shown) => {
    draft.hostname = values.nameValue(shown, value);
  }),
  option(
    'dns',
    '',
    'fqdn',
    'NAME',
    'fully qualified domain name to give the guest (DHCP, DHCPv6)',
    (draft, value, shown) => {
      draft.fqdn = values.nameValue(shown, value);
    },
  ),

  ...SERVICE_OPTIONS,

  taking(
    ['none'],
    option(
      'nat',
      '',
      'map-host-loopback',
      'ADDR',
      'address at which the guest reaches 127.0.0.1 / ::1 of the host; "none" for none (default: gateway)',
      applyMapLoopback,
    ),
  ),
  option('nat', '', 'no-map-gw', '', "do not map the gateway's address to the host's loopback", off('mapGateway')),
  taking(
    ['none'],
    option(
      'nat',
      '',
      'map-guest-addr',
      'ADDR',
      'address at which the guest reaches the host\'s own address; "none" for none (default: none)',
      applyMapGuest,
    ),
  ),

  option(
    'policy',
    '',
    'allow',
    'RULE',
    'let the guest talk to [tcp|udp|icmp/]HOST[:PORTS], and by default to nobody else; repeatable, the first rule that matches decides. HOST: address, prefix, name, *.name, any, host, lan, metadata or dns',
    rule('allow'),
  ),
  option('policy', '', 'deny', 'RULE', 'refuse the guest what --allow would allow', rule('deny')),
  option('policy', '', 'policy', 'FILE', 'take the rules from this file, JSON or YAML', applyPolicy),
  option('policy', '', 'policy-audit', '', 'say in the log what the policy would refuse, and let it pass', (draft) => {
    draft.policyAudit = true;
  }),

  option(
    'policy',
    '',
    'rate-in',
    'RATE',
    'most that goes to the guest, bit/s with k, M or G (default: no limit)',
    (draft, value, shown) => {
      draft.rateIn = values.rateValue(shown, value);
    },
  ),
  option(
    'policy',
    '',
    'rate-out',
    'RATE',
    'most that comes from the guest, bit/s with k, M or G (default: no limit)',
    (draft, value, shown) => {
      draft.rateOut = values.rateValue(shown, value);
    },
  ),

  option('off', '4', 'ipv4-only', '', 'no IPv6', only(4)),
  option('off', '6', 'ipv6-only', '', 'no IPv4', only(6)),
  option('off', '', 'no-tcp', '', 'no TCP', off('tcp')),
  option('off', '', 'no-udp', '', 'no UDP', off('udp')),
  option('off', '', 'no-icmp', '', 'no ICMP, implies --no-ndp', (draft) => {
    draft.icmp = false;
    draft.ndp = false;
  }),
  option('off', '', 'no-dhcp', '', 'no DHCP server', off('dhcp')),
  option('off', '', 'no-ndp', '', 'no neighbour discovery', off('ndp')),
  option('off', '', 'no-dhcpv6', '', 'no DHCPv6 server', off('dhcpv6')),
  option('off', '', 'no-ra', '', 'no router advertisements', off('ra')),

  taking(
    ['none', 'all'],
    option('ports', 't', 'tcp-ports', 'SPEC', 'TCP ports to forward, repeatable: see below', ports('tcp')),
  ),
  taking(['none', 'all'], option('ports', 'u', 'udp-ports', 'SPEC', 'UDP ports to forward, repeatable', ports('udp'))),
  option('ports', '', 'freebind', '', 'allow listening on addresses the host does not have yet', (draft) => {
    draft.freebind = true;
  }),

  ...PASTA_OPTIONS,

  ...REFUSED,
];
