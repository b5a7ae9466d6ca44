/** The usage text, made from the option table. */
import type { Program } from './draft';
import { GROUPS, type Group, OPTIONS, type OptionSpec } from './option-table';

const COLUMN = 30;
const WIDTH = 100;

/** Breaks `text` into lines of at most `width` characters. */
function wrap(text: string, width: number): string[] {
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

/** What is said otherwise of options whose defaults are passt's. */
const PASST_HELP: Readonly<Record<string, string>> = {
  foreground: 'stay in the foreground',
  background: 'go to the background when ready (default)',
  'vhost-user': 'speak vhost-user',
  stream: "speak QEMU's -netdev stream (default)",
};

function helpOf(option: OptionSpec, program: Program): string {
  return (program === 'passt' ? PASST_HELP[option.long[0]] : undefined) ?? option.help;
}

function groupText(group: Group, program: Program): string[] {
  const lines = [`${GROUPS[group]}:`];
  const members = OPTIONS.filter((option) => option.group === group);
  if (group === 'later' || group === 'pasta') {
    const names = members.map((option) => `--${option.long[0]}`).join(' ');
    return [...lines, ...wrap(names, WIDTH - 2).map((line) => `  ${line}`)];
  }
  for (const option of members) {
    const short = option.short === '' ? '   ' : `-${option.short},`;
    const names = `  ${short} --${option.long[0]}${option.arg === '' ? '' : ` ${option.arg}`}`;
    const [first, ...more] = wrap(helpOf(option, program), WIDTH - COLUMN);
    if (names.length + 2 > COLUMN) lines.push(names, ' '.repeat(COLUMN) + first);
    else lines.push(names.padEnd(COLUMN) + first);
    for (const line of more) lines.push(' '.repeat(COLUMN) + line);
  }
  return lines;
}

/** Port specifications and what they mean. */
export const SPEC_EXAMPLES: readonly (readonly [string, string])[] = [
  ['22', 'port 22 of the host is port 22 of the guest'],
  ['2222:22', "port 2222 is the guest's port 22"],
  ['8000-8010:9000-9010', 'a range'],
  ['all,~1-1023', 'all ports that are free, without 1 to 1023 and the ephemeral ones'],
  ['127.0.0.1/8080:80', 'only where the host is reached as 127.0.0.1'],
  ['none', 'nothing (the default)'],
];

/** Where options come from, and how they look there; what stands further down counts more. */
export const OPTION_SOURCES: readonly (readonly [string, string])[] = [
  ['--config FILE', '"mtu: 1500" in YAML, { "mtu": 1500 } in JSON; switches are true or false'],
  ['environment', 'TUBETTI_MTU=1500, TUBETTI_NO_DHCP=1, TUBETTI_TCP_PORTS="22,80 127.0.0.1/443"'],
  ['command line', ''],
];

function columns(rows: readonly (readonly [string, string])[], indent: number): string {
  return rows.map(([name, text]) => `${' '.repeat(indent)}${name.padEnd(21)}${text}`.trimEnd()).join('\n');
}

const SPEC_HELP = `  SPEC is [ADDR][%IFNAME]/PORTS or PORTS, and PORTS a list with commas:
${columns(SPEC_EXAMPLES, 4)}`;

const CONFIG_HELP = `Options from other places, by their long names; what stands further down this list counts more:
${columns(OPTION_SOURCES, 2)}`;

const AS_TUBETTI = `Gives a virtual machine its network without privileges: serves the vhost-user socket of its
virtio-net card and turns its frames into ordinary sockets of the host. The options are those of
passt.`;

const AS_PASST = `This is Tubetti under the name of passt. Gives a virtual machine its network without privileges:
serves QEMU's stream protocol, or vhost-user, and turns frames into ordinary sockets of the host.
The options and, under this name, the defaults are those of passt.`;

const NAME_HELP = `Called by a name with "passt" in it (a symbolic link), the defaults are passt's: the background, and
QEMU's stream protocol.`;

/** The text for the name we were called by. */
export function usage(program: Program = 'tubetti'): string {
  const passt = program === 'passt';
  const groups = (Object.keys(GROUPS) as Group[]).map((group) => {
    const text = groupText(group, program).join('\n');
    return group === 'ports' ? `${text}\n\n${SPEC_HELP}` : text;
  });
  const probe = passt
    ? ''
    : '\n       tubetti probe --socket PATH   (checks a vhost-user back-end: tubetti probe --help)';
  return `Usage: ${program} [OPTION]...${probe}

${passt ? AS_PASST : AS_TUBETTI}

${groups.join('\n\n')}

${CONFIG_HELP}
${passt ? '' : `\n${NAME_HELP}\n`}
Example: ${program} --socket /tmp/vm.sock -t 2222:22
`;
}
