/** The manual page, tubetti(1), made from the option table like the usage text, and of docs/manual.md. The build writes it to dist/. */
import { FLOWS_OPTIONS } from '../ctl/flows';
import { CTL_OPTIONS, SUBCOMMANDS } from '../ctl/main';
import { TOP_OPTIONS } from '../ctl/top';
import type { OptionNames } from './getopt';
import { bold, italic, markdownRoff, plain } from './markdown-roff';
import { GROUPS, type Group, OPTIONS } from './option-table';
import { qemuLines } from './summary';
import { OPTION_SOURCES, SPEC_EXAMPLES } from './usage';

function tagged(tag: string, text: string): string {
  return `.TP\n${tag}\n${plain(text)}`.trimEnd();
}

function entries(rows: readonly (readonly [string, string])[]): string {
  return rows.map(([name, text]) => tagged(bold(name), text)).join('\n');
}

function optionEntry(option: OptionNames & { readonly help: string }): string {
  const names = [option.short === '' ? [] : [`-${option.short}`], option.long.map((name) => `--${name}`)].flat();
  const argument = option.arg === '' ? '' : ` ${italic(option.arg)}`;
  return tagged(names.map(bold).join(', ') + argument, option.help);
}

function groupSection(group: Group): string {
  const members = OPTIONS.filter((option) => option.group === group);
  return [`.SS ${plain(GROUPS[group])}`, ...members.map(optionEntry)].join('\n');
}

/** The QEMU lines that the service prints for its socket, completed to a command line. */
const QEMU = [
  'qemu-system-x86_64 -accel kvm -cpu max -drive file=disk.qcow2,if=virtio \\',
  ...qemuLines({ kind: 'listen', path: '/tmp/vm.sock' }, false),
].join('\n  ');

const EXAMPLES: readonly (readonly [string, string])[] = [
  [
    "The web server of a guest, from this host alone, and nothing of the host's loopback for the guest:",
    'tubetti -s /tmp/vm.sock -t 127.0.0.1/8080:80 --no-map-gw',
  ],
  [
    'All ports that are free, but none below 1024, for IPv4 alone:',
    'tubetti -s /tmp/vm.sock -4 -t all,~1-1023 -u all,~1-1023',
  ],
  [
    'A guest of a network of its own, whose resolver is one of the internet:',
    'tubetti -s /tmp/vm.sock -a 10.0.2.15/24 -g 10.0.2.2 -D 192.0.2.53 --no-follow',
  ],
  [
    'Untrusted code, which may fetch from GitHub and npm, and reach nobody else:',
    'tubetti -s /tmp/vm.sock --allow github.com:443 --allow registry.npmjs.org:443',
  ],
  [
    'One more port while the service runs, and who talks to whom:',
    'tubetti -s /tmp/vm.sock --control /run/tubetti/vm.control &\ntubetti ctl forward add 8080:80\ntubetti flows',
  ],
  [
    'In the background, with a log, a PID file and metrics:',
    'tubetti -s /tmp/vm.sock -b -l /tmp/vm.log -P /tmp/vm.pid --metrics 9100 --label vm=web1',
  ],
  [
    'For QEMU without shared memory, and what passes in a file for Wireshark:',
    'tubetti -s /tmp/vm.sock --stream -p /tmp/vm.pcap',
  ],
  [
    'A kernel for a guest without a disk, by iPXE: boot.ipxe is a script in that folder:',
    'tubetti -s /tmp/vm.sock --tftp /srv/boot --boot-file boot.ipxe',
  ],
  [
    'A command in a network namespace of its own, which port 8080 of this host leads to:',
    'tubetti netns --config-net -t 8080:80 -- CMD',
  ],
  ['As a stand-in for passt, for libvirt:', 'ln -s "$(command -v tubetti)" /usr/local/bin/passt'],
];

/** sd_listen_fds(3), src/cli/activation.ts. */
const ACTIVATION = `A listening unix stream socket that systemd, or another program, passes as descriptor 3 with
.BR LISTEN_FDS =1
and
.B LISTEN_PID
(sd_listen_fds(3)) is served in place of one of Tubetti's own:
.B \\-\\-socket
is left out, or names the same path. Its file stays when the service ends. With
.B \\-\\-one\\-off
each front\\-end has a service of its own.
Any other kind of socket, or more than one, is an error, but for those that
.BR "\\-\\-tcp\\-ports fd:" NAME : PORT
and
.B \\-\\-udp\\-ports
name by
.BR LISTEN_FDNAMES .`;

/** The sub-command, whose own options and checks are in src/probe (`tubetti probe --help`, `--list`). */
const PROBE = `.B tubetti probe
\\-\\-socket \\fIPATH\\fR is a front\\-end that checks a vhost\\-user network back\\-end, this one or any other, against the
vhost\\-user and virtio specifications: it sends legal, illegal and out\\-of\\-order messages, and prints which checks passed,
failed or were skipped, by paragraph of the specification.
It connects to that socket only, once for each check.
With
.B \\-\\-spawn
\\fICOMMAND\\fR it starts the back\\-end for each check, replacing {} by the socket, and can tell a crash from a closed connection.
.B \\-\\-only
\\fIPATTERN\\fR selects checks,
.B \\-\\-list
lists them,
.B \\-\\-json
prints JSON,
.B \\-\\-timeout
\\fIMS\\fR limits the wait for each reply.
It exits with 0 if no required check failed, 1 if one did, 2 if it could not run the checks.`;

