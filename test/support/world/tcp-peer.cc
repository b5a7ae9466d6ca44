// One end of TCP conversations, for the guest and for the worlds outside alike: what happens on a connection is a list
// of steps on the command line. Linked statically, addresses as literals only.
//
//   tcp-peer accept PORT COUNT STEP…             listens (port 0: any), COUNT connections at once (0: for ever)
//   tcp-peer connect ADDRESS PORT COUNT STEP…    COUNT connections at once
//   tcp-peer repeat ADDRESS PORT COUNT STEP…     COUNT connections, one after the other
//
//   send:BYTES sendfor:MS fin recv recv:BYTES echo sleep:MS rr:COUNT:BYTES:PAUSE_US barrier say:WORD wait
//   accept-after:MS
//
// `recv` alone reads to the peer's FIN. All bytes are a function of their position in the stream and checked on
// arrival, but for those of `echo`, which go back. `barrier` waits for all COUNT connections, `wait` for a line on
// standard input. A lone connection prints a RESULT line for every step, and what ss -ti would tell at the end; many
// print a sum. Exit status 0 if every step of every connection succeeded.
#include <arpa/inet.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

// A prime, so that nothing a network loses or repeats is a whole number of periods by chance.
constexpr size_t kPeriod = 1048583;
constexpr size_t kChunk = 1 << 18;
// Of one connection among many: their buffers are the guest's memory.
constexpr size_t kSmallChunk = 1 << 14;
constexpr size_t kStack = 1 << 16;

std::vector<unsigned char> pattern;
std::vector<std::string> steps;
bool lone = true;
pthread_barrier_t barrier;
std::atomic<int> succeeded, failed;
unsigned char* stacks;

void MakePattern() {
  pattern.resize(kPeriod + kChunk);
  uint64_t state = 0x9e3779b97f4a7c15;
  for (size_t i = 0; i < kPeriod; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    pattern[i] = static_cast<unsigned char>(state >> 32);
  }
  memcpy(pattern.data() + kPeriod, pattern.data(), kChunk);
}

double NowMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

void SleepUs(long us) {
  timespec time = {us / 1000000, us % 1000000 * 1000};
  while (nanosleep(&time, &time) < 0 && errno == EINTR) {
  }
}

[[noreturn]] void Die(const char* what) {
  printf("RESULT fail step=%s error=%s bytes=0\n", what, strerrorname_np(errno));
  fflush(stdout);
  exit(1);
}

// One connection and where its two streams are.
struct Connection {
  int fd;
  size_t sent;
  size_t received;
  // Connections to an echo begin at different places of the pattern: what is mixed up is seen.
  size_t offset;
  std::vector<unsigned char> buffer;
  const char* error = "";

  bool Fail(const char* why) {
    error = why;
    return false;
  }

  bool Send(size_t bytes, double until) {
    for (size_t left = bytes; left > 0 && (until == 0 || NowMs() < until);) {
      const size_t want = std::min(left, kChunk);
      const ssize_t put = send(fd, pattern.data() + (offset + sent) % kPeriod, want, MSG_NOSIGNAL);
      if (put < 0) return Fail(strerrorname_np(errno));
      sent += static_cast<size_t>(put);
      left -= static_cast<size_t>(put);
    }
    return true;
  }

  // Reads exactly `bytes`, or to the end of the stream if that is 0.
  bool Receive(size_t bytes) {
    size_t left = bytes == 0 ? SIZE_MAX : bytes;
    while (left > 0) {
      const ssize_t got = recv(fd, buffer.data(), std::min(left, buffer.size()), 0);
      if (got < 0) return Fail(strerrorname_np(errno));
      if (got == 0) return bytes == 0 || Fail("EOF");
      if (memcmp(buffer.data(), pattern.data() + (offset + received) % kPeriod, static_cast<size_t>(got)) != 0) {
        return Fail("CHANGED");
      }
      received += static_cast<size_t>(got);
      left -= static_cast<size_t>(got);
    }
    return true;
  }

  bool Echo() {
    for (;;) {
      const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
      if (got < 0) return Fail(strerrorname_np(errno));
      if (got == 0) return true;
      for (ssize_t at = 0; at < got;) {
        const ssize_t put = send(fd, buffer.data() + at, static_cast<size_t>(got - at), MSG_NOSIGNAL);
        if (put < 0) return Fail(strerrorname_np(errno));
        at += put;
      }
      received += static_cast<size_t>(got);
    }
  }

