/**
 * The process' own metrics, under the names Prometheus' client libraries share. prom-client's default set is not used:
 * it measures event-loop lag by a 10 ms timer, a hundred wake-ups a second for a service that should sleep when idle.
 */
import { readdirSync } from 'node:fs';
import { Counter, Gauge } from 'prom-client';
import type { Registry } from 'prom-client';

const MICROSECONDS = 1e6;

export function addProcessMetrics(registry: Registry): void {
  const registers = [registry];
  new Counter({
    name: 'process_cpu_seconds_total',
    help: 'User and system CPU time spent, all threads, in seconds.',
    registers,
    collect() {
      const { user, system } = process.cpuUsage();
      this.reset();
      this.inc((user + system) / MICROSECONDS);
    },
  });
  new Gauge({
    name: 'process_resident_memory_bytes',
    help: 'Resident memory in bytes, including guest memory that was touched.',
    registers,
    collect() {
      this.set(process.memoryUsage.rss());
    },
  });
  new Gauge({
    name: 'process_open_fds',
    help: 'Open file descriptors.',
    registers,
    collect() {
      this.set(readdirSync('/proc/self/fd').length);
    },
  });
  new Gauge({
    name: 'process_start_time_seconds',
    help: 'Start of the process, in seconds since the epoch.',
    registers,
  }).set(Date.now() / 1000 - process.uptime());
}
