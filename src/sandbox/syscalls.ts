/**
 * The system calls of the running service: who needs each, and with which arguments. Reviewed by hand; found by
 * `npm run trace:syscalls` and by the sources of what runs here (the addon, libuv, V8, glibc). docs/syscalls.md is made of
 * this table.
 *
 * There are two filters of the service. `process` holds for every thread from the moment the service is ready: the control
 * plane, V8's helpers, libuv's pool, the watchdog, the closer, and a data plane that boots in place of another. `dataPlane`
 * holds besides for the thread that handles the guest's frames, from the moment it serves: a call passes if both let it.
 * Where the guest is a network namespace some calls have other verdicts in both (`namespace`).
 * A third one, `broker`, is that of the broker's process; it is made of the rows of BROKER.
 *
 * Verdicts. `allow`. `kill`: no code of ours can come to this; the code that makes the call is not ours, and the
 * process ends. `refuse`: EPERM, said once in the log. `deny`: EPERM, without a word. `absent`: ENOSYS, without a word. What is not in the table is
 * refused; a number above NEWEST_CALL, which a later C library may try, is absent.
 */
import { SOCK_DGRAM, SOCK_STREAM } from './numbers';
import * as n from './numbers';

/** Passes if `argument & mask` is one of the values. The low 32 bits of an argument are looked at. */
export interface Test {
  readonly argument: number;
  readonly mask?: number;
  /** 'self': the number of this process. */
  readonly values: readonly (number | 'self')[];
}

export interface Filter {
  /** Passes if all tests of one row pass. */
  readonly allow: readonly (readonly Test[])[];
  readonly otherwise: 'kill' | 'refuse';
  /** For people. */
  readonly text: string;
}

export type Verdict = 'allow' | 'kill' | 'refuse' | 'deny' | 'absent' | Filter;

export interface Call {
  readonly name: string;
  /** Who needs it; for what is killed: what it would be good for. */
  readonly why: string;
  readonly process: Verdict;
  readonly dataPlane: Verdict;
  readonly broker: Verdict;
  /** In place of `process` and `dataPlane` where the guest is a namespace; absent: the same. */
  readonly namespace?: ServiceVerdicts;
}

export type ServiceVerdicts = Readonly<Record<'process' | 'dataPlane', Verdict>>;

/** A call as the service's two filters have it. */
type Row = Omit<Call, 'broker'>;

/** The highest number that the table's authors knew (Linux 6.18). Numbers from 424 on are those of all architectures. */
export const NEWEST_CALL = 470;

const is = (argument: number, ...values: readonly (number | 'self')[]): Test => ({ argument, values });
const masked = (argument: number, mask: number, ...values: readonly number[]): Test => ({ argument, mask, values });

function only(otherwise: Filter['otherwise'], text: string, ...allow: readonly (readonly Test[])[]): Filter {
  return { allow, otherwise, text };
}

const READ_ONLY = 'for reading';
const readOnly = (argument: number): Filter => only('kill', READ_ONLY, [masked(argument, n.O_CHANGES, 0)]);
const ITSELF = 'itself';
const itself = (argument: number): Filter => only('kill', ITSELF, [is(argument, 'self')]);

/** Thread: shares all with us, and makes no namespace. */
const THREAD = only('kill', 'CLONE_THREAD, no namespace', [
  masked(0, n.CLONE_THREAD | n.CLONE_NAMESPACES, n.CLONE_THREAD),
]);

const INTERNET: readonly Test[] = [
  is(0, n.AF_INET, n.AF_INET6),
  masked(1, n.SOCK_TYPE_MASK, SOCK_STREAM, SOCK_DGRAM),
  is(2, 0, n.IPPROTO_TCP, n.IPPROTO_UDP, n.IPPROTO_ICMP, n.IPPROTO_ICMPV6),
];
const INTERNET_TEXT = 'INET, INET6 with TCP, UDP, ping';

const UNIX_SOCKET: readonly Test[] = [is(0, n.AF_UNIX), masked(1, n.SOCK_TYPE_MASK, SOCK_STREAM, SOCK_DGRAM), is(2, 0)];

const SOCKET = only('kill', `${INTERNET_TEXT}; UNIX; NETLINK_ROUTE`, INTERNET, UNIX_SOCKET, [
  is(0, n.AF_NETLINK),
  is(2, n.NETLINK_ROUTE),
]);

