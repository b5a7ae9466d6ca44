/**
 * The process' own metrics, under the names Prometheus' client libraries share. prom-client's default set is not used:
 * it measures event-loop lag by a 10 ms timer, a hundred wake-ups a second for a service that should sleep when idle.
 */
import { readdirSync } from 'node:fs';
import type { Registry } from 'prom-client';
import { addFamily } from './families';
import { type OtherSpec, PROCESS } from './names';

const MICROSECONDS = 1e6;

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / MICROSECONDS;
}

export function addProcessMetrics(registry: Registry): void {
  const started = Date.now() / 1000 - process.uptime();
  const all: readonly (readonly [OtherSpec, () => number])[] = [
    [PROCESS.cpu, cpuSeconds],
    [PROCESS.resident, () => process.memoryUsage.rss()],
    [PROCESS.descriptors, () => readdirSync('/proc/self/fd').length],
    [PROCESS.started, () => started],
  ];
  for (const [{ name, help, kind }, read] of all) addFamily(registry, { name, help, type: kind }, [{ name, read }]);
}
