/** Options of passt that are not supported: refused by name, not as unknown. */
import { ConfigError } from '../errors';
import { option, type OptionSpec } from './option-spec';

/** `missing` says what of Tubetti would have to be there. */
function later(short: string, long: string, arg: string, help: string, missing: string): OptionSpec {
  return option('later', short, long, arg, help, (_draft, _value, shown) => {
    throw new ConfigError('CFG_ERR_UNSUPPORTED', `${shown} is not supported yet: ${missing}`);
  });
}

function pasta(short: string, long: string, arg: string, help: string): OptionSpec {
  return option('pasta', short, long, arg, help, (_draft, _value, shown) => {
    throw new ConfigError(
      'CFG_ERR_UNSUPPORTED',
      `${shown} is for pasta mode only, which is not supported: tubetti serves virtual machines`,
    );
  });
}

export const REFUSED: readonly OptionSpec[] = [
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
