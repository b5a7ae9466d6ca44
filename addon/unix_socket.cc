// Unix stream sockets with descriptors: the transport of vhost-user. Whatever goes wrong, no received descriptor is
// left open that the caller does not know of.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

#include "calls.h"
#include "closer.h"

namespace tubetti {

namespace {

// SCM_MAX_FD of the kernel: room for all it can send at once, so that none is lost without being counted.
constexpr int32_t kFdsInFlight = 253;

int32_t ToAddress(const std::string& path, sockaddr_un& out) {
  if (path.empty() || path.find('\0') != std::string::npos) return -EINVAL;
  if (path.size() >= sizeof(out.sun_path)) return -ENAMETOOLONG;
  out = {};
  out.sun_family = AF_UNIX;
  memcpy(out.sun_path, path.c_str(), path.size() + 1);
  return 0;
}

int32_t StreamSocket() {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  return fd < 0 ? -errno : fd;
}

int32_t ConnectTo(const sockaddr_un& address) {
  const int32_t fd = StreamSocket();
  if (fd < 0) return fd;
  const int result = Retry([&] { return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)); });
  if (result < 0) {
    ::close(fd);
    return result;
  }
  return fd;
}

// Removes the socket file of a service that is gone. 0 if it may be bound now.
int32_t RemoveStale(const sockaddr_un& address) {
  struct stat info;
  if (lstat(address.sun_path, &info) != 0) return errno == ENOENT ? 0 : -errno;
  if (!S_ISSOCK(info.st_mode)) return -EADDRINUSE;
  const int32_t fd = ConnectTo(address);
  if (fd >= 0) ::close(fd);
  if (fd == -ENOENT) return 0;
  // Anything but a refusal (also EAGAIN, a full backlog) is somebody's answer.
  if (fd != -ECONNREFUSED) return -EADDRINUSE;
  return unlink(address.sun_path) == 0 || errno == ENOENT ? 0 : -errno;
}

int32_t BindAndListen(int32_t fd, const sockaddr_un& address, int32_t backlog) {
  // The mode the socket has before bind is what its file is created with (less the umask): never open for others,
  // not even for a moment.
  if (fchmod(fd, 0600) != 0) return -errno;
  const sockaddr* where = reinterpret_cast<const sockaddr*>(&address);
  if (::bind(fd, where, sizeof(address)) != 0) {
    if (errno != EADDRINUSE) return -errno;
    if (const int32_t error = RemoveStale(address); error < 0) return error;
    if (::bind(fd, where, sizeof(address)) != 0) return -errno;
  }
  if (chmod(address.sun_path, 0600) != 0 || ::listen(fd, backlog) != 0) {
    const int error = errno;
    unlink(address.sun_path);
    return -error;
  }
  return 0;
}

void CloseAll(const int32_t* fds, size_t count) {
  for (size_t i = 0; i < count; i++) CloseLater(fds[i]);
}

}  // namespace

int32_t UnixListen(Thread&, std::string path, int32_t backlog) {
  sockaddr_un address;
  if (const int32_t error = ToAddress(path, address); error < 0) return error;
  const int32_t fd = StreamSocket();
  if (fd < 0) return fd;
  if (const int32_t error = BindAndListen(fd, address, backlog); error < 0) {
    ::close(fd);
    return error;
  }
  return fd;
}

int32_t ListenOn(Thread&, int32_t fd, int32_t backlog) { return ::listen(fd, backlog) == 0 ? 0 : -errno; }

