/**
 * The command line: passt's, so that Tubetti can replace it, and a few options of our own. One table gives
 * for each option its names, its argument, its help text and its effect. Options of passt that we do
 * not support are in the table too: they are refused by name, not as unknown.
 */
import { addressFamily, formatMac } from '../config/address-text';
import { MAX_SEARCH } from '../config/resolv-conf';
import type { LogLevel } from '../log';
import { LOG_FORMATS } from '../log-format';
import { SANDBOX_MODES } from '../sandbox/layer';
import { type Action, DEFAULT_LOG_SIZE, DEFAULT_MAC } from './draft';
import { type Apply, option, type OptionSpec, taking } from './option-spec';
import { REFUSED } from './refused-options';
import { MODERATION_LEVELS } from '../dataplane/commands';
import { DEFAULT_MTU, MAX_DNS } from '../stack/config';
import * as values from './option-values';

export { type Group, GROUPS, type OptionSpec } from './option-spec';

/** Largest `--mtu`: the IP packet of the largest Ethernet frame that passt's stream framing carries (65535 bytes). */
const MAX_MTU = 65521;
const MIN_LOG_SIZE = 40960;
const MAX_POLL_US = 1000;
const MAX_LABELS = 32;
const MAX_STATS_SECONDS = 86400;

function instead(action: Action, short: string, long: string, help: string): OptionSpec {
  return { ...option('general', short, long, '', help, () => undefined), action };
}

type FamilyAddress = 'gateway' | 'outboundAddr' | 'dnsForward' | 'dnsHost' | 'mapHostLoopback' | 'mapGuestAddr';

/** An address option given once per family, the last one wins. */
function perFamily(field: FamilyAddress, refuse: readonly values.AddressRefusal[]): Apply {
  return (draft, value, shown) => {
    const addr = values.addressValue(shown, value, refuse);
    (addressFamily(addr) === 4 ? draft.v4 : draft.v6)[field] = addr;
  };
}

const applyOutbound: Apply = (draft, value, shown) => {
  const addr = values.addressValue(shown, value, ['unspecified', 'multicast', 'broadcast', 'mapped']);
  if (addressFamily(addr) === 6) values.addressValue(shown, value, ['loopback']);
  (addressFamily(addr) === 4 ? draft.v4 : draft.v6).outboundAddr = addr;
};

const applyAddress: Apply = (draft, value, shown) => {
  const { addr, prefixLen } = values.prefixedAddressValue(shown, value);
  const family = addressFamily(addr) === 4 ? draft.v4 : draft.v6;
  family.addr = addr;
  family.prefixLen = prefixLen;
};

const applyDns: Apply = (draft, value, shown) => {
  if (value === 'none') {
    draft.dnsNone = true;
    draft.v4.dns = [];
    draft.v6.dns = [];
    return;
  }
  const addr = values.addressValue(shown, value, ['unspecified', 'multicast', 'broadcast', 'mapped']);
  const family = addressFamily(addr) === 4 ? draft.v4 : draft.v6;
  if (family.dns.length >= MAX_DNS)
    draft.warnings.push(`${shown} ${value}: left out, at most ${MAX_DNS} resolvers are advertised`);
  else family.dns.push(addr);
};

const applySearch: Apply = (draft, value, shown) => {
  if (value === 'none') {
    draft.search = [];
    return;
  }
  draft.search ??= [];
  const names = value.split(/\s+/).filter((name) => name !== '');
  if (names.length === 0) throw values.badValue(shown, value, 'give domain names or "none"');
  for (const name of names) {
    if (draft.search.length >= MAX_SEARCH)
      throw values.badValue(shown, value, `give at most ${MAX_SEARCH} search domains`);
    draft.search.push(values.nameValue(shown, name));
  }
};

const applyMapLoopback: Apply = (draft, value, shown) => {
  if (value === 'none') draft.mapGateway = false;
  else
    perFamily('mapHostLoopback', ['unspecified', 'loopback', 'multicast', 'broadcast', 'mapped'])(draft, value, shown);
};

