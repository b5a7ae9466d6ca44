/** What the kernel tells about all processes of one service (proc(5)): those of its group, and those with its mark. */
import { readFileSync, readdirSync } from 'node:fs';

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function listOrEmpty(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** The processes that were started with one of `marks` in their environment, by mark. */
export function processesBy(marks: readonly string[]): Map<string, number[]> {
  const found = new Map<string, number[]>(marks.map((mark) => [mark, []]));
  for (const name of listOrEmpty('/proc').filter((each) => /^\d+$/.test(each))) {
    for (const word of readOrEmpty(`/proc/${name}/environ`).split('\0')) found.get(word)?.push(Number(name));
  }
  return found;
}

/** Memory in bytes: of its own, its part of files that others map as well, its part of the guest's. */
export interface Memory {
  readonly anonymous: number;
  readonly files: number;
  readonly guest: number;
}

function kibOf(text: string, name: string): number {
  return 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0);
}

export function memoryOf(pids: readonly number[]): Memory {
  const sum = { anonymous: 0, files: 0, guest: 0 };
  for (const pid of pids) {
    const text = readOrEmpty(`/proc/${pid}/smaps_rollup`);
    sum.anonymous += kibOf(text, 'Pss_Anon');
    sum.files += kibOf(text, 'Pss_File');
    sum.guest += kibOf(text, 'Pss_Shmem');
  }
  return sum;
}

/** So far, of all threads: time on a processor in ns, and how often they went to sleep by themselves. */
export interface Activity {
  readonly cpuNs: number;
  readonly sleeps: number;
}

export function activityOf(pids: readonly number[]): Activity {
  let cpuNs = 0;
  let sleeps = 0;
  for (const pid of pids) {
    for (const thread of listOrEmpty(`/proc/${pid}/task`)) {
      const task = `/proc/${pid}/task/${thread}`;
      cpuNs += Number(readOrEmpty(`${task}/schedstat`).split(' ')[0]);
      sleeps += Number(/^voluntary_ctxt_switches:\s+(\d+)$/m.exec(readOrEmpty(`${task}/status`))?.[1] ?? 0);
    }
  }
  return { cpuNs, sleeps };
}

export function descriptorsOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + listOrEmpty(`/proc/${pid}/fd`).length, 0);
}

export function threadsOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + listOrEmpty(`/proc/${pid}/task`).length, 0);
}

/** How many of these sockets are listened on in the network namespace of a process. */
export function listeningAmong(pid: number, paths: ReadonlySet<string>): Set<string> {
  const found = new Set<string>();
  for (const line of readOrEmpty(`/proc/${pid}/net/unix`).split('\n')) {
    const path = line.slice(line.lastIndexOf(' ') + 1);
    // Flags 00010000 mark a listening socket.
    if (line.includes(' 00010000 ') && paths.has(path)) found.add(path);
  }
  return found;
}
