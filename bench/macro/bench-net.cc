// The bench's traffic, both ends of it in one static program (datagrams are in bench-udp.cc): `serve` runs in the world beyond the gateway, everything
// else in the guest. Addresses as literals only. A client prints one RESULT line and exits with 0, or says what went
// wrong and exits with 1.
//
// The first byte of a connection says what is wanted of the server:
//
//   's'  source: bytes until the client closes
//   'k'  sink: reads to the end, then answers with the count as 8 bytes, host order (both ends are one machine)
//   'S', 'K'  the same with the bytes of pattern.h; the sink resets the connection at the first wrong one
//   'e'  echo: each byte that follows comes back; such connections may be many, and idle
//   'c'  one byte back and close. The server closes first, so that TIME_WAIT stays with it and neither the guest nor the
//        back-end's host runs out of ports
//   'u', 'U', 'r'  datagrams, with this connection for their control
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "bench-net.h"
#include "pattern.h"

namespace {

constexpr size_t kBuffer = 1 << 18;
constexpr int kBacklog = 4096;
// How many connections the client opens at a time, so that no queue of SYNs overflows.
constexpr size_t kOpenBatch = 64;

// ---- The server ----------------------------------------------------------------------------------------------------

void Source(int fd) {
  const std::vector<char> buffer(kBuffer, 'x');
  while (send(fd, buffer.data(), buffer.size(), MSG_NOSIGNAL) > 0) {
  }
  close(fd);
}

void Sink(int fd) {
  std::vector<char> buffer(kBuffer);
  uint64_t total = 0;
  ssize_t got;
  while ((got = read(fd, buffer.data(), buffer.size())) > 0) total += static_cast<uint64_t>(got);
  if (got == 0) WriteAll(fd, &total, sizeof total);
  close(fd);
}

void PatternSource(int fd) {
  const std::vector<uint8_t> pattern = MakePattern();
  size_t at = 0;
  for (;;) {
    const ssize_t put = send(fd, pattern.data() + at, kPatternSlack, MSG_NOSIGNAL);
    if (put <= 0) break;
    at = (at + static_cast<size_t>(put)) % kPatternPeriod;
  }
  close(fd);
}

void PatternSink(int fd) {
  const std::vector<uint8_t> pattern = MakePattern();
  std::vector<uint8_t> buffer(kBuffer);
  uint64_t total = 0;
  ssize_t got;
  while ((got = read(fd, buffer.data(), buffer.size())) > 0) {
    if (!IsPattern(pattern.data(), total, buffer.data(), static_cast<size_t>(got))) {
      // Unread bytes would do the same, but there may be none.
      const linger reset = {1, 0};
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
      break;
    }
    total += static_cast<uint64_t>(got);
  }
  if (got == 0) WriteAll(fd, &total, sizeof total);
  close(fd);
}

// What serves a bulk connection; null: the verb is no such.
using Bulk = void (*)(int);
Bulk BulkOf(char verb) {
  switch (verb) {
    case 's':
      return Source;
    case 'S':
      return PatternSource;
    case 'k':
      return Sink;
    case 'K':
      return PatternSink;
    default:
      return nullptr;
  }
}

// Bulk connections get a thread each; all others share one loop.
class Server {
 public:
  int Run(int port) {
    RaiseDescriptorLimit(65536);
    signal(SIGPIPE, SIG_IGN);
    listener_ = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    const int on = 1, off = 0;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener_, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    any.sin6_port = htons(static_cast<uint16_t>(port));
    if (listener_ < 0 || bind(listener_, reinterpret_cast<sockaddr*>(&any), sizeof any) < 0) Fail("bind");
    if (listen(listener_, kBacklog) < 0) Fail("listen");
    // Datagrams for the next port are counted by the kernel and read by nobody: a sink that costs nothing.
    const int sink = socket(AF_INET6, SOCK_DGRAM, 0);
    any.sin6_port = htons(static_cast<uint16_t>(port + 1));
    if (sink < 0 || bind(sink, reinterpret_cast<sockaddr*>(&any), sizeof any) < 0) Fail("bind");
    epoll_ = epoll_create1(0);
    Watch(listener_);
    printf("LISTENING\n");
    fflush(stdout);
    epoll_event events[256];
    for (;;) {
      const int count = epoll_wait(epoll_, events, 256, -1);
      for (int i = 0; i < count; i++) {
        if (events[i].data.fd == listener_) {
          Accept();
        } else {
          Serve(events[i].data.fd);
        }
      }
    }
  }

