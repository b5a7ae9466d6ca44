/** Debian's Prometheus, as the set-up unpacked it, in the host's world: it scrapes, and is asked. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse, stringify } from 'yaml';
import type { HostWorld } from './host-world';
import { CACHE_DIR, REPO_ROOT } from './paths';
import { ManagedProcess } from './processes';

const BIN = join(CACHE_DIR, 'prometheus', 'usr', 'bin');
export const PROMTOOL = join(BIN, 'promtool');
export const EXAMPLES = join(REPO_ROOT, 'examples', 'prometheus');

/** Null if it can be run here, else why not. */
export function whyNoPrometheus(): string | null {
  return existsSync(PROMTOOL) ? null : 'Prometheus is not there (npm test fetches it)';
}

/** One series of an answer: its labels, its value. */
export interface Result {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

interface Answer {
  readonly status: string;
  readonly error?: string;
  readonly data: { readonly result: readonly { metric: Record<string, string>; value: [number, string] }[] };
}

interface Config {
  global: Record<string, string>;
  rule_files: string[];
  scrape_configs: { static_configs: { targets: string[] }[] }[];
}

export class Prometheus {
  private readonly process: ManagedProcess;
  private readonly world: HostWorld;
  private readonly url: string;

  private constructor(process: ManagedProcess, world: HostWorld, url: string) {
    this.process = process;
    this.world = world;
    this.url = url;
  }

  /** Starts it with the example's configuration, but for `target` and the time between scrapes. */
  static async start(world: HostWorld, scratch: string, target: string, everyMs: number): Promise<Prometheus> {
    const config = parse(readFileSync(join(EXAMPLES, 'prometheus.yml'), 'utf8')) as Config;
    config.global = { scrape_interval: `${everyMs}ms`, evaluation_interval: `${everyMs}ms` };
    config.rule_files = config.rule_files.map((file) => join(EXAMPLES, file));
    config.scrape_configs[0].static_configs[0].targets = [target];
    const file = join(scratch, 'prometheus.yml');
    writeFileSync(file, stringify(config));
    const { port } = await world.host.call('freePort', {});
    const listen = `127.0.0.1:${port}`;
    const argv = [join(BIN, 'prometheus'), `--config.file=${file}`, `--storage.tsdb.path=${join(scratch, 'tsdb')}`];
    const managed = new ManagedProcess('prometheus', world.inHost([...argv, `--web.listen-address=${listen}`]));
    const prometheus = new Prometheus(managed, world, `http://${listen}`);
    try {
      await managed.waitForLine(/Server is ready to receive web requests/, 20_000);
    } catch (error) {
      await prometheus.stop();
      throw error;
    }
    return prometheus;
  }

  /** The answer to an instant query, as of `atMs` (since the epoch). @throws Error where it is not understood. */
  async query(expression: string, atMs = Date.now()): Promise<readonly Result[]> {
    const url = `${this.url}/api/v1/query?time=${atMs / 1000}&query=${encodeURIComponent(expression)}`;
    const { body } = await this.world.host.call('httpGet', { url });
    const { status, error, data } = JSON.parse(body) as Answer;
    if (status !== 'success') throw new Error(`${expression}: ${error ?? body}`);
    return data.result.map(({ metric, value }) => ({ labels: metric, value: Number(value[1]) }));
  }

  async stop(): Promise<void> {
    await this.process.stop('SIGKILL');
  }
}

interface Panel {
  readonly title: string;
  readonly type: string;
  readonly targets?: readonly { readonly expr: string }[];
}

/** The dashboard's queries by the title of their panel, its variables replaced. */
export function dashboardQueries(interval: string): Map<string, string[]> {
  const { panels } = JSON.parse(readFileSync(join(EXAMPLES, 'dashboard.json'), 'utf8')) as { panels: Panel[] };
  const filled = (expr: string): string => expr.replaceAll('$__rate_interval', interval).replaceAll('$instance', '.*');
  return new Map(
    panels
      .filter(({ targets }) => targets !== undefined)
      .map(({ title, targets = [] }) => [title, targets.map(({ expr }) => filled(expr))]),
  );
}
