// The guest's network tools that busybox has not: datagrams that are checked, and echo servers to be forwarded to.
// Linked statically, addresses as literals only (no resolver). It prints one RESULT line and exits with 0, or says what
// went wrong and exits with 1.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

// UDP_SEGMENT of <linux/udp.h>, which does not go together with <netinet/udp.h> everywhere.
constexpr int kUdpSegment = 103;

[[noreturn]] void Fail(const char* what) {
  perror(what);
  exit(1);
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
  fprintf(stderr, "not an address: %s\n", text);
  exit(1);
}

double Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// A datagram socket bound to a port of this end's choice.
int BoundTo(int family, int port) {
  const int fd = socket(family, SOCK_DGRAM, 0);
  sockaddr_storage any{};
  const socklen_t length = ParseAddress(family == AF_INET ? "0.0.0.0" : "::", port, &any);
  if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&any), length) < 0) Fail("bind");
  return fd;
}

// Sends `count` datagrams of `size` bytes, one after the other, and wants each back unchanged within a second. A
// datagram may be lost once: it is sent again up to four times, and that is told.
int UdpEcho(const char* address, int port, size_t size, int count, int source_port) {
  sockaddr_storage peer{};
  const socklen_t length = ParseAddress(address, port, &peer);
  const int fd = BoundTo(peer.ss_family, source_port);
  if ( connect(fd, reinterpret_cast<sockaddr*>(&peer), length) < 0) Fail("udp");
  std::vector<unsigned char> out(size), in(65536);
  int resent = 0;
  const double started = Now();
  for (int i = 0; i < count; i++) {
    for (size_t at = 0; at < size; at++) out[at] = static_cast<unsigned char>(at * 7 + static_cast<size_t>(i));
    for (int attempt = 0;; attempt++) {
      if (attempt == 5) {
        fprintf(stderr, "datagram %d of %zu bytes: no echo\n", i, size);
        return 1;
      }
      if (attempt > 0) resent++;
      if (send(fd, out.data(), size, 0) != static_cast<ssize_t>(size)) Fail("send");
      pollfd wait = {fd, POLLIN, 0};
      if (poll(&wait, 1, 1000) <= 0) continue;
      const ssize_t got = recv(fd, in.data(), in.size(), 0);
      if (got < 0) Fail("recv");
      if (got == static_cast<ssize_t>(size) && memcmp(in.data(), out.data(), size) == 0) break;
      fprintf(stderr, "datagram %d of %zu bytes came back as %zd bytes, or changed\n", i, size, got);
      return 1;
    }
  }
  printf("RESULT udp-echo size=%zu count=%d resent=%d ms=%.1f\n", size, count, resent, (Now() - started) * 1e3);
  return 0;
}

// Sets what a datagram socket of both families does with "don't fragment"; no mode leaves the kernel's default.
void SetDiscover(int fd, int family, const char* mode) {
  constexpr struct {
    const char* name;
    int value;
  } kModes[] = {{"dont", IP_PMTUDISC_DONT}, {"want", IP_PMTUDISC_WANT}, {"do", IP_PMTUDISC_DO}, {"probe", IP_PMTUDISC_PROBE}};
  for (const auto& [name, value] : kModes) {
    if (strcmp(mode, name) != 0) continue;
    if (setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &value, sizeof value) < 0) Fail("IP_MTU_DISCOVER");
    if (family == AF_INET) return;
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &value, sizeof value) < 0) Fail("IPV6_MTU_DISCOVER");
    return;
  }
  fprintf(stderr, "not a mode: %s\n", mode);
  exit(1);
}

