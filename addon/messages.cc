// recvmmsg and sendmmsg over the message columns: many datagrams a system call, each with its addresses, TTL, TOS and
// segment size as control data.
//
// A message whose rows or slots are wrong ends the batch before it: the ones in front are done and counted, and the
// next call, which begins with it, returns its error.
#include <linux/udp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "address.h"
#include "calls.h"
#include "rows.h"

namespace tubetti {

namespace {

constexpr int kAlways = MSG_DONTWAIT | MSG_NOSIGNAL;

bool IsRange(int32_t first, int32_t count) { return first >= 0 && count > 0 && first <= kMessages - count; }

// Gathers message `index`'s rows at `used` of the thread's pool. Number of rows or -errno; -ENOBUFS: pool exhausted.
int32_t GatherMessage(Thread& thread, int32_t index, int32_t used, msghdr& message) {
  const int32_t count = thread.tables->msg_rows[index];
  if (count > kRows - used) return -ENOBUFS;
  if (const int32_t error = Gather(thread, thread.tables->msg_row[index], count, thread.iov + used); error < 0) {
    return error;
  }
  message = {};
  message.msg_iov = thread.iov + used;
  message.msg_iovlen = static_cast<size_t>(count);
  return count;
}

// ---- control data out

class ControlWriter {
 public:
  ControlWriter(msghdr& message, uint8_t* buf) : message_(message), buf_(buf) {}

  template <typename T>
  void Add(int level, int type, const T& value) {
    auto* c = reinterpret_cast<cmsghdr*>(buf_ + message_.msg_controllen);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(sizeof(T));
    memcpy(CMSG_DATA(c), &value, sizeof(T));
    message_.msg_control = buf_;
    message_.msg_controllen += CMSG_SPACE(sizeof(T));
  }

 private:
  msghdr& message_;
  uint8_t* buf_;
};
static_assert(CMSG_SPACE(sizeof(in6_pktinfo)) + CMSG_SPACE(sizeof(in_pktinfo)) + 6 * CMSG_SPACE(sizeof(int)) <=
              kControlSize);

bool IsLinkLocal(const in6_addr& address) {
  return IN6_IS_ADDR_LINKLOCAL(&address) || IN6_IS_ADDR_MC_LINKLOCAL(&address);
}

void AddSource(const Thread& thread, int32_t slot, int32_t family, ControlWriter& control) {
  if (family == AF_INET) {
    in_pktinfo info = {};
    info.ipi_spec_dst = SlotAddress4(thread, slot);
    control.Add(IPPROTO_IP, IP_PKTINFO, info);
  } else {
    in6_pktinfo info = {};
    info.ipi6_addr = SlotAddress6(thread, slot);
    if (IsLinkLocal(info.ipi6_addr)) info.ipi6_ifindex = SlotScope(thread, slot);
    control.Add(IPPROTO_IPV6, IPV6_PKTINFO, info);
  }
}

// The family the control data is written for: the peer's, else the source's, else the socket's.
int32_t MessageFamily(int32_t fd, int32_t peer_family, int32_t local_family) {
  if (peer_family > 0) return peer_family;
  if (local_family > 0) return local_family;
  int domain = 0;
  socklen_t length = sizeof(domain);
  return ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 ? domain : -errno;
}

// Everything but the rows of message `index`. 0 or -errno.
int32_t Address(Thread& thread, int32_t fd, int32_t index, int32_t at, msghdr& message) {
  const Tables& tables = *thread.tables;
  const int32_t peer = tables.msg_peer[index];
  const int32_t local = tables.msg_local[index];
  int32_t peer_family = 0;
  int32_t local_family = 0;
  if (peer >= 0) {
    const int32_t length = LoadSlot(thread, peer, thread.names[at]);
    if (length < 0) return length;
    peer_family = thread.names[at].sin6_family;
    message.msg_name = &thread.names[at];
    message.msg_namelen = static_cast<socklen_t>(length);
  }
  ControlWriter control(message, thread.control[at]);
  if (local >= 0) {
    local_family = SlotFamily(thread, local);
    if (local_family < 0) return local_family;
    AddSource(thread, local, local_family, control);
  }
  const int ttl = tables.msg_ttl[index];
  const int tos = tables.msg_tos[index];
  if (ttl >= 0 || tos >= 0) {
    const int32_t family = MessageFamily(fd, peer_family, local_family);
    if (family < 0) return family;
    const bool v4 = family == AF_INET;
    const int level = v4 ? static_cast<int>(IPPROTO_IP) : static_cast<int>(IPPROTO_IPV6);
    if (ttl >= 0) control.Add(level, v4 ? IP_TTL : IPV6_HOPLIMIT, ttl);
    if (tos >= 0) control.Add(level, v4 ? IP_TOS : IPV6_TCLASS, tos);
  }
  const int32_t segment = tables.msg_segment[index];
  if (segment > 0xffff) return -EINVAL;
  if (segment > 0) control.Add(IPPROTO_UDP, UDP_SEGMENT, static_cast<uint16_t>(segment));
  return 0;
}

// ---- control data in

template <typename T>
T Value(const cmsghdr* c) {
  T value = {};
  const size_t length = c->cmsg_len - CMSG_LEN(0);
  memcpy(&value, CMSG_DATA(c), length < sizeof(T) ? length : sizeof(T));
  return value;
}

void StoreControl4(Thread& thread, int32_t index, const cmsghdr* c) {
  Tables& tables = *thread.tables;
  if (c->cmsg_type == IP_PKTINFO) {
    // spec_dst: the destination for unicast, and for the rest the address of ours that an answer would come from.
    if (tables.msg_local[index] >= 0) {
      StoreSlot4(thread, tables.msg_local[index], Value<in_pktinfo>(c).ipi_spec_dst);
    }
  } else if (c->cmsg_type == IP_TTL) {
    tables.msg_ttl[index] = Value<int32_t>(c);
  } else if (c->cmsg_type == IP_TOS) {
    tables.msg_tos[index] = Value<uint8_t>(c);
  }
}

void StoreControl6(Thread& thread, int32_t index, const cmsghdr* c) {
  Tables& tables = *thread.tables;
  if (c->cmsg_type == IPV6_PKTINFO) {
    if (tables.msg_local[index] >= 0) {
      const auto info = Value<in6_pktinfo>(c);
      const uint32_t scope = IsLinkLocal(info.ipi6_addr) ? static_cast<uint32_t>(info.ipi6_ifindex) : 0;
      StoreSlot6(thread, tables.msg_local[index], info.ipi6_addr, scope);
    }
  } else if (c->cmsg_type == IPV6_HOPLIMIT) {
    tables.msg_ttl[index] = Value<int32_t>(c);
  } else if (c->cmsg_type == IPV6_TCLASS) {
    tables.msg_tos[index] = Value<int32_t>(c);
  }
}

void StoreMessage(Thread& thread, int32_t index, mmsghdr& done) {
  Tables& tables = *thread.tables;
  msghdr& message = done.msg_hdr;
  tables.msg_len[index] = static_cast<int32_t>(done.msg_len);
  tables.msg_ttl[index] = -1;
  tables.msg_tos[index] = -1;
  tables.msg_segment[index] = 0;
  const sockaddr none = {};
  if (tables.msg_peer[index] >= 0) {
    const bool named = message.msg_namelen > 0;
    StoreSlot(thread, tables.msg_peer[index], named ? static_cast<sockaddr*>(message.msg_name) : &none,
              message.msg_namelen);
  }
  if (tables.msg_local[index] >= 0) StoreSlot(thread, tables.msg_local[index], &none, sizeof(none));
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level == IPPROTO_IP) StoreControl4(thread, index, c);
    if (c->cmsg_level == IPPROTO_IPV6) StoreControl6(thread, index, c);
    if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) tables.msg_segment[index] = Value<int32_t>(c);
  }
}

