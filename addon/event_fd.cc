// Doorbells: eventfds by the protocol, but a front-end may hand over a pipe or socket. The file description is shared
// with it, so O_NONBLOCK is not ours to rely on: no call may block whatever the flags are.
//
// write(2) to an eventfd waits while the counter is full, and there is no flag for one call that forbids it. What the
// kernel itself does to ring one (eventfd_signal) never waits; a completion of its asynchronous I/O does that
// (IOCB_FLAG_RESFD, io_submit(2)). So a request that fails at once, a read of no bytes, rings it.
#include "event_fd.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>

#include "calls.h"
#include "fd_kind.h"

namespace tubetti {

namespace {

constexpr size_t kDrainSize = 512;

// The head of the ring of completions, which io_setup maps: it may be consumed without a call (libaio does so, too).
struct AioRing {
  uint32_t id;
  uint32_t size;
  uint32_t head;
  uint32_t tail;
  uint32_t magic;
};
constexpr uint32_t kAioMagic = 0xa10a10a1;
constexpr unsigned kAioEvents = 2;

bool SetUpAio(Thread& thread) {
  if (thread.aio != 0) return true;
  if (thread.no_aio) return false;
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, kAioEvents, &context) == 0) {
    if (reinterpret_cast<AioRing*>(context)->magic == kAioMagic) {
      thread.aio = context;
      return true;
    }
    syscall(SYS_io_destroy, context);
  }
  thread.no_aio = true;
  return false;
}

// 0: rung. -EBADF: no descriptor. Else: no eventfd, or a kernel that cannot do this (before 5.8, or without AIO).
int32_t RingEventFd(Thread& thread, int32_t fd) {
  if (!SetUpAio(thread)) return -ENOSYS;
  iocb request = {};
  request.aio_lio_opcode = IOCB_CMD_PREAD;
  request.aio_fildes = static_cast<uint32_t>(fd);
  request.aio_flags = IOCB_FLAG_RESFD;
  request.aio_resfd = static_cast<uint32_t>(fd);
  iocb* list = &request;
  if (syscall(SYS_io_submit, thread.aio, 1, &list) != 1) return -errno;
  AioRing* const ring = reinterpret_cast<AioRing*>(thread.aio);
  __atomic_store_n(&ring->head, __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
  return 0;
}

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

// Without waiting, but for a pipe of a kernel that has no RWF_NOWAIT for it (before 6.4).
int32_t SignalPipe(int32_t fd) {
  const uint64_t one = 1;
  iovec iov = {const_cast<uint64_t*>(&one), sizeof(one)};
  const ssize_t result = Retry([&] { return pwritev2(fd, &iov, 1, -1, RWF_NOWAIT); });
  return result == -EOPNOTSUPP || result == -ENOSYS ? SignalMayBlock(fd) : Rung(result);
}

int32_t SignalSocket(int32_t fd) {
  const uint64_t one = 1;
  const ssize_t result = Retry([&] { return ::send(fd, &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL); });
  return static_cast<int32_t>(result == -ENOTSOCK ? result : Rung(result));
}

}  // namespace

int32_t EventFd(Thread&, int32_t initial) {
  if (initial < 0) return -EINVAL;
  const int fd = ::eventfd(static_cast<unsigned>(initial), EFD_NONBLOCK | EFD_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

int32_t SignalMayBlock(int32_t fd) {
  // Asked before writing, which makes the write safe on every kind of file without knowing the kind: an eventfd is
  // writable below its maximum, a pipe with a slot free, a socket with room for more than these bytes. It waits only if
  // the other holder cleared O_NONBLOCK and fills it between the two calls.
  pollfd ready = {fd, POLLOUT, 0};
  if (::poll(&ready, 1, 0) < 0) return -errno;
  if ((ready.revents & POLLNVAL) != 0) return -EBADF;
  if ((ready.revents & POLLOUT) == 0) return (ready.revents & POLLHUP) != 0 ? -EPIPE : 0;  // full: it is pending
  const uint64_t one = 1;
  // Node ignores SIGPIPE, so a reader that went away is EPIPE.
  return Rung(Retry([&] { return ::write(fd, &one, sizeof(one)); }));
}

int32_t Signal(Thread& thread, int32_t fd) {
  int32_t result = RingEventFd(thread, fd);
  if (result == 0 || result == -EBADF) return result;
  result = SignalSocket(fd);
  return result == -ENOTSOCK ? SignalPipe(fd) : result;
}

int32_t Notify(Thread& thread, int32_t fd, int32_t kind) {
  switch (kind) {
    case kEventFd: {
      const int32_t result = RingEventFd(thread, fd);
      // Without AIO it waits if the other end cleared O_NONBLOCK and filled the counter on purpose: see DataPlane.
      return result == 0 || result == -EBADF ? result : SignalMayBlock(fd);
    }
    case kSocket:
      return SignalSocket(fd);
    default:
      return SignalPipe(fd);
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

int32_t SetNonBlocking(Thread&, int32_t fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return -errno;
  return 0;
}

}  // namespace tubetti