// Sends `count` datagrams of `size` bytes from a connected socket in a mode of IP_MTU_DISCOVER, and says of each what came
// of it: a, its echo came; l, nothing came for a second; r, it was refused with EMSGSIZE. And the socket's path MTU then.
int UdpDf(const char* mode, const char* address, int port, size_t size, int count) {
  sockaddr_storage peer{};
  const socklen_t length = ParseAddress(address, port, &peer);
  const bool v4 = peer.ss_family == AF_INET;
  const int fd = BoundTo(peer.ss_family, 0);
  SetDiscover(fd, peer.ss_family, mode);
  if (connect(fd, reinterpret_cast<sockaddr*>(&peer), length) < 0) Fail("udp");
  std::vector<unsigned char> out(size), in(65536);
  std::vector<char> outcome(static_cast<size_t>(count) + 1);
  for (int i = 0; i < count; i++) {
    for (size_t at = 0; at < size; at++) out[at] = static_cast<unsigned char>(at * 7 + static_cast<size_t>(i));
    char& letter = outcome[static_cast<size_t>(i)];
    letter = 'l';
    if (send(fd, out.data(), size, 0) < 0) {
      if (errno != EMSGSIZE) Fail("send");
      letter = 'r';
      continue;
    }
    for (const double until = Now() + 1; letter == 'l' && Now() < until;) {
      pollfd wait = {fd, POLLIN, 0};
      poll(&wait, 1, static_cast<int>((until - Now()) * 1e3) + 1);
      // What poll reports may be the error of a datagram that was lost: it is for the next send to say.
      if ((wait.revents & POLLERR) != 0) {
        const timespec rest = {0, 100'000'000};
        nanosleep(&rest, nullptr);
        break;
      }
      if ((wait.revents & POLLIN) == 0) continue;
      const ssize_t got = recv(fd, in.data(), in.size(), 0);
      if (got == static_cast<ssize_t>(size) && memcmp(in.data(), out.data(), size) == 0) letter = 'a';
    }
  }
  int mtu = 0;
  socklen_t mtu_length = sizeof mtu;
  getsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU : IPV6_MTU, &mtu, &mtu_length);
  printf("RESULT udp-df outcome=%s mtu=%d\n", outcome.data(), mtu);
  return 0;
}

// Sends `count` datagrams in bursts, each with its number, of `size` bytes but for the last of a burst, which is shorter,
// and wants them back as they were and in order. `segment`: each burst is one message that the kernel, or the network card,
// cuts (UDP_SEGMENT, udp(7)).
int UdpBurst(const char* address, int port, size_t size, int count, bool segment) {
  constexpr int kBurst = 24;
  sockaddr_storage peer{};
  const socklen_t length = ParseAddress(address, port, &peer);
  const int fd = BoundTo(peer.ss_family, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&peer), length) < 0) Fail("udp");
  const int cut = static_cast<int>(size);
  if (segment && setsockopt(fd, IPPROTO_UDP, kUdpSegment, &cut, sizeof cut) < 0) Fail("UDP_SEGMENT");
  std::vector<unsigned char> out(size * kBurst), in(65536);
  int exact = 0;
  for (int at = 0; at < count; at += kBurst) {
    const int n = count - at < kBurst ? count - at : kBurst;
    mmsghdr messages[kBurst] = {};
    iovec parts[kBurst];
    for (int i = 0; i < n; i++) {
      unsigned char* bytes = out.data() + static_cast<size_t>(i) * size;
      for (size_t b = 0; b < size; b++) bytes[b] = static_cast<unsigned char>(b * 7 + static_cast<size_t>(at + i) * 13);
      parts[i] = {bytes, i == n - 1 ? size / 2 : size};
      messages[i].msg_hdr.msg_iov = &parts[i];
      messages[i].msg_hdr.msg_iovlen = 1;
    }
    if (segment) {
      msghdr whole{};
      whole.msg_iov = parts;
      whole.msg_iovlen = static_cast<size_t>(n);
      if (sendmsg(fd, &whole, 0) < 0) Fail("sendmsg");
    }
    for (int i = segment ? n : 0; i < n;) {
      const int put = sendmmsg(fd, messages + i, static_cast<unsigned>(n - i), 0);
      if (put < 0) Fail("sendmmsg");
      i += put;
    }
    for (int i = 0; i < n; i++) {
      pollfd wait = {fd, POLLIN, 0};
      if (poll(&wait, 1, 3000) <= 0) {
        fprintf(stderr, "datagram %d of %zu bytes: no echo\n", at + i, size);
        return 1;
      }
      const ssize_t got = recv(fd, in.data(), in.size(), 0);
      if (got == static_cast<ssize_t>(parts[i].iov_len) && memcmp(in.data(), parts[i].iov_base, parts[i].iov_len) == 0) {
        exact++;
      }
    }
  }
  printf("RESULT udp-burst count=%d exact=%d\n", count, exact);
  return 0;
}

