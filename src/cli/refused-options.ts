/** Options of passt that are not supported: refused by name, not as unknown. */
import { ConfigError } from '../errors';
import { option, type OptionSpec } from './option-spec';

/** `missing` says what of Tubetti would have to be there. */
function later(short: string, long: string, arg: string, help: string, missing: string): OptionSpec {
  return option('later', short, long, arg, help, (_draft, _value, shown) => {
    throw new ConfigError('CFG_ERR_UNSUPPORTED', `${shown} is not supported yet: ${missing}`);
  });
}

export const REFUSED: readonly OptionSpec[] = [
  option('later', '', 'repair-path', 'PATH', 'socket of passt-repair; "none" is accepted', (_draft, value, shown) => {
    if (value === 'none') return;
    const why = 'connections are not migrated, leave it out or give "none"';
    throw new ConfigError('CFG_ERR_UNSUPPORTED', `${shown} ${value} is not supported yet: ${why}`);
  }),
  later('', 'migrate-exit', '', 'exit after migration', 'connections are not migrated'),
  later('', 'migrate-no-linger', '', 'close sockets while migrating', 'connections are not migrated'),
];
