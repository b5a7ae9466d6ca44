// What the kernel knows about a socket's queues, and of a TCP connection.
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <sys/ioctl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstddef>

#include "calls.h"

namespace tubetti {

int32_t TcpInfo(Thread& thread, int32_t fd) {
  tcp_info info = {};
  socklen_t length = sizeof(info);
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return -errno;
  double* out = thread.tables->tcp_info;
  out[0] = info.tcpi_rtt;  // there since the first version
  // The kernel's structure has grown over the years: a field is there if all of it was returned (Linux 4.1).
  const bool counts = length >= offsetof(tcp_info, tcpi_bytes_received) + sizeof(info.tcpi_bytes_received);
  out[1] = counts ? static_cast<double>(info.tcpi_bytes_acked) : -1.0;
  out[2] = counts ? static_cast<double>(info.tcpi_bytes_received) : -1.0;
  return 0;
}

int32_t MemInfo(Thread& thread, int32_t fd) {
  uint32_t values[SK_MEMINFO_VARS] = {};
  socklen_t length = sizeof(values);
  if (::getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &length) != 0) return -errno;
  double* out = thread.tables->mem_info;
  out[0] = values[SK_MEMINFO_SNDBUF];
  out[1] = values[SK_MEMINFO_WMEM_QUEUED];
  out[2] = values[SK_MEMINFO_RCVBUF];
  out[3] = values[SK_MEMINFO_RMEM_ALLOC];
  return 0;
}

int32_t OutQueue(Thread&, int32_t fd) {
  int bytes = 0;
  return ::ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : -errno;
}

}  // namespace tubetti
