// rtnetlink: only the socket. Messages are built and read in TypeScript.
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include "calls.h"

namespace tubetti {

int32_t NetlinkOpen(Thread&, int32_t groups) {
  const int fd = ::socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0) return -errno;
  // Kernels before 4.20 filter dumps less strictly; the answers are a superset.
  const int on = 1;
  ::setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
  sockaddr_nl name = {};
  name.nl_family = AF_NETLINK;
  name.nl_groups = static_cast<uint32_t>(groups);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof(name)) != 0) {
    const int error = errno;
    ::close(fd);
    return -error;
  }
  return fd;
}

int32_t IfIndex(Thread&, std::string name) {
  const unsigned index = if_nametoindex(name.c_str());
  return index == 0 ? -errno : static_cast<int32_t>(index);
}

}  // namespace tubetti
