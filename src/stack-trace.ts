/** Maps stack traces of bundled code to source files and lines. Cold: for bug reports only. */
import { readFileSync } from 'node:fs';
import { SourceMap } from 'node:module';
import { dirname, join, resolve } from 'node:path';

type Maps = Map<string, SourceMap | null>;

/** The source map beside a script; null if there is none to read. */
function mapOf(script: string, known: Maps): SourceMap | null {
  let map = known.get(script);
  if (map === undefined) {
    try {
      map = new SourceMap(
        JSON.parse(readFileSync(`${script}.map`, 'utf8')) as ConstructorParameters<typeof SourceMap>[0],
      );
    } catch {
      map = null;
    }
    known.set(script, map);
  }
  return map;
}

/** The stack of an error, places in bundles replaced by those of the TypeScript they were made of. */
export function readableStack(error: Error): string {
  const known: Maps = new Map();
  const stack = error.stack ?? error.message;
  return stack.replace(
    /(\/[^():\n]+\.js):(\d+):(\d+)/g,
    (place: string, script: string, line: string, column: string) => {
      const entry = mapOf(script, known)?.findEntry(Number(line) - 1, Number(column) - 1);
      if (entry === undefined || !('originalSource' in entry)) return place;
      return `${resolve(join(dirname(script), entry.originalSource))}:${entry.originalLine + 1}:${entry.originalColumn + 1}`;
    },
  );
}
