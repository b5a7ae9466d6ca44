/** The program on this machine's own network, and what tests of its limits look at. Needs a build. */
import { readdirSync, readFileSync } from 'node:fs';
import { get } from 'node:http';
import { connect, type Socket } from 'node:net';
import { PROGRAM, launchProgram, SAME_USER, type Running } from './program';

export interface Started extends Running {
  readonly pid: number;
  readonly metricsPort: number;
}

/** What is said last at the start. */
const STARTED = /<interface type='(?:vhostuser|ethernet|user)'>|-netdev stream/;

/** Starts it with metrics and waits until it is ready. */
export async function startService(...argv: string[]): Promise<Started> {
  const running = launchProgram([...PROGRAM, ...SAME_USER, '--metrics', '0', ...argv]);
  const [, port] = await running.says(/metrics {2}http:\S+:([0-9]+)\/metrics/);
  await running.says(STARTED);
  return { ...running, pid: running.child.pid ?? -1, metricsPort: Number(port) };
}

/** The page of metrics. @throws Error after `timeoutMs`. */
export function scrape(port: number, timeoutMs = 5000): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get({ host: '127.0.0.1', port, path: '/metrics', agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      response.on('end', () => {
        clearTimeout(timer);
        resolve(body);
      });
    });
    const timer = setTimeout(() => {
      request.destroy(new Error(`no metrics within ${timeoutMs} ms`));
    }, timeoutMs);
    request.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
  });
}

/** A connection, whose resets are of no interest. */
export function tcpTo(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => {
      resolve(socket);
    });
    socket.on('error', reject);
  });
}

/** Resident memory of a process, bytes. */
export function residentBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  return Number(/^VmRSS:\s+([0-9]+) kB$/m.exec(status)?.[1]) * 1024;
}

/** A line of /proc/PID/status for each thread. */
export function threadStatus(pid: number, field: string): string[] {
  return readdirSync(`/proc/${pid}/task`).map((thread) => {
    const text = readFileSync(`/proc/${pid}/task/${thread}/status`, 'latin1');
    return new RegExp(`^${field}:\\s+(.*)$`, 'm').exec(text)?.[1] ?? '';
  });
}
