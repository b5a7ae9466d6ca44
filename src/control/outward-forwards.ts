/**
 * Ports of a namespace's loopback that lead to the host's (`-T`, `-U`) while the service runs. They are part of the list of
 * forwards, have its version, and change in turn with the others: all or none.
 */
import { checkLoopbackRules, type PortRange, type PortRule, PortTable, sameRule, specOf } from '../config/port-spec';
import { ConfigError } from '../errors';
import { Errors, type ForwardItem, parseItems } from './forward-items';
import type { ChangeOptions, ForwardList, Forwards } from './forwards';
import { Refused } from './problem';
import type { ForwardInfo, ItemError } from './types';

/** One `-T` or `-U`: `auto`, or ports that were named. */
export interface OutwardEntry {
  readonly protocol: 'tcp' | 'udp';
  readonly spec: string;
  readonly rules: readonly PortRule[];
  readonly auto: boolean;
}

/** Who has the listeners (src/pasta/outward.ts). */
export interface OutwardTable {
  readonly requests: readonly OutwardEntry[];
  list(): readonly ForwardInfo[];
  /** What is wrong with each of `add`, null: nothing; nothing was changed if one is. */
  change(
    gone: readonly OutwardEntry[],
    add: readonly OutwardEntry[],
    closeFlows: boolean,
  ): Promise<readonly (ConfigError | null)[]>;
}

export interface OutwardForwardsOptions {
  readonly forwards: Forwards;
  readonly table: OutwardTable;
  /** What `all` leaves out. */
  readonly ephemeral: PortRange;
  readonly tcp: boolean;
  readonly udp: boolean;
}

/** An entry that shall come, and its place in the request. */
interface Wanted {
  readonly entry: OutwardEntry;
  readonly at: string;
}

function isSame(a: ForwardItem, b: ForwardItem): boolean {
  return a.protocol === b.protocol && a.spec === b.spec;
}

export class OutwardForwards {
  private readonly options: OutwardForwardsOptions;

  constructor(options: OutwardForwardsOptions) {
    this.options = options;
    options.forwards.outward = () => options.table.list();
  }

  /** All rules; those of `auto` apart. */
  rules(): { readonly named: readonly PortRule[]; readonly auto: readonly PortRule[] } {
    const { requests } = this.options.table;
    const of = (isAuto: boolean): PortRule[] =>
      requests.filter(({ auto }) => auto === isAuto).flatMap(({ rules }) => rules);
    return { named: of(false), auto: of(true) };
  }

  /** Adds ports that lead to the host. Throws Refused with an error for each item that cannot be. */
  add(items: readonly ForwardItem[], options: ChangeOptions = {}): Promise<ForwardList> {
    return this.change(options, () => ({ gone: [], add: this.parse(items) }));
  }

  /** Removes some, named as they are listed. */
  remove(items: readonly ForwardItem[], options: ChangeOptions = {}): Promise<ForwardList> {
    return this.change(options, (entries) => {
      const errors: ItemError[] = items.flatMap((item, i) => {
        if (entries.some((entry) => isSame(entry, item))) return [];
        const message = `${item.protocol} ${item.spec} does not lead to the host`;
        return [{ at: `forwards/${i}`, code: 'not-found', message }];
      });
      if (errors.length > 0) throw new Refused(404, errors);
      return { gone: entries.filter((entry) => items.some((item) => isSame(entry, item))), add: [] };
    });
  }

  /** These and no others. Those that are there already stay as they are, with their connections. */
  replace(items: readonly ForwardItem[], options: ChangeOptions = {}): Promise<ForwardList> {
    return this.change(options, (entries) => {
      const isNew = (item: ForwardItem): boolean => !entries.some((entry) => isSame(entry, item));
      return {
        gone: entries.filter((entry) => !items.some((item) => isSame(entry, item))),
        add: this.parse(items, isNew),
      };
    });
  }

  /** As `replace`, of rules; an entry stays if all of its rules do. `auto`: those of entries that are `auto`, none of them new. */
  replaceRules(named: readonly PortRule[], auto: readonly PortRule[]): Promise<ForwardList> {
    return this.change({}, (entries) => {
      const has = (list: readonly PortRule[], rule: PortRule): boolean => list.some((each) => sameRule(each, rule));
      const stays = (entry: OutwardEntry): boolean => entry.rules.every((rule) => has(entry.auto ? auto : named, rule));
      const gone = entries.filter((entry) => !stays(entry));
      const kept = entries.filter(stays);
      const isKept = (rule: PortRule, isAuto: boolean): boolean =>
        kept.some((entry) => entry.auto === isAuto && has(entry.rules, rule));
      const strange = auto.find((rule) => !isKept(rule, true));
      if (strange !== undefined) {
        const message = `${strange.origin}: ports that follow what listens are given at the start`;
        throw new Refused(400, [{ at: 'rules', code: 'unsupported', message }]);
      }
      const add = named.flatMap((rule, i) =>
        isKept(rule, false)
          ? []
          : [{ at: `rules/${i}`, entry: { protocol: rule.protocol, spec: specOf(rule), rules: [rule], auto: false } }],
      );
      return { gone, add };
    });
  }

  /** Those of `items` that `isNew` says. */
  private parse(items: readonly ForwardItem[], isNew?: (item: ForwardItem) => boolean): Wanted[] {
    return parseItems(items, this.options.ephemeral, isNew).map(({ at, ...named }) => ({
      at,
      entry: { ...named, auto: false },
    }));
  }

  private change(
    { ifVersion = null, closeFlows = false }: ChangeOptions,
    plan: (entries: readonly OutwardEntry[]) => { gone: readonly OutwardEntry[]; add: readonly Wanted[] },
  ): Promise<ForwardList> {
    const { forwards, table } = this.options;
    return forwards.inTurn(ifVersion, async () => {
      const { gone, add } = plan(table.requests);
      if (gone.length === 0 && add.length === 0) return;
      this.check(
        table.requests.filter((entry) => !gone.includes(entry)),
        add,
      );
      const outcome = await table.change(
        gone,
        add.map(({ entry }) => entry),
        closeFlows,
      );
      const errors = new Errors();
      for (const [i, error] of outcome.entries()) {
        if (error === null) continue;
        errors.try(add[i].at, () => {
          throw error;
        });
      }
      errors.throwAny();
      forwards.raise();
    });
  }

  /** Whether they could be, as far as that can be told without trying. */
  private check(kept: readonly OutwardEntry[], add: readonly Wanted[]): void {
    const { tcp, udp, ephemeral } = this.options;
    const errors = new Errors();
    const table = new PortTable(ephemeral);
    for (const { protocol, spec, rules, auto } of kept) if (!auto) table.hold(`${protocol} ${spec}`, rules);
    for (const { at, entry } of add) {
      errors.try(at, () => {
        const { protocol, spec, rules } = entry;
        if (!(protocol === 'tcp' ? tcp : udp))
          throw new ConfigError(
            'CFG_ERR_CONFLICT',
            `${protocol} ${spec}: ports cannot be forwarded with --no-${protocol}`,
          );
        checkLoopbackRules(rules, `${protocol} ${spec}`);
        table.take(rules);
      });
    }
    errors.throwAny();
  }
}