  bool RequestResponse(int count, size_t bytes, long pauseUs) {
    std::vector<double> times;
    for (int i = 0; i < count; i++) {
      const double begun = NowMs();
      if (!Send(bytes, 0) || !Receive(bytes)) return false;
      times.push_back((NowMs() - begun) * 1e3);
      if (pauseUs > 0) SleepUs(pauseUs);
    }
    std::sort(times.begin(), times.end());
    printf("RESULT exchange count=%d median=%.0f p90=%.0f max=%.0f\n", count, times[times.size() / 2],
           times[times.size() * 9 / 10], times.back());
    return true;
  }

  bool Step(const std::string& step) {
    const size_t colon = step.find(':');
    const std::string name = step.substr(0, colon);
    const std::string rest = colon == std::string::npos ? "" : step.substr(colon + 1);
    const long number = atol(rest.c_str());
    if (name == "send") return Send(static_cast<size_t>(number), 0);
    if (name == "sendfor") return Send(SIZE_MAX, NowMs() + static_cast<double>(number));
    if (name == "fin") return shutdown(fd, SHUT_WR) == 0 || Fail(strerrorname_np(errno));
    if (name == "recv") return Receive(static_cast<size_t>(number));
    if (name == "echo") return Echo();
    if (name == "sleep") SleepUs(number * 1000);
    if (name == "barrier") pthread_barrier_wait(&barrier);
    if (name == "say") printf("RESULT %s\n", rest.c_str());
    if (name == "wait") {
      char line[64];
      if (fgets(line, sizeof line, stdin) == nullptr) return Fail("EOF");
    }
    if (name == "rr") {
      int count = 0;
      long bytes = 0, pause = 0;
      sscanf(rest.c_str(), "%d:%ld:%ld", &count, &bytes, &pause);
      return RequestResponse(count, static_cast<size_t>(bytes), pause);
    }
    return true;
  }

  void PrintInfo() {
    tcp_info info{};
    socklen_t length = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0) return;
    printf("RESULT info retransmits=%u rtt_us=%u cwnd=%u mss=%u rcv_space=%u\n", info.tcpi_total_retrans, info.tcpi_rtt,
           info.tcpi_snd_cwnd, info.tcpi_snd_mss, info.tcpi_rcv_space);
  }

  // Walks through the steps and closes.
  void Run() {
    buffer.resize(lone ? kChunk : kSmallChunk);
    bool ok = true;
    size_t at = 0;
    for (; at < steps.size(); at++) {
      const size_t sentBefore = sent, receivedBefore = received;
      const double begun = NowMs();
      ok = Step(steps[at]);
      const std::string name = steps[at].substr(0, steps[at].find(':'));
      const size_t bytes = sent - sentBefore + received - receivedBefore;
      if (!ok) {
        printf("RESULT fail step=%s error=%s bytes=%zu\n", name.c_str(), error, bytes);
        break;
      }
      if (lone) printf("RESULT %s bytes=%zu ms=%.1f\n", name.c_str(), bytes, NowMs() - begun);
    }
    if (!ok && !lone) {
      // The others must not wait for this one.
      for (at++; at < steps.size(); at++)
        if (steps[at] == "barrier") pthread_barrier_wait(&barrier);
    }
    if (lone) PrintInfo();
    close(fd);
    (ok ? succeeded : failed)++;
  }
};

void* RunThread(void* argument) {
  auto* connection = static_cast<Connection*>(argument);
  connection->Run();
  delete connection;
  return nullptr;
}

// Stacks come from one allocation: a mapping for each makes hundreds of threads very slow in User Mode Linux. `slot`
// counts the connections; with -1 the system finds a stack.
pthread_t Spawn(int fd, size_t offset, int slot) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  if (slot >= 0) pthread_attr_setstack(&attributes, stacks + static_cast<size_t>(slot) * kStack, kStack);
  pthread_t thread;
  if (pthread_create(&thread, &attributes, RunThread, new Connection{fd, 0, 0, offset, {}}) != 0) Die("thread");
  return thread;
}

