/**
 * The policy of `--allow` and `--deny`, and of a file or request: from text or parsed JSON or YAML to `Policy`. The form of
 * the file is published in docs/policy.schema.json.
 */
import type { ItemError } from '../control/types';
import type { Policy, PolicyRule, PolicyVerdict } from '../stack/policy/types';
import { parseRule, RuleError } from './policy-rule';

/** Far more than anybody writes by hand; what a rule costs is in docs/policy.md. */
export const MAX_RULES = 10_000;
const MAX_RULE_LENGTH = 512;

export type PolicyResult = { readonly policy: Policy } | { readonly errors: readonly ItemError[] };

/** A policy of rules alone, as the command line has it: any that allows makes "deny" the default. */
export function policyOf(rules: readonly PolicyRule[], audit: boolean): Policy {
  const otherwise = rules.some(({ verdict }) => verdict === 'allow') ? 'deny' : 'allow';
  return { rules, otherwise, audit, deniedNames: 'refused', sni: 'off' };
}

class Checker {
  readonly errors: ItemError[] = [];

  wrong(at: string, message: string): void {
    // A file with the wrong thing in every line needs no list of them all.
    if (this.errors.length < 100) this.errors.push({ at, code: 'invalid', message });
  }

  word<T extends string>(at: string, value: unknown, words: readonly T[], otherwise: T): T {
    if (value === undefined) return otherwise;
    const word = words.find((one) => one === value);
    if (word === undefined) this.wrong(at, `give ${words.map((one) => `"${one}"`).join(' or ')}`);
    return word ?? otherwise;
  }

  flag(at: string, value: unknown): boolean {
    if (value !== undefined && typeof value !== 'boolean') this.wrong(at, 'give true or false');
    return value === true;
  }

  /** The keys of an object, or null. */
  object(at: string, value: unknown, keys: readonly string[]): Record<string, unknown> | null {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      this.wrong(at, `give an object with the keys ${keys.join(', ')}`);
      return null;
    }
    for (const key of Object.keys(value)) {
      if (!keys.includes(key))
        this.wrong(at === '' ? key : `${at}/${key}`, `no such key: there are ${keys.join(', ')}`);
    }
    return value as Record<string, unknown>;
  }
}

function rulesOf(check: Checker, at: string, value: unknown): PolicyRule[] {
  const item = check.object(at, value, ['allow', 'deny', 'private']);
  if (item === null) return [];
  const given = (['allow', 'deny'] as const).filter((verdict) => item[verdict] !== undefined);
  if (given.length !== 1) {
    check.wrong(at, 'give either "allow" or "deny"');
    return [];
  }
  const [verdict]: PolicyVerdict[] = given;
  const opensPrivate = check.flag(`${at}/private`, item.private);
  const texts: unknown[] = Array.isArray(item[verdict]) ? item[verdict] : [item[verdict]];
  const rules: PolicyRule[] = [];
  for (const [i, text] of texts.entries()) {
    const where = Array.isArray(item[verdict]) ? `${at}/${verdict}/${i}` : `${at}/${verdict}`;
    if (typeof text !== 'string' || text.length > MAX_RULE_LENGTH) {
      check.wrong(where, 'give a rule like "github.com:443" as text');
      continue;
    }
    try {
      rules.push(parseRule(verdict, text, opensPrivate));
    } catch (error) {
      if (!(error instanceof RuleError)) throw error;
      check.wrong(where, `${text}: ${error.message}`);
    }
  }
  return rules;
}

/** Reads what a policy file or a request holds. Never throws for what is in it; each error names its place. */
export function checkPolicy(value: unknown): PolicyResult {
  const check = new Checker();
  const top = check.object('', value, ['rules', 'default', 'audit', 'denied-names', 'sni']);
  if (top === null) return { errors: check.errors };
  const list = top.rules ?? [];
  const rules: PolicyRule[] = [];
  if (Array.isArray(list)) {
    for (const [i, item] of list.entries()) {
      rules.push(...rulesOf(check, `rules/${i}`, item));
      if (rules.length > MAX_RULES) {
        check.wrong('rules', `give at most ${MAX_RULES} rules`);
        break;
      }
    }
  } else {
    check.wrong('rules', 'give a list of rules, like [{"allow": "github.com:443"}]');
  }
  // A file that was cut short, or a mistake, is not to open everything.
  if (rules.length === 0 && top.default === undefined && check.errors.length === 0)
    check.wrong('rules', 'there are none: give some, or "default" with "allow" or "deny"');
  const base = policyOf(rules, check.flag('audit', top.audit));
  const policy: Policy = {
    ...base,
    otherwise: check.word('default', top.default, ['allow', 'deny'], base.otherwise),
    deniedNames: check.word('denied-names', top['denied-names'], ['refused', 'nxdomain'], 'refused'),
    sni: check.word('sni', top.sni, ['off', 'require'], 'off'),
  };
  return check.errors.length > 0 ? { errors: check.errors } : { policy };
}

/** The form of the file again: what `checkPolicy` reads as the same policy. */
export function policyValue(policy: Policy): Record<string, unknown> {
  return {
    default: policy.otherwise,
    audit: policy.audit,
    'denied-names': policy.deniedNames,
    sni: policy.sni,
    rules: policy.rules.map(({ verdict, text, private: opens }) => ({
      [verdict]: text,
      ...(opens && { private: true }),
    })),
  };
}
