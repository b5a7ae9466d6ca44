/**
 * The policy in force: whom the guest may talk to. One place that the options, the host's changes, the control interface
 * and the metrics share; the data plane gets a complete `PolicySetup` with each change.
 */
import type { DataPlane } from '../supervisor/data-plane';
import { reachText } from '../config/host-reach';
import type { PolicyPart, RatesPart } from '../control/policy-routes';
import type { LinkRates } from '../stack/config';
import type { HostReach, Policy, PolicySetup } from '../stack/policy/types';

/** What a rule has decided, as the metrics show it. */
export interface VerdictCount {
  /** As the rule was given; `default`: no rule matched. */
  readonly rule: string;
  /** `audit`: would have been denied. */
  readonly verdict: 'allow' | 'deny' | 'audit';
  readonly count: number;
}

const NO_COUNTS = new SharedArrayBuffer(0);

export class ServicePolicy {
  private policy: Policy | null;
  private reach: HostReach;
  private verdicts: SharedArrayBuffer;
  private plane: DataPlane | null = null;
  /** Counts changes of the policy. */
  private changes = 1;

  constructor(policy: Policy | null, reach: HostReach) {
    this.policy = policy;
    this.reach = reach;
    this.verdicts = NO_COUNTS;
    this.countAnew(null, NO_COUNTS);
  }

  /** For the data plane's beginning, and with each change. */
  get setup(): PolicySetup {
    return { policy: this.policy, reach: this.reach, verdicts: this.verdicts };
  }

  /** Null: everybody. */
  get current(): Policy | null {
    return this.policy;
  }

  /** Another number after each change of the policy. */
  get version(): number {
    return this.changes;
  }

  /** For those who give orders. */
  get part(): PolicyPart {
    const current = (): Policy | null => this.policy;
    const version = (): number => this.changes;
    return {
      get current() {
        return current();
      },
      get version() {
        return version();
      },
      set: (policy) => this.set(policy),
    };
  }

  /** From now on changes reach the data plane, which has begun with `setup`. */
  attach(plane: DataPlane): void {
    this.plane = plane;
  }

  /** Replaces the policy as a whole. When it settles, flows that it forbids are closed. */
  async set(policy: Policy | null): Promise<void> {
    const before = this.policy;
    this.policy = policy;
    this.changes++;
    this.countAnew(before, this.verdicts);
    await this.plane?.setPolicy(this.setup);
  }

  /** The host's addresses or links changed, perhaps. */
  async setReach(reach: HostReach): Promise<void> {
    if (reachText(reach) === reachText(this.reach)) return;
    this.reach = reach;
    if (this.policy !== null) await this.plane?.setPolicy(this.setup);
  }

  /** What the data plane means by `verdict` of a refused flow: the rule, from 1 on. */
  verdictText(verdict: number): string {
    const rule = this.policy?.rules.at(verdict - 1);
    return rule === undefined ? 'default' : `deny ${rule.text}`;
  }

  /** Rules with the same text and verdict are one line: what a scraper cannot tell apart. */
  counts(): readonly VerdictCount[] {
    const { policy } = this;
    if (policy === null) return [];
    const counts = new Float64Array(this.verdicts);
    const lines = new Map<string, VerdictCount>();
    const add = (rule: string, allows: boolean, count: number): void => {
      const verdict = allows ? 'allow' : policy.audit ? 'audit' : 'deny';
      const key = `${verdict} ${rule}`;
      lines.set(key, { rule, verdict, count: (lines.get(key)?.count ?? 0) + count });
    };
    for (const [i, { verdict, text }] of policy.rules.entries()) add(text, verdict === 'allow', counts[i]);
    add('default', policy.otherwise === 'allow', counts[policy.rules.length]);
    return [...lines.values()];
  }

  /** A new buffer, as the old data plane may write into the old one; a rule that stays keeps its number. */
  private countAnew(before: Policy | null, old: SharedArrayBuffer): void {
    const { policy } = this;
    if (policy === null) {
      this.verdicts = NO_COUNTS;
      return;
    }
    this.verdicts = new SharedArrayBuffer((policy.rules.length + 1) * Float64Array.BYTES_PER_ELEMENT);
    if (before === null) return;
    const was = new Float64Array(old);
    const now = new Float64Array(this.verdicts);
    const known = new Map<string, number>();
    for (const [i, { verdict, text }] of before.rules.entries()) {
      known.set(`${verdict} ${text}`, (known.get(`${verdict} ${text}`) ?? 0) + was[i]);
    }
    for (const [i, { verdict, text }] of policy.rules.entries()) {
      now[i] = known.get(`${verdict} ${text}`) ?? 0;
      known.delete(`${verdict} ${text}`);
    }
    if (before.otherwise === policy.otherwise) now[policy.rules.length] = was[before.rules.length];
  }
}

/** The limits of a data plane that has begun with `rates`, for those who give orders. */
export function ratesPart(plane: DataPlane, rates: LinkRates): RatesPart {
  let current = rates;
  return {
    get current() {
      return current;
    },
    set: async (next) => {
      current = next;
      await plane.setRates(next);
    },
  };
}