const SOCKET_OPTIONS: readonly (readonly Test[])[] = [
  [is(1, n.SOL_SOCKET), is(2, ...n.SOCKET_LEVEL_OPTIONS)],
  [is(1, n.IPPROTO_IP), is(2, ...n.IP_OPTIONS)],
  [is(1, n.IPPROTO_IPV6), is(2, ...n.IPV6_OPTIONS)],
  [is(1, n.IPPROTO_TCP), is(2, ...n.TCP_OPTIONS)],
  [is(1, n.IPPROTO_UDP), is(2, n.UDP_GRO)],
];
const SET_OPTION = only('refuse', 'the options that the addon and libuv set', ...SOCKET_OPTIONS, [
  is(1, n.SOL_NETLINK),
  is(2, n.NETLINK_GET_STRICT_CHK),
]);
const SET_OPTION_DATA = only('refuse', 'the options that the stack sets', ...SOCKET_OPTIONS);

const FCNTL = only('refuse', 'flags, F_DUPFD_CLOEXEC, F_GET_SEALS', [is(1, ...n.FCNTL_COMMANDS)]);
const FCNTL_DATA = only('refuse', 'flags', [is(1, ...n.FCNTL_FLAGS)]);
const FCNTL_NAMESPACE = {
  process: only('refuse', 'F_SETPIPE_SZ too', [is(1, ...n.FCNTL_COMMANDS, n.F_SETPIPE_SZ)]),
  dataPlane: only('refuse', 'F_SETPIPE_SZ too', [is(1, ...n.FCNTL_FLAGS, n.F_SETPIPE_SZ)]),
};
const IOCTL = only('refuse', 'queue lengths, FIONBIO, FIOCLEX, terminal state, interface names', [
  is(1, ...n.IOCTL_REQUESTS),
]);
const IOCTL_DATA = only('refuse', 'queue lengths, FIONBIO, FIOCLEX', [is(1, ...n.IOCTL_SOCKETS)]);
const IOCTL_NAMESPACE = {
  process: only('refuse', 'the urgent mark too', [is(1, ...n.IOCTL_REQUESTS, n.SIOCATMARK)]),
  dataPlane: only('refuse', 'the urgent mark too', [is(1, ...n.IOCTL_SOCKETS, n.SIOCATMARK)]),
};
const PRCTL = only('kill', 'names of threads and mappings, no_new_privs', [is(0, ...n.PRCTL_OPTIONS)]);
const SECCOMP = only('kill', 'one more filter', [is(0, n.SECCOMP_SET_MODE_FILTER)]);
const OWN_LIMITS = only('refuse', ITSELF, [is(0, 0, 'self')]);
const ROW_OF_UNIX = only('kill', 'UNIX', [is(0, n.AF_UNIX)]);

/** All threads. */
function both(why: string, ...names: readonly string[]): Row[] {
  return names.map((name) => ({ name, why, process: 'allow', dataPlane: 'allow' }));
}

/** All threads but the data plane's. */
function control(why: string, ...names: readonly string[]): Row[] {
  return names.map((name) => ({ name, why, process: 'allow', dataPlane: 'refuse' }));
}

function filtered(name: string, why: string, process: Filter, dataPlane: Verdict, namespace?: ServiceVerdicts): Row {
  return { name, why, process, dataPlane, ...(namespace === undefined ? {} : { namespace }) };
}

function killed(why: string, ...names: readonly string[]): Row[] {
  return names.map((name) => ({ name, why, process: 'kill', dataPlane: 'kill' }));
}

function absent(why: string, ...names: readonly string[]): Row[] {
  return names.map((name) => ({ name, why, process: 'absent', dataPlane: 'absent' }));
}

/** What is not in the table is refused just the same; these have their names here so that the log can say them. */
function refused(why: string, ...names: readonly string[]): Row[] {
  return names.map((name) => ({ name, why, process: 'refuse', dataPlane: 'refuse' }));
}