// The result of a call on messages from `first` on: an error is the first one's.
int32_t DoneMessage(const Thread& thread, int32_t first, int32_t result) {
  return Done(thread, thread.tables->msg_row[first], thread.tables->msg_rows[first], result);
}

bool SlotOrNone(int32_t slot) { return slot < 0 || IsSlot(slot); }

}  // namespace

int32_t RecvMany(Thread& thread, int32_t fd, int32_t first, int32_t count, int32_t flags) {
  if (!IsRange(first, count)) return -EINVAL;
  int32_t ready = 0;
  int32_t error = 0;
  for (int32_t used = 0; ready < count; ready++) {
    const int32_t index = first + ready;
    msghdr& message = thread.messages[ready].msg_hdr;
    const int32_t rows = GatherMessage(thread, index, used, message);
    error = rows < 0 ? rows : 0;
    if (!SlotOrNone(thread.tables->msg_peer[index]) || !SlotOrNone(thread.tables->msg_local[index])) error = -EINVAL;
    if (error < 0) break;
    used += rows;
    message.msg_name = &thread.names[ready];
    message.msg_namelen = sizeof(sockaddr_in6);
    message.msg_control = thread.control[ready];
    message.msg_controllen = kControlSize;
  }
  if (ready == 0) return error;
  const int done =
      Retry([&] { return ::recvmmsg(fd, thread.messages, static_cast<unsigned>(ready), flags | kAlways, nullptr); });
  for (int32_t i = 0; i < done; i++) StoreMessage(thread, first + i, thread.messages[i]);
  return DoneMessage(thread, first, done);
}

int32_t SendMany(Thread& thread, int32_t fd, int32_t first, int32_t count) {
  if (!IsRange(first, count)) return -EINVAL;
  int32_t ready = 0;
  int32_t error = 0;
  for (int32_t used = 0; ready < count; ready++) {
    const int32_t index = first + ready;
    msghdr& message = thread.messages[ready].msg_hdr;
    const int32_t rows = GatherMessage(thread, index, used, message);
    error = rows < 0 ? rows : Address(thread, fd, index, ready, message);
    if (error < 0) break;
    used += rows;
  }
  if (ready == 0) return error;
  const int done = Retry([&] { return ::sendmmsg(fd, thread.messages, static_cast<unsigned>(ready), kAlways); });
  for (int32_t i = 0; i < done; i++) {
    thread.tables->msg_len[first + i] = static_cast<int32_t>(thread.messages[i].msg_len);
  }
  return DoneMessage(thread, first, done);
}

}  // namespace tubetti
