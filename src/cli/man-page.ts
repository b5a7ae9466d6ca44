/** The manual page, tubetti(1), made from the option table like the usage text. The build writes it to dist/. */
import { GROUPS, type Group, OPTIONS, type OptionSpec } from './option-table';
import { qemuLines } from './summary';
import { OPTION_SOURCES, SPEC_EXAMPLES } from './usage';

/** `text` as roff shows it verbatim: escapes and leading control characters quoted, all ASCII. */
function plain(text: string): string {
  return text
    .replace(/…/g, '...')
    .replace(/\\/g, '\\e')
    .replace(/-/g, '\\-')
    .replace(/^([.'])/gm, '\\&$1');
}

function bold(text: string): string {
  return `\\fB${plain(text)}\\fR`;
}

function italic(text: string): string {
  return `\\fI${plain(text)}\\fR`;
}

function tagged(tag: string, text: string): string {
  return `.TP\n${tag}\n${plain(text)}`.trimEnd();
}

function entries(rows: readonly (readonly [string, string])[]): string {
  return rows.map(([name, text]) => tagged(bold(name), text)).join('\n');
}

function optionEntry(option: OptionSpec): string {
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
Any other kind of socket, or more than one, is an error.`;

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

/** The whole page in the man macros of roff, groff_man(7). `version`: e.g. "0.1.0". */
export function manPage(version: string): string {
  const groups = (Object.keys(GROUPS) as Group[]).map(groupSection);
  return `.\\" Made from the option table by the build. Do not edit.
.TH TUBETTI 1 "" "tubetti ${plain(version)}" "User Commands"
.SH NAME
tubetti \\- unprivileged network for a virtual machine, as a vhost\\-user back\\-end
.SH SYNOPSIS
.B tubetti
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
.SH CHECKING A BACK\\-END
${PROBE}
.SH EXIT STATUS
${tagged(bold('0'), 'The service ended normally or, with --background, is ready.')}
${tagged(bold('1'), 'The service could not start or had to stop; one line on standard error says why.')}
.SH EXAMPLES
.nf
tubetti \\-\\-socket /tmp/vm.sock \\-t 2222:22
.fi
.PP
prints the configuration of the guest, and the lines to paste for QEMU and libvirt, for example:
.PP
.nf
${plain(QEMU)}
.fi
.SH SEE ALSO
.BR passt (1),
.BR qemu\\-system\\-x86_64 (1),
.BR virsh (1)
`;
}
