/** Policy and rates in a few words, for the report at the start and for `tubetti ctl`. */

/** `50 Mbit/s`, exact; 0: `no limit`. */
export function rateText(rate: number): string {
  if (rate === 0) return 'no limit';
  const unit = rate >= 1e9 ? 1e9 : rate >= 1e6 ? 1e6 : rate >= 1e3 ? 1e3 : 1;
  return `${rate / unit} ${{ 1e9: 'G', 1e6: 'M', 1e3: 'k', 1: '' }[unit]}bit/s`;
}

/** `2 rules, else deny`. `otherwise`: the verdict where no rule matches. */
export function policySummary(rules: number, otherwise: string, audit: boolean): string {
  const count = rules === 0 ? 'no rules' : rules === 1 ? '1 rule' : `${rules} rules`;
  return `${count}, else ${otherwise}${audit ? '; audit: what would be refused passes, and is logged' : ''}`;
}
