/**
 * A plot of two series: the picture, which arrow keys move through, and beside it the same as a table. The two are told
 * apart by their dashes as well as by their colours.
 */
import uPlot from 'uplot';
import { NONE } from '../format';
import { type History, type SeriesName, summaryOf } from '../history';
import { byId, make, say, Table } from './elements';

export interface PlotSpec {
  /** `data-plot` of its place; the heading has that as its id. */
  readonly name: string;
  readonly series: readonly [PlotSeries, PlotSeries];
  readonly format: (value: number) => string;
  /** The axis goes up to this at the least. */
  readonly least: number;
}

interface PlotSeries {
  readonly name: SeriesName;
  readonly title: string;
}

const HEIGHT = 200;
/** Rows of the table of what is plotted. */
const ROWS = 30;
const DASH = [8, 5];
const AXIS = 78;

/** A colour of the style sheet: another one in the dark. */
const colour = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);

/** Of the day, in 24 hours, whatever the browser's language. */
const clock = (seconds: number): string => new Date(1000 * seconds).toLocaleTimeString('en-GB');

export class Plot {
  private readonly spec: PlotSpec;
  private readonly history: History;
  private readonly picture: uPlot;
  private readonly canvas: HTMLElement;
  private readonly readout: HTMLElement;
  private readonly summary: Table;
  private readonly values: Table;
  private readonly details: HTMLDetailsElement;
  /** Index of the point that the keys have moved to; -1: none. */
  private at = -1;

  constructor(spec: PlotSpec, history: History) {
    this.spec = spec;
    this.history = history;
    const place = document.querySelector<HTMLElement>(`[data-plot="${spec.name}"]`);
    if (place === null) throw new Error(`the page has no place for ${spec.name}`);
    const title = byId(spec.name, 'h2').textContent;
    this.canvas = make('div', 'canvas');
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute('role', 'img');
    this.readout = make('p', 'readout');
    this.readout.setAttribute('aria-live', 'polite');
    const summary = make('div', 'table');
    const values = make('div', 'table');
    this.details = make('details', '', make('summary', '', `The last ${ROWS} points as a table`), values);
    place.append(this.canvas, this.readout, summary, this.details);
    const numbers = ['Now', 'Mean', 'Highest'].map((each) => ({ title: each, kind: 'number' as const }));
    this.summary = new Table(summary, `${title} since the page was opened`, [{ title: 'Line' }, ...numbers], '');
    const columns = spec.series.map((one) => ({ title: one.title, kind: 'number' as const }));
    this.values = new Table(values, `${title}, newest first`, [{ title: 'Time' }, ...columns], 'Nothing yet.');
    this.picture = this.draw();
    this.details.addEventListener('toggle', () => {
      this.showValues();
    });
    this.canvas.addEventListener('keydown', (event) => {
      if (this.move(event.key)) event.preventDefault();
    });
    new ResizeObserver(() => {
      this.picture.setSize({ width: this.canvas.clientWidth, height: HEIGHT });
    }).observe(this.canvas);
  }

  /** Shows what the history has now. */
  show(): void {
    const { series } = this.spec;
    const { times, columns } = this.history;
    // Of its own: the arrays of the history go on changing.
    this.picture.setData([times.slice(), ...series.map(({ name }) => columns[name].slice())] as uPlot.AlignedData);
    const text = (value: number | null): string => (value === null ? NONE : this.spec.format(value));
    const said: string[] = [];
    const rows = series.map(({ name, title }) => {
      const found = summaryOf(columns[name]);
      said.push(`${title}: ${text(found?.now ?? null)}`);
      return [title, text(found?.now ?? null), text(found?.mean ?? null), text(found?.max ?? null)];
    });
    this.summary.show(rows);
    this.canvas.setAttribute('aria-label', `Plot. ${said.join(', ')}. Arrow keys read points.`);
    this.markLines();
    this.showValues();
  }

  /** The colours have changed. */
  redraw(): void {
    this.picture.redraw(false, true);
  }

  private draw(): uPlot {
    const { series, format, least } = this.spec;
    const line = { stroke: () => colour('faint'), grid: { stroke: () => colour('grid'), width: 1 } };
    const options: uPlot.Options = {
      width: Math.max(200, this.canvas.clientWidth),
      height: HEIGHT,
      // The table below the picture is its legend.
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { y: { range: (_, __, max) => [0, Math.max(max * 1.1, least)] } },
      axes: [
        {
          ...line,
          ticks: { stroke: () => colour('grid') },
          values: (_, ticks) => ticks.map(clock),
          // Seconds are what a label shows.
          incrs: [1, 2, 5, 10, 20, 30, 60, 120, 300],
          space: 90,
          size: 34,
        },
        { ...line, ticks: { stroke: () => colour('grid') }, size: AXIS, values: (_, ticks) => ticks.map(format) },
      ],
      series: [
        {},
        { label: series[0].title, stroke: () => colour('first'), width: 2 },
        { label: series[1].title, stroke: () => colour('second'), width: 2, dash: DASH },
      ],
      hooks: {
        setCursor: [
          (picture) => {
            if (this.at < 0) this.read(picture.cursor.idx ?? null);
          },
        ],
      },
    };
    return new uPlot(options, [[], [], []], this.canvas);
  }

  /** In front of the titles in the table: the line as it is drawn. */
  private markLines(): void {
    const heads = this.summaryHeads();
    heads.forEach((head, i) => {
      if (head.firstElementChild !== null) return;
      const key = make('span', i === 0 ? 'key' : 'key second');
      key.setAttribute('aria-hidden', 'true');
      head.prepend(key);
    });
  }

  private summaryHeads(): HTMLElement[] {
    const { parentElement } = this.canvas;
    return parentElement === null ? [] : [...parentElement.querySelectorAll<HTMLElement>(':scope > .table tbody th')];
  }

  /** Says the values of a point. */
  private read(index: number | null): void {
    const { times, columns } = this.history;
    if (index === null || index >= times.length) {
      say(this.readout, '');
      return;
    }
    const parts = this.spec.series.map(({ name, title }) => {
      const value = columns[name][index];
      return `${title} ${value === null ? NONE : this.spec.format(value)}`;
    });
    say(this.readout, `${clock(times[index])}: ${parts.join(', ')}`);
  }

  /** True: the key is one of ours. */
  private move(key: string): boolean {
    const last = this.history.times.length - 1;
    const from = this.at < 0 ? last + 1 : Math.min(this.at, last);
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last, Escape: -1 }[key];
    if (to === undefined || last < 0) return false;
    this.at = key === 'Escape' ? -1 : Math.min(Math.max(to, 0), last);
    if (this.at >= 0) {
      const left = this.picture.valToPos(this.history.times[this.at], 'x');
      this.picture.setCursor({ left, top: 0 }, false);
    }
    this.read(this.at < 0 ? null : this.at);
    return true;
  }

  private showValues(): void {
    if (!this.details.open) return;
    const { times, columns } = this.history;
    const rows: string[][] = [];
    for (let i = times.length - 1; i >= 0 && rows.length < ROWS; i--) {
      const values = this.spec.series.map(({ name }) => columns[name][i]);
      rows.push([clock(times[i]), ...values.map((one) => (one === null ? NONE : this.spec.format(one)))]);
    }
    this.values.show(rows);
  }
}
