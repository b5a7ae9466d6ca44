/**
 * `tubetti ctl`, `tubetti flows`, `tubetti top`: programs that speak to a running service by its control socket
 * (`--control`). bin/tubetti.js calls `run`; the service loads nothing of them.
 */
import { readableStack } from '../stack-trace';
import { DONE, guarded, optionLines, readLine, UNUSABLE, usageError } from './command';
import { CTL_OPTIONS, SUBCOMMANDS } from './subcommands';

const PROGRAM = 'tubetti ctl';

export { CTL_OPTIONS, SUBCOMMANDS } from './subcommands';

export function ctlUsage(): string {
  const rows = SUBCOMMANDS.map(({ name, words, help }) => `  ${`${name} ${words}`.trimEnd().padEnd(30)}  ${help}`);
  return `Usage: tubetti ctl [OPTION]... COMMAND [WORD]...

Gives orders to a service that was started with --control PATH, and shows what it does.

${rows.join('\n')}

${optionLines(CTL_OPTIONS)}

Exit status: 0 if it was done, 1 if the service refused it, 2 if the command line cannot be used or
there is no service, or it is gone without a word.
`;
}

function ctl(argv: readonly string[]): Promise<number> {
  return guarded(PROGRAM, async () => {
    const line = readLine(CTL_OPTIONS, argv);
    if (line.values.has('help')) {
      process.stdout.write(ctlUsage());
      return DONE;
    }
    const name = line.words.at(0);
    const words = line.words.slice(1);
    const command = SUBCOMMANDS.find((each) => each.name === name);
    if (command === undefined)
      throw usageError(name === undefined ? 'give a command' : `there is no command "${name}"`, PROGRAM);
    return command.run({ words, values: line.values });
  });
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