// One question from each of `count` ports, `kOpen` of them waiting at a time; each wants its own answer.
int UdpMany(const char* address, int port, int count) {
  constexpr int kOpen = 64;
  constexpr int kFirstPort = 10000;
  sockaddr_storage peer{};
  const socklen_t length = ParseAddress(address, port, &peer);
  int answered = 0, lost = 0;
  const double started = Now();
  for (int at = 0; at < count; at += kOpen) {
    int fds[kOpen];
    const int n = count - at < kOpen ? count - at : kOpen;
    for (int i = 0; i < n; i++) {
      const int question = at + i;
      fds[i] = BoundTo(peer.ss_family, kFirstPort + question);
      const auto* to = reinterpret_cast<sockaddr*>(&peer);
      if (sendto(fds[i], &question, sizeof question, 0, to, length) < 0) Fail("sendto");
    }
    for (int i = 0; i < n; i++) {
      int answer = -1;
      pollfd wait = {fds[i], POLLIN, 0};
      const bool came = poll(&wait, 1, 3000) > 0 && recv(fds[i], &answer, sizeof answer, 0) == sizeof answer;
      if (came && answer == at + i) answered++;
      else lost++;
      close(fds[i]);
    }
  }
  printf("RESULT udp-many count=%d answered=%d lost=%d ms=%.0f\n", count, answered, lost, (Now() - started) * 1e3);
  return 0;
}

// One question from each of `count` ports, as UdpMany, but through one raw socket: the guest's own system calls would be
// most of the time that a hundred thousand sockets take. Asks again for nothing; what has no answer after three silent
// seconds is lost.
int UdpPorts(const char* address, int port, int count) {
  constexpr int kFirstPort = 10000, kOpen = 128, kBatch = 32;
  struct Question {
    uint16_t source, destination, length, checksum;
    int32_t number;
  };
  sockaddr_storage peer{};
  const socklen_t length = ParseAddress(address, 0, &peer);
  const bool v4 = peer.ss_family == AF_INET;
  const int fd = socket(peer.ss_family, SOCK_RAW, IPPROTO_UDP);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&peer), length) < 0) Fail("raw socket");
  // IPv4 allows none; for IPv6 the kernel computes it.
  const int checksum_at = 6;
  if (!v4 && setsockopt(fd, IPPROTO_IPV6, IPV6_CHECKSUM, &checksum_at, sizeof checksum_at) < 0) Fail("checksum");
  std::vector<bool> answered(static_cast<size_t>(count));
  Question questions[kBatch];
  unsigned char answers[kBatch][128];
  iovec out[kBatch], in[kBatch];
  mmsghdr outgoing[kBatch] = {}, incoming[kBatch] = {};
  for (int i = 0; i < kBatch; i++) {
    out[i] = {&questions[i], sizeof questions[i]};
    in[i] = {answers[i], sizeof answers[i]};
    outgoing[i].msg_hdr.msg_iov = &out[i];
    incoming[i].msg_hdr.msg_iov = &in[i];
    outgoing[i].msg_hdr.msg_iovlen = incoming[i].msg_hdr.msg_iovlen = 1;
  }
  int asked = 0, got = 0;
  const double started = Now();
  while (got < count) {
    if (asked < count && asked - got <= kOpen - kBatch) {
      int n = 0;
      for (; n < kBatch && asked + n < count; n++) {
        const auto source = static_cast<uint16_t>(kFirstPort + asked + n);
        questions[n] = {htons(source), htons(static_cast<uint16_t>(port)), htons(sizeof(Question)), 0, asked + n};
      }
      for (int sent = 0; sent < n;) {
        const int r = sendmmsg(fd, outgoing + sent, static_cast<unsigned>(n - sent), 0);
        if (r < 0) Fail("sendmmsg");
        sent += r;
      }
      asked += n;
      continue;
    }
    pollfd wait = {fd, POLLIN, 0};
    if (poll(&wait, 1, 3000) <= 0) break;
    const int n = recvmmsg(fd, incoming, kBatch, MSG_DONTWAIT, nullptr);
    if (n < 0) Fail("recvmmsg");
    for (int i = 0; i < n; i++) {
      // IPv4's raw sockets give the IP header too.
      const size_t at = v4 ? (answers[i][0] & 15u) * 4u : 0;
      Question answer;
      if (incoming[i].msg_len < at + sizeof answer) continue;
      memcpy(&answer, answers[i] + at, sizeof answer);
      if (ntohs(answer.source) != port || answer.number < 0 || answer.number >= count) continue;
      if (ntohs(answer.destination) != kFirstPort + answer.number) continue;
      const auto number = static_cast<size_t>(answer.number);
      if (!answered[number]) got++;
      answered[number] = true;
    }
  }
  printf("RESULT udp-ports count=%d answered=%d lost=%d ms=%.0f\n", count, got, asked - got, (Now() - started) * 1e3);
  return 0;
}

