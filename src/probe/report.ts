/** The output: text grouped by paragraph of the specification, or one JSON object. */
import type { Check } from './check';
import type { Result } from './run';

/** Counts of results; a failed SHOULD is counted apart, as it fails nothing. */
export interface Totals {
  readonly passed: number;
  readonly failed: number;
  readonly advised: number;
  readonly skipped: number;
}

export function totalsOf(results: readonly Result[]): Totals {
  const failures = results.filter(({ status }) => status === 'fail');
  const advised = failures.filter(({ check }) => check.severity === 'SHOULD').length;
  return {
    passed: results.filter(({ status }) => status === 'pass').length,
    failed: failures.length - advised,
    advised,
    skipped: results.filter(({ status }) => status === 'skip').length,
  };
}

const WORDS = { pass: 'pass', fail: 'FAIL', skip: 'skip' } as const;

function word({ status, check }: Result): string {
  return status === 'fail' && check.severity === 'SHOULD' ? 'weak' : WORDS[status];
}

/** One line to two: the result, and why. */
export function resultText(result: Result): string {
  const { check, reason, notes } = result;
  const why = [reason, ...notes].filter((text) => text !== '').join('; ');
  // A back-end's own words may contain anything: reduced to one printable line.
  const clean = why.replace(/[^\x20-\x7e§…]+/g, ' ');
  const head = `  ${word(result)}  ${check.id.padEnd(34)} ${check.severity.padEnd(10)} ${check.title}`;
  return clean === '' ? head : `${head}\n          ${clean}`;
}

export function summaryText(results: readonly Result[]): string {
  const { passed, failed, advised, skipped } = totalsOf(results);
  return `${passed} passed, ${failed} failed, ${advised} weak (SHOULD), ${skipped} skipped`;
}

export function jsonText(results: readonly Result[]): string {
  const rows = results.map(({ check, status, reason, notes, ms }) => {
    const { id, spec, title, severity } = check;
    return { id, spec, title, severity, status, reason, notes, ms };
  });
  return `${JSON.stringify({ totals: totalsOf(results), results: rows }, null, 2)}\n`;
}

/** `--list`: all checks, as they are run. */
export function listText(checks: readonly Check[]): string {
  const lines: string[] = [];
  let spec = '';
  for (const check of checks) {
    if (check.spec !== spec) lines.push(...(spec === '' ? [] : ['']), check.spec);
    spec = check.spec;
    lines.push(`  ${check.id.padEnd(34)} ${check.severity.padEnd(10)} ${check.title}`);
  }
  return `${lines.join('\n')}\n`;
}
