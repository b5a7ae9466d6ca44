/** The manual page, tubetti(1), made from the option table like the usage text. The build writes it to dist/. */
import { GROUPS, type Group, OPTIONS, type OptionSpec } from './option-table';
import { qemuLines } from './summary';
import { OPTION_SOURCES, SPEC_EXAMPLES } from './usage';

/** `text` as roff shows it letter by letter: no escapes, no control character at the start of a line, all ASCII. */
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

/** What the service prints for its socket, with the rest of a command line. */
const QEMU = [
  'qemu-system-x86_64 -accel kvm -cpu max -drive file=disk.qcow2,if=virtio \\',
  ...qemuLines({ kind: 'listen', path: '/tmp/vm.sock' }, false),
].join('\n  ');

/** The sub-command, whose own options and checks are in src/probe (`tubetti probe --help`, `--list`). */
const PROBE = `.B tubetti probe
\\-\\-socket \\fIPATH\\fR is a front\\-end that checks a vhost\\-user network back\\-end, this one or any other, against the
vhost\\-user and virtio specifications: it says all that is legal, illegal and out of order, and prints what passed, failed
or was skipped by paragraph.
It connects to that socket only, again for each check.
With
.B \\-\\-spawn
\\fICOMMAND\\fR it starts the back\\-end for each check, {} being the socket, and tells a crash from a closed connection.
.B \\-\\-only
\\fIPATTERN\\fR chooses checks,
.B \\-\\-list
lists them,
.B \\-\\-json
prints for programs,
.B \\-\\-timeout
\\fIMS\\fR is the longest wait for an answer.
It exits with 0 if nothing that must be so failed, 1 if something did, 2 if it could not check.`;

/** The whole page in the man macros of roff, groff_man(7). `version`: e.g. "0.1.0". */
export function manPage(version: string): string {
  const groups = (Object.keys(GROUPS) as Group[]).map(groupSection);
  return `.\\" Made from the option table by the build. Do not edit.
.TH TUBETTI 1 "" "tubetti ${plain(version)}" "User Commands"
.SH NAME
tubetti \\- network of a virtual machine without privileges, as a vhost\\-user back\\-end
.SH SYNOPSIS
.B tubetti
[\\fIOPTION\\fR]...
.br
.B tubetti probe
\\-\\-socket \\fIPATH\\fR [\\fIOPTION\\fR]...
.SH DESCRIPTION
Serves the vhost\\-user socket of a guest's virtio\\-net card and turns its frames into ordinary sockets of the host: TCP,
UDP and ping, IPv4 and IPv6.
It answers ARP, DHCP, NDP and DHCPv6 itself, and needs neither privileges nor a bridge.
.PP
The options are those of
.BR passt (1).
Called by a name with "passt" in it (a symbolic link), its defaults are passt's as well: the background, and QEMU's
stream protocol.
.SH OPTIONS
${groups.join('\n')}
.SH PORT SPECIFICATIONS
[\\fIADDR\\fR][%\\fIIFNAME\\fR]/\\fIPORTS\\fR or \\fIPORTS\\fR, where \\fIPORTS\\fR is a list with commas:
${entries(SPEC_EXAMPLES)}
.SH OPTIONS FROM OTHER PLACES
By their long names; what stands further down this list counts more.
${entries(OPTION_SOURCES)}
.SH CHECKING A BACK\\-END
${PROBE}
.SH EXIT STATUS
${tagged(bold('0'), 'The service ended as asked, or is ready, where it went to the background.')}
${tagged(bold('1'), 'It could not start or go on; one line on standard error says why.')}
.SH EXAMPLES
.nf
tubetti \\-\\-socket /tmp/vm.sock \\-t 2222:22
.fi
.PP
prints what the guest will get, and the lines to paste for QEMU and libvirt, for example:
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
