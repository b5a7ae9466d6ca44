/** debian/copyright of the .deb, from what the packages in it say of themselves. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './run.mjs';

/** A licence's text as a field of that file: indented, with a dot on empty lines. @param {string} text */
function field(text) {
  const lines = text.trim().split('\n');
  return lines.map((line) => (line.trim() === '' ? ' .' : ` ${line.trimEnd()}`)).join('\n');
}

/** @param {string} directory */
function licenceFile(directory) {
  const name = readdirSync(directory).find((each) => /^licen[cs]e/i.test(each));
  return name === undefined ? '' : readFileSync(join(directory, name), 'utf8');
}

/** Whose it is: the line of its licence, or the author that the package names. @param {string} directory */
function holderOf(directory) {
  const { author, name, license } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));
  // The Apache License is the same text for all, and names nobody.
  const line = (license === 'Apache-2.0' ? '' : licenceFile(directory))
    .split('\n')
    .map((each) => /^\s*copyright\s+(?:\(c\)\s*)?(.*\S)/i.exec(each)?.[1])
    .find((each) => each !== undefined && !/\[yyyy\]|licen[cs]e|owner/i.test(each));
  if (line !== undefined) return line.replace(/\[([^\]]*)\]\([^)]*\)/, '$1');
  return (typeof author === 'string' ? author : author?.name) || `The ${name} authors`;
}

const APACHE = ` On Debian systems the full text of the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0.`;
const RUNTIME = ` The GNU C++ Library is linked in under the terms of the GNU General Public License, version 3 or later, with the
 GCC Runtime Library Exception, version 3.1, which lets programs under other licences use it.
 On Debian systems the text of the GPL is in /usr/share/common-licenses/GPL-3.`;

/**
 * @param {readonly { files: string, directory: string }[]} parts  what is inside besides our own files, and the package of
 *   npm's that it is from
 */
export function copyright(parts) {
  const own = readFileSync(join(ROOT, 'LICENSE'), 'utf8');
  const stanzas = [
    'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: tubetti',
    `Files: *\nCopyright: ${/Copyright \(c\) (.*)/.exec(own)?.[1]}\nLicense: MIT\n${field(own)}`,
    `Files: usr/lib/tubetti/prebuilds/*\nCopyright: ${/Copyright \(c\) (.*)/.exec(own)?.[1]}\n` +
      `  Free Software Foundation, Inc.\nLicense: MIT and GPL-3+ with GCC-exception-3.1\n${RUNTIME}`,
  ];
  for (const { files, directory } of parts) {
    if (!existsSync(directory)) throw new Error(`${directory} is missing: run npm ci`);
    const { license, name } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));
    const text = license === 'Apache-2.0' ? APACHE : field(licenceFile(directory));
    const shortName = license === 'Apache-2.0' ? license : `${license}-${name.replace(/\W+/g, '-')}`;
    stanzas.push(`Files: ${files}\nCopyright: ${holderOf(directory)}\nLicense: ${shortName}\n${text}`);
  }
  return `${stanzas.join('\n\n')}\n`;
}
