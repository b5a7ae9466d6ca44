/** Lines of usage texts. */

/** Characters of a line. */
export const WIDTH = 100;

/** Breaks `text` into lines of at most `width` characters. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

/** A name and what it means in two columns, the second of which begins at `column`. */
export function described(name: string, meaning: string, column: number): string {
  const [first, ...more] = wrap(meaning, WIDTH - column);
  const indent = ' '.repeat(column);
  const head = name.length + 2 > column ? [name, indent + first] : [name.padEnd(column) + first];
  return [...head, ...more.map((line) => indent + line)].join('\n');
}
