/** What the kernel tells about processes and namespaces (proc(5)). */
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';

const TICKS_PER_SECOND = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));

function allProcesses(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** The processes of a group: a back-end may be started through a wrapper, or fork. */
export function processesOfGroup(group: number): number[] {
  return allProcesses().filter((pid) => statFields(pid)?.[2] === String(group));
}

/** A process and all that descend from it: those of a User Mode Linux guest make groups of their own. */
function processesUnder(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const pid of allProcesses()) {
    const parent = Number(statFields(pid)?.[1]);
    children.set(parent, [...(children.get(parent) ?? []), pid]);
  }
  const found = [root];
  // It grows while it is gone through.
  for (const pid of found) found.push(...(children.get(pid) ?? []));
  return found;
}

/** CPU time of a process group so far, user and system, all threads, in seconds. */
export function cpuSeconds(group: number): number {
  // utime and stime, the 14th and 15th field of the line.
  return sumOfTimes(processesOfGroup(group), 11, 13);
}

/** The same of a process and its descendants, with those that have ended: programs in a guest may be such. */
export function cpuSecondsUnder(root: number): number {
  // cutime and cstime follow.
  return sumOfTimes(processesUnder(root), 11, 15);
}

/** Of the fields of {@link statFields} from the `begin`th to the one before the `end`th. */
function sumOfTimes(pids: readonly number[], begin: number, end: number): number {
  let ticks = 0;
  for (const pid of pids) {
    for (const field of statFields(pid)?.slice(begin, end) ?? []) ticks += Number(field);
  }
  return ticks / TICKS_PER_SECOND;
}

/** Anonymous resident memory of a process group, in bytes. The guest's memory is a shared mapping and no part of it. */
export function anonymousBytes(group: number): number {
  let bytes = 0;
  for (const pid of processesOfGroup(group)) {
    const match = /^RssAnon:\s+(\d+) kB$/m.exec(readOrEmpty(`/proc/${String(pid)}/status`));
    bytes += Number(match?.[1] ?? 0) * 1024;
  }
  return bytes;
}

/**
 * Resident memory of a process group, in bytes: its own and its programs', but not what it shares with the guest. Pages
 * that several of its processes map count for each.
 */
export function residentBytes(group: number): number {
  let bytes = 0;
  for (const pid of processesOfGroup(group)) {
    for (const match of readOrEmpty(`/proc/${String(pid)}/status`).matchAll(/^Rss(?:Anon|File):\s+(\d+) kB$/gm)) {
      bytes += Number(match[1]) * 1024;
    }
  }
  return bytes;
}

/** Processes that have `word` in their environment: what a back-end started besides may have left its group (our broker). */
function processesMarked(word: string): number[] {
  return allProcesses().filter((pid) =>
    readOrEmpty(`/proc/${String(pid)}/environ`)
      .split('\0')
      .includes(word),
  );
}

/** Of processes that were started by `group` with `mark` in their environment, by lines of smaps_rollup (proc(5)), bytes. */
function rollupBytes(group: number, mark: string, lines: RegExp): number {
  let bytes = 0;
  for (const pid of new Set([...processesOfGroup(group), ...processesMarked(mark)])) {
    for (const match of readOrEmpty(`/proc/${String(pid)}/smaps_rollup`).matchAll(lines))
      bytes += Number(match[1]) * 1024;
  }
  return bytes;
}

/** Pss: private pages, and the part of those that other processes map as well. */
export function proportionalBytes(group: number, mark: string): number {
  return rollupBytes(group, mark, /^Pss:\s+(\d+) kB$/gm);
}

/** Pages that no other process maps. */
export function privateBytes(group: number, mark: string): number {
  return rollupBytes(group, mark, /^Private_(?:Clean|Dirty):\s+(\d+) kB$/gm);
}

/** Interrupts of virtio devices so far, from the text of a guest's /proc/interrupts. */
export function virtioInterrupts(text: string): number {
  let sum = 0;
  // "  5:   1234   0   IO-APIC  10-fasteoi  virtio0": a number for each processor, then words.
  for (const match of text.matchAll(/^\s*\d+:((?:\s+\d+)+)\s.*virtio.*$/gm)) {
    for (const count of match[1].trim().split(/\s+/)) sum += Number(count);
  }
  return sum;
}

/** Datagrams that have come to the network namespace of a process, read or not. */
export function datagramsArrived(pid: number): number {
  const text = readOrEmpty(`/proc/${String(pid)}/net/snmp`);
  return netField(text, 'Udp', 'InDatagrams') + netField(text, 'Udp', 'RcvbufErrors');
}

/** Fields of a line of /proc/net/snmp or netstat, e.g. `field(text, 'Tcp', 'RetransSegs')`; 0 when it is not there. */
export function netField(text: string, protocol: string, name: string): number {
  const lines = text.split('\n').filter((line) => line.startsWith(`${protocol}: `));
  const [names, values] = lines.map((line) => line.split(' '));
  const at = names?.indexOf(name) ?? -1;
  return at < 0 ? 0 : Number(values?.[at]);
}

/** TCP segments that the network namespace of a process has sent again. */
export function retransmitsOf(pid: number): number {
  return netField(readOrEmpty(`/proc/${String(pid)}/net/snmp`), 'Tcp', 'RetransSegs');
}

/** Whether somebody listens on a unix socket, seen without connecting: a back-end would take that for its guest. */
export function isListening(pid: number, path: string): boolean {
  // Flags 00010000 mark a listening socket.
  return readOrEmpty(`/proc/${String(pid)}/net/unix`)
    .split('\n')
    .some((line) => line.includes(' 00010000 ') && line.endsWith(` ${path}`));
}

/** The fields of /proc/PID/stat from the third on: the second, the name, may contain anything. */
function statFields(pid: number): string[] | null {
  const text = readOrEmpty(`/proc/${String(pid)}/stat`);
  return text === '' ? null : text.slice(text.lastIndexOf(')') + 2).split(' ');
}

/** A process may be gone by the time it is looked at. */
function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
