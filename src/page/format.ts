/** Numbers as people read them: three digits, with a unit that fits. */

const PREFIXES = ['', 'k', 'M', 'G', 'T'];

function scaled(value: number, unit: string): string {
  let i = 0;
  let rest = value;
  // 999.6 has four digits once it is rounded.
  while (rest >= 999.5 && i < PREFIXES.length - 1) {
    rest /= 1000;
    i++;
  }
  return `${digits(rest)} ${PREFIXES[i]}${unit}`.trimEnd();
}

function digits(value: number): string {
  if (value === 0) return '0';
  if (value < 0.01) return value.toExponential(0);
  if (value >= 99.95) return value.toFixed(0);
  return value.toFixed(value >= 9.995 ? 1 : 2).replace(/\.?0+$/, '');
}

export const NONE = '–';

export const bitsPerSecond = (value: number): string => scaled(value, 'bit/s');
export const perSecond = (value: number): string => scaled(value, '/s');
export const bytes = (value: number): string => (value < 1000 ? `${value} B` : scaled(value, 'B'));
/** Of things that are counted: exact, thousands apart. */
export const count = (value: number): string => value.toLocaleString('en').replaceAll(',', '\u202f');

/** Seconds, down to microseconds. */
export function seconds(value: number): string {
  if (value === 0) return '0 s';
  if (value < 0.9995e-3) return `${digits(value * 1e6)} µs`;
  return value < 0.9995 ? `${digits(value * 1e3)} ms` : `${digits(value)} s`;
}

/** How long something has lasted: `3 h 20 min`. */
export function age(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}
