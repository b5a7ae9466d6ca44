/**
 * From the Markdown of docs/manual.md to the man macros of roff, groff_man(7). It knows what that file uses: sections (`##`)
 * and subsections (`###`), paragraphs, lists, whose items may begin with a bold term, code blocks; and in a line bold,
 * code and links. The file's title and what stands before its first section are left out.
 */

/** `text` as roff shows it verbatim: escapes and leading control characters quoted, all ASCII. */
export function plain(text: string): string {
  return text
    .replace(/…/g, '...')
    .replace(/\\/g, '\\e')
    .replace(/-/g, '\\-')
    .replace(/^([.'])/gm, '\\&$1');
}

export function bold(text: string): string {
  return `\\fB${plain(text)}\\fR`;
}

export function italic(text: string): string {
  return `\\fI${plain(text)}\\fR`;
}

/** Bold, code and links of one paragraph, which must not begin or end elsewhere than in it. */
function inline(text: string): string {
  const parts = text.replace(/\[([^\]]+)\]\([^)]+\)/g, '$1').split(/(\*\*[^*]+\*\*|`[^`]+`)/);
  return parts
    .map((part, i) => {
      if (i % 2 === 1) return bold(part.replace(/^(\*\*|`)|(\*\*|`)$/g, ''));
      // Only at the paragraph's begin can a control character lead.
      return i === 0 ? plain(part) : plain(part).replace(/^\\&/, '');
    })
    .join('');
}

/** One block: lines without an empty one among them. */
function blockRoff(lines: readonly string[]): string {
  const [first] = lines;
  if (first.startsWith('### ')) return `.SS ${plain(first.slice(4))}`;
  if (first.startsWith('## ')) return `.SH ${plain(first.slice(3).toUpperCase())}`;
  if (first.startsWith('- ')) return listRoff(lines);
  return `.PP\n${inline(lines.join(' '))}`;
}

function listRoff(lines: readonly string[]): string {
  const items: string[] = [];
  for (const line of lines) {
    if (line.startsWith('- ')) items.push(line.slice(2));
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  return items
    .map((item) => {
      const term = /^\*\*([^*]+)\*\*:? ?(.*)$/s.exec(item);
      return term === null ? `.IP \\(bu 2\n${inline(item)}` : `.TP\n${bold(term[1])}\n${inline(term[2])}`;
    })
    .join('\n');
}

/** The sections of `markdown` in the man macros. */
export function markdownRoff(markdown: string): string {
  const out: string[] = [];
  let block: string[] = [];
  let code: string[] | null = null;
  const flush = (): void => {
    if (block.length > 0) out.push(blockRoff(block));
    block = [];
  };
  const lines = markdown.split('\n');
  for (const line of lines.slice(lines.findIndex((text) => text.startsWith('## ')))) {
    if (line.startsWith('```')) {
      flush();
      if (code === null) code = [];
      else {
        out.push(`.PP\n.nf\n${plain(code.join('\n'))}\n.fi`);
        code = null;
      }
    } else if (code !== null) code.push(line);
    else if (line === '') flush();
    else block.push(line);
  }
  flush();
  // A first paragraph needs no macro, and mandoc minds one there.
  return out.join('\n').replace(/^(\.S[HS] .*)\n\.PP$/gm, '$1');
}