 private:
  void Watch(int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  }

  void Accept() {
    for (;;) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK);
      if (fd < 0) return;
      NoDelay(fd);
      if (verbs_.size() <= static_cast<size_t>(fd)) verbs_.resize(static_cast<size_t>(fd) * 2 + 64);
      verbs_[static_cast<size_t>(fd)] = 0;
      Watch(fd);
    }
  }

  void Serve(int fd) {
    char& verb = verbs_[static_cast<size_t>(fd)];
    if (verb == 0) {
      const ssize_t got = read(fd, &verb, 1);
      if (got < 0 && errno == EAGAIN) return;
      if (got <= 0) {
        close(fd);
        return;
      }
      if (const Bulk bulk = BulkOf(verb); bulk != nullptr) {
        epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
        SetBlocking(fd, true);
        std::thread(bulk, fd).detach();
        return;
      }
      if (verb == 'u' || verb == 'U' || verb == 'r') {
        epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
        SetBlocking(fd, true);
        std::thread(ServeDatagrams, fd, verb).detach();
        return;
      }
      if (verb == 'c') {
        WriteAll(fd, "c", 1);
        close(fd);
        return;
      }
    }
    char bytes[16384];
    ssize_t got;
    while ((got = read(fd, bytes, sizeof bytes)) > 0) WriteAll(fd, bytes, static_cast<size_t>(got));
    if (got == 0 || errno != EAGAIN) close(fd);
  }

  int listener_ = -1;
  int epoll_ = -1;
  std::vector<char> verbs_;
};

// ---- The clients ---------------------------------------------------------------------------------------------------

void ParsePeer(const char* text, int port) {
  auto* v4 = reinterpret_cast<sockaddr_in*>(&peer);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&peer);
  if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    peer_length = sizeof *v4;
  } else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    peer_length = sizeof *v6;
  } else {
    fprintf(stderr, "not an address: %s\n", text);
    exit(1);
  }
}

void PrintBulk(uint64_t bytes, int64_t nanoseconds) {
  printf("RESULT bulk bytes=%llu seconds=%.6f\n", static_cast<unsigned long long>(bytes),
         static_cast<double>(nanoseconds) / 1e9);
}

// All streams of a client, in one loop: a thread each would measure the guest's scheduler too.
class Streams {
 public:
  Streams(char verb, size_t count, uint32_t events) : epoll_(epoll_create1(0)) {
    for (size_t i = 0; i < count; i++) {
      const int fd = Connect(verb);
      fds_.push_back(fd);
      if (count == 1) return;
      SetBlocking(fd, false);
      epoll_event event{};
      event.events = events;
      event.data.fd = fd;
      epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
    }
  }

  // Calls `turn(fd)` for streams that are ready, at least one.
  template <typename Turn>
  void Wait(Turn turn) {
    if (fds_.size() == 1) {
      turn(fds_[0]);
      return;
    }
    epoll_event ready[64];
    const int count = epoll_wait(epoll_, ready, 64, kStallMs);
    if (count == 0) {
      fprintf(stderr, "no stream moved for %d s\n", kStallMs / 1000);
      exit(1);
    }
    for (int i = 0; i < count; i++) turn(ready[i].data.fd);
  }

  const std::vector<int>& fds() const { return fds_; }

 private:
  static constexpr int kStallMs = 10'000;
  int epoll_;
  std::vector<int> fds_;
};