int32_t UnixListenerPath(Thread&, int32_t fd, Bytes out) {
  int family = 0;
  int type = 0;
  int listens = 0;
  const auto get = [fd](int option, int& value) {
    socklen_t size = sizeof(value);
    return ::getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0;
  };
  if (!get(SO_DOMAIN, family) || !get(SO_TYPE, type) || !get(SO_ACCEPTCONN, listens)) return -errno;
  if (family != AF_UNIX) return -EAFNOSUPPORT;
  if (type != SOCK_STREAM) return -EPROTOTYPE;
  if (listens == 0) return -EINVAL;
  sockaddr_un name = {};
  socklen_t size = sizeof(name);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) return -errno;
  // Neither an abstract name nor none. A path of 108 bytes has no zero behind it (unix(7)).
  const size_t length = strnlen(name.sun_path, sizeof(name.sun_path));
  if (size <= offsetof(sockaddr_un, sun_path) || length == 0) return -EADDRNOTAVAIL;
  if (length > out.length) return -ENAMETOOLONG;
  memcpy(out.data, name.sun_path, length);
  return static_cast<int32_t>(length);
}

int32_t UnixAccept(Thread&, int32_t fd) {
  return Retry([&] { return ::accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC); });
}

int32_t UnixConnect(Thread&, std::string path) {
  sockaddr_un address;
  if (const int32_t error = ToAddress(path, address); error < 0) return error;
  return ConnectTo(address);
}

int32_t UnixDatagram(Thread&, std::string path) {
  sockaddr_un address;
  socklen_t length = sizeof(address);
  if (path.size() > 1 && path[0] == '\0') {
    // An abstract name: all bytes count, and no more than there are (unix(7)).
    if (path.size() > sizeof(address.sun_path)) return -ENAMETOOLONG;
    address = {};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path.data(), path.size());
    length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  } else if (const int32_t error = ToAddress(path, address); error < 0) {
    return error;
  }
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  const int result = Retry([&] { return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), length); });
  if (result < 0) {
    ::close(fd);
    return result;
  }
  return fd;
}

int32_t UnixPair(Thread&, Ints out) {
  if (out.length < 2) return -EINVAL;
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) return -errno;
  out.data[0] = fds[0];
  out.data[1] = fds[1];
  return 0;
}

int32_t RecvFds(Thread&, int32_t fd, Bytes buf, int32_t offset, int32_t length, Ints fds) {
  uint8_t* data = buf.Range(offset, length);
  if (data == nullptr || fds.length < 1) return -EINVAL;
  fds.data[0] = 0;
  iovec iov = {data, static_cast<size_t>(length)};
  alignas(cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int) * kFdsInFlight)];
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t result = Retry([&] { return ::recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
  if (result < 0) return static_cast<int32_t>(result);

  int32_t received[kFdsInFlight];
  size_t count = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t more = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(received + count, CMSG_DATA(c), more * sizeof(int));  // all headers together fit in `control`
    count += more;
  }
  const size_t room = fds.length - 1 < kFdsPerMessage ? fds.length - 1 : kFdsPerMessage;
  const bool cut = (message.msg_flags & MSG_CTRUNC) != 0;
  if (count > room || cut) {
    CloseAll(received, count);
    // There was room for all that can be sent: what was cut found no place in this process's table of descriptors.
    return count > room ? -EMSGSIZE : -EMFILE;
  }
  fds.data[0] = static_cast<int32_t>(count);
  memcpy(fds.data + 1, received, count * sizeof(int32_t));
  return static_cast<int32_t>(result);
}

int32_t SendFds(Thread&, int32_t fd, Bytes buf, int32_t offset, int32_t length, Ints fds, int32_t fd_count) {
  uint8_t* data = buf.Range(offset, length);
  if (data == nullptr || fd_count < 0 || fd_count > kFdsInFlight) return -EINVAL;
  if (static_cast<size_t>(fd_count) > fds.length) return -EINVAL;
  if (length == 0 && fd_count > 0) return -EINVAL;  // a stream carries descriptors with bytes only
  iovec iov = {data, static_cast<size_t>(length)};
  alignas(cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int) * kFdsInFlight)] = {};
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (fd_count > 0) {
    const size_t bytes = static_cast<size_t>(fd_count) * sizeof(int);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(c), fds.data, bytes);
  }
  return static_cast<int32_t>(Retry([&] { return ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL); }));
}

}  // namespace tubetti
