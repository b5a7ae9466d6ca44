// Scatter-gather I/O on rows, one message a call, and the error queue.
#include <ctime>  // <linux/errqueue.h> needs timespec

#include <linux/errqueue.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "address.h"
#include "calls.h"
#include "rows.h"

namespace tubetti {

namespace {

constexpr int kAlways = MSG_DONTWAIT | MSG_NOSIGNAL;

void StoreError(Thread& thread, const sock_extended_err& error, size_t room, int32_t offender) {
  int32_t* out = thread.tables->sock_err;
  out[0] = static_cast<int32_t>(error.ee_errno);
  out[1] = error.ee_origin;
  out[2] = error.ee_type;
  out[3] = error.ee_code;
  out[4] = static_cast<int32_t>(error.ee_info);
  const auto* address = reinterpret_cast<const sockaddr*>(reinterpret_cast<const uint8_t*>(&error) + sizeof(error));
  if (offender >= 0) StoreSlot(thread, offender, address, static_cast<socklen_t>(room));
}

}  // namespace

int32_t Recv(Thread& thread, int32_t fd, int32_t row, int32_t row_count, int32_t flags) {
  if (const int32_t error = Gather(thread, row, row_count, thread.iov); error < 0) return error;
  msghdr message = {};
  message.msg_iov = thread.iov;
  message.msg_iovlen = static_cast<size_t>(row_count);
  const ssize_t got = Retry([&] { return ::recvmsg(fd, &message, flags | kAlways); });
  return Done(thread, row, row_count, static_cast<int32_t>(got));
}

int32_t Discard(Thread&, int32_t fd, int32_t bytes) {
  if (bytes < 0) return -EINVAL;
  const size_t length = static_cast<size_t>(bytes);
  return static_cast<int32_t>(Retry([&] { return ::recv(fd, nullptr, length, MSG_TRUNC | kAlways); }));
}

int32_t Send(Thread& thread, int32_t fd, int32_t row, int32_t row_count, int32_t flags) {
  if (const int32_t error = Gather(thread, row, row_count, thread.iov); error < 0) return error;
  msghdr message = {};
  message.msg_iov = thread.iov;
  message.msg_iovlen = static_cast<size_t>(row_count);
  const ssize_t sent = Retry([&] { return ::sendmsg(fd, &message, flags | kAlways); });
  return Done(thread, row, row_count, static_cast<int32_t>(sent));
}

int32_t RecvError(Thread& thread, int32_t fd, int32_t offender, int32_t dest, int32_t row, int32_t row_count) {
  if ((offender >= 0 && !IsSlot(offender)) || (dest >= 0 && !IsSlot(dest))) return -EINVAL;
  if (const int32_t error = Gather(thread, row, row_count, thread.iov); error < 0) return error;
  sockaddr_in6 name = {};
  msghdr message = {};
  message.msg_name = &name;
  message.msg_namelen = sizeof(name);
  message.msg_iov = thread.iov;
  message.msg_iovlen = static_cast<size_t>(row_count);
  message.msg_control = thread.control[0];
  message.msg_controllen = kControlSize;
  const ssize_t got = Retry([&] { return ::recvmsg(fd, &message, MSG_ERRQUEUE | kAlways); });
  if (got < 0) return got == -EAGAIN ? 0 : Done(thread, row, row_count, static_cast<int32_t>(got));

  memset(thread.tables->sock_err, 0, sizeof(thread.tables->sock_err));
  thread.tables->sock_err[5] = static_cast<int32_t>(got);
  const sockaddr none = {};
  if (offender >= 0) StoreSlot(thread, offender, &none, sizeof(none));
  if (dest >= 0) StoreSlot(thread, dest, reinterpret_cast<sockaddr*>(&name), message.msg_namelen);
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    const bool is_error = (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) ||
                          (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR);
    if (!is_error || c->cmsg_len < CMSG_LEN(sizeof(sock_extended_err) + sizeof(sockaddr))) continue;
    const size_t room = c->cmsg_len - CMSG_LEN(sizeof(sock_extended_err));
    StoreError(thread, *reinterpret_cast<const sock_extended_err*>(CMSG_DATA(c)), room, offender);
  }
  return 1;
}

}  // namespace tubetti
