// The broker: a small process outside of the service's namespaces and its empty root directory, which does the few things
// that a service in there cannot do by itself any more (broker_protocol.h), and nothing else. It is told at the start what
// it may touch; then it is sealed, becomes the user that the service becomes, and takes no paths. It ends with the service,
// and removes the files of its sockets then, however the service ended.
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "../broker_protocol.h"
#include "../install_filter.h"
#include "launch.h"

namespace tubetti {

namespace {

constexpr char kResolvConf[] = "/etc/resolv.conf";
constexpr char kDevLog[] = "/dev/log";
constexpr uint32_t kChanges = IN_ATTRIB | IN_CREATE | IN_MODIFY | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF |
                              IN_MOVED_FROM | IN_MOVED_TO;

// Which file it is: numbers of files are given again, so when it was made counts as well.
struct Identity {
  bool known = false;
  struct statx stat = {};
};

bool sealed = false;
bool filtered = false;
// Where the service listens.
struct SocketFile {
  char path[PATH_MAX];
  Identity file;
};
SocketFile sockets[kSocketFiles];
char connect_path[PATH_MAX];
// Where sockets may be made that are forwarded into the guest: with a slash at the end; '' of those that there are not.
constexpr size_t kDirectories = 16;
char directories[kDirectories][PATH_MAX];

bool Identify(const char* path, Identity& out) {
  out.known = statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_TYPE | STATX_BTIME, &out.stat) == 0;
  return out.known;
}

bool IsSame(const Identity& one, const Identity& other) {
  const auto same = [&](auto field) { return one.stat.*field == other.stat.*field; };
  if (!one.known || !other.known || !same(&statx::stx_ino)) return false;
  if (!same(&statx::stx_dev_major) || !same(&statx::stx_dev_minor)) return false;
  if (((one.stat.stx_mask & other.stat.stx_mask) & STATX_BTIME) == 0) return true;
  return one.stat.stx_btime.tv_sec == other.stat.stx_btime.tv_sec &&
         one.stat.stx_btime.tv_nsec == other.stat.stx_btime.tv_nsec;
}

int TakePath(const char* text, char* out) {
  if (sealed) return -EPERM;
  if (text[0] == '\0') return -EINVAL;
  (void)snprintf(out, PATH_MAX, "%s", text);
  return 0;
}

// With its slash; 0: it has none.
size_t DirectoryLength(const char* path) {
  const char* slash = path[0] == '/' ? strrchr(path, '/') : nullptr;
  return slash == nullptr ? 0 : static_cast<size_t>(slash + 1 - path);
}

bool IsDirectory(const char* known, const char* path, size_t length) {
  return strlen(known) == length && memcmp(known, path, length) == 0;
}

bool IsInDirectories(const char* path) {
  const size_t length = DirectoryLength(path);
  for (const auto& known : directories) {
    if (length > 0 && IsDirectory(known, path, length)) return true;
  }
  return false;
}

// A directory for which there is no room is forgotten: sockets in it are refused.
void TakeDirectory(const char* path) {
  const size_t length = DirectoryLength(path);
  if (length == 0 || IsInDirectories(path)) return;
  for (auto& known : directories) {
    if (known[0] != '\0') continue;
    memcpy(known, path, length);
    return;
  }
}

int TakeSocket(uint32_t which, const char* text) {
  if (which >= kSocketFiles) return -EINVAL;
  SocketFile& socket = sockets[which];
  if (const int error = TakePath(text, socket.path); error < 0) return error;
  if (which == kForControl || which >= kFirstForward) TakeDirectory(socket.path);
  return Identify(socket.path, socket.file) ? 0 : -errno;
}

int RemoveSocket(uint32_t which) {
  if (which >= kSocketFiles) return -EINVAL;
  SocketFile& socket = sockets[which];
  Identity now;
  const bool ours = socket.file.known && Identify(socket.path, now) && IsSame(socket.file, now);
  socket.file.known = false;
  if (!ours) return -ENOENT;
  return unlink(socket.path) == 0 ? 0 : -errno;
}

// A port below 1024 of TCP or UDP, and nothing else.
int BindSocket(int fd, const char* text, size_t length) {
  sockaddr_in6 name = {};
  if (fd < 0 || length > sizeof(name)) return -EINVAL;
  memcpy(&name, text, length);
  const bool fits = (name.sin6_family == AF_INET && length >= sizeof(sockaddr_in)) ||
                    (name.sin6_family == AF_INET6 && length == sizeof(sockaddr_in6));
  if (!fits) return -EAFNOSUPPORT;
  const uint16_t port = ntohs(name.sin6_port);  // sin_port is at the same place
  if (port == 0 || port >= kFirstOrdinaryPort) return -EACCES;
  return bind(fd, reinterpret_cast<const sockaddr*>(&name), static_cast<socklen_t>(length)) == 0 ? 0 : -errno;
}

// In the service's user namespace everybody else has the same number.
int PeerOf(int fd, char (&out)[256]) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (fd < 0) return -EINVAL;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return -errno;
  (void)snprintf(out, sizeof(out), "%u", peer.uid);
  return 0;
}

