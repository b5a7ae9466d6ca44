// Asks the broker. Any thread may: they take turns. Each waits for its answer, for a second at most, which the broker takes
// only if the system does not answer it either.
#include "broker.h"

#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "broker_protocol.h"
#include "calls.h"
#include "instructions.h"

namespace tubetti {

namespace {

constexpr int kWaitMs = 1000;

std::mutex turn;
std::atomic<int> broker{-1};
std::atomic<bool> binds{false};
uint32_t last_seq = 0;  // under `turn`

struct Control {
  alignas(cmsghdr) char bytes[CMSG_SPACE(sizeof(int))];
};

int32_t SendAsk(BrokerAsk& ask, size_t length, int fd) {
  iovec iov = {&ask, kAskHeader + length};
  Control control = {};
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof(control.bytes);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  const auto sent = Retry([&] { return ::sendmsg(broker.load(), &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
  return sent < 0 ? static_cast<int32_t>(sent) : 0;
}

// The descriptor of the reply, or its result. The reply to a request that nobody waited for any more is passed over.
int32_t TakeReply(uint32_t seq, BrokerReply& reply) {
  for (;;) {
    pollfd waiting = {broker.load(), POLLIN, 0};
    const int ready = Retry([&] { return ::poll(&waiting, 1, kWaitMs); });
    if (ready <= 0) return ready < 0 ? ready : -ETIMEDOUT;
    iovec iov = {&reply, sizeof(reply)};
    Control control = {};
    msghdr message = {};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof(control.bytes);
    const auto got = Retry([&] { return ::recvmsg(broker.load(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
    if (got < 0) return static_cast<int32_t>(got);
    if (got == 0) return -EPIPE;
    int fd = -1;
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (header != nullptr && header->cmsg_type == SCM_RIGHTS) memcpy(&fd, CMSG_DATA(header), sizeof(int));
    if (static_cast<size_t>(got) == sizeof(reply) && reply.seq == seq) return reply.result < 0 ? reply.result : std::max(fd, 0);
    if (fd >= 0) ::close(fd);
  }
}

int32_t AskBroker(BrokerAsk& ask, size_t length, int fd, BrokerReply& reply) {
  const std::lock_guard<std::mutex> mine(turn);
  if (broker.load() < 0) return -ENOTCONN;
  ask.seq = ++last_seq;
  if (const int32_t error = SendAsk(ask, length, fd); error < 0) return error;
  return TakeReply(ask.seq, reply);
}

// The uid that the kernel gives for those whom a user namespace does not know (proc(5), overflowuid).
constexpr uid_t kUnknown = 65534;

}  // namespace

int32_t BrokerUse(Thread&, int32_t fd, int32_t may_bind) {
  broker.store(fd);
  binds.store(may_bind != 0);
  return 0;
}

int32_t BrokerCall(Thread&, int32_t op, double a, double b, std::string text, Bytes out) {
  BrokerAsk ask = {};
  if (text.size() >= sizeof(ask.text)) return -ENAMETOOLONG;
  ask.op = static_cast<BrokerOp>(op);
  ask.a = static_cast<uint32_t>(a);
  ask.b = static_cast<uint32_t>(b);
  memcpy(ask.text, text.data(), text.size());
  BrokerReply reply = {};
  const int32_t result = AskBroker(ask, text.size(), -1, reply);
  if (out.length > 0) memcpy(out.data, reply.text, std::min(out.length, sizeof(reply.text)));
  return result;
}

int32_t BrokerFilter(Thread&, Ints program) {
  BrokerAsk ask = {};
  const size_t count = program.length / kInstruction;
  if (count == 0 || program.length % kInstruction != 0 || count >= sizeof(ask.text) / sizeof(sock_filter)) return -EINVAL;
  ask.op = BrokerOp::kFilter;
  for (size_t i = 0; i < count; i++) {
    const sock_filter one = InstructionAt(program, i);
    memcpy(ask.text + i * sizeof(one), &one, sizeof(one));
  }
  BrokerReply reply = {};
  return AskBroker(ask, count * sizeof(sock_filter), -1, reply);
}

double PeerUid(Thread&, int32_t fd) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return -errno;
  if (peer.uid != kUnknown || broker.load() < 0) return peer.uid;
  BrokerAsk ask = {};
  ask.op = BrokerOp::kPeer;
  BrokerReply reply = {};
  if (AskBroker(ask, 0, fd, reply) < 0) return peer.uid;
  reply.text[sizeof(reply.text) - 1] = '\0';
  return static_cast<double>(strtoul(reply.text, nullptr, 10));
}

int32_t BindName(int fd, const sockaddr* name, socklen_t length) {
  if (::bind(fd, name, length) == 0) return 0;
  if (errno != EACCES || !binds.load()) return -errno;
  BrokerAsk ask = {};
  ask.op = BrokerOp::kBind;
  memcpy(ask.text, name, length);
  BrokerReply reply = {};
  return AskBroker(ask, length, fd, reply);
}

}  // namespace tubetti