/** Programs that speak to a running service, in src/ctl. */
const CONTROL = `A service that was started with
.B \\-\\-control
\\fIPATH\\fR takes orders at that UNIX socket, which its own user and root may use:
.B tubetti ctl
changes and shows it (\\fBtubetti ctl \\-\\-help\\fR lists the commands),
.B tubetti flows
lists the guest's connections,
.B tubetti top
shows them as they change.
They take the socket from
.BR \\-\\-control ,
from TUBETTI_CONTROL, or take the only *.control in $XDG_RUNTIME_DIR/tubetti or /run/tubetti.
They exit with 0 if it was done, 1 if the service refused it, 2 if the command line cannot be used or no service answers.
.SS tubetti ctl
${entries(SUBCOMMANDS.map(({ name, words, help }) => [`${name} ${words}`.trimEnd(), help]))}
.SS Options of tubetti ctl
${CTL_OPTIONS.map(optionEntry).join('\n')}
.SS Options of tubetti flows and tubetti top
${[...new Set([...FLOWS_OPTIONS, ...TOP_OPTIONS])].map(optionEntry).join('\n')}`;

/** The whole page in the man macros of roff, groff_man(7). `version`: e.g. "0.1.0"; `manual`: the text of docs/manual.md. */
export function manPage(version: string, manual: string): string {
  const groups = (Object.keys(GROUPS) as Group[]).map(groupSection);
  return `.\\" Made from the option table by the build. Do not edit.
.TH TUBETTI 1 "" "tubetti ${plain(version)}" "User Commands"
.SH NAME
tubetti \\- unprivileged network for a virtual machine, as a vhost\\-user back\\-end
.SH SYNOPSIS
.B tubetti
[\\fIOPTION\\fR]...
.br
.B tubetti netns
[\\fIOPTION\\fR]... [\\fICOMMAND\\fR [\\fIARGUMENT\\fR]... | \\fIPID\\fR]
.br
.B tubetti ctl
[\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIWORD\\fR]...
.br
.B tubetti flows
[\\fIOPTION\\fR]...
.br
.B tubetti top
[\\fIOPTION\\fR]...
.br
.B tubetti probe
\\-\\-socket \\fIPATH\\fR [\\fIOPTION\\fR]...
.SH DESCRIPTION
Tubetti is the vhost\\-user back\\-end of a guest's virtio\\-net device. It translates the guest's frames into ordinary sockets
of the host: TCP, UDP and ping, IPv4 and IPv6.
It answers ARP, DHCP, NDP and DHCPv6 itself, and needs neither privileges nor a bridge.
.PP
The options are those of
.BR passt (1).
If it is called by a name that contains "passt" (a symbolic link), it has passt's defaults as well: it runs in the
background and uses QEMU's stream protocol.
.SH OPTIONS
${groups.join('\n')}
.SH PORT SPECIFICATIONS
\\fIPORTS\\fR or [\\fIADDR\\fR][%\\fIIFNAME\\fR]/\\fIPORTS\\fR, where \\fIPORTS\\fR is a comma\\-separated list:
${entries(SPEC_EXAMPLES)}
.SH OPTIONS FROM A FILE OR THE ENVIRONMENT
Options are named by their long names. The sources are listed with the lowest precedence first; a higher source replaces
lists and can turn options off.
${entries(OPTION_SOURCES)}
.SH SOCKET ACTIVATION
${ACTIVATION}
.SH ORDERS TO A RUNNING SERVICE
${CONTROL}
${markdownRoff(manual)}
.SH CHECKING A BACK\\-END
${PROBE}
.SH EXIT STATUS
${tagged(bold('0'), 'The service ended normally or, with --background, is ready.')}
${tagged(bold('1'), 'The service could not start or had to stop; one line on standard error says why.')}
${tagged(bold('70'), 'The thread that speaks with the front-end hung for 30 seconds.')}
.PP
With \\-\\-background these are the status of the command that was typed; the service itself ends as it would in the foreground.
.SH EXAMPLES
A guest whose SSH server is reached at port 2222 of the host:
.PP
.nf
tubetti \\-\\-socket /tmp/vm.sock \\-t 2222:22
.fi
.PP
prints the configuration of the guest, and the lines to paste for QEMU and libvirt, for example:
.PP
.nf
${plain(QEMU)}
.fi
${EXAMPLES.map(([what, line]) => `.PP\n${plain(what)}\n.PP\n.nf\n${plain(line)}\n.fi`).join('\n')}
.SH SEE ALSO
.BR passt (1),
.BR qemu\\-system\\-x86_64 (1),
.BR virsh (1),
.BR resolv.conf (5),
.BR systemd.socket (5)
`;
}
