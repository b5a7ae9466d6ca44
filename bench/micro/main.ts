/** `npm run bench:micro [-- WORD]`: nanoseconds of the hot path's loops, or of those whose name has the word in it. */
import { time } from './harness';
import { loops } from './loops';

const word = process.argv[2] ?? '';
const chosen = loops().filter(({ name }) => name.toLowerCase().includes(word.toLowerCase()));
if (chosen.length === 0) {
  process.stderr.write(
    `no loop has "${word}" in its name:\n${loops()
      .map(({ name }) => `  ${name}\n`)
      .join('')}`,
  );
  process.exitCode = 1;
}
for (const each of chosen) {
  const { name, median, least, most } = time(each);
  const range = `(${least.toFixed(1)}–${most.toFixed(1)})`;
  process.stdout.write(`${median.toFixed(1).padStart(9)} ns  ${range.padEnd(20)}  ${name}\n`);
}
