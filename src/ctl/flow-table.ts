/** Flows as lines of text, for `tubetti flows` and `tubetti top`. */
import type { FlowInfo } from '../control/types';
import { hostPort } from '../host-port';

const UNITS = ['', 'K', 'M', 'G', 'T', 'P'] as const;

/** 3 digits or so: `999`, `1.5K`, `12M`; powers of 1000. */
export function shortNumber(value: number): string {
  let unit = 0;
  let scaled = value;
  while (scaled >= 999.5 && unit < UNITS.length - 1) {
    scaled /= 1000;
    unit++;
  }
  return `${unit > 0 && scaled < 9.95 ? scaled.toFixed(1) : Math.round(scaled)}${UNITS[unit]}`;
}

/** `5s`, `2m10s`, `3h05m`, `12d`. */
export function shortTime(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${String(s % 60).padStart(2, '0')}s`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h${String(Math.floor(s / 60) % 60).padStart(2, '0')}m`;
  return `${Math.floor(s / 86_400)}d`;
}

/** µs: `40us`, `1.5ms`, `15ms`, `1.2s`. */
export function shortRtt(us: number | null): string {
  if (us === null) return '-';
  if (us < 1000) return `${Math.round(us)}us`;
  if (us < 9950) return `${(us / 1000).toFixed(1)}ms`;
  return us < 999_500 ? `${Math.round(us / 1000)}ms` : `${(us / 1e6).toFixed(1)}s`;
}

export interface Column {
  readonly heading: string;
  readonly right?: boolean;
  /** The higher, the earlier it goes where there is no room; 0: never. */
  readonly spare: number;
  /** May be cut short to this many characters. */
  readonly least?: number;
  /** What no row need be told: where all have this, the column is left out. */
  readonly usual?: string;
  readonly text: (flow: FlowInfo, now: number) => string;
}

/** The columns of `tubetti flows`; `top` adds its own. */
export const COLUMNS: readonly Column[] = [
  { heading: 'PROTO', spare: 0, text: ({ protocol }) => protocol },
  { heading: 'KIND', spare: 6, usual: 'link', text: ({ kind }) => kind },
  { heading: 'GUEST', spare: 0, text: ({ guest }) => hostPort(guest.address, guest.port) },
  { heading: '', spare: 0, text: ({ origin }) => (origin === 'guest' ? '>' : '<') },
  {
    heading: 'PEER',
    spare: 0,
    least: 20,
    text: ({ peer, name }) => hostPort(name ?? peer.address, peer.port),
  },
  { heading: 'STATE', spare: 2, text: ({ state }) => state },
  { heading: 'FROM', right: true, spare: 0, text: ({ fromGuest }) => shortNumber(fromGuest) },
  { heading: 'TO', right: true, spare: 0, text: ({ toGuest }) => shortNumber(toGuest) },
  { heading: 'AGE', right: true, spare: 3, text: ({ startedAt }, now) => shortTime(now - startedAt) },
  { heading: 'RTT', right: true, spare: 4, text: ({ rttUs }) => shortRtt(rttUs) },
  { heading: 'RULE', spare: 5, text: ({ rule }) => rule ?? '-' },
  { heading: 'ID', spare: 1, text: ({ id }) => id },
];

/** What comes from others is shown, but commands nothing. */
function harmless(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, '?');
}

/**
 * A heading and a line for each flow, of `width` characters at the most as far as that can be: what can be cut is cut, and
 * columns that one can do without go. Infinity: everything is shown.
 */
export function flowLines(
  columns: readonly Column[],
  flows: readonly FlowInfo[],
  width: number,
  now: number,
): string[] {
  const cells = flows.map((flow) => columns.map((column) => harmless(column.text(flow, now))));
  const widths = columns.map(({ heading }, i) => Math.max(heading.length, ...cells.map((row) => row[i].length)));
  // As narrow as can be, then what is left goes to what was cut.
  const full = [...widths];
  columns.forEach(({ least }, i) => {
    if (least !== undefined) widths[i] = Math.min(widths[i], least);
  });
  const isUsual = ({ usual }: Column, i: number): boolean =>
    usual !== undefined && cells.every((row) => row[i] === usual);
  let shown = columns.flatMap((column, i) => (isUsual(column, i) ? [] : [i]));
  const taken = (): number => shown.reduce((sum, i) => sum + widths[i] + 2, -2);
  while (taken() > width) {
    const spare = Math.max(...shown.map((i) => columns[i].spare));
    if (spare === 0) break;
    shown = shown.filter((i) => columns[i].spare !== spare);
  }
  for (const i of shown) widths[i] = Math.min(full[i], widths[i] + Math.max(0, width - taken()));
  const line = (row: readonly string[]): string =>
    shown
      .map((i) => {
        const text = row[i].length > widths[i] ? `${row[i].slice(0, widths[i] - 1)}…` : row[i];
        return columns[i].right === true ? text.padStart(widths[i]) : text.padEnd(widths[i]);
      })
      .join('  ')
      .trimEnd();
  return [line(columns.map(({ heading }) => heading)), ...cells.map(line)];
}
