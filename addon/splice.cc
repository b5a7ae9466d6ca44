// Bytes from one TCP socket to another, both ways, without JavaScript in between (src/stack/splice): small messages are
// copied, as that costs two calls; where more comes than a copy takes, splice(2) moves pages through a pipe. A pipe is
// held only while it has bytes in it or a stream flows; there are kMostPipes at the most, and who gets none copies.
//
// Sockets are watched edge-triggered: what an event says is remembered until a call returns EAGAIN, or a read less than it
// could, which leaves the queue empty unless its end, an error or urgent data is in it.
#include "splice.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "calls.h"
#include "namespace_protocol.h"
#include "thread.h"

namespace tubetti {

namespace {

constexpr uint32_t kCopy = 8 << 10;
// A read by splice of less than this is a message, not a stream.
constexpr int32_t kSmall = 4 << 10;
// One of as much or more is of a stream that fills pipes: more is there, or is about to come.
constexpr int32_t kMuch = 256 << 10;
constexpr size_t kChunk = 1 << 20;
// Of pipes. The kernel moves no more a call, and wakes sender and receiver for each; 1 MiB is what it lets an ordinary
// user have (fs.pipe-max-size).
constexpr int kLarge = 1 << 20;
constexpr int kLittle = 128 << 10;
// 60 MiB together, of the 64 that an ordinary user's pipes may have (fs.pipe-user-pages-soft).
constexpr int kMostLarge = 32;
constexpr int kMostPipes = 256;
// Empty ones that are kept: other programs of the user need pipes too.
constexpr size_t kMostIdle = 8;
constexpr int32_t kMostPairs = 1 << 17;
constexpr int kFlags = MSG_DONTWAIT | MSG_NOSIGNAL;

constexpr int32_t kWaits = 0;
constexpr int32_t kMore = 1;
constexpr int32_t kDone = 2;

bool IsAtMark(int fd) {
  int at = 0;
  return ioctl(fd, SIOCATMARK, &at) == 0 && at != 0;
}

}  // namespace

Splicer::Splicer(Thread& thread) : thread_(thread) {}

// The descriptors are the thread's, which closes them.
Splicer::~Splicer() = default;

Splicer::Pair* Splicer::At(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= pairs_.size()) return nullptr;
  return pairs_[static_cast<size_t>(id)].get();
}

int32_t Splicer::Open(int32_t id, int32_t a, int32_t b) {
  if (id < 0 || id >= kMostPairs || At(id) != nullptr) return -EINVAL;
  if (pairs_.size() <= static_cast<size_t>(id)) pairs_.resize(static_cast<size_t>(id) + 1);
  auto pair = std::make_unique<Pair>();
  pair->side[0].fd = a;
  pair->side[1].fd = b;
  // The one that was accepted; of the other an event says when it is connected.
  pair->side[0].writable = true;
  pairs_[static_cast<size_t>(id)] = std::move(pair);
  return 0;
}

bool Splicer::GetPipe(Side& side) {
  if (side.pipe.Is()) return true;
  if (!idle_.empty()) {
    side.pipe = idle_.back();
    idle_.pop_back();
    return true;
  }
  if (pipes_ >= kMostPipes) return false;
  int ends[2];
  if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return false;
  int size = pipes_ < kMostLarge ? kLarge : kLittle;
  // Less where the user has many, or may have no such: slower, not wrong.
  while (fcntl(ends[1], F_SETPIPE_SZ, size) < 0 && size > kLittle) size /= 2;
  side.pipe = {thread_.Keep(ends[0]), thread_.Keep(ends[1])};
  pipes_++;
  return true;
}

void Splicer::DropPipe(Pipe& pipe) {
  if (!pipe.Is()) return;
  for (const int32_t end : {pipe.out, pipe.in}) {
    thread_.Forget(end);
    ::close(end);
  }
  pipe = {};
  pipes_--;
}

// Its pipe is empty, or is lost with what is in it.
void Splicer::PutPipe(Side& side) {
  if (!side.pipe.Is()) return;
  if (side.piped > 0 || idle_.size() >= kMostIdle) {
    DropPipe(side.pipe);
  } else {
    idle_.push_back(side.pipe);
    side.pipe = {};
  }
  side.piped = 0;
}

