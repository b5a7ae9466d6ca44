/**
 * `tubetti ctl`, `tubetti flows`, `tubetti top`: programs that speak to a running service by its control socket
 * (`--control`). bin/tubetti.js calls `run`; the service loads nothing of them.
 */
import { nearestName } from '../cli/getopt';
import { described } from '../usage-text';
import { readableStack } from '../stack-trace';
import { DONE, guarded, type Line, optionLines, readLine, UNUSABLE, usageError } from './command';
import { CTL_OPTIONS, SUBCOMMANDS } from './subcommands';

const PROGRAM = 'tubetti ctl';
const COMMAND_COLUMN = 26;

export { CTL_OPTIONS, SUBCOMMANDS } from './subcommands';

export function ctlUsage(): string {
  const rows = SUBCOMMANDS.map(({ name, words, help }) =>
    described(`  ${name} ${words}`.trimEnd(), help, COMMAND_COLUMN),
  );
  return `Usage: tubetti ctl [OPTION]... COMMAND [WORD]...

Gives orders to a service that was started with --control PATH, and shows what it does.

${rows.join('\n')}

${optionLines(CTL_OPTIONS)}

Exit status: 0 if it was done; 1 if the service refused it; 2 if the command line cannot be used, or
no service answers.
`;
}

function ctl(argv: readonly string[]): Promise<number> {
  let line: Line | null = null;
  const body = async (): Promise<number> => {
    line = readLine(CTL_OPTIONS, argv);
    if (line.values.has('help')) {
      process.stdout.write(ctlUsage());
      return DONE;
    }
    const name = line.words.at(0);
    const words = line.words.slice(1);
    const command = SUBCOMMANDS.find((each) => each.name === name);
    if (command === undefined) {
      const names = SUBCOMMANDS.map((each) => each.name);
      const near = name === undefined ? null : nearestName(name, names, 2);
      throw usageError(
        name === undefined
          ? `give a command: ${names.join(', ')}`
          : `there is no command "${name}", ${near === null ? `give ${names.join(', ')}` : `did you mean "${near}"?`}`,
        PROGRAM,
      );
    }
    return command.run({ words, values: line.values });
  };
  return guarded(PROGRAM, body, () => line);
}

/** Runs a program by its name with the arguments behind it. Returns its exit status. */
export async function run(argv: readonly string[], program = 'ctl'): Promise<number> {
  try {
    switch (program) {
      case 'flows':
        return await (await import('./flows.js')).run(argv);
      case 'top':
        return await (await import('./top.js')).run(argv);
      default:
        return await ctl(argv);
    }
  } catch (error) {
    // A bug of ours.
    process.stderr.write(`tubetti ${program}: ${error instanceof Error ? readableStack(error) : String(error)}\n`);
    return UNUSABLE;
  }
}
