/** Small helpers of the scripts in this folder. No dependencies: they run before `npm ci` has. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = resolve(fileURLToPath(import.meta.url), '../../..');

/** Debian keeps `ip`, `nsenter` and others out of an ordinary user's path. */
const SYSTEM_DIRECTORIES = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/bin', '/bin'];
export const PATH = [...(process.env.PATH ?? '').split(delimiter), ...SYSTEM_DIRECTORIES].join(delimiter);

/**
 * The full path of a command, or null.
 * @param {string} name
 */
export function which(name) {
  for (const directory of PATH.split(delimiter)) {
    if (directory !== '' && existsSync(join(directory, name))) return join(directory, name);
  }
  return null;
}

/**
 * Runs a command with its output on ours. Resolves to its exit status; 1 if a signal ended it.
 * @param {string} file
 * @param {string[]} args
 * @param {{ cwd?: string, env?: Record<string, string>, quiet?: boolean, discardOutput?: boolean }} [options]
 *   `quiet` keeps both streams for the caller; `discardOutput` drops standard output and shows standard error
 * @returns {Promise<{ status: number, output: string }>} `output` only when `quiet`
 */
export function run(file, args, options = {}) {
  return new Promise((settle) => {
    const child = spawn(file, args, {
      cwd: options.cwd ?? ROOT,
      env: { ...process.env, PATH, ...options.env },
      stdio: options.quiet
        ? ['ignore', 'pipe', 'pipe']
        : ['ignore', options.discardOutput ? 'ignore' : 'inherit', 'inherit'],
    });
    let output = '';
    const take = (/** @type {Buffer} */ chunk) => {
      output += chunk.toString('utf8');
    };
    child.stdout?.on('data', take);
    child.stderr?.on('data', take);
    child.on('error', (error) => settle({ status: 127, output: `${output}${error.message}\n` }));
    child.on('close', (code) => settle({ status: code ?? 1, output }));
  });
}

/**
 * The standard output of a quick command, or null if it failed.
 * @param {string} file
 * @param {string[]} args
 */
export function capture(file, args) {
  const { status, stdout } = spawnSync(file, args, { encoding: 'utf8', env: { ...process.env, PATH } });
  return status === 0 ? stdout : null;
}