int NameOf(const char* path, sockaddr_un& name) {
  name = {};
  if (strlen(path) >= sizeof(name.sun_path)) return -ENAMETOOLONG;
  name.sun_family = AF_UNIX;
  memcpy(name.sun_path, path, strlen(path) + 1);
  return 0;
}

int ConnectTo(const char* path, int type) {
  sockaddr_un name;
  if (path[0] == '\0') return -EPERM;
  if (const int error = NameOf(path, name); error < 0) return error;
  const int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0) return fd;
  const int error = errno;
  close(fd);
  return -error;
}

// Removes the socket file that nobody listens on. 0: the path can be bound.
int RemoveStale(const char* path) {
  Identity now;
  if (!Identify(path, now)) return errno == ENOENT ? 0 : -errno;
  if (!S_ISSOCK(now.stat.stx_mode)) return -EADDRINUSE;
  const int fd = ConnectTo(path, SOCK_STREAM);
  if (fd >= 0) close(fd);
  // Anything but a refusal (also EAGAIN, a full backlog) is somebody's answer.
  if (fd != -ECONNREFUSED && fd != -ENOENT) return -EADDRINUSE;
  return unlink(path) == 0 || errno == ENOENT ? 0 : -errno;
}

// A socket with a file for the service, in a directory where it had one at the start. Our umask gives it its mode.
int BindPath(uint32_t which, const char* path) {
  if (which < kFirstForward || which >= kSocketFiles || sockets[which].file.known) return -EINVAL;
  if (!IsInDirectories(path)) return -EPERM;
  sockaddr_un name;
  if (const int error = NameOf(path, name); error < 0) return error;
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  const auto bound = [&] { return bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0 ? 0 : -errno; };
  int error = bound();
  if (error == -EADDRINUSE && (error = RemoveStale(path)) == 0) error = bound();
  if (error == 0 && !Identify(path, sockets[which].file)) error = -errno;
  if (error == 0) {
    (void)snprintf(sockets[which].path, PATH_MAX, "%s", path);
    return fd;
  }
  close(fd);
  return error;
}

int OpenResolvers() {
  const int fd = open(kResolvConf, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return -errno;
  struct stat info;
  if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) return fd;
  close(fd);
  return -EINVAL;
}

// Directories are watched, as files are replaced; the file itself too, which may be mounted over another directory's.
int WatchResolvers(char (&target_name)[256]) {
  const int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (fd < 0) return -errno;
  char target[PATH_MAX];
  if (realpath(kResolvConf, target) == nullptr) (void)snprintf(target, sizeof(target), "%s", kResolvConf);
  // A file that is missing is seen through its directory; a watch that the user has none left for is tried again.
  bool short_of = false;
  const auto add = [&](const char* path) {
    if (inotify_add_watch(fd, path, kChanges) < 0 && (errno == ENOSPC || errno == ENOMEM)) short_of = true;
  };
  add(target);
  add("/etc");
  char* slash = strrchr(target, '/');
  (void)snprintf(target_name, sizeof(target_name), "%s", slash + 1);
  *slash = '\0';
  add(target[0] == '\0' ? "/" : target);
  if (!short_of) return fd;
  close(fd);
  return -ENOSPC;
}

// No rights but those of the user the service has become; one that was given ports below 1024 keeps these.
int Seal(const BrokerAsk& ask, bool change) {
  if (sealed) return -EPERM;
  // The bounding set first: who has become another user may not change it any more.
  for (int c = 0; c <= 63; c++) prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (change && (setgroups(0, nullptr) != 0 || setgid(ask.a) != 0 || setuid(ask.b) != 0)) return -errno;
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return -errno;
  const unsigned kept = data[0].permitted & (1U << CAP_NET_BIND_SERVICE);
  const __user_cap_data_struct wanted[2] = {{kept, kept, 0}, {0, 0, 0}};
  // Who starts us without rights may not let us make the call either, as a unit of systemd.
  if (memcmp(data, wanted, sizeof(data)) != 0 && syscall(SYS_capset, &header, wanted) != 0) return -errno;
  // Paths that begin with a slash do not depend on it, and it must keep no file system busy.
  const auto is_relative = [](const char* path) { return path[0] != '\0' && path[0] != '/'; };
  bool relative = is_relative(connect_path);
  for (const SocketFile& socket : sockets) relative = relative || is_relative(socket.path);
  if (!relative && chdir("/") != 0) return -errno;
  sealed = true;
  return 0;
}