// Asks a group or everybody, and prints who answers first.
int UdpDiscover(const char* address, int port) {
  sockaddr_storage peer{};
  const socklen_t length = ParseAddress(address, port, &peer);
  const int fd = BoundTo(peer.ss_family, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
  for (int attempt = 0; attempt < 5; attempt++) {
    if (sendto(fd, "who?", 4, 0, reinterpret_cast<sockaddr*>(&peer), length) < 0) Fail("sendto");
    pollfd wait = {fd, POLLIN, 0};
    if (poll(&wait, 1, 1000) <= 0) continue;
    sockaddr_in from{};
    socklen_t from_length = sizeof from;
    char in[16], name[INET_ADDRSTRLEN];
    const ssize_t got = recvfrom(fd, in, sizeof in, 0, reinterpret_cast<sockaddr*>(&from), &from_length);
    if (got != 4 || from.sin_family != AF_INET) continue;
    inet_ntop(AF_INET, &from.sin_addr, name, sizeof name);
    printf("RESULT udp-discover from=%s port=%d\n", name, ntohs(from.sin_port));
    return 0;
  }
  fprintf(stderr, "nobody answers\n");
  return 1;
}

int Bound(int type, int port) {
  const int fd = socket(AF_INET6, type, 0);
  const int on = 1, off = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_port = htons(static_cast<uint16_t>(port));
  if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) < 0) Fail("bind");
  return fd;
}

// Echoes datagrams on a port, for ever, in the background once the port is bound.
int UdpServe(int port, const char* mode) {
  const int fd = Bound(SOCK_DGRAM, port);
  if (mode != nullptr) SetDiscover(fd, AF_INET6, mode);
  if (daemon(0, 0) < 0) Fail("daemon");
  std::vector<unsigned char> buffer(65536);
  for (;;) {
    sockaddr_storage peer{};
    socklen_t length = sizeof peer;
    const ssize_t got = recvfrom(fd, buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&peer), &length);
    if (got >= 0) sendto(fd, buffer.data(), static_cast<size_t>(got), 0, reinterpret_cast<sockaddr*>(&peer), length);
  }
}

bool WriteAll(int fd, const unsigned char* data, size_t length) {
  while (length > 0) {
    const ssize_t put = write(fd, data, length);
    if (put <= 0) return false;
    data += put;
    length -= static_cast<size_t>(put);
  }
  return true;
}

// Echoes TCP connections on a port until the peer's FIN, then sends its own; likewise in the background.
int TcpServe(int port) {
  const int fd = Bound(SOCK_STREAM, port);
  if (listen(fd, 64) < 0) Fail("listen");
  signal(SIGCHLD, SIG_IGN);
  if (daemon(0, 0) < 0) Fail("daemon");
  for (;;) {
    const int connection = accept(fd, nullptr, nullptr);
    if (connection < 0) continue;
    if (fork() == 0) {
      std::vector<unsigned char> buffer(1 << 18);
      ssize_t got;
      while ((got = read(connection, buffer.data(), buffer.size())) > 0) {
        if (!WriteAll(connection, buffer.data(), static_cast<size_t>(got))) _exit(1);
      }
      _exit(0);
    }
    close(connection);
  }
}