const SERVICE: readonly Row[] = [
  // ---- sockets, events
  ...both('addon: flows, front-ends; libuv: metrics', 'read', 'write', 'close'),
  ...both('addon: flows, front-ends', 'recvmsg', 'sendmsg', 'recvfrom', 'sendto', 'accept4'),
  ...both('addon: datagrams', 'recvmmsg', 'sendmmsg'),
  // Past the link of a namespace go streams; a virtual machine has nothing beside its link.
  {
    name: 'splice',
    why: 'addon: connections past the link of a namespace',
    process: 'kill',
    dataPlane: 'kill',
    namespace: { process: 'allow', dataPlane: 'allow' },
  },
  {
    name: 'pipe2',
    why: 'addon: connections past the link of a namespace; libuv: the loop of a thread that boots',
    process: 'allow',
    dataPlane: 'refuse',
    namespace: { process: 'allow', dataPlane: 'allow' },
  },
  ...both('addon: flows, forwarded ports; libuv', 'bind', 'connect', 'listen', 'shutdown'),
  ...both('addon, libuv', 'getsockname', 'getpeername', 'getsockopt'),
  ...both(
    'addon: loop of the data plane; libuv: its loop',
    'epoll_wait',
    'epoll_pwait',
    'epoll_pwait2',
    'epoll_ctl',
    'epoll_create1',
  ),
  ...both('addon: an eventfd that must not make us wait', 'io_setup', 'io_submit', 'io_destroy', 'preadv2', 'pwritev2'),
  ...both('addon: whether a pipe is ready; libuv', 'poll', 'ppoll'),
  filtered(
    'socket',
    "addon: flows; the host's network; syslog; --connect",
    SOCKET,
    only('kill', INTERNET_TEXT, INTERNET),
  ),
  filtered('socketpair', 'libuv', ROW_OF_UNIX, 'refuse'),
  filtered('setsockopt', 'addon, libuv', SET_OPTION, SET_OPTION_DATA),
  filtered('fcntl', 'addon, libuv', FCNTL, FCNTL_DATA, FCNTL_NAMESPACE),
  filtered('ioctl', 'addon: SIOCOUTQ; libuv; glibc: if_nametoindex', IOCTL, IOCTL_DATA, IOCTL_NAMESPACE),
  ...control('libuv: metrics', 'accept', 'readv', 'writev'),
  ...control('libuv: the loop of a thread that boots', 'eventfd2'),
  ...control('addon, libuv: a descriptor moved or kept', 'dup', 'dup2', 'dup3'),
  ...control('libuv: resolv.conf is watched', 'inotify_init1', 'inotify_add_watch', 'inotify_rm_watch'),

  // ---- files: what may be opened is the mount namespace's to say
  // Of the data plane's, glibc's free looks at a setting of the kernel's memory, and does without.
  filtered('open', 'Node: a thread that boots; resolv.conf, /proc', readOnly(1), 'deny'),
  filtered('openat', 'Node: a thread that boots; resolv.conf, /proc', readOnly(2), 'deny'),
  ...absent('flags lie in memory, where a filter does not see them', 'openat2'),
  ...both('Node: open files, read and written at a place', 'pread64', 'pwrite64'),
  ...both('addon: kind of a descriptor; libuv', 'fstat', 'readlink', 'readlinkat'),
  ...both("glibc's fstat, in some of its versions; libuv's, of later Nodes", 'newfstatat', 'statx'),
  ...control('libuv, Node: files', 'stat', 'lstat', 'access', 'faccessat', 'faccessat2'),
  ...control('Node: files', 'lseek', 'getdents64', 'getcwd'),
  ...both("the log's rotation; a capture's record that the disk has no room for", 'ftruncate'),
  ...control('addon: kind of guest memory', 'statfs', 'fstatfs'),
  ...control("the socket's file at the end", 'unlink', 'unlinkat'),
  ...control('the background service leaves its directory', 'chdir'),

  // ---- memory
  ...both('V8: heap, compiled code; addon: guest memory', 'mmap', 'munmap', 'mprotect', 'madvise'),
  ...both('glibc: malloc', 'brk', 'mremap'),
  ...both('V8: write access to compiled code', 'pkey_alloc', 'pkey_free', 'pkey_mprotect', 'membarrier', 'mseal'),

  // ---- threads, signals, time
  ...both('everybody', 'futex', 'sched_yield', 'futex_waitv', 'futex_wake', 'futex_wait', 'futex_requeue'),
  ...both("glibc: a thread's end", 'exit', 'exit_group', 'restart_syscall', 'rt_sigreturn'),
  ...both('glibc, libuv, V8', 'rt_sigprocmask', 'rt_sigaction', 'sigaltstack', 'gettid', 'getpid'),
  ...both('glibc: threads', 'set_robust_list', 'rseq', 'set_tid_address', 'map_shadow_stack'),
  ...both('glibc, V8', 'sched_getaffinity', 'sched_getparam', 'sched_getscheduler', 'sched_get_priority_max'),
  ...both('glibc, V8', 'sched_get_priority_min', 'getcpu'),
  ...both('where the vDSO has no clock', 'clock_gettime', 'clock_getres', 'gettimeofday', 'time'),
  ...both('addon, V8: short waits', 'clock_nanosleep', 'nanosleep'),
  ...both('addon: random numbers; V8: hash seeds', 'getrandom'),
  ...both('Node: whether it was given rights', 'capget', 'getuid', 'geteuid', 'getgid', 'getegid'),
  ...both('libuv, Node: figures of the process', 'getrusage', 'sysinfo', 'uname', 'getppid'),
  filtered('clone', 'glibc: threads', THREAD, only('kill', 'never')),
  ...absent('flags lie in memory; glibc takes clone then', 'clone3'),
  filtered('tgkill', 'glibc: abort, raise', itself(0), itself(0)),
  filtered('kill', 'Node: process.abort', itself(0), itself(0)),
  filtered('prctl', 'V8: names of mappings; addon: of threads', PRCTL, PRCTL),
  filtered('seccomp', "the data plane's filter", SECCOMP, 'kill'),
  filtered('prlimit64', 'V8: size of the stack', OWN_LIMITS, OWN_LIMITS),
  ...both('V8: size of the stack', 'getrlimit'),

  // ---- what Node has a function for, and the service does not use
  ...refused(
    'files changed',
    ...['rename', 'renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat', 'mkdir', 'mkdirat', 'rmdir'],
    ...['chmod', 'fchmod', 'fchmodat', 'chown', 'fchown', 'lchown', 'fchownat', 'truncate', 'utimensat', 'umask'],
    ...['fsync', 'fdatasync', 'fallocate', 'flock', 'copy_file_range', 'sendfile', 'fchdir'],
  ),
  ...refused('memory that is a file, or shared by name', 'memfd_create', 'shmget', 'shmat', 'semget', 'msgget'),
  ...refused('pages that stay', 'mlock', 'mlock2', 'mlockall', 'mincore'),
  ...refused('processes', 'pidfd_open', 'wait4', 'waitid', 'setsid', 'setpgid', 'getpriority', 'setpriority'),
  ...refused('scheduling', 'sched_setaffinity', 'sched_setscheduler', 'sched_setparam', 'sched_setattr', 'setrlimit'),
  ...refused('timers', 'timer_create', 'timerfd_create', 'timerfd_settime', 'setitimer', 'alarm'),
  ...refused('descriptors', 'tee', 'signalfd4', 'close_range'),

  ...absent('libuv of later Nodes tries it for the loop of each thread that boots, and does without', 'io_uring_setup'),

  // ---- never
  ...killed('another program', 'execve', 'execveat', 'uselib'),
  ...killed('another process', 'fork', 'vfork'),
  ...killed(
    'other processes',
    ...[
      'ptrace',
      'process_vm_readv',
      'process_vm_writev',
      'process_madvise',
      'process_mrelease',
      'kcmp',
      'pidfd_getfd',
    ],
    ...['pidfd_send_signal', 'tkill', 'rt_sigqueueinfo', 'rt_tgsigqueueinfo', 'migrate_pages', 'move_pages'],
  ),
  ...killed(
    'another view of the file system',
    ...['mount', 'umount2', 'pivot_root', 'chroot', 'move_mount', 'open_tree', 'open_tree_attr', 'fsopen', 'fsconfig'],
    ...['fsmount', 'fspick', 'mount_setattr', 'setns', 'unshare', 'open_by_handle_at', 'name_to_handle_at'],
  ),
  ...killed(
    'rights',
    ...['setuid', 'setgid', 'setreuid', 'setregid', 'setresuid', 'setresgid', 'setfsuid', 'setfsgid', 'setgroups'],
    ...['capset', 'personality', 'lsm_set_self_attr', 'keyctl', 'add_key', 'request_key'],
  ),
  ...killed('a file changed', 'creat', 'mknod', 'mknodat'),
  ...killed(
    'much of the kernel that no network needs',
    ...['bpf', 'perf_event_open', 'io_uring_enter', 'io_uring_register', 'userfaultfd'],
    ...['memfd_secret', 'modify_ldt', 'fanotify_init', 'lookup_dcookie', 'nfsservctl', 'vmsplice'],
  ),
  ...killed(
    'the machine',
    ...['kexec_load', 'kexec_file_load', 'init_module', 'finit_module', 'delete_module', 'reboot', 'swapon', 'swapoff'],
    ...[
      'acct',
      'quotactl',
      'quotactl_fd',
      'settimeofday',
      'clock_settime',
      'clock_adjtime',
      'adjtimex',
      'ioperm',
      'iopl',
    ],
    ...['sethostname', 'setdomainname', 'syslog', 'vhangup'],
  ),
];

