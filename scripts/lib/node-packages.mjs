/** Other releases of Node, with their headers, as the npm packages `node-linux-ARCH` carry them: in .cache/nodes. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, run } from './run.mjs';

/**
 * The directory of a release of Node (bin/node, include/node), fetched unless it is there already.
 * @param {string} major  as `24`
 * @param {string} arch   as process.arch
 * @param {(line: string) => void} log
 * @returns {Promise<{ prefix: string, version: string }>} `version` as `24.1.0`
 * @throws {Error} that says what npm said
 */
export async function fetchNode(major, arch, log) {
  const name = `node-linux-${arch}`;
  const directory = join(ROOT, '.cache', 'nodes', arch === process.arch ? major : `${major}-${arch}`);
  const prefix = join(directory, 'node_modules', name);
  const versionOf = () => JSON.parse(readFileSync(join(prefix, 'package.json'), 'utf8')).version;
  if (!existsSync(join(prefix, 'bin', 'node'))) {
    log(`fetching Node ${major} for ${arch}`);
    // npm refuses a package of another processor otherwise: its headers are wanted.
    const options = arch === process.arch ? [] : ['--force'];
    const { status, output } = await installInto(directory, `${name}@${major}`, options);
    if (status !== 0 || !existsSync(join(prefix, 'bin', 'node'))) {
      throw new Error(`Node ${major} for ${arch} could not be fetched:\n${output}`);
    }
  }
  return { prefix, version: versionOf() };
}

/**
 * Installs one npm package, and nothing of its scripts, into a directory of its own.
 * @param {string} directory
 * @param {string} spec  as `name@1`
 * @param {string[]} [options]  further ones of npm's
 */
export function installInto(directory, spec, options = []) {
  mkdirSync(directory, { recursive: true });
  // Without it npm would take the project around it for the place to install to.
  writeFileSync(join(directory, 'package.json'), '{ "private": true }\n');
  const args = ['install', '--prefix', directory, '--no-save', '--no-audit', '--no-fund', '--ignore-scripts'];
  return run('npm', [...args, ...options, spec], { quiet: true, cwd: directory });
}
