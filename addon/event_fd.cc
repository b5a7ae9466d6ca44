// Doorbells: eventfds by the protocol, but a front-end may hand over any descriptor. The file description is shared
// with it, so O_NONBLOCK is not ours to rely on: neither call may block whatever the flags are.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "calls.h"

namespace tubetti {

namespace {

constexpr size_t kDrainSize = 512;

// What FdKind answers: FD_* in src/native.ts.
enum FileKind : int32_t { kOther = 0, kEventFd = 1, kSocket = 2, kPipe = 3, kMemory = 4 };

// Reads what is there without waiting: bytes, 0 at the end of a stream, -EAGAIN if there is nothing.
ssize_t ReadNow(int32_t fd, uint8_t* buf, size_t size) {
  iovec iov = {buf, size};
  ssize_t got = Retry([&] { return preadv2(fd, &iov, 1, -1, RWF_NOWAIT); });
  if (got != -EOPNOTSUPP && got != -ENOSYS) return got;
  // Older kernels: no RWF_NOWAIT for this kind of file.
  got = Retry([&] { return ::recv(fd, buf, size, MSG_DONTWAIT); });
  if (got != -ENOTSOCK) return got;
  pollfd ready = {fd, POLLIN, 0};
  if (::poll(&ready, 1, 0) <= 0) return -EAGAIN;
  return Retry([&] { return ::read(fd, buf, size); });
}

// Full is as good as rung: the other end has not looked yet.
int32_t Rung(ssize_t result) { return result < 0 && result != -EAGAIN ? static_cast<int32_t>(result) : 0; }

bool IsEventFd(int32_t fd) {
  char path[32];
  char target[32];
  static_cast<void>(snprintf(path, sizeof(path), "/proc/self/fd/%d", fd));
  const ssize_t length = readlink(path, target, sizeof(target));
  constexpr char kName[] = "anon_inode:[eventfd]";
  return length == sizeof(kName) - 1 && memcmp(target, kName, sizeof(kName) - 1) == 0;
}

}  // namespace

int32_t EventFd(Thread&, int32_t initial) {
  if (initial < 0) return -EINVAL;
  const int fd = ::eventfd(static_cast<unsigned>(initial), EFD_NONBLOCK | EFD_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

int32_t Signal(Thread&, int32_t fd) {
  // Asked before writing, which makes the write safe on every kind of file without knowing the kind: an eventfd is
  // writable below its maximum, a pipe with a slot free, a socket with room for more than these bytes. (A front-end
  // that clears O_NONBLOCK and fills its own descriptor between the two calls holds up nobody's service but its own.)
  pollfd ready = {fd, POLLOUT, 0};
  if (::poll(&ready, 1, 0) < 0) return -errno;
  if ((ready.revents & POLLNVAL) != 0) return -EBADF;
  if ((ready.revents & POLLOUT) == 0) return (ready.revents & POLLHUP) != 0 ? -EPIPE : 0;  // full: it is pending
  const uint64_t one = 1;
  // Node ignores SIGPIPE, so a reader that went away is EPIPE.
  return Rung(Retry([&] { return ::write(fd, &one, sizeof(one)); }));
}

int32_t Notify(Thread& thread, int32_t fd, int32_t kind) {
  const uint64_t one = 1;
  switch (kind) {
    case kEventFd:
      // Linux has no other way to write to one. It waits only if the other end cleared O_NONBLOCK and filled the counter
      // on purpose: see DataPlane, which empties it.
      return Rung(Retry([&] { return ::write(fd, &one, sizeof(one)); }));
    case kSocket:
      return Rung(Retry([&] { return ::send(fd, &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL); }));
    default: {
      iovec iov = {const_cast<uint64_t*>(&one), sizeof(one)};
      const ssize_t result = Retry([&] { return pwritev2(fd, &iov, 1, -1, RWF_NOWAIT); });
      // Pipes have it since Linux 6.4.
      return result == -EOPNOTSUPP || result == -ENOSYS ? Signal(thread, fd) : Rung(result);
    }
  }
}

int32_t Drain(Thread&, int32_t fd) {
  alignas(uint64_t) uint8_t buf[kDrainSize];
  const ssize_t got = ReadNow(fd, buf, sizeof(buf));
  if (got == -EAGAIN) return 0;
  if (got <= 0) return got == 0 ? -EPIPE : static_cast<int32_t>(got);
  if (got == sizeof(uint64_t)) {
    uint64_t value;
    memcpy(&value, buf, sizeof(value));
    const int32_t low = static_cast<int32_t>(value & 0x7fffffff);
    return low != 0 ? low : 1;
  }
  // A pipe or socket: one signal for every eight bytes. What a full buffer left behind fires the next event.
  return static_cast<int32_t>((static_cast<size_t>(got) + 7) / 8);
}

int32_t FdKind(Thread&, int32_t fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return -errno;
  if (S_ISSOCK(info.st_mode)) return kSocket;
  if (S_ISFIFO(info.st_mode)) return kPipe;
  if (S_ISREG(info.st_mode)) return kMemory;
  return IsEventFd(fd) ? kEventFd : kOther;
}

int32_t SetNonBlocking(Thread&, int32_t fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return -errno;
  return 0;
}

}  // namespace tubetti
