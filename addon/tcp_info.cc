// What the kernel knows about a socket's queues.
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>

#include "calls.h"

namespace tubetti {

namespace {

// The kernel's structure has grown over the years and grows on: a field is there if all of it was returned.
struct Info {
  tcp_info fields;
  socklen_t length;
};

#define TUBETTI_FIELD(info, name)                                                                                   \
  ((info).length >= offsetof(tcp_info, name) + sizeof((info).fields.name) ? static_cast<double>((info).fields.name) \
                                                                          : -1.0)

}  // namespace

int32_t TcpInfo(Thread& thread, int32_t fd) {
  Info info = {};
  info.length = sizeof(info.fields);
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info.fields, &info.length) != 0) return -errno;
  double* out = thread.tables->tcp_info;
  out[0] = TUBETTI_FIELD(info, tcpi_state);
  out[1] = TUBETTI_FIELD(info, tcpi_rtt);
  out[2] = TUBETTI_FIELD(info, tcpi_min_rtt);
  out[3] = TUBETTI_FIELD(info, tcpi_snd_wnd);
  out[4] = TUBETTI_FIELD(info, tcpi_bytes_acked);
  out[5] = TUBETTI_FIELD(info, tcpi_delivery_rate);
  out[6] = TUBETTI_FIELD(info, tcpi_snd_mss);
  out[7] = info.fields.tcpi_snd_wscale;  // bit-fields: there since the first version
  out[8] = info.fields.tcpi_rcv_wscale;
  out[9] = TUBETTI_FIELD(info, tcpi_notsent_bytes);
  out[10] = TUBETTI_FIELD(info, tcpi_snd_cwnd);
  out[11] = TUBETTI_FIELD(info, tcpi_rcv_space);
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