// Reads for so long, counted from the first byte.
int BulkDown(double seconds, size_t count) {
  Streams streams('s', count, EPOLLIN);
  std::vector<char> buffer(kBuffer);
  uint64_t total = 0;
  const auto take = [&](int fd) {
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got == 0 || (got < 0 && errno != EAGAIN)) Fail("read");
    if (got > 0) total += static_cast<uint64_t>(got);
  };
  streams.Wait(take);
  const int64_t started = NowNs();
  const int64_t end = started + static_cast<int64_t>(seconds * 1e9);
  total = 0;
  int64_t now = started;
  while (now < end) {
    streams.Wait(take);
    now = NowNs();
  }
  PrintBulk(total, now - started);
  return 0;
}

// Writes for so long; the time ends when the server has said that it has everything.
int BulkUp(double seconds, size_t count) {
  Streams streams('k', count, EPOLLOUT);
  const std::vector<char> buffer(kBuffer, 'x');
  const int64_t started = NowNs();
  const int64_t end = started + static_cast<int64_t>(seconds * 1e9);
  uint64_t sent = 0;
  while (NowNs() < end) {
    streams.Wait([&](int fd) {
      const ssize_t put = send(fd, buffer.data(), buffer.size(), MSG_NOSIGNAL);
      if (put < 0 && errno != EAGAIN) Fail("send");
      if (put > 0) sent += static_cast<uint64_t>(put);
    });
  }
  uint64_t arrived = 0;
  for (const int fd : streams.fds()) {
    if (shutdown(fd, SHUT_WR) < 0) Fail("shutdown");
  }
  for (const int fd : streams.fds()) {
    uint64_t of_this = 0;
    SetBlocking(fd, true);
    if (!ReadAll(fd, &of_this, sizeof of_this)) Fail("the sink's answer");
    arrived += of_this;
  }
  if (arrived != sent) {
    fprintf(stderr, "%llu bytes sent, %llu arrived\n", static_cast<unsigned long long>(sent),
            static_cast<unsigned long long>(arrived));
    return 1;
  }
  PrintBulk(arrived, NowNs() - started);
  return 0;
}

template <typename Transaction>
int Transactions(double seconds, Transaction transaction) {
  std::vector<int64_t> times;
  times.reserve(1 << 20);
  const int64_t started = NowNs();
  const int64_t end = started + static_cast<int64_t>(seconds * 1e9);
  int64_t before = started;
  while (before < end) {
    transaction();
    const int64_t after = NowNs();
    times.push_back(after - before);
    before = after;
  }
  std::sort(times.begin(), times.end());
  printf("RESULT transactions count=%zu seconds=%.6f p50=%.1f p99=%.1f\n", times.size(),
         static_cast<double>(before - started) / 1e9, Percentile(times, 0.5), Percentile(times, 0.99));
  return 0;
}

int RequestResponse(double seconds, size_t bytes) {
  const int fd = Connect('e');
  std::vector<char> message(bytes, 'r');
  return Transactions(seconds, [&] {
    if (!WriteAll(fd, message.data(), bytes) || !ReadAll(fd, message.data(), bytes)) Fail("request-response");
  });
}

int ConnectRequestClose(double seconds) {
  return Transactions(seconds, [] {
    const int fd = Connect('c');
    char byte = 0;
    if (!ReadAll(fd, &byte, 1)) Fail("response");
    if (read(fd, &byte, 1) != 0) Fail("the server's FIN");
    close(fd);
  });
}

// What one thread copies in blocks of 64 KiB from memory to memory, neither of them in a cache: no way of bytes that copies
// them once is faster than this.
int Memcpy(double seconds) {
  constexpr size_t kBlock = 1 << 16;
  // Larger than the last level of any cache, together.
  constexpr size_t kArea = 128 << 20;
  std::vector<char> from(kArea, 'm');
  std::vector<char> to(kArea, 'n');
  uint64_t bytes = 0;
  const int64_t started = NowNs();
  const int64_t end = started + static_cast<int64_t>(seconds * 1e9);
  int64_t now = started;
  for (size_t at = 0; now < end; now = NowNs()) {
    memcpy(to.data() + at, from.data() + at, kBlock);
    asm volatile("" : : "r"(to.data()) : "memory");
    bytes += kBlock;
    at = (at + kBlock) % kArea;
  }
  printf("RESULT memcpy bytes=%llu seconds=%.6f\n", static_cast<unsigned long long>(bytes),
         static_cast<double>(now - started) / 1e9);
  return 0;
}

