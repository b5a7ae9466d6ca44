/** A row of the option table (option-table.ts). */
import type { Action, Draft } from './draft';
import type { OptionNames } from './getopt';

export type Apply = (draft: Draft, value: string, shown: string) => void;

export const GROUPS = {
  general: 'General',
  link: 'Front-end',
  address: 'Addresses and routes of the guest',
  dns: 'DNS and host names',
  services: 'DHCP, names, and booting by network',
  nat: 'Reaching the host from the guest',
  policy: 'Whom the guest may talk to, and how much (docs/policy.md)',
  off: 'Turning protocols and services off',
  ports: 'Forwarding ports of the host to the guest',
  pasta: 'Namespaces (called as pasta, or "tubetti netns")',
  later: 'Options of passt that are not supported yet',
} as const;
export type Group = keyof typeof GROUPS;

export interface OptionSpec extends OptionNames {
  readonly group: Group;
  readonly help: string;
  readonly apply: Apply;
  /** Instead of serving. */
  readonly action?: Action;
  /** Words that its argument may be, for shells to complete: all there are, or those besides an address. */
  readonly words?: readonly string[];
}

export function option(
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

export function taking(words: readonly string[], spec: OptionSpec): OptionSpec {
  return { ...spec, words };
}
