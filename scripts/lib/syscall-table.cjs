'use strict';

/** The tables of docs/syscalls.md from those of src/sandbox/syscalls.ts: neighbours of one kind are one row. */

/** @param {any} verdict */
function textOf(verdict) {
  if (typeof verdict !== 'string') return `${verdict.text}; else ${verdict.otherwise}`;
  return verdict;
}

/**
 * A cell: what it is for a virtual machine, and behind that for a namespace if that is another.
 * @param {any} verdict
 * @param {any} namespace
 */
function cellOf(verdict, namespace) {
  if (namespace === undefined || namespace === verdict) return textOf(verdict);
  return `${textOf(verdict)}. Namespaces: ${textOf(namespace)}`;
}

/** @param {readonly { name: string, why: string, process: unknown, dataPlane: unknown, namespace?: any }[]} calls */
function tableOf(calls) {
  /** @type {{ names: string[], rest: string }[]} */
  const rows = [];
  for (const { name, why, process, dataPlane, namespace } of calls) {
    const cells = [cellOf(process, namespace?.process), cellOf(dataPlane, namespace?.dataPlane)];
    const rest = `${why} | ${cells.join(' | ')} |`;
    const last = rows.at(-1);
    if (last?.rest === rest) last.names.push(name);
    else rows.push({ names: [name], rest });
  }
  const lines = rows.map(({ names, rest }) => `| ${names.map((name) => `\`${name}\``).join(', ')} | ${rest}`);
  return ['| call | who needs it, or what for | all threads | data plane |', '| --- | --- | --- | --- |', ...lines];
}

/** @param {readonly { names: readonly string[], why: string, verdict: unknown }[]} rows */
function brokerTableOf(rows) {
  const lines = rows.map(
    ({ names, why, verdict }) => `| ${names.map((name) => `\`${name}\``).join(', ')} | ${why} | ${textOf(verdict)} |`,
  );
  return ['| call | what for | broker |', '| --- | --- | --- |', ...lines];
}

module.exports = { tableOf, brokerTableOf };
