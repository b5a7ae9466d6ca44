/** Linux's numbers that the filters of system calls compare arguments with (asm-generic; those of x86-64 and arm64 agree). */

export const CLONE_THREAD = 0x10000;
/** NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. */
export const CLONE_NAMESPACES =
  0x2_0000 | 0x200_0000 | 0x400_0000 | 0x800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

/** O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, and the bit of O_TMPFILE that is not O_DIRECTORY. */
export const O_CHANGES = 0o3 | 0o100 | 0o1000 | 0o20000000;

export const PROT_EXEC = 4;

export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;
export const NETLINK_ROUTE = 0;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
/** The rest are SOCK_CLOEXEC and SOCK_NONBLOCK. */
export const SOCK_TYPE_MASK = 0xf;

export const SOL_SOCKET = 1;
export const IPPROTO_IP = 0;
export const IPPROTO_ICMP = 1;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_IPV6 = 41;
export const IPPROTO_ICMPV6 = 58;
export const SOL_NETLINK = 270;
export const NETLINK_GET_STRICT_CHK = 12;
export const UDP_GRO = 104;

/**
 * REUSEADDR, BROADCAST, SNDBUF, RCVBUF, KEEPALIVE, OOBINLINE, LINGER, BINDTODEVICE, PEEK_OFF, BUF_LOCK. Not among them:
 * those that load programs into the kernel (ATTACH_FILTER, ATTACH_BPF, …).
 */
export const SOCKET_LEVEL_OPTIONS: readonly number[] = [2, 6, 7, 8, 9, 10, 13, 25, 42, 72];
/** TOS, TTL, PKTINFO, MTU_DISCOVER, RECVERR, RECVTTL, RECVTOS, FREEBIND, MULTICAST_IF, MULTICAST_TTL, MULTICAST_ALL. */
export const IP_OPTIONS: readonly number[] = [1, 2, 8, 10, 11, 12, 13, 15, 32, 33, 49];
/**
 * UNICAST_HOPS, MULTICAST_IF, MULTICAST_HOPS, MTU_DISCOVER, RECVERR, V6ONLY, MULTICAST_ALL, RECVPKTINFO, RECVHOPLIMIT,
 * RECVTCLASS, TCLASS, FREEBIND.
 */
export const IPV6_OPTIONS: readonly number[] = [16, 17, 18, 23, 25, 26, 29, 49, 51, 66, 67, 78];
/**
 * NODELAY, KEEPIDLE, KEEPINTVL, KEEPCNT, CONGESTION, which loads a module for those who have CAP_NET_ADMIN only. Not ULP, which
 * does for everybody.
 */
export const TCP_OPTIONS: readonly number[] = [1, 4, 5, 6, 13];

export const F_GETFD = 1;
export const F_SETFD = 2;
export const F_GETFL = 3;
export const F_SETFL = 4;
export const F_SETPIPE_SZ = 1031;
export const FCNTL_FLAGS: readonly number[] = [F_GETFD, F_SETFD, F_GETFL, F_SETFL];
/** And F_DUPFD_CLOEXEC, F_GET_SEALS. Not F_SETOWN, F_SETLEASE, F_NOTIFY: they send signals, or make others wait. */
export const FCNTL_COMMANDS: readonly number[] = [...FCNTL_FLAGS, 1030, 1034];

export const SIOCOUTQ = 0x5411;
export const SIOCATMARK = 0x8905;
export const FIONREAD = 0x541b;
export const FIONBIO = 0x5421;
export const FIOCLEX = 0x5451;
export const IOCTL_SOCKETS: readonly number[] = [SIOCOUTQ, FIONREAD, FIONBIO, FIOCLEX];
/** And TCGETS, TCSETS, TIOCGWINSZ, FIONCLEX, SIOCGIFNAME, SIOCGIFINDEX. Not TIOCSTI, which types for somebody else. */
export const IOCTL_REQUESTS: readonly number[] = [...IOCTL_SOCKETS, 0x5401, 0x5402, 0x5413, 0x5450, 0x8910, 0x8933];

/** GET_DUMPABLE, SET_NAME, GET_NAME, SET_NO_NEW_PRIVS, GET_NO_NEW_PRIVS, SET_VMA (names of mappings). */
export const PRCTL_OPTIONS: readonly number[] = [3, 15, 16, 38, 39, 0x5356_4d41];

export const SECCOMP_SET_MODE_FILTER = 1;
