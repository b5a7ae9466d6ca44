/** Forwards as users name them in a request, and what is wrong with them, item by item. */
import { parsePortSpec, type PortRange, type PortRule } from '../config/port-spec';
import { ConfigError } from '../errors';
import { Refused } from './problem';
import type { ItemError } from './types';

/** A forward as users name it. */
export interface ForwardItem {
  readonly protocol: 'tcp' | 'udp';
  readonly spec: string;
}

/** One that shall come. */
export interface WantedForward extends ForwardItem {
  readonly rules: readonly PortRule[];
  /** Its place in the request. */
  readonly at: string;
}

/** Collects what is wrong with items. */
export class Errors {
  readonly all: ItemError[] = [];

  /** Runs `body`; the user's error becomes that of the item at `at`. Returns null then. */
  try<T>(at: string, body: () => T): T | null {
    try {
      return body();
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      const code = { CFG_ERR_BIND: 'bind', CFG_ERR_CONFLICT: 'conflict', CFG_ERR_UNSUPPORTED: 'unsupported' } as const;
      this.all.push({
        at,
        code: error.code in code ? code[error.code as keyof typeof code] : 'invalid',
        message: error.message,
      });
      return null;
    }
  }

  /** Throws Refused if there are any. */
  throwAny(): void {
    if (this.all.length === 0) return;
    throw new Refused(this.all.some(({ code }) => code === 'bind' || code === 'conflict') ? 409 : 400, this.all);
  }
}

/** Those of `items` that `isNew` says, parsed; `ephemeral`: the ports that `all` leaves out. Throws Refused. */
export function parseItems(
  items: readonly ForwardItem[],
  ephemeral: PortRange,
  isNew: (item: ForwardItem) => boolean = () => true,
): WantedForward[] {
  const errors = new Errors();
  const wanted: WantedForward[] = [];
  for (const [i, item] of items.entries()) {
    if (!isNew(item)) continue;
    const { protocol, spec } = item;
    const at = `forwards/${i}/spec`;
    const rules = errors.try(at, () => {
      const parsed = parsePortSpec(protocol, spec, ephemeral, `${protocol} ${spec}`);
      if (parsed === null) throw new ConfigError('CFG_ERR_VALUE', `${protocol} ${spec}: give ports`);
      return parsed;
    });
    if (rules !== null) wanted.push({ protocol, spec, rules, at });
  }
  errors.throwAny();
  return wanted;
}
