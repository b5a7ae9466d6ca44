/** Bar charts as SVG text: groups of bars, one bar per back-end, with the range of the rounds as a whisker. */

export interface Bar {
  readonly backend: string;
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

export interface Group {
  /** One line per entry, under the bars. */
  readonly label: readonly string[];
  readonly bars: readonly Bar[];
}

export interface Plot {
  readonly title: string;
  /** Unit, and which direction is better. */
  readonly axis: string;
  readonly digits: number;
  readonly groups: readonly Group[];
}

const COLOURS: Readonly<Record<string, string>> = { tubetti: '#0b6e99', passt: '#d98324', libslirp: '#8a8f98' };
const OTHER = '#5c5f66';
const HEIGHT = 360;
const [LEFT, RIGHT, TOP, BOTTOM] = [56, 16, 64, 56];
const BAR = 26;
/** A group is at least as wide as its labels. */
const MIN_GROUP = 88;
const GAP = 14;
const TICKS = 5;

/** The smallest of 1, 2, 2.5, 5 × 10ⁿ by which `TICKS` steps reach `most`. */
export function tickStep(most: number): number {
  const raw = most / TICKS;
  const power = 10 ** Math.floor(Math.log10(raw));
  const factor = [1, 2, 2.5, 5, 10].find((each) => each * power >= raw) ?? 10;
  return factor * power;
}

function xml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

/** The whole file. Its numbers are those of `plot`, so the file says when it was made only by what it shows. */
export function svg({ title, axis, digits, groups }: Plot): string {
  const names = [...new Set(groups.flatMap(({ bars }) => bars.map(({ backend }) => backend)))];
  const most = Math.max(...groups.flatMap(({ bars }) => bars.map((bar) => bar.most)));
  const step = tickStep(most);
  const ticks = Math.ceil(most / step);
  const top = step * ticks;
  const slotOf = ({ bars }: Group): number => Math.max(bars.length * BAR, MIN_GROUP) + GAP;
  const width = Math.max(520, LEFT + RIGHT + groups.reduce((sum, group) => sum + slotOf(group), 0));
  const y = (value: number): number => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const at = (value: number): string => value.toFixed(1);
  const lines: string[] = [];
  const text = (x: number, line: number, body: string, rest = ''): void => {
    lines.push(`<text x="${at(x)}" y="${at(line)}"${rest}>${xml(body)}</text>`);
  };
  text(LEFT, 22, title, ' font-size="15" font-weight="bold"');
  text(LEFT, 42, axis, ' fill="#5c5f66"');
  names.forEach((name, index) => {
    const x = width - RIGHT - (names.length - index) * 84;
    lines.push(`<rect x="${at(x)}" y="33" width="10" height="10" fill="${COLOURS[name] ?? OTHER}"/>`);
    text(x + 15, 42, name);
  });
  for (let tick = 0; tick <= ticks; tick++) {
    const value = tick * step;
    lines.push(
      `<line x1="${String(LEFT)}" x2="${at(width - RIGHT)}" y1="${at(y(value))}" y2="${at(y(value))}" stroke="#d7dade"/>`,
    );
    text(LEFT - 6, y(value) + 4, String(Number(value.toPrecision(6))), ' text-anchor="end" fill="#5c5f66"');
  }
  let slot = LEFT;
  for (const group of groups) {
    const { label, bars } = group;
    const centre = slot + slotOf(group) / 2;
    const left = centre - (bars.length * BAR - 4) / 2;
    bars.forEach(({ backend, median, least, most: highest }, index) => {
      const x = left + index * BAR;
      const middle = x + BAR / 2 - 2;
      lines.push(
        `<rect x="${at(x)}" y="${at(y(median))}" width="${String(BAR - 4)}" height="${at(y(0) - y(median))}" fill="${COLOURS[backend] ?? OTHER}"/>`,
        `<line x1="${at(middle)}" x2="${at(middle)}" y1="${at(y(highest))}" y2="${at(y(least))}" stroke="#22252a"/>`,
      );
      text(middle, y(highest) - 4, median.toFixed(digits), ' text-anchor="middle" font-size="9"');
    });
    label.forEach((line, index) => {
      text(centre, HEIGHT - BOTTOM + 16 + index * 13, line, ' text-anchor="middle" font-size="10"');
    });
    slot += slotOf(group);
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${at(width)}" height="${String(HEIGHT)}" viewBox="0 0 ${at(width)} ${String(HEIGHT)}" font-family="sans-serif" font-size="12" fill="#22252a">`,
    `<title>${xml(title)}</title>`,
    '<rect width="100%" height="100%" fill="#ffffff"/>',
    ...lines,
    '</svg>',
    '',
  ].join('\n');
}
