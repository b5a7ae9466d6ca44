// Small things of the operating system.
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ctime>

#include "calls.h"

namespace tubetti {

int32_t Read(Thread&, int32_t fd, Bytes buf, int32_t offset, int32_t length) {
  uint8_t* data = buf.Range(offset, length);
  if (data == nullptr) return -EINVAL;
  return static_cast<int32_t>(Retry([&] { return ::read(fd, data, static_cast<size_t>(length)); }));
}

int32_t Write(Thread&, int32_t fd, Bytes buf, int32_t offset, int32_t length) {
  const uint8_t* data = buf.Range(offset, length);
  if (data == nullptr) return -EINVAL;
  return static_cast<int32_t>(Retry([&] { return ::write(fd, data, static_cast<size_t>(length)); }));
}

namespace {

double ClockUs(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec / 1000);
}

}  // namespace

double NowUs(Thread&) { return ClockUs(CLOCK_MONOTONIC); }

double RealTimeUs(Thread&) { return ClockUs(CLOCK_REALTIME); }

int32_t RandomFill(Thread&, Ints out) {
  auto* data = reinterpret_cast<uint8_t*>(out.data);
  size_t left = out.length * sizeof(int32_t);
  while (left > 0) {
    const auto got = Retry([&] { return ::getrandom(data, left, 0); });
    if (got < 0) return static_cast<int32_t>(got);
    data += got;
    left -= static_cast<size_t>(got);
  }
  return 0;
}

double RaiseFileLimit(Thread&) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return -errno;
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return static_cast<double>(before);
  return static_cast<double>(limit.rlim_cur);
}

double GetUid(Thread&) { return getuid(); }

}  // namespace tubetti