// Connects, copies standard input there until its end, half-closes, and prints what comes back until the peer's FIN.
int TcpSend(const char* address, int port) {
  sockaddr_storage peer{};
  const socklen_t length = ParseAddress(address, port, &peer);
  const int fd = socket(peer.ss_family, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&peer), length) < 0) Fail("connect");
  std::vector<unsigned char> buffer(1 << 18);
  ssize_t got;
  while ((got = read(0, buffer.data(), buffer.size())) > 0) {
    if (!WriteAll(fd, buffer.data(), static_cast<size_t>(got))) Fail("write");
  }
  if (got < 0) Fail("read of standard input");
  if (shutdown(fd, SHUT_WR) < 0) Fail("shutdown");
  while ((got = read(fd, buffer.data(), buffer.size())) > 0) {
    if (!WriteAll(1, buffer.data(), static_cast<size_t>(got))) Fail("write");
  }
  if (got < 0) Fail("read");
  return 0;
}

// Connects, and copies what comes to standard output until the peer's FIN.
int TcpReceive(const char* address, int port) {
  sockaddr_storage peer{};
  const socklen_t length = ParseAddress(address, port, &peer);
  const int fd = socket(peer.ss_family, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&peer), length) < 0) Fail("connect");
  std::vector<unsigned char> buffer(1 << 18);
  ssize_t got;
  while ((got = read(fd, buffer.data(), buffer.size())) > 0) {
    if (!WriteAll(1, buffer.data(), static_cast<size_t>(got))) Fail("write");
  }
  if (got < 0) Fail("read");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* verb = argc > 1 ? argv[1] : "";
  if (!strcmp(verb, "udp-echo") && (argc == 6 || argc == 7)) {
    const int source_port = argc == 7 ? atoi(argv[6]) : 0;
    return UdpEcho(argv[2], atoi(argv[3]), static_cast<size_t>(atol(argv[4])), atoi(argv[5]), source_port);
  }
  if (!strcmp(verb, "udp-burst") && (argc == 6 || (argc == 7 && !strcmp(argv[6], "segment")))) {
    return UdpBurst(argv[2], atoi(argv[3]), static_cast<size_t>(atol(argv[4])), atoi(argv[5]), argc == 7);
  }
  if (!strcmp(verb, "udp-many") && argc == 5) return UdpMany(argv[2], atoi(argv[3]), atoi(argv[4]));
  if (!strcmp(verb, "udp-ports") && argc == 5) return UdpPorts(argv[2], atoi(argv[3]), atoi(argv[4]));
  if (!strcmp(verb, "udp-discover") && argc == 4) return UdpDiscover(argv[2], atoi(argv[3]));
  if (!strcmp(verb, "udp-df") && argc == 7) {
    return UdpDf(argv[2], argv[3], atoi(argv[4]), static_cast<size_t>(atol(argv[5])), atoi(argv[6]));
  }
  if (!strcmp(verb, "udp-serve") && (argc == 3 || argc == 4)) return UdpServe(atoi(argv[2]), argc == 4 ? argv[3] : nullptr);
  if (!strcmp(verb, "tcp-serve") && argc == 3) return TcpServe(atoi(argv[2]));
  if (!strcmp(verb, "tcp-send") && argc == 4) return TcpSend(argv[2], atoi(argv[3]));
  if (!strcmp(verb, "tcp-receive") && argc == 4) return TcpReceive(argv[2], atoi(argv[3]));
  fprintf(stderr,
          "guest-net udp-echo ADDRESS PORT SIZE COUNT [SOURCE-PORT] | udp-many ADDRESS PORT COUNT | "
          "udp-ports ADDRESS PORT COUNT | "
          "udp-burst ADDRESS PORT SIZE COUNT [segment] | "
          "udp-discover GROUP PORT | udp-df MODE ADDRESS PORT SIZE COUNT | udp-serve PORT [MODE] | tcp-serve PORT | tcp-send ADDRESS PORT | "
          "tcp-receive ADDRESS PORT\n");
  return 2;
}
