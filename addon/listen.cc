// Forwarded ports by the thousand: one call opens a range of them, with the fewest system calls a port can have.
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "address.h"
#include "broker.h"
#include "calls.h"

namespace tubetti {

namespace {

// Bits of `flags`, as in src/config/forward-listeners.ts.
constexpr int32_t kUdp = 1;
constexpr int32_t kDual = 2;
constexpr int32_t kFreebind = 4;

struct Want {
  sockaddr_in6 name;
  socklen_t length;
  int32_t flags;
  int32_t backlog;
  const std::string* device;

  int family() const { return name.sin6_family; }
};

bool Flag(int fd, int level, int name, int value) {
  return ::setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

bool FlagsOfFamily(int fd, const Want& want) {
  const bool v6 = want.family() == AF_INET6;
  const bool v4 = !v6 || (want.flags & kDual) != 0;
  if (v6 && !Flag(fd, IPPROTO_IPV6, IPV6_V6ONLY, v4 ? 0 : 1)) return false;
  if ((want.flags & kFreebind) != 0) {
    if (!(v6 ? Flag(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1) : Flag(fd, IPPROTO_IP, IP_FREEBIND, 1))) return false;
  }
  if ((want.flags & kUdp) == 0) return true;
  if (v4 && !(Flag(fd, IPPROTO_IP, IP_RECVERR, 1) && Flag(fd, IPPROTO_IP, IP_PKTINFO, 1))) return false;
  return !v6 || (Flag(fd, IPPROTO_IPV6, IPV6_RECVERR, 1) && Flag(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
}

bool Open(int fd, const Want& want) {
  // With it TCP may bind a port that old connections linger on, which UDP has none of: there it would let two programs
  // have one port, and the later one take the earlier one's datagrams.
  if ((want.flags & kUdp) == 0 && !Flag(fd, SOL_SOCKET, SO_REUSEADDR, 1)) return false;
  if (!FlagsOfFamily(fd, want)) return false;
  if (!want.device->empty()) {
    const socklen_t length = static_cast<socklen_t>(want.device->size() + 1);
    if (::setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, want.device->c_str(), length) != 0) return false;
  }
  if (const int32_t error = BindName(fd, reinterpret_cast<const sockaddr*>(&want.name), want.length); error < 0) {
    errno = -error;
    return false;
  }
  return (want.flags & kUdp) != 0 || ::listen(fd, want.backlog) == 0;
}

int32_t OpenOne(Thread& thread, const Want& want) {
  const int type = (want.flags & kUdp) != 0 ? SOCK_DGRAM : SOCK_STREAM;
  const int fd = ::socket(want.family(), type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  if (Open(fd, want)) return thread.Keep(fd);
  const int error = errno;
  ::close(fd);
  return -error;
}

}  // namespace

int32_t OpenPorts(Thread& thread, int32_t slot, int32_t flags, std::string device, int32_t backlog, Ints out) {
  Want want{};
  const int32_t length = LoadSlot(thread, slot, want.name);
  if (length < 0) return length;
  want.length = static_cast<socklen_t>(length);
  want.flags = flags;
  want.backlog = backlog;
  want.device = &device;
  if (device.size() >= IFNAMSIZ || device.find('\0') != std::string::npos) return -EINVAL;
  // sin_port and sin6_port are at the same place.
  const size_t first = ntohs(want.name.sin6_port);
  if (first + out.length > 65536) return -EINVAL;
  int32_t opened = 0;
  for (size_t i = 0; i < out.length; i++) {
    want.name.sin6_port = htons(static_cast<uint16_t>(first + i));
    const int32_t fd = OpenOne(thread, want);
    out.data[i] = fd;
    if (fd >= 0) opened++;
    if (fd != -EMFILE && fd != -ENFILE) continue;
    // No descriptor for this port is none for the next.
    std::fill(out.data + i, out.data + out.length, fd);
    break;
  }
  return opened;
}

int32_t SocketFacts(Thread&, int32_t fd, Ints out) {
  constexpr size_t kFacts = 7;
  if (out.length < kFacts) return -EINVAL;
  const auto get = [fd](int level, int option, int32_t& value) {
    socklen_t size = sizeof(value);
    return ::getsockopt(fd, level, option, &value, &size) == 0;
  };
  int32_t* const fact = out.data;
  std::fill(fact, fact + kFacts, 0);
  if (!get(SOL_SOCKET, SO_DOMAIN, fact[0]) || !get(SOL_SOCKET, SO_TYPE, fact[1]) ||
      !get(SOL_SOCKET, SO_PROTOCOL, fact[2]) || !get(SOL_SOCKET, SO_ACCEPTCONN, fact[3])) {
    return -errno;
  }
  if (fact[0] == AF_INET6 && !get(IPPROTO_IPV6, IPV6_V6ONLY, fact[4])) return -errno;
  char device[IFNAMSIZ] = {};
  socklen_t size = sizeof(device);
  if (::getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &size) == 0) fact[5] = device[0] == '\0' ? 0 : 1;
  sockaddr_storage peer;
  size = sizeof(peer);
  fact[6] = ::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0 ? 1 : 0;
  return 0;
}

}  // namespace tubetti
