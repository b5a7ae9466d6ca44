/** Parts of the document. What comes from outside is only ever text here, never markup. */

/** The element of that id. Throws Error if the page has none, or one of another kind. */
export function byId<K extends keyof HTMLElementTagNameMap>(id: string, tag: K): HTMLElementTagNameMap[K] {
  const element = document.getElementById(id);
  if (element?.localName !== tag) throw new Error(`the page has no <${tag} id="${id}">`);
  return element as HTMLElementTagNameMap[K];
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = '',
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className !== '') element.className = className;
  element.append(...children);
  return element;
}

/** Sets a text, and touches the document only where it is another one: a screen reader reads what changes. */
export function say(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

export interface Column {
  readonly title: string;
  /** `number`: to the right; `text`: may be long. */
  readonly kind?: 'number' | 'text';
}

/** A cell: its text, and what it says besides by its colour. */
export type Cell = string | { readonly text: string; readonly mark: 'good' | 'bad' };

/**
 * A table whose rows change. The first column names its row. Rows and cells that stay are kept, so that a selection, the
 * focus and a screen reader stay where they are.
 */
export class Table {
  private readonly body: HTMLTableSectionElement;
  private readonly table: HTMLTableElement;
  private readonly columns: readonly Column[];
  private readonly empty: HTMLParagraphElement;

  /** `none`: what is said where there are no rows. */
  constructor(place: HTMLElement, caption: string, columns: readonly Column[], none: string) {
    this.columns = columns;
    this.body = make('tbody');
    const head = make('tr');
    for (const { title, kind } of columns) {
      const cell = make('th', kind ?? '', title);
      cell.scope = 'col';
      head.append(cell);
    }
    this.table = make('table', '', make('caption', '', caption), make('thead', '', head), this.body);
    this.empty = make('p', '', none);
    // What can be scrolled must be reachable by keyboard.
    place.tabIndex = 0;
    place.setAttribute('role', 'region');
    place.setAttribute('aria-label', caption);
    place.append(this.table, this.empty);
    this.show([]);
  }

  show(rows: readonly (readonly Cell[])[]): void {
    this.table.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
    while (this.body.rows.length > rows.length) this.body.deleteRow(-1);
    rows.forEach((cells, i) => {
      const row = i < this.body.rows.length ? this.body.rows[i] : this.addRow();
      cells.forEach((cell, j) => {
        const place = row.cells[j];
        const { text, mark } = typeof cell === 'string' ? { text: cell, mark: '' } : cell;
        say(place, text);
        const className = [this.columns[j].kind ?? '', mark].join(' ').trim();
        if (place.className !== className) place.className = className;
      });
    });
  }

  private addRow(): HTMLTableRowElement {
    const row = this.body.insertRow();
    this.columns.forEach((_, j) => {
      if (j > 0) row.insertCell();
      else row.append(Object.assign(make('th'), { scope: 'row' }));
    });
    return row;
  }
}

/** Terms and what they are, in a `dl`. */
export class List {
  private readonly values = new Map<string, HTMLElement>();
  private readonly place: HTMLElement;

  constructor(place: HTMLElement) {
    this.place = place;
  }

  show(entries: Readonly<Record<string, string>>): void {
    for (const [term, value] of Object.entries(entries)) {
      let element = this.values.get(term);
      if (element === undefined) {
        element = make('dd');
        this.values.set(term, element);
        this.place.append(make('dt', '', term), element);
      }
      say(element, value);
    }
  }
}
