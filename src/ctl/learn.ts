/** `tubetti ctl policy learn`: a policy that allows what was seen, as a file for `--policy`. */
import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { ConfigError, describeSystemError } from '../errors';
import type { FlowInfo } from '../control/types';
import { hostPort } from '../host-port';
import { usageError } from './command';

/** Rules of a policy at the most: what `--policy` takes (src/config/policy.ts). */
const MOST_RULES = 10_000;

/** What a rule is made of. */
type Seen = Pick<FlowInfo, 'protocol' | 'origin' | 'peer' | 'name'> & { readonly reason?: string };

/** The rule that allows the flow; null: it is none of the guest's, or one that was refused. */
export function ruleFor({ protocol, origin, peer, name, reason }: Seen): string | null {
  if (origin !== 'guest' || reason === 'denied') return null;
  if (protocol === 'icmp') return `icmp/${name ?? (peer.address.includes(':') ? `[${peer.address}]` : peer.address)}`;
  return `${protocol}/${hostPort(name ?? peer.address, peer.port)}`;
}

/** The rules of all flows, each once. */
export class Learnt {
  private readonly rules = new Set<string>();
  /** Rules that are one too many. */
  leftOut = 0;

  add(flow: Seen): void {
    const rule = ruleFor(flow);
    if (rule === null || this.rules.has(rule)) return;
    if (this.rules.size < MOST_RULES) this.rules.add(rule);
    else this.leftOut++;
  }

  /** A file for `--policy`. YAML, of which JSON's strings are a part. */
  text(): string {
    const rules = [...this.rules].sort();
    if (rules.length === 0) return '# The guest has talked to nobody.\nrules: []\ndefault: deny\n';
    return `rules:\n  - allow:\n${rules.map((rule) => `      - ${JSON.stringify(rule)}\n`).join('')}`;
  }
}

/** Adds the flows of a flow log. Throws ConfigError. */
export async function learnFrom(path: string, learnt: Learnt): Promise<void> {
  const lines = createInterface({ input: createReadStream(path), crlfDelay: Infinity });
  let number = 0;
  try {
    for await (const line of lines) {
      number++;
      const flow = parse(line);
      if (flow === null) throw usageError(`policy learn ${path}: line ${number} is none of a flow log`, 'tubetti ctl');
      // Lines that say what was lost are no flows.
      if ('peer' in flow) learnt.add(flow as unknown as Seen);
    }
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    throw usageError(`policy learn ${path}: cannot read: ${describeSystemError(error)}`, 'tubetti ctl');
  }
}

/** The object of a line; null: it has none. */
function parse(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