// What was taken from side `from` and is held here goes to the other. 0: nothing is held any more; else as Pump.
int32_t Splicer::Give(Pair& pair, int from, int64_t& budget, int& failed) {
  Side& source = pair.side[from];
  Side& target = pair.side[1 - from];
  while (source.piped > 0 || source.rest_at < source.rest_end) {
    if (!target.writable) return -EAGAIN;
    ssize_t given = 0;
    if (source.piped > 0) {
      const unsigned flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | (source.much ? SPLICE_F_MORE : 0);
      given = Retry([&] {
        return ::splice(source.pipe.out, nullptr, target.fd, nullptr, source.piped, flags);
      });
    } else {
      const size_t length = source.rest_end - source.rest_at;
      const int flags = source.rest_urgent ? kFlags | MSG_OOB : kFlags;
      given = Retry([&] { return ::send(target.fd, source.rest.get() + source.rest_at, length, flags); });
    }
    if (given == -EAGAIN) target.writable = false;
    if (given <= 0) {
      failed = 1 - from;
      return given == 0 ? -EIO : static_cast<int32_t>(given);
    }
    if (source.piped > 0) {
      source.withheld = source.much;
      source.piped -= static_cast<uint32_t>(given);
    } else {
      source.rest_at += static_cast<uint32_t>(given);
    }
    source.moved += static_cast<double>(given);
    budget -= given;
  }
  if (source.rest != nullptr) {
    source.rest.reset();
    source.rest_at = source.rest_end = 0;
    source.rest_urgent = false;
  }
  return 0;
}

