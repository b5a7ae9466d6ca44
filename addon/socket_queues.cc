// What the kernel knows about a socket's queues.
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>

#include "calls.h"

namespace tubetti {

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
