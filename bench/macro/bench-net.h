// What both halves of bench-net share: time, whole reads and writes, the other end's address.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

inline sockaddr_storage peer{};
inline socklen_t peer_length = 0;

[[noreturn]] inline void Fail(const char* what) {
  perror(what);
  exit(1);
}

inline int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

// As many descriptors as the system lets this user have.
inline void RaiseDescriptorLimit(rlim_t wanted) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur >= wanted) return;
  rlimit more = {wanted, std::max(wanted, limit.rlim_max)};
  if (setrlimit(RLIMIT_NOFILE, &more) == 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

inline void NoDelay(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

inline void SetBlocking(int fd, bool blocking) {
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

inline bool WriteAll(int fd, const void* data, size_t length) {
  auto* at = static_cast<const char*>(data);
  while (length > 0) {
    const ssize_t put = send(fd, at, length, MSG_NOSIGNAL);
    if (put <= 0) return false;
    at += put;
    length -= static_cast<size_t>(put);
  }
  return true;
}

inline bool ReadAll(int fd, void* data, size_t length) {
  auto* at = static_cast<char*>(data);
  while (length > 0) {
    const ssize_t got = read(fd, at, length);
    if (got <= 0) return false;
    at += got;
    length -= static_cast<size_t>(got);
  }
  return true;
}

inline int Connect(char verb) {
  const int fd = socket(peer.ss_family, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&peer), peer_length) < 0) Fail("connect");
  NoDelay(fd);
  if (!WriteAll(fd, &verb, 1)) Fail("send");
  return fd;
}

// Of sorted nanoseconds, in microseconds.
template <typename Times>
double Percentile(const Times& times, double part) {
  return static_cast<double>(times[static_cast<size_t>(part * static_cast<double>(times.size() - 1))]) / 1e3;
}

// ---- bench-udp.cc --------------------------------------------------------------------------------------------------

// The server's port for datagrams; 0: any, and one for each client. A fixed one can be forwarded.
inline uint16_t datagram_port = 0;

// The server's part of the verbs 'u', 'U' and 'r' on a control connection, which it closes in the end.
void ServeDatagrams(int control, char verb);

int DatagramsUp(double seconds, uint32_t bytes, uint32_t rate);
int DatagramsDown(double seconds, uint32_t bytes, uint32_t rate);
int DatagramRequestResponse(double seconds, uint32_t bytes);
