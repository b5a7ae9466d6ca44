/** `GET /metrics` for Prometheus, on the main thread: a scrape never disturbs the data plane. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';

/** Few scrapers are expected; more connections would take descriptors from the guest's flows. */
const MAX_CONNECTIONS = 16;
const REQUEST_TIMEOUT_MS = 5000;

export interface MetricsServer {
  readonly host: string;
  /** The port bound: the kernel's choice if 0 was asked for. */
  readonly port: number;
  close(): Promise<void>;
}

function answer(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) });
  response.end(body);
}

async function handle(registry: Registry, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const path = (request.url ?? '').split('?')[0];
  if (path !== '/metrics') {
    answer(response, 404, 'text/plain', 'Not found. The metrics are at /metrics.\n');
    return;
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('Allow', 'GET, HEAD');
    answer(response, 405, 'text/plain', 'Only GET and HEAD.\n');
    return;
  }
  try {
    answer(response, 200, registry.contentType, await registry.metrics());
  } catch (error) {
    answer(response, 500, 'text/plain', `${error instanceof Error ? error.message : String(error)}\n`);
  }
}

/** Listens; rejects with the system's error if it cannot. */
export async function startMetricsServer(registry: Registry, host: string, port: number): Promise<MetricsServer> {
  const server = createServer((request, response) => {
    void handle(registry, request, response);
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.headersTimeout = REQUEST_TIMEOUT_MS;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port, exclusive: true }, () => {
      server.off('error', reject);
      resolve();
    });
  });
  const bound = server.address() as AddressInfo;
  return {
    host,
    port: bound.port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve();
        });
        server.closeAllConnections();
      }),
  };
}
