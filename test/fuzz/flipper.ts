/**
 * The second process: writes into a guest's memory while the service reads it. Started by memory-writer.ts.
 *
 * Lines on standard input: `map PATH SIZE SEED FROM LENGTH …` begins to write random words into these places of the
 * file and is answered with `writing`, `stop` ends that and is answered with the number of writes. It writes in bursts of a few milliseconds, so that
 * the service gets its share of the processor.
 */
import { openSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { loadNative } from '../../src/native';
import { Seeded } from './random';

const BURST = 2000;

const native = loadNative();
let region = -1;
let view: DataView | null = null;
let random = new Seeded(1);
let places: readonly (readonly [from: number, length: number])[] = [];
let writes = 0;

function burst(): void {
  if (view === null) return;
  for (let i = 0; i < BURST; i++) {
    const [from, length] = random.pick(places);
    const at = from + random.below(Math.max(1, length - 4));
    if (random.oneIn(2)) view.setUint16(at & ~1, random.edge16(), true);
    else view.setUint32(at & ~3, random.edge32(), true);
  }
  writes += BURST;
  setImmediate(burst);
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const [word, path, size, seed, ...numbers] = line.split(' ');
  if (word === 'map') {
    const fd = openSync(path, 'r+');
    region = native.mapRegion(fd, 0, Number(size));
    native.close(fd);
    view = new DataView(native.regionBuffer(region));
    random = new Seeded(Number(seed));
    places = numbers.flatMap((from, i) => (i % 2 === 0 ? [[Number(from), Number(numbers[i + 1])] as const] : []));
    writes = 0;
    process.stdout.write('writing\n');
    burst();
  } else if (word === 'stop') {
    view = null;
    if (region >= 0) native.retireRegion(region);
    region = -1;
    process.stdout.write(`${writes}\n`);
  }
});
process.stdin.on('end', () => process.exit(0));
