/** The name we were called by. A symbolic link named passt or pasta makes us what that is: its callers see no change. */
import { basename } from 'node:path';
import type { Program } from './draft';

/**
 * `script` is process.argv[1]: Node makes it absolute, and leaves the link's own name in it. `argv0` is what the
 * interpreter was called (`exec -a passt node …`). passt's rule: "pasta" somewhere in the name, else "passt".
 */
export function programOf(script: string, argv0: string): Program {
  for (const name of [basename(script), basename(argv0)]) {
    if (name.includes('pasta')) return 'pasta';
    if (name.includes('passt')) return 'passt';
  }
  return 'tubetti';
}
