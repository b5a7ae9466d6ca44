/** `--metrics`: where scrapers come, and what they get. */
import { chmodSync, unlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { resolve } from 'node:path';
import { parseIp } from '../config/address-text';
import { ConfigError, describeErrno, EADDRINUSE, messageOf } from '../errors';
import { identifyFile } from '../files';
import type { ExporterOptions } from '../metrics/exporter';
import type { MetricsSource } from '../metrics/server';
import type { Native } from '../native';
import type { Broker } from '../sandbox/broker';
import type { OwnListener } from '../stack/config';
import type { MetricsAt } from './option-values';

const BACKLOG = 64;
const OWNER_ONLY = 0o600;

/** What the service needs to know of it. */
export interface Metrics {
  /** For the start-up report. */
  readonly url: string;
  /** Where the guest may not connect to. */
  readonly ownListeners: readonly OwnListener[];
  close(): Promise<void>;
}

type SocketIo = Pick<Native, 'unixListen' | 'unixListenerPath'>;
type SocketBroker = Pick<Broker, 'scrapedOn' | 'removeScraped'>;

interface SocketFile {
  readonly fd: number;
  /** Removes the file, if it is still ours. */
  remove(): void;
}

/** Listens at a path: the file of a service that is gone is replaced, that of another is not. Throws ConfigError. */
function listenAtPath(path: string, mode: number, native: SocketIo, broker: SocketBroker | null): SocketFile {
  const fd = native.unixListen(path, BACKLOG);
  if (fd < 0) {
    const hint = fd === -EADDRINUSE ? ' (another process listens there, or it is not a socket: give another path)' : '';
    throw new ConfigError('CFG_ERR_BIND', `--metrics unix:${path}: cannot listen: ${describeErrno(fd)}${hint}`);
  }
  // Never open for others before it is to be.
  if (mode !== OWNER_ONLY) chmodSync(path, mode);
  // We may be in another directory at the end.
  const full = resolve(path);
  const ours = identifyFile(full);
  broker?.scrapedOn(full);
  const remove = (): void => {
    if (broker !== null) {
      broker.removeScraped();
      return;
    }
    try {
      if (identifyFile(full) === ours) unlinkSync(full);
    } catch {
      // Its directory may be closed to the user who serves, or gone.
    }
  };
  return { fd, remove };
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

/** Serves them from now on. Throws ConfigError if it cannot. */
export async function startMetrics(
  at: MetricsAt,
  options: ExporterOptions,
  native: SocketIo,
  broker: SocketBroker | null,
): Promise<Metrics> {
  // Loaded on demand: Prometheus' client and the server cost a third of the time and a twentieth of the memory of a start.
  const { createExporter } = await import('../metrics/exporter.js');
  const { startMetricsServer } = await import('../metrics/server.js');
  const path = 'fd' in at ? passedPath(at.fd, native) : null;
  const file = 'path' in at ? listenAtPath(at.path, at.mode, native, broker) : null;
  const source: MetricsSource = 'path' in at ? { fd: file?.fd ?? -1 } : at;
  try {
    const server = await startMetricsServer(createExporter(options), source);
    const { bound } = server;
    const host = 'host' in at ? at.host : (bound?.address ?? '');
    return {
      url:
        path !== null
          ? `unix:${path}`
          : bound === null
            ? shownAt(at)
            : `http://${host.includes(':') ? `[${host}]` : host}:${bound.port}/metrics`,
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
