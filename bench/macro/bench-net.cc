// The bench's traffic, both ends of it in one static program: `serve` runs in the world beyond the gateway, everything
// else in the guest. Addresses as literals only. A client prints one RESULT line and exits with 0, or says what went
// wrong and exits with 1.
//
// The first byte of a connection says what is wanted of the server:
//
//   's'  source: bytes until the client closes
//   'k'  sink: reads to the end, then answers with the count as 8 bytes, host order (both ends are one machine)
//   'e'  echo: each byte that follows comes back; such connections may be many, and idle
//   'c'  one byte back and close. The server closes first, so that TIME_WAIT stays with it and neither the guest nor the
//        back-end's host runs out of ports
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr size_t kBuffer = 1 << 18;
constexpr int kBacklog = 4096;
// How many connections the client opens at a time, so that no queue of SYNs overflows.
constexpr size_t kOpenBatch = 64;

[[noreturn]] void Fail(const char* what) {
  perror(what);
  exit(1);
}

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

// As many descriptors as the system lets this user have.
void RaiseDescriptorLimit(rlim_t wanted) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur >= wanted) return;
  rlimit more = {wanted, std::max(wanted, limit.rlim_max)};
  if (setrlimit(RLIMIT_NOFILE, &more) == 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

void NoDelay(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void SetBlocking(int fd, bool blocking) {
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

bool WriteAll(int fd, const void* data, size_t length) {
  auto* at = static_cast<const char*>(data);
  while (length > 0) {
    const ssize_t put = send(fd, at, length, MSG_NOSIGNAL);
    if (put <= 0) return false;
    at += put;
    length -= static_cast<size_t>(put);
  }
  return true;
}

bool ReadAll(int fd, void* data, size_t length) {
  auto* at = static_cast<char*>(data);
  while (length > 0) {
    const ssize_t got = read(fd, at, length);
    if (got <= 0) return false;
    at += got;
    length -= static_cast<size_t>(got);
  }
  return true;
}

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
      if (verb == 's' || verb == 'k') {
        epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
        SetBlocking(fd, true);
        std::thread(verb == 's' ? Source : Sink, fd).detach();
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

sockaddr_storage peer{};
socklen_t peer_length = 0;

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

int Connect(char verb) {
  const int fd = socket(peer.ss_family, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&peer), peer_length) < 0) Fail("connect");
  NoDelay(fd);
  if (!WriteAll(fd, &verb, 1)) Fail("send");
  return fd;
}

void PrintBulk(uint64_t bytes, int64_t nanoseconds) {
  printf("RESULT bulk bytes=%llu seconds=%.6f\n", static_cast<unsigned long long>(bytes),
         static_cast<double>(nanoseconds) / 1e9);
}

// Reads for so long, counted from the first byte.
int BulkDown(double seconds) {
  const int fd = Connect('s');
  std::vector<char> buffer(kBuffer);
  ssize_t got = read(fd, buffer.data(), buffer.size());
  if (got <= 0) Fail("read");
  const int64_t started = NowNs();
  const int64_t end = started + static_cast<int64_t>(seconds * 1e9);
  uint64_t total = 0;
  int64_t now = started;
  while (now < end) {
    got = read(fd, buffer.data(), buffer.size());
    if (got <= 0) Fail("read");
    total += static_cast<uint64_t>(got);
    now = NowNs();
  }
  PrintBulk(total, now - started);
  return 0;
}

// Writes for so long; the time ends when the server has said that it has everything.
int BulkUp(double seconds) {
  const int fd = Connect('k');
  const std::vector<char> buffer(kBuffer, 'x');
  const int64_t started = NowNs();
  const int64_t end = started + static_cast<int64_t>(seconds * 1e9);
  uint64_t sent = 0;
  while (NowNs() < end) {
    if (!WriteAll(fd, buffer.data(), buffer.size())) Fail("send");
    sent += buffer.size();
  }
  uint64_t arrived = 0;
  if (shutdown(fd, SHUT_WR) < 0 || !ReadAll(fd, &arrived, sizeof arrived)) Fail("the sink's answer");
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
  const auto at = [&](double part) {
    return static_cast<double>(times[static_cast<size_t>(part * static_cast<double>(times.size() - 1))]) / 1e3;
  };
  printf("RESULT transactions count=%zu seconds=%.6f p50=%.1f p99=%.1f\n", times.size(),
         static_cast<double>(before - started) / 1e9, at(0.5), at(0.99));
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
  if (!strcmp(verb, "serve") && argc == 3) return Server().Run(atoi(argv[2]));
  if (argc >= 4) ParsePeer(argv[2], atoi(argv[3]));
  if (!strcmp(verb, "down") && argc == 5) return BulkDown(atof(argv[4]));
  if (!strcmp(verb, "up") && argc == 5) return BulkUp(atof(argv[4]));
  if (!strcmp(verb, "rr") && argc == 6) return RequestResponse(atof(argv[4]), static_cast<size_t>(atol(argv[5])));
  if (!strcmp(verb, "crr") && argc == 5) return ConnectRequestClose(atof(argv[4]));
  if (!strcmp(verb, "idle") && argc == 5) return Idle(static_cast<size_t>(atol(argv[4])));
  fprintf(stderr,
          "bench-net serve PORT | down ADDRESS PORT SECONDS | up ADDRESS PORT SECONDS | rr ADDRESS PORT SECONDS BYTES | "
          "crr ADDRESS PORT SECONDS | idle ADDRESS PORT COUNT\n");
  return 2;
}
