/**
 * The command line: passt's, so that we drop in where passt is called, and a few options of our own. One table says
 * for each option its names, its argument, its line in the usage text and what it does. An option of passt that we do
 * not serve is in the table too: it is refused by name, never taken for a typing error.
 */
import { addressFamily, formatMac } from '../config/address-text';
import { ConfigError } from '../errors';
import type { LogLevel } from '../log';
import { type Action, DEFAULT_LOG_SIZE, DEFAULT_MAC, DEFAULT_MTU, type Draft } from './draft';
import type { OptionNames } from './getopt';
import * as values from './option-values';

/** Largest `--mtu`: the IP packet of the largest Ethernet frame that passt's stream framing carries (65535 bytes). */
const MAX_MTU = 65521;
const MAX_SEARCH = 6;
const MAX_DNS = 3;
const MIN_LOG_SIZE = 40960;
const MAX_POLL_US = 1000;
const MAX_STATS_SECONDS = 86400;

type Apply = (draft: Draft, value: string, shown: string) => void;

export const GROUPS = {
  general: 'General',
  link: 'Front-end (vhost-user)',
  address: 'Addresses and routes of the guest',
  dns: 'Names',
  nat: 'Host as the guest sees it',
  off: 'Switching things off',
  ports: 'Ports: host to guest',
  later: 'Known from passt, not supported yet',
  pasta: 'For namespaces (pasta mode), not supported',
} as const;
export type Group = keyof typeof GROUPS;

export interface OptionSpec extends OptionNames {
  readonly group: Group;
  readonly help: string;
  readonly apply: Apply;
  /** Instead of serving. */
  readonly action?: Action;
}

function option(
  group: Group,
  short: string,
  long: string,
  arg: string,
  help: string,
  apply: Apply,
  ...aliases: string[]
): OptionSpec {
  return { group, short, long: [long, ...aliases], arg, help, apply };
}

/** `missing` says what of Tubetti would have to be there. */
function later(short: string, long: string, arg: string, help: string, missing: string): OptionSpec {
  return option('later', short, long, arg, help, (_draft, _value, shown) => {
    throw new ConfigError('CFG_ERR_UNSUPPORTED', `${shown} is not supported yet: ${missing}`);
  });
}

function instead(action: Action, short: string, long: string, help: string): OptionSpec {
  return { ...option('general', short, long, '', help, () => undefined), action };
}

function pasta(short: string, long: string, arg: string, help: string): OptionSpec {
  return option('pasta', short, long, arg, help, (_draft, _value, shown) => {
    throw new ConfigError(
      'CFG_ERR_UNSUPPORTED',
      `${shown} is for pasta mode only, which is not supported: tubetti serves virtual machines`,
    );
  });
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
    draft.warnings.push(`${shown} ${value}: only ${MAX_DNS} resolvers are advertised, left out`);
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
      throw values.badValue(shown, value, `more than ${MAX_SEARCH} search domains`);
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
    draft.warnings.push(`${shown} ${value}: ${draft.mtu === 0 ? 'no MTU is advertised' : 'IPv4 needs 68 at least'}`);
  else if (draft.mtu < 1280) draft.warnings.push(`${shown} ${value}: IPv6 needs 1280 at least`);
};

const applyFd: Apply = (draft, value, shown) => {
  draft.fd = values.numberValue(shown, value, 0, 0x7fffffff);
  draft.oneOff = true;
};

const applyPoll: Apply = (draft, value, shown) => {
  draft.pollUs = values.numberValue(shown, value, 0, MAX_POLL_US);
};

const applyDf: Apply = (draft, value, shown) => {
  if (value !== 'fragment' && value !== 'keep') throw values.badValue(shown, value, 'give "fragment" or "keep"');
  draft.keepDf = value === 'keep';
};

