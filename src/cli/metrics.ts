/** `--metrics`: where scrapers and browsers come, and what they get. */
import { constants } from 'node:os';
import { join } from 'node:path';
import { parseIp } from '../config/address-text';
import { ConfigError, describeErrno, messageOf } from '../errors';
import { hostPort } from '../host-port';
import type { ExporterOptions } from '../metrics/exporter';
import type { PageSources } from '../metrics/routes';
import type { MetricsSource } from '../metrics/server';
import { PACKAGE_ROOT } from '../native';
import { FOR_SCRAPERS } from '../sandbox/broker';
import type { OwnListener } from '../stack/config';
import type { MetricsAt } from './option-values';
import { listenAtPath, type SocketBroker, type SocketIo } from './socket-file';

/** What the service needs to know of it. */
export interface Metrics {
  /** For the start-up report. */
  readonly url: string;
  /** Where the guest may not connect to. */
  readonly ownListeners: readonly OwnListener[];
  close(): Promise<void>;
}

function ownListener({ address, port }: { readonly address: string; readonly port: number }): OwnListener {
  const parsed = parseIp(address.split('%')[0]);
  if (parsed === null) throw new Error(`the metrics are at ${address}, which is no address`);
  return { address: parsed, port };
}

/** sockaddr_un's sun_path. */
const PATH_BYTES = 108;

/** The path of a UNIX socket that was passed; null: it is one of another family. Throws ConfigError. */
function passedPath(fd: number, native: SocketIo): string | null {
  const out = Buffer.alloc(PATH_BYTES);
  const length = native.unixListenerPath(fd, out);
  if (length >= 0) return out.toString('utf8', 0, length);
  if (length === -constants.errno.EAFNOSUPPORT) return null;
  const why = `cannot be served on: ${describeErrno(length)}: give ListenStream= and Accept=no in the socket unit`;
  throw new ConfigError('CFG_ERR_SOCKET', `descriptor ${fd} of systemd (LISTEN_FDS), named metrics, ${why}`);
}

function shownAt(at: MetricsAt): string {
  if ('fd' in at) return `of descriptor ${at.fd}`;
  return 'path' in at ? `unix:${at.path}` : `${at.host}:${at.port}`;
}

/** scripts/build.mjs makes it. Behind the sandbox's door it is still there, with all of dist. */
const PAGE_FILE = join(PACKAGE_ROOT, 'dist', 'page.html');

/**
 * Serves them from now on. Throws ConfigError if it cannot.
 * @param page - what the page shows besides the metrics
 */
export async function startMetrics(
  at: MetricsAt,
  options: ExporterOptions,
  native: SocketIo,
  broker: SocketBroker | null,
  page: Omit<PageSources, 'file'>,
): Promise<Metrics> {
  // Loaded on demand: Prometheus' client and the server cost a third of the time and a twentieth of the memory of a start.
  const { createExporter } = await import('../metrics/exporter.js');
  const { startMetricsServer } = await import('../metrics/server.js');
  const path = 'fd' in at ? passedPath(at.fd, native) : null;
  const asked = 'path' in at ? ({ shown: `--metrics unix:${at.path}`, ...at, use: FOR_SCRAPERS } as const) : null;
  const file = asked === null ? null : listenAtPath(asked, native, broker);
  const source: MetricsSource = 'path' in at ? { fd: file?.fd ?? -1 } : at;
  try {
    const server = await startMetricsServer(createExporter(options), source, { file: PAGE_FILE, ...page });
    const { bound } = server;
    const host = 'host' in at ? at.host : (bound?.address ?? '');
    return {
      url:
        path !== null ? `unix:${path}` : bound === null ? shownAt(at) : `http://${hostPort(host, bound.port)}/metrics`,
      ownListeners: bound === null ? [] : [ownListener(bound)],
      close: () => {
        file?.remove();
        return server.close();
      },
    };
  } catch (error) {
    file?.remove();
    const errno = error instanceof Error && 'errno' in error && typeof error.errno === 'number' ? error.errno : 0;
    const why = errno === 0 ? messageOf(error) : describeErrno(errno);
    throw new ConfigError('CFG_ERR_BIND', `--metrics ${shownAt(at)}: cannot listen: ${why}`);
  }
}