// Opens connections, has one byte echoed on each so that they are known to be complete, and keeps them in the
// background for ever.
int Idle(size_t count) {
  RaiseDescriptorLimit(count + 64);
  const int64_t started = NowNs();
  std::vector<int> batch;
  for (size_t opened = 0; opened < count; opened += batch.size()) {
    batch.clear();
    while (batch.size() < std::min(kOpenBatch, count - opened)) {
      const int fd = socket(peer.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
      if (fd < 0) Fail("socket");
      if (connect(fd, reinterpret_cast<sockaddr*>(&peer), peer_length) < 0 && errno != EINPROGRESS) Fail("connect");
      batch.push_back(fd);
    }
    for (const int fd : batch) {
      pollfd wait = {fd, POLLOUT, 0};
      if (poll(&wait, 1, 10'000) != 1) Fail("no connection within 10 s");
      SetBlocking(fd, true);
      if (!WriteAll(fd, "ei", 2)) Fail("send");
    }
    for (const int fd : batch) {
      char byte = 0;
      if (!ReadAll(fd, &byte, 1)) Fail("echo");
    }
  }
  printf("RESULT idle count=%zu seconds=%.6f\n", count, static_cast<double>(NowNs() - started) / 1e9);
  fflush(stdout);
  if (daemon(0, 0) < 0) Fail("daemon");
  for (;;) pause();
}

}  // namespace

int main(int argc, char** argv) {
  const char* verb = argc > 1 ? argv[1] : "";
  if (!strcmp(verb, "serve") && argc == 4) datagram_port = static_cast<uint16_t>(atoi(argv[3]));
  if (!strcmp(verb, "serve") && (argc == 3 || argc == 4)) return Server().Run(atoi(argv[2]));
  if (!strcmp(verb, "memcpy") && argc == 3) return Memcpy(atof(argv[2]));
  if (argc >= 4) ParsePeer(argv[2], atoi(argv[3]));
  const double seconds = argc > 4 ? atof(argv[4]) : 0;
  const auto number = [&](int at, long otherwise) {
    return static_cast<uint32_t>(argc > at ? atol(argv[at]) : otherwise);
  };
  if (!strcmp(verb, "down") && argc >= 5) return BulkDown(seconds, number(5, 1));
  if (!strcmp(verb, "up") && argc >= 5) return BulkUp(seconds, number(5, 1));
  if (!strcmp(verb, "rr") && argc == 6) return RequestResponse(seconds, number(5, 1));
  if (!strcmp(verb, "crr") && argc == 5) return ConnectRequestClose(seconds);
  if (!strcmp(verb, "idle") && argc == 5) return Idle(number(4, 0));
  if (!strcmp(verb, "udp-up") && argc >= 6) return DatagramsUp(seconds, number(5, 0), number(6, 0));
  if (!strcmp(verb, "udp-down") && argc >= 6) return DatagramsDown(seconds, number(5, 0), number(6, 0));
  if (!strcmp(verb, "udp-rr") && argc == 6) return DatagramRequestResponse(seconds, number(5, 1));
  fprintf(stderr,
          "bench-net serve PORT [DATAGRAM_PORT] | memcpy SECONDS | (down | up) ADDRESS PORT SECONDS [STREAMS] | (rr | udp-rr) ADDRESS PORT SECONDS BYTES |\n"
          "crr ADDRESS PORT SECONDS | idle ADDRESS PORT COUNT | (udp-up | udp-down) ADDRESS PORT SECONDS BYTES [RATE]\n");
  return 2;
}
