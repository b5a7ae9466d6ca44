// Sockets of the host: opening, naming, options, closing. Rows are socket_io.cc's and messages.cc's.
#include <net/if.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "address.h"
#include "broker.h"
#include "calls.h"

namespace tubetti {

namespace {

constexpr int32_t kTcp = 1;
constexpr int32_t kUdp = 2;
constexpr int32_t kIcmp = 3;

int32_t SetFlag(int fd, int level, int name) {
  const int on = 1;
  return ::setsockopt(fd, level, name, &on, sizeof(on)) == 0 ? 0 : -errno;
}

// Options every socket gets. 0 or -errno.
int32_t Prepare(int fd, int32_t family, int32_t kind) {
  if (family == AF_INET6) {
    if (const int32_t error = SetFlag(fd, IPPROTO_IPV6, IPV6_V6ONLY); error < 0) return error;
  }
  return kind == kTcp ? SetFlag(fd, IPPROTO_TCP, TCP_NODELAY) : 0;
}

}  // namespace

int32_t Socket(Thread& thread, int32_t family, int32_t kind) {
  if (family != AF_INET && family != AF_INET6) return -EAFNOSUPPORT;
  int type = SOCK_DGRAM;
  int protocol = IPPROTO_UDP;
  if (kind == kTcp) {
    type = SOCK_STREAM;
    protocol = IPPROTO_TCP;
  } else if (kind == kIcmp) {
    protocol = family == AF_INET ? static_cast<int>(IPPROTO_ICMP) : static_cast<int>(IPPROTO_ICMPV6);
  } else if (kind != kUdp) {
    return -EPROTONOSUPPORT;
  }
  const int fd = ::socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
  if (fd < 0) return -errno;
  if (const int32_t error = Prepare(fd, family, kind); error < 0) {
    ::close(fd);
    return error;
  }
  return thread.Keep(fd);
}

int32_t Bind(Thread& thread, int32_t fd, int32_t slot) {
  sockaddr_in6 name;
  const int32_t length = LoadSlot(thread, slot, name);
  if (length < 0) return length;
  return BindName(fd, reinterpret_cast<sockaddr*>(&name), static_cast<socklen_t>(length));
}

int32_t Connect(Thread& thread, int32_t fd, int32_t slot) {
  sockaddr_in6 name;
  const int32_t length = LoadSlot(thread, slot, name);
  if (length < 0) return length;
  return Retry([&] { return ::connect(fd, reinterpret_cast<sockaddr*>(&name), static_cast<socklen_t>(length)); });
}

int32_t Listen(Thread&, int32_t fd, int32_t backlog) { return ::listen(fd, backlog) == 0 ? 0 : -errno; }

int32_t Accept(Thread& thread, int32_t fd, int32_t slot) {
  if (!IsSlot(slot)) return -EINVAL;
  sockaddr_in6 peer = {};
  socklen_t length = 0;
  const int accepted = Retry([&] {
    length = sizeof(peer);
    return ::accept4(fd, reinterpret_cast<sockaddr*>(&peer), &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
  });
  if (accepted < 0) return accepted;
  // Usually inherited from the listener; where it fails the connection is slower, not wrong.
  SetFlag(accepted, IPPROTO_TCP, TCP_NODELAY);
  StoreSlot(thread, slot, reinterpret_cast<sockaddr*>(&peer), length);
  return thread.Keep(accepted);
}

int32_t GetSockName(Thread& thread, int32_t fd, int32_t slot) {
  if (!IsSlot(slot)) return -EINVAL;
  sockaddr_in6 name = {};
  socklen_t length = sizeof(name);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) != 0) return -errno;
  StoreSlot(thread, slot, reinterpret_cast<sockaddr*>(&name), length);
  return 0;
}

int32_t SetSockOpt(Thread&, int32_t fd, int32_t level, int32_t name, int32_t value) {
  return ::setsockopt(fd, level, name, &value, sizeof(value)) == 0 ? 0 : -errno;
}

int32_t BindToDevice(Thread&, int32_t fd, std::string name) {
  if (name.size() >= IFNAMSIZ || name.find('\0') != std::string::npos) return -EINVAL;
  const socklen_t length = static_cast<socklen_t>(name.size() + 1);
  return ::setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name.c_str(), length) == 0 ? 0 : -errno;
}

int32_t Shutdown(Thread&, int32_t fd, int32_t how) { return ::shutdown(fd, how) == 0 ? 0 : -errno; }

int32_t Close(Thread& thread, int32_t fd) {
  thread.Forget(fd);
  // Linux frees the descriptor before anything can interrupt: closing again after EINTR would hit a stranger.
  if (::close(fd) != 0 && errno != EINTR) return -errno;
  Progress(thread.watched);
  return 0;
}

int32_t Abort(Thread& thread, int32_t fd) {
  const linger now = {1, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));  // not a socket: closed all the same
  return Close(thread, fd);
}

}  // namespace tubetti