// Returns the bytes that came, 0 at the end of the stream, or -errno.
int32_t Splicer::TakeByPipe(Side& source) {
  const auto taken = static_cast<int32_t>(Retry([&] {
    return ::splice(source.fd, nullptr, source.pipe.in, nullptr, kChunk, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  }));
  if (taken > 0) {
    source.piped = static_cast<uint32_t>(taken);
    source.much = taken >= kMuch;
    if (taken < kSmall) source.bulk = false;
  }
  return taken;
}

// As TakeByPipe, and sends what came: `of_target`: the error is the target's.
int32_t Splicer::TakeByCopy(Side& source, Side& target, bool& of_target) {
  static thread_local uint8_t buffer[kCopy];
  // Urgent data alone, so that it can be sent on as such.
  const bool at_mark = source.urgent && IsAtMark(source.fd);
  const auto taken =
      static_cast<int32_t>(Retry([&] { return ::recv(source.fd, buffer, at_mark ? 1 : kCopy, MSG_DONTWAIT); }));
  if (taken <= 0) {
    if (taken == -EAGAIN) source.urgent = false;
    return taken;
  }
  const auto length = static_cast<uint32_t>(taken);
  if (length == kCopy) {
    source.bulk = !source.urgent;
  } else if (!source.hung_up && !source.urgent) {
    source.readable = false;
  }
  int32_t sent = -EAGAIN;
  if (target.writable) {
    const int flags = at_mark ? kFlags | MSG_OOB : kFlags;
    sent = static_cast<int32_t>(Retry([&] { return ::send(target.fd, buffer, length, flags); }));
  }
  if (sent == -EAGAIN) {
    target.writable = false;
    sent = 0;
  }
  if (sent < 0) {
    of_target = true;
    return sent;
  }
  source.moved += sent;
  const uint32_t left = length - static_cast<uint32_t>(sent);
  if (left > 0) {
    source.rest = std::make_unique<uint8_t[]>(left);
    memcpy(source.rest.get(), buffer + sent, left);
    source.rest_at = 0;
    source.rest_end = left;
    source.rest_urgent = at_mark;
  }
  return taken;
}

// Nothing more comes now: what SPLICE_F_MORE made the target's kernel keep, less than a segment, goes out.
void Splicer::Push(Side& source, const Side& target) {
  if (!source.withheld) return;
  source.withheld = false;
  // tcp(7): setting this option forces an explicit flush of pending output, also where it is set already.
  const int on = 1;
  (void)setsockopt(target.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int32_t Splicer::Pump(Pair& pair, int from, int64_t& budget, int& failed) {
  Side& source = pair.side[from];
  Side& target = pair.side[1 - from];
  for (;;) {
    if (const int32_t held = Give(pair, from, budget, failed); held < 0) return held == -EAGAIN ? kWaits : held;
    if (source.ended) {
      PutPipe(source);
      if (!source.told) {
        source.told = true;
        // Where both have ended both are closed, which says it as well.
        if (!target.ended) ::shutdown(target.fd, SHUT_WR);
      }
      return kWaits;
    }
    // Before the target is connected nothing is taken, so that nothing need be held.
    if (!source.readable || !target.writable) {
      if (!source.readable) Push(source, target);
      PutPipe(source);
      return kWaits;
    }
    if (budget <= 0) return kMore;
    bool of_target = false;
    const bool by_pipe = source.bulk && !source.urgent && GetPipe(source);
    const int32_t taken = by_pipe ? TakeByPipe(source) : TakeByCopy(source, target, of_target);
    if (taken > 0) {
      if (!by_pipe) budget -= taken;
      continue;
    }
    if (taken == 0) {
      source.ended = true;
    } else if (taken == -EAGAIN) {
      source.readable = false;
    } else {
      failed = of_target ? 1 - from : from;
      return taken;
    }
  }
}

int32_t Splicer::Move(int32_t id, int32_t of_a, int32_t of_b, int32_t budget) {
  Pair* const pair = At(id);
  if (pair == nullptr) return -EINVAL;
  const uint32_t events[2] = {static_cast<uint32_t>(of_a), static_cast<uint32_t>(of_b)};
  for (int at = 0; at < 2; at++) {
    const uint32_t bits = events[at];
    Side& seen = pair->side[at];
    if ((bits & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)) != 0) seen.readable = true;
    if ((bits & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) seen.hung_up = true;
    if ((bits & EPOLLPRI) != 0) seen.urgent = true;
    if ((bits & EPOLLOUT) != 0) seen.writable = true;
  }
  double* const out = thread_.tables->splice_out;
  const double before[2] = {pair->side[0].moved, pair->side[1].moved};
  int32_t result = kWaits;
  for (int from = 0; from < 2 && result >= 0; from++) {
    int64_t left = budget;
    int failed = from;
    const int32_t one = Pump(*pair, from, left, failed);
    if (one < 0) {
      out[2] = failed;
      result = one;
    } else if (one == kMore) {
      result = kMore;
    }
  }
  for (int from = 0; from < 2; from++) out[from] = pair->side[from].moved - before[from];
  if (result < 0) return result;
  // What could be delivered was; the target may take nothing more for ever.
  for (int at = 0; at < 2; at++) {
    if ((events[at] & EPOLLERR) == 0) continue;
    out[2] = at;
    return -ECONNRESET;
  }
  return pair->side[0].told && pair->side[1].told ? kDone : result;
}

double Splicer::Moved(int32_t id, int32_t side) const {
  const Pair* const pair = At(id);
  return pair == nullptr || side < 0 || side > 1 ? 0 : pair->side[side].moved;
}

int32_t Splicer::Close(int32_t id, bool abort) {
  Pair* const pair = At(id);
  if (pair == nullptr) return -EINVAL;
  for (Side& side : pair->side) {
    PutPipe(side);
    if (side.fd < 0) continue;
    if (abort) {
      Abort(thread_, side.fd);
    } else {
      tubetti::Close(thread_, side.fd);
    }
  }
  pairs_[static_cast<size_t>(id)].reset();
  return 0;
}

namespace {

Splicer& SplicerOf(Thread& thread) {
  if (thread.splicer == nullptr) thread.splicer = new Splicer(thread);
  return *thread.splicer;
}

}  // namespace

int32_t SpliceOpen(Thread& thread, int32_t id, int32_t a, int32_t b) { return SplicerOf(thread).Open(id, a, b); }

int32_t SpliceMove(Thread& thread, int32_t id, int32_t of_a, int32_t of_b, int32_t budget) {
  return SplicerOf(thread).Move(id, of_a, of_b, budget);
}

double SpliceMoved(Thread& thread, int32_t id, int32_t side) { return SplicerOf(thread).Moved(id, side); }

int32_t SpliceClose(Thread& thread, int32_t id, int32_t abort) { return SplicerOf(thread).Close(id, abort != 0); }

int32_t AskSockets(Thread&, int32_t fd, int32_t family, int32_t type, int32_t count) {
  const SocketsAsk ask = {family, type, count};
  return static_cast<int32_t>(Retry([&] { return ::send(fd, &ask, sizeof(ask), kFlags); }));
}

int32_t TakeSockets(Thread& thread, int32_t fd, Ints out) {
  SocketsAsk reply = {};
  iovec iov = {&reply, sizeof(reply)};
  alignas(cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int) * kMostSockets)];
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = Retry([&] { return ::recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
  if (got < 0) return static_cast<int32_t>(got);
  if (got == 0) return -EPIPE;
  int32_t received[kMostSockets];
  size_t count = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t more = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(received + count, CMSG_DATA(c), more * sizeof(int));
    count += more;
  }
  if (out.length < 2 || count > out.length - 2 || static_cast<size_t>(got) < sizeof(reply)) {
    for (size_t i = 0; i < count; i++) ::close(received[i]);
    return -EMSGSIZE;
  }
  out.data[0] = reply.family;
  out.data[1] = reply.type;
  for (size_t i = 0; i < count; i++) out.data[2 + i] = thread.Keep(received[i]);
  return static_cast<int32_t>(count);
}

}  // namespace tubetti