const applyMapGuest: Apply = (draft, value, shown) => {
  if (value === 'none') {
    draft.v4.mapGuestAddr = null;
    draft.v6.mapGuestAddr = null;
  } else
    perFamily('mapGuestAddr', ['unspecified', 'loopback', 'multicast', 'broadcast', 'mapped'])(draft, value, shown);
};

const applyMtu: Apply = (draft, value, shown) => {
  draft.mtu = values.numberValue(shown, value, 0, MAX_MTU);
  if (draft.mtu < 68)
    draft.warnings.push(`${shown} ${value}: ${draft.mtu === 0 ? 'no MTU is advertised' : 'IPv4 needs at least 68'}`);
  else if (draft.mtu < 1280) draft.warnings.push(`${shown} ${value}: IPv6 needs at least 1280`);
};

const applyFd: Apply = (draft, value, shown) => {
  draft.fd = values.numberValue(shown, value, 0, 0x7fffffff);
  draft.oneOff = true;
};

const applyPoll: Apply = (draft, value, shown) => {
  draft.pollUs = values.numberValue(shown, value, 0, MAX_POLL_US);
};

const applyModeration: Apply = (draft, value, shown) => {
  const level = MODERATION_LEVELS.find((name) => name === value);
  if (level === undefined) throw values.badValue(shown, value, 'give "off", "standard" or "adaptive"');
  draft.moderation = level;
};

const DF_WORDS = ['fragment', 'keep'] as const;

const applyDf: Apply = (draft, value, shown) => {
  if (!DF_WORDS.some((word) => word === value)) throw values.badValue(shown, value, 'give "fragment" or "keep"');
  draft.keepDf = value === 'keep';
};

const applyStats: Apply = (draft, value, shown) => {
  draft.statsSeconds = values.numberValue(shown, value, 1, MAX_STATS_SECONDS);
};

const applyLabel: Apply = (draft, value, shown) => {
  const label = values.labelValue(shown, value);
  if (draft.labels.some(({ name }) => name === label.name))
    throw values.badValue(shown, value, `${label.name} is given twice`);
  if (draft.labels.length === MAX_LABELS) throw values.badValue(shown, value, `give at most ${MAX_LABELS} labels`);
  draft.labels.push(label);
};

function ports(protocol: 'tcp' | 'udp'): Apply {
  return (draft, spec, shown) => {
    draft.portOptions.push({ protocol, spec, origin: `${shown} ${spec}` });
  };
}

type Switch =
  'follow' | 'tcp' | 'udp' | 'dhcp' | 'ndp' | 'dhcpv6' | 'ra' | 'advertiseDns' | 'advertiseSearch' | 'mapGateway';

function off(field: Switch): Apply {
  return (draft) => {
    draft[field] = false;
  };
}

/** The last one counts, as with passt. A user who gives both may have meant both families, which is the default. */
function only(version: 4 | 6): Apply {
  return (draft, _value, shown) => {
    if (draft.only !== 0 && draft.only !== version)
      draft.warnings.push(`${shown}: IPv${version} only, --ipv${draft.only}-only before it has no effect`);
    draft.only = version;
  };
}

function level(name: LogLevel): Apply {
  return (draft) => {
    // --trace implies -d, whichever comes first; -q clears both.
    if (name !== 'debug' || draft.level !== 'trace') draft.level = name;
  };
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
  option('general', '', 'stats', 'SECONDS', 'print changed counters to stderr every SECONDS', applyStats),
  option(
    'general',
    '',
    'metrics',
    '[ADDR:]PORT',
    'serve Prometheus metrics over HTTP (default address 127.0.0.1), or at unix:PATH[,mode=600]',
    (draft, value, shown) => {
      draft.metrics = values.metricsValue(shown, value);
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

  ...REFUSED,
];
