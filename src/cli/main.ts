/** The program: from a command line to an exit status. bin/tubetti.js calls `run`. */
import { createLog, type Log, LogFile, type LogSink, stderrSink } from '../log';
import { ConfigError, messageOf } from '../errors';
import { loadNative, type Native } from '../native';
import { readableStack } from '../stack-trace';
import { type Options, parseOptions } from './options';
import { start } from './start';
import { usage } from './usage';
import { version } from './version';

/** What a vhost-user back-end prints for --print-capabilities (vhost-user, "Backend program conventions"). */
const CAPABILITIES = `${JSON.stringify({ type: 'net' }, null, 2)}\n`;

const LICENCE = 'MIT licence. There is no warranty, to the extent permitted by law.';

function openLogFile(options: Options): LogFile | null {
  if (options.logFile === null) return null;
  try {
    const header = `tubetti ${version()}: ${process.argv[1] ?? 'tubetti'} (${process.pid})`;
    return new LogFile(options.logFile, options.logSize, header);
  } catch (error) {
    throw new ConfigError('CFG_ERR_VALUE', `--log-file ${options.logFile}: ${messageOf(error)}`);
  }
}

/** The addon, or one line that says why not. */
function native(): Native {
  try {
    return loadNative();
  } catch (error) {
    throw new ConfigError('CFG_ERR_HOST', messageOf(error));
  }
}

async function serve(options: Options): Promise<number> {
  const file = openLogFile(options);
  const sinks: LogSink[] = [stderrSink()];
  if (file !== null) sinks.push(file.sink);
  const log: Log = createLog(options.logLevel, sinks);
  try {
    return await start(options, native(), log);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    log.error(error.message);
    return 1;
  } finally {
    file?.close();
  }
}

/**
 * Runs the program with the arguments behind its name and returns its exit status: 0 after a clean end, 1 after any
 * error, which has then been said in one line on stderr.
 */
export async function run(argv: readonly string[]): Promise<number> {
  try {
    const command = parseOptions(argv);
    switch (command.action) {
      case 'help':
        process.stdout.write(usage());
        return 0;
      case 'version':
        process.stdout.write(`tubetti ${version()}\n${LICENCE}\n`);
        return 0;
      case 'capabilities':
        process.stdout.write(CAPABILITIES);
        return 0;
      case 'run':
        return await serve(command.options);
    }
  } catch (error) {
    // What is no ConfigError is a bug or a broken installation: its stack helps whoever reports it.
    const text =
      error instanceof ConfigError ? error.message : error instanceof Error ? readableStack(error) : String(error);
    process.stderr.write(`tubetti: ${text}\n`);
    return 1;
  }
}