// What it takes to do the rest, and no other system call. The service has made the filter, before it heard a front-end.
int Filter(const char* text, size_t length) {
  if (!sealed || filtered) return -EPERM;
  sock_filter code[sizeof(BrokerAsk::text) / sizeof(sock_filter)];
  if (length == 0 || length > sizeof(code) || length % sizeof(sock_filter) != 0) return -EINVAL;
  memcpy(code, text, length);
  // The launcher has tried already; a kernel that refused it refuses the filter.
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  const long result = InstallFilter({static_cast<uint16_t>(length / sizeof(sock_filter)), code}, 0);
  filtered = result == 0;
  return static_cast<int>(result);
}

struct Asked {
  BrokerAsk ask;
  size_t length;  // of its text
  int fd;         // that came along, or -1
};

// False at the end of the service.
bool Receive(int socket, Asked& asked) {
  iovec iov = {&asked.ask, sizeof(asked.ask) - 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_LEN(sizeof(int));  // not CMSG_SPACE, in which there is room for two
  ssize_t got = 0;
  do {
    got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return false;
  asked.fd = -1;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) memcpy(&asked.fd, CMSG_DATA(header), sizeof(int));
  if (static_cast<size_t>(got) < kAskHeader) {
    asked.ask.op = static_cast<BrokerOp>(0);
    got = kAskHeader;
  }
  asked.length = static_cast<size_t>(got) - kAskHeader;
  asked.ask.text[asked.length] = '\0';
  return true;
}

void Reply(int socket, const BrokerReply& reply, int fd) { SendWith(socket, &reply, sizeof(reply), fd); }

// The result; `gives`: it is a descriptor for the service.
int Answer(const Asked& asked, BrokerReply& reply, bool& gives) {
  const BrokerAsk& ask = asked.ask;
  gives = true;
  switch (ask.op) {
    case BrokerOp::kConnect:
      return ConnectTo(connect_path, SOCK_STREAM);
    case BrokerOp::kSyslog:
      return ConnectTo(kDevLog, SOCK_DGRAM);
    case BrokerOp::kResolvers:
      return OpenResolvers();
    case BrokerOp::kWatch:
      return WatchResolvers(reply.text);
    case BrokerOp::kBindPath:
      return BindPath(ask.a, ask.text);
    default:
      break;
  }
  gives = false;
  switch (ask.op) {
    case BrokerOp::kBind:
      return BindSocket(asked.fd, ask.text, asked.length);
    case BrokerOp::kSocket:
      return TakeSocket(ask.a, ask.text);
    case BrokerOp::kConnectTo:
      return TakePath(ask.text, connect_path);
    case BrokerOp::kSeal:
      return Seal(ask, asked.length > 0);
    case BrokerOp::kRemove:
      return RemoveSocket(ask.a);
    case BrokerOp::kFilter:
      return Filter(ask.text, asked.length);
    case BrokerOp::kPeer:
      return PeerOf(asked.fd, reply.text);
    default:
      return -ENOSYS;
  }
}

[[noreturn]] void Serve(int socket) {
  Asked asked;
  while (Receive(socket, asked)) {
    BrokerReply reply = {};
    bool gives = false;
    const int result = Answer(asked, reply, gives);
    reply.seq = asked.ask.seq;
    reply.result = result < 0 ? result : 0;
    Reply(socket, reply, gives && result >= 0 ? result : -1);
    if (gives && result >= 0) close(result);
    if (asked.fd >= 0) close(asked.fd);
  }
  for (uint32_t which = 0; which < kSocketFiles; which++) RemoveSocket(which);
  _exit(0);
}

// Nothing of the caller's: neither its streams, nor its session, nor its signals.
[[noreturn]] void BeBroker(int socket) {
  if (fork() != 0) _exit(0);  // nobody's child: it is nobody's to wait for
  setsid();
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE}) (void)::signal(signal, SIG_IGN);
  umask(0177);  // it makes no files but sockets
  prctl(PR_SET_NAME, "tubetti-broker");
  prctl(PR_SET_DUMPABLE, 0);
  for (int fd = 0; fd < 3; fd++) close(fd);
  OpenStandardStreams();
  CloseFrom(3, socket);
  Serve(socket);
}

}  // namespace

Started StartBroker() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) return {-errno, -1};
  const pid_t child = fork();
  if (child == 0) BeBroker(ends[1]);
  const int error = errno;
  close(ends[1]);
  if (child > 0) return {ends[0], child};
  close(ends[0]);
  return {-error, -1};
}

void Bury(const Started& started) {
  if (started.child < 0) return;
  int status = 0;
  while (waitpid(started.child, &status, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace tubetti
