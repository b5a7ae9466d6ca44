/**
 * Compiles the TypeScript of this package and of its workspace into dist/. Also npm's `prepare`: in a packed package,
 * where dist/ came with it and TypeScript is not installed, it does nothing.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** The compiler's program, or null if TypeScript is not installed. */
function findCompiler() {
  try {
    return createRequire(import.meta.url).resolve('typescript/bin/tsc');
  } catch {
    return null;
  }
}

const compiler = findCompiler();
if (compiler !== null && existsSync(join(root, 'tsconfig.json'))) {
  const result = spawnSync(process.execPath, [compiler, '-b', ...process.argv.slice(2)], {
    cwd: root,
    stdio: 'inherit',
  });
  process.exitCode = result.status ?? 1;
} else if (!existsSync(join(root, 'dist'))) {
  process.stderr.write('tubetti: dist/ is missing and TypeScript is not installed: run `npm install`\n');
  process.exitCode = 1;
}
