'use strict';

/** The end of docs/metrics.md from the definitions in src/metrics/names.ts. */

/**
 * @typedef {{ name: string, kind: string, help: string, labels: readonly string[], values: readonly (readonly string[])[], note?: string }} Entry
 */

/** @param {string} text */
const code = (text) => `\`${text}\``;

/** @param {Entry} entry */
function entryOf({ name, kind, help, labels, values, note }) {
  const lines = [`### ${code(name)}`, '', `${kind[0].toUpperCase()}${kind.slice(1)}. ${help}`];
  if (note !== undefined) lines.push('', note);
  const items = labels.map((label, i) => {
    const all = [...new Set(values.map((value) => value[i]))];
    return all.length === 0 ? `- ${code(label)}` : `- ${code(label)}: ${all.map(code).join(', ')}`;
  });
  if (items.length > 0) lines.push('', ...items);
  return lines;
}

/** @param {{ unit: number, series: readonly { histogram: { shift: number, buckets: number } }[] }} spec */
function boundsOf({ unit, series }) {
  const { shift, buckets } = series[0].histogram;
  /** @param {number} power */
  const bound = (power) => Number((2 ** power * unit).toPrecision(12));
  return `Buckets: powers of two from ${bound(shift)} to ${bound(shift + buckets - 1)}.`;
}

/**
 * @param {any} names what src/metrics/names.ts exports
 * @param {readonly string[]} layers LAYER_NAMES of src/sandbox/layer.ts
 */
function metricsPage({ METRICS, HISTOGRAMS, OTHERS, PROCESS }, layers) {
  /** @type {Entry[]} */
  const entries = METRICS.map((/** @type {any} */ spec) => ({
    ...spec,
    values: spec.series.map((/** @type {any} */ one) => one.values),
  }));
  for (const spec of HISTOGRAMS) {
    const values = spec.series.map((/** @type {any} */ one) => one.values);
    entries.push({ ...spec, kind: 'histogram', values, note: boundsOf(spec) });
  }
  for (const spec of Object.values(OTHERS)) {
    const values = spec === OTHERS.layers ? layers.map((layer) => [layer]) : [];
    entries.push({ ...spec, values });
  }
  for (const spec of Object.values(PROCESS)) entries.push({ ...spec, values: [] });
  return entries
    .flatMap((entry) => ['', ...entryOf(entry)])
    .join('\n')
    .trimStart();
}

module.exports = { metricsPage, MARK: '<!-- made from src/metrics/names.ts: node scripts/metrics-page.mjs -->\n' };
