#include "front-end.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "fail.h"
#include "ram.h"
#include "ring.h"
#include "virtio.h"

namespace bare {

namespace {

// vhost-user "Front-end message types".
constexpr uint32_t kGetFeatures = 1;
constexpr uint32_t kSetFeatures = 2;
constexpr uint32_t kSetOwner = 3;
constexpr uint32_t kSetMemTable = 5;
constexpr uint32_t kSetVringNum = 8;
constexpr uint32_t kSetVringAddr = 9;
constexpr uint32_t kSetVringBase = 10;
constexpr uint32_t kGetVringBase = 11;
constexpr uint32_t kSetVringKick = 12;
constexpr uint32_t kSetVringCall = 13;
constexpr uint32_t kGetProtocolFeatures = 15;
constexpr uint32_t kSetProtocolFeatures = 16;
constexpr uint32_t kSetVringEnable = 18;

constexpr uint32_t kVersion = 1;
constexpr uint32_t kReply = 4;
constexpr uint32_t kNeedReply = 8;
constexpr uint64_t kProtocolFeatures = 1ULL << 30;
constexpr uint64_t kReplyAck = 1ULL << 3;
constexpr uint32_t kHeader = 12;
constexpr int kReplyTimeoutMs = 10'000;

struct VringState {
  uint32_t index;
  uint32_t value;
};

struct VringAddress {
  uint32_t index;
  uint32_t flags;
  uint64_t descriptors;
  uint64_t used;
  uint64_t available;
  uint64_t log;
};

struct MemTable {
  uint32_t regions;
  uint32_t padding;
  uint64_t guest_address;
  uint64_t size;
  uint64_t user_address;
  uint64_t mmap_offset;
};

}  // namespace

struct FrontEnd::Message {
  uint32_t request = 0;
  uint32_t flags = kVersion;
  uint32_t size = 0;
  uint8_t payload[64] = {};

  template <typename Payload>
  static Message Of(uint32_t number, const Payload& value) {
    static_assert(sizeof value <= sizeof payload);
    Message message{number, kVersion, sizeof value, {}};
    memcpy(message.payload, &value, sizeof value);
    return message;
  }

  template <typename Payload>
  Payload As() const {
    Payload value{};
    memcpy(&value, payload, sizeof value);
    return value;
  }
};

FrontEnd::FrontEnd(const char* path) : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (strlen(path) >= sizeof address.sun_path) Fail("%s is too long for a socket's path", path);
  memcpy(address.sun_path, path, strlen(path));
  if (fd_ < 0 || connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) FailErrno(path);
}

void FrontEnd::Send(Message& message, int with_fd) {
  iovec part = {&message, kHeader + message.size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (with_fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &with_fd, sizeof with_fd);
  }
  if (sendmsg(fd_, &header, MSG_NOSIGNAL) != static_cast<ssize_t>(part.iov_len)) {
    Fail("request %u: the back-end does not take it: %s", message.request, strerror(errno));
  }
}

FrontEnd::Message FrontEnd::Receive(uint32_t request) {
  Message message;
  size_t have = 0;
  size_t wanted = kHeader;
  while (have < wanted) {
    pollfd wait = {fd_, POLLIN, 0};
    if (poll(&wait, 1, kReplyTimeoutMs) != 1) Fail("request %u: no reply within %d s", request, kReplyTimeoutMs / 1000);
    const ssize_t got = read(fd_, reinterpret_cast<char*>(&message) + have, wanted - have);
    if (got <= 0) Fail("request %u: the back-end closed the connection", request);
    have += static_cast<size_t>(got);
    if (have != kHeader) continue;
    if (message.request != request || (message.flags & kReply) == 0 || message.size > sizeof message.payload) {
      Fail("request %u: a reply of request %u, flags %x, %u bytes", request, message.request, message.flags,
           message.size);
    }
    wanted += message.size;
  }
  return message;
}

uint64_t FrontEnd::Ask(uint32_t request) {
  Message message{request, kVersion, 0, {}};
  Send(message);
  return Receive(request).As<uint64_t>();
}

void FrontEnd::Tell(uint32_t request, uint64_t value) {
  Message message = Message::Of(request, value);
  Send(message);
}

void FrontEnd::SendAndWait(Message& message, int with_fd) {
  if (reply_ack_) message.flags |= kNeedReply;
  Send(message, with_fd);
  if (reply_ack_ && Receive(message.request).As<uint64_t>() != 0) {
    Fail("the back-end refused request %u", message.request);
  }
}

uint64_t FrontEnd::Negotiate(uint64_t wanted) {
  const uint64_t offered = Ask(kGetFeatures);
  constexpr uint64_t version_1 = 1ULL << VIRTIO_F_VERSION_1;
  if ((offered & version_1) == 0) Fail("the back-end does not offer VIRTIO_F_VERSION_1");
  uint64_t features = (wanted & offered) | version_1;
  if ((offered & kProtocolFeatures) != 0) {
    features |= kProtocolFeatures;
    const uint64_t protocol = Ask(kGetProtocolFeatures) & kReplyAck;
    Tell(kSetProtocolFeatures, protocol);
    reply_ack_ = protocol != 0;
    enable_ = true;
  }
  Message owner{kSetOwner, kVersion, 0, {}};
  Send(owner);
  Tell(kSetFeatures, features);
  return features;
}

void FrontEnd::ShareMemory(const Ram& ram) {
  const MemTable table = {1, 0, Ram::kGuestBase, ram.bytes(), ram.UserAddress(ram.base()), 0};
  Message message = Message::Of(kSetMemTable, table);
  SendAndWait(message, ram.fd());
}

void FrontEnd::StartRing(uint32_t index, const Ram& ram, const Ring& ring) {
  const VringAddress addresses = {index,
                                  0,
                                  ram.UserAddress(ring.descriptors()),
                                  ram.UserAddress(ring.used()),
                                  ram.UserAddress(ring.available()),
                                  0};
  Message number = Message::Of(kSetVringNum, VringState{index, ring.size()});
  Message base = Message::Of(kSetVringBase, VringState{index, 0});
  Message address = Message::Of(kSetVringAddr, addresses);
  Message kick = Message::Of(kSetVringKick, static_cast<uint64_t>(index));
  Message call = Message::Of(kSetVringCall, static_cast<uint64_t>(index));
  Send(number);
  Send(base);
  Send(address);
  Send(kick, ring.kick_fd());
  Send(call, ring.call_fd());
}

void FrontEnd::Enable(uint32_t rings) {
  if (!enable_) return;
  for (uint32_t index = 0; index < rings; index++) {
    Message message = Message::Of(kSetVringEnable, VringState{index, 1});
    SendAndWait(message);
  }
}

void FrontEnd::Stop(uint32_t rings) {
  for (uint32_t index = 0; index < rings; index++) {
    Message message = Message::Of(kGetVringBase, VringState{index, 0});
    Send(message);
    Receive(kGetVringBase);
  }
  close(fd_);
  fd_ = -1;
}

}  // namespace bare
