/** Which User Mode Linux the guests of the end-to-end tests run, and how the fetched one gets its own C library. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { REPO_ROOT, scratchDirectory, which } from '../../support/world/paths';
import { wantsFetchedUml } from '../../support/world/uml-kernel';

const before = process.env.TUBETTI_TEST_UML;

afterEach(() => {
  if (before === undefined) delete process.env.TUBETTI_TEST_UML;
  else process.env.TUBETTI_TEST_UML = before;
});

test('TUBETTI_TEST_UML chooses, and says what it takes', () => {
  process.env.TUBETTI_TEST_UML = 'fetched';
  expect(wantsFetchedUml()).toBe(true);
  process.env.TUBETTI_TEST_UML = 'installed';
  expect(wantsFetchedUml()).toBe(false);
  process.env.TUBETTI_TEST_UML = 'newer';
  expect(wantsFetchedUml).toThrow('TUBETTI_TEST_UML=newer: it is "installed" or "fetched"');
});

test('without it a processor without AMX runs the installed one', () => {
  delete process.env.TUBETTI_TEST_UML;
  const wanted = wantsFetchedUml();
  const amx = readFileSync('/proc/cpuinfo', 'latin1').includes('amx_tile');
  expect(wanted && !amx).toBe(false);
});

test('a program with another loader is started by that one, and runs as before', () => {
  const scratch = scratchDirectory();
  try {
    const program = which('cat') ?? '';
    // The name of the system's loader stands in each program that it starts.
    const loader = /\/lib[\w/.-]*\/ld-[\w.-]+/.exec(readFileSync(program, 'latin1'))?.[0] ?? '';
    const ours = join(scratch.path, 'a-loader-with-a-longer-name.so');
    copyFileSync(loader, ours);
    const changed = join(scratch.path, 'cat');
    const script = `
      import { readFileSync, writeFileSync } from 'node:fs';
      import { withLoader } from '${pathToFileURL(join(REPO_ROOT, 'scripts/lib/uml.mjs')).href}';
      writeFileSync('${changed}', withLoader(readFileSync('${program}'), '${ours}'), { mode: 0o755 });`;
    execFileSync(process.execPath, ['--input-type=module', '--eval', script]);
    const maps = execFileSync(changed, ['/proc/self/maps'], { encoding: 'utf8' });
    expect(maps).toContain(ours);
    expect(maps).toContain(changed);
  } finally {
    scratch.remove();
  }
});