const NO_CODE = only('kill', 'not to be executed', [masked(2, n.PROT_EXEC, 0)]);

/**
 * What the broker (addon/launch/broker.cc) makes of calls when the start is over, by hand as above. It is one thread of C++
 * that waits in recvmsg: what it has no row for is killed where the service's own threads are killed for it (or for some of
 * it), and is EPERM else.
 */
export const BROKER: readonly { readonly names: readonly string[]; readonly why: string; readonly verdict: Verdict }[] =
  [
    { names: ['recvmsg', 'sendmsg', 'close'], why: 'requests, answers, and descriptors in them', verdict: 'allow' },
    {
      names: ['socket'],
      why: "the front-end's socket (--connect), /dev/log, sockets that are forwarded",
      verdict: only('kill', 'UNIX', UNIX_SOCKET),
    },
    { names: ['connect'], why: 'the same', verdict: 'allow' },
    { names: ['bind'], why: 'ports below 1024, sockets that are forwarded', verdict: 'allow' },
    { names: ['getsockopt'], why: 'who is at the other end of a socket (--control)', verdict: 'allow' },
    { names: ['open'], why: '/etc/resolv.conf', verdict: readOnly(1) },
    { names: ['openat'], why: '/etc/resolv.conf', verdict: readOnly(2) },
    { names: ['fstat', 'newfstatat'], why: 'whether that is a file', verdict: 'allow' },
    {
      names: ['readlink', 'readlinkat', 'faccessat', 'faccessat2'],
      why: 'glibc: realpath, where it links to',
      verdict: 'allow',
    },
    { names: ['inotify_init1', 'inotify_add_watch'], why: 'changes of it', verdict: 'allow' },
    { names: ['statx', 'unlink', 'unlinkat'], why: "sockets' files", verdict: 'allow' },
    { names: ['brk', 'munmap', 'mremap'], why: 'glibc: memory for long names', verdict: 'allow' },
    { names: ['mmap'], why: 'glibc: memory for long names', verdict: NO_CODE },
    { names: ['exit_group', 'exit', 'restart_syscall'], why: 'the end, a stop', verdict: 'allow' },
    { names: ['io_uring_setup'], why: 'nothing: it has no libuv, which tries', verdict: 'kill' },
  ];

function ofBroker({ name, process }: Row): Verdict {
  const own = BROKER.find(({ names }) => names.includes(name));
  if (own !== undefined) return own.verdict;
  if (typeof process !== 'string') return process.otherwise;
  return process === 'kill' || process === 'absent' ? process : 'refuse';
}

export const CALLS: readonly Call[] = SERVICE.map((row) => ({ ...row, broker: ofBroker(row) }));

/** The table as it is for a service whose guest is a namespace, or a virtual machine. In the same order. */
export function callsOf(guest: 'namespace' | 'machine'): readonly Call[] {
  return guest === 'machine' ? CALLS : CALLS.map((call) => ({ ...call, ...call.namespace }));
}

/** In mode `log` these are left to the kernel's audit log: they cannot be made by a signal handler for its thread. */
export const NOT_REPEATABLE: ReadonlySet<string> = new Set([
  'clone',
  'fork',
  'vfork',
  'rt_sigreturn',
  'exit',
  'seccomp',
]);
