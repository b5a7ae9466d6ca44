/** `tubetti ctl capture`: the guest's frames, into a file or a pipe of the user's own. */
import { createWriteStream } from 'node:fs';
import type { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { ConfigError, describeSystemError } from '../errors';
import { openForCapture } from '../files';
import type { CaptureInfo, CaptureQuery } from '../control/types';
import type { ControlClient } from './client';
import { clientFor, type CtlOption, DONE, type Line, REFUSED, tableText, usageError } from './command';

const PROGRAM = 'tubetti ctl';
const STDOUT = '-';

export const CAPTURE_OPTIONS: readonly CtlOption[] = [
  { long: ['write'], short: 'w', arg: 'FILE', help: 'capture: into this file; default, and "-": standard output' },
  { long: ['packets'], short: '', arg: 'N', help: 'capture: ends after N packets' },
  { long: ['bytes'], short: '', arg: 'N', help: 'capture: ends before the file has more than N bytes of packets' },
  { long: ['seconds'], short: '', arg: 'N', help: 'capture: ends after N seconds' },
  { long: ['snap'], short: '', arg: 'N', help: 'capture: keep no more than N bytes of a packet' },
];

function print({ values }: Line, value: unknown, text: () => string): void {
  process.stdout.write(values.has('json') ? `${JSON.stringify(value)}\n` : `${text()}\n`);
}

/** The limits that the command line names; what they may be is the service's to say, but that they are numbers. */
function queryOf({ values }: Line): CaptureQuery {
  const query: Record<string, number> = {};
  for (const name of ['packets', 'bytes', 'seconds', 'snap'] as const) {
    const text = values.get(name);
    if (text === undefined) continue;
    const shape = name === 'seconds' ? /^[0-9]{1,9}(\.[0-9]{1,3})?$/ : /^[0-9]{1,15}$/;
    if (!shape.test(text) || Number(text) === 0)
      throw usageError(`--${name} ${text}: give a number greater than 0`, PROGRAM);
    query[name] = Number(text);
  }
  return query;
}

function destination({ values }: Line): { readonly out: Writable; readonly end: boolean } {
  const path = values.get('write') ?? STDOUT;
  if (path !== STDOUT) {
    try {
      return { out: createWriteStream('', { fd: openForCapture(path).fd }), end: true };
    } catch (error) {
      throw new ConfigError(
        'CFG_ERR_USAGE',
        `--write ${path}: cannot write the capture: ${describeSystemError(error)}`,
      );
    }
  }
  if (process.stdout.isTTY) throw usageError('capture: standard output is a terminal: give --write FILE', PROGRAM);
  return { out: process.stdout, end: false };
}

function lineOf({ packets, lost, reason }: CaptureInfo): string {
  const why =
    reason === 'error' ? ': it could not be written' : reason === 'data-plane' ? ': the data plane failed' : '';
  return `${packets} packets captured, ${lost} left out${why}`;
}

/** What became of it, for who reads the terminal. Null: the service has ended. */
async function outcome(client: ControlClient, id: string): Promise<CaptureInfo | null> {
  try {
    return (await client.captures()).find((one) => one.id === id) ?? null;
  } catch {
    return null;
  }
}

async function capture(line: Line): Promise<number> {
  const client = clientFor(line);
  const query = queryOf(line);
  const { out, end } = destination(line);
  let begun: Awaited<ReturnType<ControlClient['capture']>>;
  try {
    begun = await client.capture(query);
  } catch (error) {
    if (end) out.destroy();
    throw error;
  }
  const { id, stream } = begun;
  const stop = (): void => {
    client.stopCapture(id).catch(() => stream.destroy());
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
  try {
    await pipeline(stream, out, { end });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // Who read has what they wanted; else the file's or the connection's error.
    if (code !== 'EPIPE')
      throw new ConfigError('CFG_ERR_SOCKET', `capture: ${code === 'ECONNRESET' ? 'the service is gone' : message}`);
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
  const info = await outcome(client, id);
  if (line.values.has('json') && end && info !== null) print(line, info, () => '');
  else process.stderr.write(`${info === null ? 'the service has ended' : lineOf(info)}\n`);
  return info?.reason === 'error' || info?.reason === 'data-plane' ? REFUSED : DONE;
}

function listText(captures: readonly CaptureInfo[]): string {
  if (captures.length === 0) return 'there are no captures';
  return tableText(
    ['ID', 'STATE', 'PACKETS', 'BYTES', 'LOST'],
    captures.map(({ id, reason, packets, bytes, lost }) => [id, reason ?? 'runs', packets, bytes, lost]),
  );
}

/** `capture`, `capture list`, `capture stop ID`. */
export async function runCapture(line: Line): Promise<number> {
  const [order, id, third] = [0, 1, 2].map((i) => line.words.at(i));
  const more = order === 'stop' ? third : order === 'list' ? id : undefined;
  if (more !== undefined) throw usageError(`"${more}" is one word too many`, PROGRAM);
  switch (order) {
    case undefined:
      return capture(line);
    case 'list': {
      const captures = await clientFor(line).captures();
      print(line, captures, () => listText(captures));
      return DONE;
    }
    case 'stop':
      if (id === undefined) throw usageError('capture stop: give the ID that "capture list" shows', PROGRAM);
      await clientFor(line).stopCapture(id);
      return DONE;
    default:
      throw usageError(`capture ${order}: give list, stop, or no word`, PROGRAM);
  }
}
