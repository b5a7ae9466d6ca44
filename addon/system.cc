// Small things of the operating system.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <pwd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <vector>

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
  const int64_t us = int64_t{now.tv_sec} * 1000000 + now.tv_nsec / 1000;
  return static_cast<double>(us);
}

}  // namespace

double NowUs(Thread&) { return ClockUs(CLOCK_MONOTONIC); }

double RealTimeUs(Thread&) { return ClockUs(CLOCK_REALTIME); }

int32_t TrimHeap(Thread&) {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
  return 0;
}

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

int32_t MoveFd(Thread&, int32_t from, int32_t to) {
  if (from < 0 || to < 0) return -EBADF;
  if (from == to) return to;
  // Standard streams stay open over an exec, as every program expects.
  const int result = Retry([&] { return ::dup3(from, to, to <= STDERR_FILENO ? 0 : O_CLOEXEC); });
  if (result >= 0) ::close(from);
  return result;
}

int32_t DupFd(Thread&, int32_t fd) {
  const int result = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return result >= 0 ? result : -errno;
}

int32_t CloseOnExec(Thread&, int32_t first) {
  if (first < 0) return -EINVAL;
#if defined(SYS_close_range)
  constexpr unsigned kCloseRangeCloexec = 1U << 2;  // CLOSE_RANGE_CLOEXEC, Linux 5.11
  if (syscall(SYS_close_range, static_cast<unsigned>(first), ~0U, kCloseRangeCloexec) == 0) return 0;
#endif
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return -errno;
  while (const dirent* entry = readdir(directory)) {
    char* end = nullptr;
    const long fd = strtol(entry->d_name, &end, 10);
    if (end == entry->d_name || *end != '\0' || fd < first) continue;
    const int flags = fcntl(static_cast<int>(fd), F_GETFD);
    if (flags >= 0) fcntl(static_cast<int>(fd), F_SETFD, flags | FD_CLOEXEC);
  }
  closedir(directory);
  return 0;
}

namespace {

// The reentrant lookups say ERANGE until the buffer is large enough for the entry.
template <typename Entry, typename Lookup>
int32_t FindEntry(Lookup lookup, Entry& entry, std::vector<char>& buffer) {
  for (buffer.resize(1024); buffer.size() <= (1U << 20); buffer.resize(buffer.size() * 2)) {
    Entry* found = nullptr;
    const int error = lookup(&entry, buffer.data(), buffer.size(), &found);
    if (error == ERANGE) continue;
    if (error != 0 && error != EINTR) return -error;
    if (error == 0) return found == nullptr ? -ENOENT : 0;
  }
  return -ERANGE;
}

}  // namespace

int32_t LookupUser(Thread&, std::string name, Ints ids) {
  if (ids.length < 2 || name.find('\0') != std::string::npos) return -EINVAL;
  passwd entry;
  std::vector<char> buffer;
  const auto lookup = [&](passwd* out, char* data, size_t size, passwd** found) {
    return getpwnam_r(name.c_str(), out, data, size, found);
  };
  if (const int32_t error = FindEntry(lookup, entry, buffer); error < 0) return error;
  ids.data[0] = static_cast<int32_t>(entry.pw_uid);
  ids.data[1] = static_cast<int32_t>(entry.pw_gid);
  return 0;
}

double LookupGroup(Thread&, std::string name) {
  if (name.find('\0') != std::string::npos) return -EINVAL;
  group entry;
  std::vector<char> buffer;
  const auto lookup = [&](group* out, char* data, size_t size, group** found) {
    return getgrnam_r(name.c_str(), out, data, size, found);
  };
  const int32_t error = FindEntry(lookup, entry, buffer);
  return error < 0 ? error : static_cast<double>(entry.gr_gid);
}

double GetUid(Thread&) { return getuid(); }

}  // namespace tubetti
