// The process that stays inside the guest's namespaces (pasta): the service itself lives in the host's network, and has
// threads, with which it could enter no user namespace. It is told where to go, makes the interface and the sockets that
// belong inside, runs the command and says how that ended. When all is set up it gives up its rights. It ends with the
// service.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "launch.h"
#include "namespace.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

namespace tubetti {

namespace {

constexpr int kBySignal = 128;
constexpr int kNoHeader = -1;
// A namespace whose directory cannot be watched (below /proc) is looked at this often.
constexpr int kLookMs = 1000;

char** words = nullptr;
Command command;
bool sealed = false;
int netlink = -1;
int pool = -1;  // where the data plane asks
// What kGone is said for: a path, and what tells that something has changed there; a process (pidfd) instead.
char watched_path[PATH_MAX];
int watched = -1;
bool polled = false;

void Say(int socket, const HolderReply& reply, int fd) { SendWith(socket, &reply, sizeof(reply), fd); }

void SayAlone(int socket, HolderOp op, int32_t value) {
  HolderReply reply = {};
  reply.op = op;
  reply.value = value;
  Say(socket, reply, -1);
}

// The text that begins at `at`; `at` moves behind its zero. Empty where there is none.
const char* NextText(const HolderAsk& ask, size_t length, size_t& at) {
  if (at >= length) return "";
  const char* text = ask.text + at;
  at += strnlen(text, length - at) + 1;
  return text;
}

void StartWatching(const char* path, int32_t pid) {
  if (pid > 0) {
    watched = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (watched >= 0) return;
  }
  (void)snprintf(watched_path, sizeof(watched_path), "%s", path);
  watched = strncmp(path, "/proc/", 6) == 0 ? -1 : WatchDirectoryOf(path);
  polled = watched < 0;
}

int32_t AnswerEnter(const HolderAsk& ask, size_t length, HolderReply& reply) {
  size_t at = 0;
  Entry entry = {ask.flags, ask.a, ask.b, nullptr, nullptr, nullptr};
  entry.user = NextText(ask, length, at);
  entry.net = NextText(ask, length, at);
  entry.host = NextText(ask, length, at);
  if ((ask.flags & kCreate) == 0) LeaveStreams();
  const int32_t result = Enter(entry, command, words, reply.text, sizeof(reply.text));
  if (result == 0 && (ask.flags & kWatchNamespace) != 0) StartWatching(entry.net, ask.c);
  return result;
}

// The offloads that the kernel has, most of them first: USO is there since 6.2.
int32_t Offloads(int fd) {
  constexpr unsigned kTcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  for (const unsigned offloads : {kTcp | TUN_F_USO4 | TUN_F_USO6, kTcp, static_cast<unsigned>(TUN_F_CSUM)}) {
    if (ioctl(fd, TUNSETOFFLOAD, static_cast<unsigned long>(offloads)) == 0) return static_cast<int32_t>(offloads);
  }
  return 0;
}

int32_t OpenTap(const char* name, HolderReply& reply) {
  (void)snprintf(reply.text, sizeof(reply.text), "/dev/net/tun");
  const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return -errno;
  ifreq request = {};
  (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
  request.ifr_flags = static_cast<int16_t>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
  bool header = getenv("TUBETTI_TAP_PLAIN") == nullptr;
  if (!header || ioctl(fd, TUNSETIFF, &request) != 0) {
    header = false;
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    if (ioctl(fd, TUNSETIFF, &request) != 0) {
      const int error = errno;
      close(fd);
      (void)snprintf(reply.text, sizeof(reply.text), "interface %s", name);
      return -error;
    }
  }
  reply.value = header ? Offloads(fd) : kNoHeader;
  (void)snprintf(reply.text, sizeof(reply.text), "%s", request.ifr_name);
  return fd;
}

int32_t OpenNetlink() {
  if (netlink >= 0) close(netlink);
  netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (netlink < 0) return -errno;
  const int on = 1;
  setsockopt(netlink, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
  return fcntl(netlink, F_DUPFD_CLOEXEC, 3);
}

int32_t SendNetlink(const char* text, size_t length) {
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  const ssize_t sent = sendto(netlink, text, length, 0, reinterpret_cast<const sockaddr*>(&kernel), sizeof(kernel));
  return sent < 0 ? -errno : 0;
}

int32_t WriteSetting(const HolderAsk& ask, size_t length) {
  size_t at = 0;
  const char* name = NextText(ask, length, at);
  const char* value = NextText(ask, length, at);
  if (strstr(name, "..") != nullptr) return -EINVAL;
  char path[sizeof(ask.text) + 16];
  (void)snprintf(path, sizeof(path), "/proc/sys/net/%s", name);
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  const int32_t result = write(fd, value, strlen(value)) < 0 ? -errno : 0;
  close(fd);
  return result;
}

int32_t OpenSocket(const HolderAsk& ask) {
  if (ask.a != AF_INET && ask.a != AF_INET6) return -EAFNOSUPPORT;
  const int fd = socket(ask.a, ask.b | SOCK_NONBLOCK | SOCK_CLOEXEC, ask.c);
  return fd < 0 ? -errno : fd;
}

void SetOption(int fd, int level, int name) {
  const int on = 1;
  setsockopt(fd, level, name, &on, sizeof(on));
}

bool BindTo(int fd, int family, int port, bool any) {
  if (family == AF_INET) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(any ? INADDR_ANY : INADDR_LOOPBACK);
    return bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  }
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(static_cast<uint16_t>(port));
  address.sin6_addr = any ? in6addr_any : in6addr_loopback;
  return bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

int32_t ListenInside(const HolderAsk& ask) {
  constexpr int kBacklog = 128;
  if (ask.a != AF_INET && ask.a != AF_INET6) return -EAFNOSUPPORT;
  if ((ask.b != SOCK_STREAM && ask.b != SOCK_DGRAM) || ask.c < 1 || ask.c > 65535) return -EINVAL;
  const int fd = socket(ask.a, ask.b | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  if (ask.b == SOCK_STREAM) {
    SetOption(fd, SOL_SOCKET, SO_REUSEADDR);
    SetOption(fd, IPPROTO_TCP, TCP_NODELAY);
    // See endsOnThisHost in src/stack/ip/socket-options.ts; what is accepted inherits it.
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
  }
  if (ask.a == AF_INET6 && (ask.flags & kDual) == 0) SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY);
  const bool device = (ask.flags & kOnLoopback) != 0;
  int result = device ? setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) : 0;
  if (result == 0) result = BindTo(fd, ask.a, ask.c, device) ? 0 : -1;
  if (result == 0 && ask.b == SOCK_STREAM) result = listen(fd, kBacklog);
  if (result == 0) return fd;
  const int error = errno;
  close(fd);
  return -error;
}

int32_t OpenPool() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) return -errno;
  if (pool >= 0) close(pool);
  pool = ends[0];
  return ends[1];
}

// Sockets for the data plane: as many as it asked for, in one message. False: it is gone, or speaks another language.
bool GiveSockets() {
  SocketsAsk ask = {};
  const ssize_t got = recv(pool, &ask, sizeof(ask), 0);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (static_cast<size_t>(got) != sizeof(ask)) return false;
  int fds[kMostSockets];
  int count = 0;
  int error = ask.family == AF_INET || ask.family == AF_INET6 ? 0 : EAFNOSUPPORT;
  const bool stream = ask.type == SOCK_STREAM;
  while (error == 0 && count < ask.count && count < kMostSockets) {
    const int fd = socket(ask.family, (stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
      error = errno;
      break;
    }
    if (stream) {
      SetOption(fd, IPPROTO_TCP, TCP_NODELAY);
      SetOption(fd, SOL_SOCKET, SO_OOBINLINE);
    }
    fds[count++] = fd;
  }
  ask.count = count > 0 ? count : -error;
  iovec iov = {&ask, sizeof(ask)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fds))] = {};
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (count > 0) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(int);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(header), fds, bytes);
  }
  // It does not read: it asked for more than it takes, and gets none.
  (void)!sendmsg(pool, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  for (int i = 0; i < count; i++) close(fds[i]);
  return true;
}

