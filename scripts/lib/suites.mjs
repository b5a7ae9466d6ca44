/** Packages of another suite of Debian than this machine's, downloaded by apt and unpacked, not installed. Needs no rights. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run, which } from './run.mjs';

/** Where this machine gets its Debian packages, or null. */
function mirror() {
  for (const [file, pattern] of [
    ['/etc/apt/sources.list.d/debian.sources', /^URIs: *(\S+)/m],
    ['/etc/apt/sources.list', /^deb (?:\[[^\]]*\] )?(\S+)/m],
  ]) {
    const found = existsSync(file) ? pattern.exec(readFileSync(file, 'utf8')) : null;
    if (found !== null) return found[1];
  }
  return null;
}

/**
 * Unpacks packages into a new directory. apt checks them by Debian's archive keys, with lists of its own that go again.
 * @param {string} directory  what was there goes
 * @param {string} suite      as `sid`
 * @param {readonly string[]} packages
 * @returns {Promise<string | null>} why not
 */
export async function unpackFromSuite(directory, suite, packages) {
  const from = which('apt-get') === null ? null : mirror();
  if (from === null) return 'no apt-get, or no mirror of Debian';
  rmSync(directory, { recursive: true, force: true });
  const lists = join(directory, 'apt');
  for (const each of ['lists/partial', 'cache/archives/partial', 'parts'])
    mkdirSync(join(lists, each), { recursive: true });
  const key = '/usr/share/keyrings/debian-archive-keyring.gpg';
  const source = `Types: deb\nURIs: ${from}\nSuites: ${suite}\nComponents: main\nSigned-By: ${key}\n`;
  writeFileSync(join(lists, 'parts', `${suite}.sources`), source);
  const options = [
    ...['-o', 'Dir::Etc::sourcelist=/dev/null', '-o', `Dir::Etc::sourceparts=${join(lists, 'parts')}`],
    ...['-o', `Dir::State::lists=${join(lists, 'lists')}`, '-o', `Dir::Cache=${join(lists, 'cache')}`],
    // The user who fetches may not be one that apt can become.
    ...['-o', 'APT::Sandbox::User=', '-o', 'Acquire::Languages=none', '-qq'],
    // Lists that cannot be had are warnings otherwise, and then a download that finds nothing.
    ...['-o', 'APT::Update::Error-Mode=any', '-o', 'Acquire::Retries=3'],
  ];
  for (const words of [['update'], ['download', ...packages]]) {
    const { status, output } = await run('apt-get', [...options, ...words], { quiet: true, cwd: directory });
    // The first error is the reason, those behind it are what came of it.
    if (status !== 0) return output.split('\n').find((line) => line.startsWith('E:')) ?? 'apt-get failed';
  }
  for (const name of readdirSync(directory).filter((each) => each.endsWith('.deb'))) {
    const { status } = await run('dpkg', ['-x', name, '.'], { quiet: true, cwd: directory });
    if (status !== 0) return `${name} cannot be unpacked`;
    rmSync(join(directory, name));
  }
  rmSync(lists, { recursive: true });
  return null;
}