int Connect(const sockaddr_storage& peer, socklen_t length) {
  const double begun = NowMs();
  const int fd = socket(peer.ss_family, SOCK_STREAM, 0);
  if (fd < 0) Die("socket");
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&peer), length) < 0) {
    const int error = errno;
    if (failed++ == 0) {
      printf("RESULT fail step=connect error=%s bytes=0 ms=%.1f\n", strerrorname_np(error), NowMs() - begun);
    }
    close(fd);
    return -1;
  }
  return fd;
}

socklen_t ParseAddress(const char* text, int port, sockaddr_storage* out) {
  memset(out, 0, sizeof *out);
  auto* v4 = reinterpret_cast<sockaddr_in*>(out);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(out);
  if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    return sizeof *v4;
  }
  if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    return sizeof *v6;
  }
  errno = EINVAL;
  Die("address");
}

int Finish() {
  printf("RESULT done succeeded=%d failed=%d\n", succeeded.load(), failed.load());
  return failed == 0 ? 0 : 1;
}

void Prepare(int count) {
  lone = count == 1;
  if (count == 0) return;
  pthread_barrier_init(&barrier, nullptr, static_cast<unsigned>(count));
  stacks = static_cast<unsigned char*>(aligned_alloc(4096, static_cast<size_t>(count) * kStack));
}

int ConnectMany(const char* address, int port, int count, bool together) {
  sockaddr_storage peer{};
  const socklen_t length = ParseAddress(address, port, &peer);
  Prepare(count);
  std::vector<pthread_t> threads;
  Connection reused{-1, 0, 0, 0, {}};
  for (int i = 0; i < count; i++) {
    const int fd = Connect(peer, length);
    if (fd < 0) {
      // With a connection less, nobody would leave the barrier.
      if (together && !lone) exit(Finish());
      continue;
    }
    if (together && !lone) {
      threads.push_back(Spawn(fd, static_cast<size_t>(i) * 7919, i));
      continue;
    }
    reused.fd = fd;
    reused.sent = reused.received = 0;
    reused.Run();
  }
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  return Finish();
}

int Accept(int port, int count) {
  const int fd = socket(AF_INET6, SOCK_STREAM, 0);
  const int on = 1, off = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  sockaddr_in6 self{};
  self.sin6_family = AF_INET6;
  self.sin6_port = htons(static_cast<uint16_t>(port));
  if (bind(fd, reinterpret_cast<sockaddr*>(&self), sizeof self) < 0 || listen(fd, 4096) < 0) Die("listen");
  socklen_t length = sizeof self;
  getsockname(fd, reinterpret_cast<sockaddr*>(&self), &length);
  printf("RESULT listening port=%d\n", ntohs(self.sin6_port));
  Prepare(count);
  if (!steps.empty() && steps[0].starts_with("accept-after:")) SleepUs(atol(steps[0].c_str() + 13) * 1000);
  std::vector<pthread_t> threads;
  for (int i = 0; count == 0 || i < count; i++) {
    const int connection = accept(fd, nullptr, nullptr);
    if (connection < 0) Die("accept");
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const pthread_t thread = Spawn(connection, 0, count == 0 ? -1 : i);
    if (count == 0)
      pthread_detach(thread);
    else
      threads.push_back(thread);
  }
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  return Finish();
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  signal(SIGPIPE, SIG_IGN);
  rlimit files = {8192, 8192};
  setrlimit(RLIMIT_NOFILE, &files);
  mallopt(M_ARENA_MAX, 1);
  MakePattern();
  const std::string verb = argc > 1 ? argv[1] : "";
  const int first = verb == "accept" ? 4 : 5;
  for (int i = first; i < argc; i++) steps.emplace_back(argv[i]);
  if (verb == "accept" && argc >= 4) return Accept(atoi(argv[2]), atoi(argv[3]));
  if (verb == "connect" && argc >= 5) return ConnectMany(argv[2], atoi(argv[3]), atoi(argv[4]), true);
  if (verb == "repeat" && argc >= 5) return ConnectMany(argv[2], atoi(argv[3]), atoi(argv[4]), false);
  fprintf(stderr,
          "tcp-peer accept PORT COUNT STEP… | connect ADDRESS PORT COUNT STEP… | repeat ADDRESS PORT COUNT STEP…\n");
  return 2;
}