int32_t OpenProc(int32_t which) {
  constexpr const char* kNames[] = {"tcp", "tcp6", "udp", "udp6"};
  if (which < 0 || which > 3) return -EINVAL;
  char path[64];
  (void)snprintf(path, sizeof(path), "/proc/self/net/%s", kNames[which]);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

bool HasPermitted(int capability) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  return syscall(SYS_capget, &header, data) == 0 && (data[0].permitted & (1U << capability)) != 0;
}

int32_t Seal(int32_t uid, int32_t gid, int32_t flags) {
  for (int c = 0; c <= 63; c++) prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if ((flags & kKeepPorts) != 0) prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
  if (const int32_t result = Become(uid, gid); result < 0) return result;
  const bool ports = (flags & kKeepPorts) != 0 && HasPermitted(CAP_NET_BIND_SERVICE);
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct kept[2] = {};
  if (ports) kept[0].effective = kept[0].permitted = 1U << CAP_NET_BIND_SERVICE;
  if (syscall(SYS_capset, &header, kept) != 0) return -errno;
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_DUMPABLE, 0);
  if (netlink >= 0) close(netlink);
  netlink = -1;
  if (watched_path[0] == '/' || watched_path[0] == '\0') (void)!chdir("/");
  sealed = true;
  return (flags & (kFilter | kFilterLog)) == 0 ? 0 : FilterHolder((flags & kFilterLog) != 0);
}