const applyStats: Apply = (draft, value, shown) => {
  draft.statsSeconds = values.numberValue(shown, value, 1, MAX_STATS_SECONDS);
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

/** The last one counts, as with passt; whoever gives both may have meant both families, which is the default. */
function only(version: 4 | 6): Apply {
  return (draft, _value, shown) => {
    if (draft.only !== 0 && draft.only !== version)
      draft.warnings.push(`${shown}: there is IPv${version} only, the option against it before has no effect`);
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
  instead('help', 'h', 'help', 'this text'),
  instead('version', '', 'version', 'version and licence'),
  instead('capabilities', '', 'print-capabilities', 'what kind of back-end this is, as JSON'),
  // Read before the others are looked at (options.ts).
  option('general', '', 'config', 'FILE', 'options from this file, JSON or YAML: see below', () => undefined),
  option('general', 'f', 'foreground', '', 'stay in the foreground (default)', (draft) => {
    draft.background = false;
  }),
  option(
    'general',
    'b',
    'background',
    '',
    'go to the background when ready (default if called as passt, or with --fd and --pid)',
    (draft) => {
      draft.background = true;
    },
  ),
  option('general', 'P', 'pid', 'FILE', 'write the process id into this file', (draft, value, shown) => {
    draft.pid = values.fileValue(shown, value);
  }),
  option(
    'general',
    '',
    'runas',
    'USER',
    'UID[:GID] or LOGIN[:GROUP] to become; default for root: nobody',
    (draft, value) => {
      draft.runAs = value;
    },
  ),
  option('general', '', 'chroot-fallback', '', 'no effect, for old callers', (draft, _value, shown) => {
    draft.warnings.push(`${shown} has no effect: the root directory is not changed`);
  }),
  option('general', 'q', 'quiet', '', 'only warnings and errors', level('warn')),
  option('general', 'd', 'debug', '', 'say more', level('debug')),
  option('general', '', 'trace', '', 'as -d, and what is said often', level('trace')),
  option('general', 'l', 'log-file', 'PATH', 'log into this file, not into the system log', (draft, value, shown) => {
    draft.logFile = values.fileValue(shown, value);
  }),
  option(
    'general',
    '',
    'log-size',
    'BYTES',
    `most bytes of the log file (default ${DEFAULT_LOG_SIZE})`,
    (draft, value, shown) => {
      draft.logSize = values.numberValue(shown, value, MIN_LOG_SIZE, 0x7fffffff);
    },
  ),
  option('general', 'e', 'stderr', '', 'no effect, for old callers', (draft, _value, shown) => {
    draft.warnings.push(`${shown} has no effect: the log goes to stderr while there is one`);
  }),
  option('general', 'p', 'pcap', 'FILE', 'write all frames into this file (pcap)', (draft, value, shown) => {
    draft.pcap = values.fileValue(shown, value);
  }),
  option('general', '', 'stats', 'SECONDS', 'say counters on stderr, at most this often', applyStats),
  option(
    'general',
    '',
    'metrics',
    '[ADDR:]PORT',
    'Prometheus metrics by HTTP (address: 127.0.0.1)',
    (draft, value, shown) => {
      draft.metrics = values.hostPortValue(shown, value);
    },
  ),

  option(
    'link',
    's',
    'socket',
    'PATH',
    'listen on this socket (default: the first free of /tmp/passt_1.socket …)',
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
  option('link', 'F', 'fd', 'FD', 'use this connected socket; implies --one-off', applyFd),
  option('link', '1', 'one-off', '', 'exit when the first front-end leaves', (draft) => {
    draft.oneOff = true;
  }),
  option('link', '', 'vhost-user', '', 'speak vhost-user (default)', (draft) => {
    draft.frontEnd = 'vhost-user';
  }),
  option('link', '', 'stream', '', "speak QEMU's -netdev stream (default if called as passt)", (draft) => {
    draft.frontEnd = 'stream';
  }),
  option(
    'link',
    '',
    'poll-us',
    'US',
    'look for work up to this long before sleeping, 0 to 1000 (default 0)',
    applyPoll,
  ),

  option('address', 'm', 'mtu', 'BYTES', `MTU told to the guest, 0: none (default ${DEFAULT_MTU})`, applyMtu),
  option(
    'address',
    'a',
    'address',
    'ADDR[/LEN]',
    "address of the guest, once per family (default: the host's)",
    applyAddress,
  ),
  option(
    'address',
    '',
    'df',
    'WHAT',
    'datagrams with DF that are too long for the host: "fragment" them, or "keep" DF and tell the guest (default: fragment)',
    applyDf,
  ),
  option(
    'address',
    'n',
    'netmask',
    'MASK',
    "IPv4 mask or prefix length of the guest (default: the host's)",
    (draft, value, shown) => {
      draft.netmask = values.netmaskValue(shown, value);
    },
  ),
  option(
    'address',
    'M',
    'mac-addr',
    'MAC',
    `our own address on the link (default ${formatMac(DEFAULT_MAC)})`,
    (draft, value, shown) => {
      draft.mac = values.macValue(shown, value);
    },
  ),
  option(
    'address',
    'g',
    'gateway',
    'ADDR',
    "gateway of the guest, once per family (default: the host's)",
    perFamily('gateway', ['unspecified', 'loopback', 'broadcast', 'multicast', 'mapped']),
  ),
  option(
    'address',
    'i',
    'interface',
    'NAME',
    'take addresses and routes from this interface',
    (draft, value, shown) => {
      draft.iface = values.interfaceValue(shown, value);
    },
  ),
  option('address', '', 'no-follow', '', 'do not follow changes of the host at run time', off('follow')),
  option('address', 'o', 'outbound', 'ADDR', 'source address of outgoing sockets, once per family', applyOutbound),
  option('address', '', 'outbound-if4', 'NAME', 'send IPv4 out of this interface', (draft, value, shown) => {
    draft.v4.outboundIf = values.interfaceValue(shown, value);
  }),
  option('address', '', 'outbound-if6', 'NAME', 'send IPv6 out of this interface', (draft, value, shown) => {
    draft.v6.outboundIf = values.interfaceValue(shown, value);
  }),

  option('dns', 'D', 'dns', 'ADDR', 'resolver to advertise, repeatable; "none": none (default: resolv.conf)', applyDns),
  option(
    'dns',
    '',
    'dns-forward',
    'ADDR',
    'guest-side resolver whose queries go to --dns-host, once per family',
    perFamily('dnsForward', ['unspecified', 'loopback', 'broadcast', 'multicast', 'mapped']),
  ),
  option(
    'dns',
    '',
    'dns-host',
    'ADDR',
    'the resolver those queries go to (default: first of resolv.conf)',
    perFamily('dnsHost', ['unspecified', 'broadcast', 'multicast', 'mapped']),
  ),
  option('dns', 'S', 'search', 'NAMES', 'search domains to advertise, repeatable; "none": none', applySearch),
  option('dns', '', 'no-dhcp-dns', '', 'do not advertise resolvers', off('advertiseDns')),
  option('dns', '', 'no-dhcp-search', '', 'do not advertise search domains', off('advertiseSearch')),
  option('dns', 'H', 'hostname', 'NAME', 'host name for the guest (DHCP)', (draft, value, shown) => {
    draft.hostname = values.nameValue(shown, value);
  }),
  option('dns', '', 'fqdn', 'NAME', 'fully qualified name for the guest (DHCP, DHCPv6)', (draft, value, shown) => {
    draft.fqdn = values.nameValue(shown, value);
  }),

  option(
    'nat',
    '',
    'map-host-loopback',
    'ADDR',
    'address that means 127.0.0.1 / ::1 of the host; "none" (default: gateway)',
    applyMapLoopback,
  ),
  option('nat', '', 'no-map-gw', '', "the gateway's address does not mean the host", off('mapGateway')),
  option(
    'nat',
    '',
    'map-guest-addr',
    'ADDR',
    'address that means the host\'s own address; "none" (default: none)',
    applyMapGuest,
  ),

  option('off', '4', 'ipv4-only', '', 'no IPv6', only(4)),
  option('off', '6', 'ipv6-only', '', 'no IPv4', only(6)),
  option('off', '', 'no-tcp', '', 'no TCP', off('tcp')),
  option('off', '', 'no-udp', '', 'no UDP', off('udp')),
  option('off', '', 'no-icmp', '', 'no ICMP, which means no NDP either', (draft) => {
    draft.icmp = false;
    draft.ndp = false;
  }),
  option('off', '', 'no-dhcp', '', 'no DHCP server', off('dhcp')),
  option('off', '', 'no-ndp', '', 'no neighbour discovery', off('ndp')),
  option('off', '', 'no-dhcpv6', '', 'no DHCPv6 server', off('dhcpv6')),
  option('off', '', 'no-ra', '', 'no router advertisements', off('ra')),

  option('ports', 't', 'tcp-ports', 'SPEC', 'TCP ports to forward, repeatable: see below', ports('tcp')),
  option('ports', 'u', 'udp-ports', 'SPEC', 'UDP ports to forward, repeatable', ports('udp')),
  option('ports', '', 'freebind', '', 'listen on addresses that the host does not have (yet)', (draft) => {
    draft.freebind = true;
  }),

  later('c', 'conf-path', 'PATH', 'control socket', 'forwarded ports cannot be changed at run time'),
  option('later', '', 'repair-path', 'PATH', 'socket of passt-repair; "none" is accepted', (_draft, value, shown) => {
    if (value === 'none') return;
    const why = 'connections are not migrated, leave it out or give "none"';
    throw new ConfigError('CFG_ERR_UNSUPPORTED', `${shown} ${value} is not supported yet: ${why}`);
  }),
  later('', 'migrate-exit', '', 'exit after migration', 'connections are not migrated'),
  later('', 'migrate-no-linger', '', 'close sockets while migrating', 'connections are not migrated'),

  pasta('', 'netns', 'NAME', 'network namespace'),
  pasta('', 'userns', 'PATH', 'user namespace'),
  pasta('', 'netns-only', '', 'no user namespace'),
  pasta('', 'no-netns-quit', '', 'outlive the namespace'),
  pasta('', 'no-pidns', '', 'no PID namespace'),
  pasta('', 'config-net', '', 'configure the namespace'),
  pasta('', 'no-copy-routes', '', 'leave routes alone'),
  pasta('', 'no-copy-addrs', '', 'leave addresses alone'),
  pasta('', 'ns-mac-addr', 'MAC', 'address of the interface'),
  pasta('I', 'ns-ifname', 'NAME', 'name of the interface'),
  pasta('T', 'tcp-ns', 'SPEC', 'TCP ports, namespace to host'),
  pasta('U', 'udp-ns', 'SPEC', 'UDP ports, namespace to host'),
  pasta('', 'host-lo-to-ns-lo', '', 'loopback to loopback'),
  pasta('', 'no-splice', '', 'no direct path for loopback'),
  pasta('', 'splice-only', '', 'only the direct path'),
  pasta('', 'dhcp-dns', '', 'advertise resolvers'),
  pasta('', 'dhcp-search', '', 'advertise search domains'),
];
