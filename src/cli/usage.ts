/** The usage text, made from the option table. */
import type { Program } from './draft';
import { GROUPS, type Group, OPTIONS, type OptionSpec } from './option-table';
import { described, WIDTH, wrap } from '../usage-text';

const COLUMN = 30;

/** Help texts that differ under the name passt, where the defaults are passt's. */
const PASST_HELP: Readonly<Record<string, string>> = {
  foreground: 'stay in the foreground',
  background: 'run in the background once ready (default)',
  'vhost-user': 'use the vhost-user protocol',
  stream: "use the protocol of QEMU's -netdev stream (default)",
};

function helpOf(option: OptionSpec, program: Program): string {
  return (program === 'passt' ? PASST_HELP[option.long[0]] : undefined) ?? option.help;
}

function groupText(group: Group, program: Program): string[] {
  const lines = [`${GROUPS[group]}:`];
  const members = OPTIONS.filter((option) => option.group === group);
  if (group === 'later' || (group === 'pasta' && program !== 'pasta')) {
    const names = members.map((option) => `--${option.long[0]}`).join(' ');
    return [...lines, ...wrap(names, WIDTH - 2).map((line) => `  ${line}`)];
  }
  for (const option of members) {
    const short = option.short === '' ? '   ' : `-${option.short},`;
    const names = `  ${short} --${option.long[0]}${option.arg === '' ? '' : ` ${option.arg}`}`;
    lines.push(described(names, helpOf(option, program), COLUMN));
  }
  return lines;
}

/** Port specifications and what they mean. */
export const SPEC_EXAMPLES: readonly (readonly [string, string])[] = [
  ['22', 'port 22 of the host to port 22 of the guest'],
  ['2222:22', 'port 2222 of the host to port 22 of the guest'],
  ['8000-8010:9000-9010', 'a range of ports to another range of the same size'],
  ['all,~1-1023', 'all free ports except 1 to 1023 and the ephemeral ports'],
  ['127.0.0.1/8080:80', 'only connections to 127.0.0.1 port 8080'],
  ['unix:/run/x.sock:22', 'a UNIX socket of the host to port 22 of the guest (-t)'],
  ['fd:web:80', 'sockets of systemd, FileDescriptorName=web, to port 80 of the guest'],
  ['none', 'no ports (the default)'],
];

/** Where options come from, and how they look there; lowest precedence first. */
export const OPTION_SOURCES: readonly (readonly [string, string])[] = [
  ['--config FILE', '"mtu: 1500" in YAML, { "mtu": 1500 } in JSON; switches are true or false'],
  ['environment', 'TUBETTI_MTU=1500, TUBETTI_NO_DHCP=1, TUBETTI_TCP_PORTS="22,80 127.0.0.1/443"'],
  ['command line', ''],
];

function columns(rows: readonly (readonly [string, string])[], indent: number): string {
  return rows.map(([name, text]) => `${' '.repeat(indent)}${name.padEnd(21)}${text}`.trimEnd()).join('\n');
}

const SPEC_HELP = `  SPEC is unix:PATH:PORT or fd:NAME:PORT or PORTS or [ADDR][%IFNAME]/PORTS, where PORTS is a\n  comma-separated list:
${columns(SPEC_EXAMPLES, 4)}`;

const CONFIG_HELP = `Options can also come from a file or the environment, by their long names. Lowest precedence first;\na higher source replaces lists and can turn options off:
${columns(OPTION_SOURCES, 2)}`;

const AS_TUBETTI = `Network for a virtual machine, without privileges: a vhost-user back-end that translates the frames
of the guest's virtio-net device into ordinary sockets of the host. Takes the options of passt.`;

const AS_PASST = `This is Tubetti, called as passt. Network for a virtual machine, without privileges: translates the
frames of QEMU's stream protocol, or of vhost-user, into ordinary sockets of the host. Takes the
options of passt and, under this name, its defaults.`;

const AS_PASTA = `This is Tubetti, called as pasta. Network for a namespace, without privileges: translates the frames
of an interface in there into ordinary sockets of the host. With COMMAND (default: a shell) it runs
that in new namespaces and exits with its status; with PID or --netns it joins those that are there,
and goes to the background when their network works. Takes the options of pasta.`;

const NAME_HELP = `If the program is called by a name that contains "passt" (a symbolic link), it has passt's defaults:
it runs in the background and uses QEMU's stream protocol. Called by one that contains "pasta", or
with the word "netns" in front of the options, it is the network of a namespace: see pasta --help.`;

/** The text for the name we were called by. */
export function usage(program: Program = 'tubetti'): string {
  const passt = program === 'passt';
  const groups = (Object.keys(GROUPS) as Group[])
    .filter((group) => !(program === 'pasta' && group === 'link'))
    .map((group) => {
      const text = groupText(group, program).join('\n');
      return group === 'ports' ? `${text}\n\n${SPEC_HELP}` : text;
    });
  const probe =
    program !== 'tubetti'
      ? ''
      : `
       tubetti ctl|flows|top         (orders to, and views of, a service: see tubetti ctl --help)
       tubetti probe --socket PATH   (tests a vhost-user back-end: see tubetti probe --help)`;
  const pasta = program === 'pasta';
  const targets = pasta
    ? ' [--] [COMMAND [ARGUMENT]...]\n       pasta [OPTION]... PID\n       pasta [OPTION]... --netns PATH|NAME'
    : '';
  const what = pasta ? AS_PASTA : passt ? AS_PASST : AS_TUBETTI;
  const example = pasta ? '--config-net -- ip address' : '--socket /tmp/vm.sock -t 2222:22';
  return `Usage: ${program} [OPTION]...${targets}${probe}

${what}

${groups.join('\n\n')}

${CONFIG_HELP}
${program === 'tubetti' ? `\n${NAME_HELP}\n` : ''}
Example: ${program} ${example}
`;
}