// The result, and whether it is a descriptor for the service.
int32_t Answer(const HolderAsk& ask, size_t length, HolderReply& reply, bool& gives) {
  switch (ask.op) {
    case HolderOp::kSocket:
      gives = true;
      return OpenSocket(ask);
    case HolderOp::kListen:
      gives = true;
      return ListenInside(ask);
    case HolderOp::kInterrupt:
      InterruptCommand(command, ask.a);
      return 0;
    default:
      break;
  }
  if (ask.op == HolderOp::kStart) return StartCommand(command, ask.a, words, reply.text, sizeof(reply.text));
  if (sealed) return -EPERM;
  switch (ask.op) {
    case HolderOp::kEnter:
      return AnswerEnter(ask, length, reply);
    case HolderOp::kTap:
      gives = true;
      return OpenTap(ask.text, reply);
    case HolderOp::kNetlink:
      gives = true;
      return OpenNetlink();
    case HolderOp::kProc:
      gives = true;
      return OpenProc(ask.a);
    case HolderOp::kPool:
      gives = true;
      return OpenPool();
    case HolderOp::kSend:
      return SendNetlink(ask.text, length);
    case HolderOp::kSetting:
      return WriteSetting(ask, length);
    case HolderOp::kSeal:
      return Seal(ask.a, ask.b, ask.flags);
    default:
      return -ENOSYS;
  }
}

// False at the end of the service.
bool TakeRequest(int socket) {
  static HolderAsk ask;
  ssize_t got = 0;
  do {
    got = recv(socket, &ask, sizeof(ask) - 1, 0);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return false;
  if (static_cast<size_t>(got) < kHolderHeader) return true;
  const size_t length = static_cast<size_t>(got) - kHolderHeader;
  ask.text[length] = '\0';
  HolderReply reply = {};
  bool gives = false;
  const int32_t result = Answer(ask, length, reply, gives);
  reply.op = ask.op;
  reply.result = result < 0 ? result : 0;
  Say(socket, reply, gives && result >= 0 ? result : -1);
  if (gives && result >= 0) close(result);
  return true;
}

void TakeEnds(int socket) {
  int status = 0;
  for (pid_t pid = 0; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid != command.pid) continue;
    command.pid = -1;
    SayAlone(socket, HolderOp::kEnded, WIFSIGNALED(status) ? kBySignal + WTERMSIG(status) : WEXITSTATUS(status));
  }
}

// Something happened beside the namespace's path, or to the process; or it is time to look.
void Look(int socket) {
  char events[4096];
  if (watched_path[0] != '\0') {
    while (watched >= 0 && read(watched, events, sizeof(events)) > 0) {
    }
    if (IsStillThere(watched_path)) return;
  }
  if (watched >= 0) close(watched);
  watched = -1;
  polled = false;
  SayAlone(socket, HolderOp::kGone, 0);
}

[[noreturn]] void Serve(int socket) {
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  const int ends = signalfd(-1, &children, SFD_NONBLOCK | SFD_CLOEXEC);
  bool has_ends = false;
  for (;;) {
    // Blocked only once there is a command, which would inherit it.
    if (!has_ends && command.pid > 0) {
      sigprocmask(SIG_BLOCK, &children, nullptr);
      has_ends = true;
      TakeEnds(socket);
    }
    pollfd events[4] = {
        {socket, POLLIN, 0}, {has_ends ? ends : -1, POLLIN, 0}, {watched, POLLIN, 0}, {pool, POLLIN, 0}};
    const int ready = poll(events, 4, polled ? kLookMs : -1);
    if (ready < 0 && errno != EINTR) _exit(1);
    if (ready < 0) continue;
    if (events[1].revents != 0) {
      signalfd_siginfo info;
      while (read(ends, &info, sizeof(info)) > 0) {
      }
      TakeEnds(socket);
    }
    if (events[2].revents != 0 || (ready == 0 && polled)) Look(socket);
    if (events[3].revents != 0 && !GiveSockets()) {
      close(pool);
      pool = -1;
    }
    if (events[0].revents != 0 && !TakeRequest(socket)) _exit(0);
  }
}

[[noreturn]] void BeHolder(int socket, char** command_line) {
  if (fork() != 0) _exit(0);  // nobody's child: it is nobody's to wait for
  // It stays in its caller's session: the command has its terminal from us.
  IgnoreSignals();
  prctl(PR_SET_NAME, "tubetti-netns");
  fcntl(socket, F_SETFD, FD_CLOEXEC);
  CloseFrom(3, socket);
  words = command_line;
  Serve(socket);
}

}  // namespace

int StartHolder(char** command_line) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) return -errno;
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    BeHolder(ends[1], command_line);
  }
  const int error = errno;
  close(ends[1]);
  if (child > 0) {
    while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    return ends[0];
  }
  close(ends[0]);
  return -error;
}

}  // namespace tubetti
