/** Which addon is taken, and what is said where there is none. Files only: what is in them is the package's own test. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { addonFiles, remedy } from '../../../src/addon-file';

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'tubetti-addon-'));
});

afterEach(() => {
  rmSync(root, { recursive: true });
});

function put(...names: string[]): string[] {
  return names.map((name) => {
    const path = join(root, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, '');
    return path;
  });
}

const abi = Number(process.versions.modules);
const directory = `prebuilds/linux-${process.arch}`;

test('the prebuilt one for this Node, processor and C library', () => {
  const other = process.arch === 'x64' ? 'arm64' : 'x64';
  put(
    `${directory}/node.abi${abi + 1}.glibc.node`,
    `${directory}/node.abi${abi}.musl.node`,
    `${directory}/tubetti-launch`,
  );
  put(`prebuilds/linux-${other}/node.abi${abi}.glibc.node`);
  expect([...addonFiles(root)]).toEqual([]);
  const [right] = put(`${directory}/node.abi${abi}.glibc.node`);
  expect([...addonFiles(root)]).toEqual([right]);
});

test('an own build comes first', () => {
  const [own] = put('build/Release/tubetti.node', `${directory}/node.abi${abi}.glibc.node`);
  expect([...addonFiles(root)][0]).toBe(own);
});

test('what to do depends on how the program came here', () => {
  expect(remedy('/usr/local/lib/node_modules/tubetti')).toBe('run "npm rebuild -g tubetti"');
  expect(remedy('/home/me/.nvm/versions/node/v24.1.0/lib/node_modules/tubetti')).toBe('run "npm rebuild -g tubetti"');
  expect(remedy('/srv/vm/node_modules/tubetti')).toBe('run "npm rebuild tubetti"');
  expect(remedy('/usr/lib/tubetti')).toMatch(/^set TUBETTI_NODE to a Node/);
  put('tsconfig.json');
  expect(remedy(root)).toBe('run "npm run build:addon"');
});
