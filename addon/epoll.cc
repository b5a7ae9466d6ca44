// The data plane's epoll set: one a thread, made by epollInit. An event carries the key and the generation its
// descriptor was watched with, so that a stale one is known as such.
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <ctime>

#include "calls.h"

namespace tubetti {

namespace {

std::atomic<bool> g_no_pwait2{false};

int32_t Control(const Thread& thread, int op, int32_t fd, int32_t events, int32_t key, int32_t generation) {
  if (thread.epoll_fd < 0) return -EBADF;
  epoll_event event = {};
  event.events = static_cast<uint32_t>(events);
  event.data.u64 = static_cast<uint64_t>(static_cast<uint32_t>(generation)) << 32 | static_cast<uint32_t>(key);
  return epoll_ctl(thread.epoll_fd, op, fd, &event) == 0 ? 0 : -errno;
}

// timeout < 0: none. µs where the kernel has epoll_pwait2 (5.11), else whole ms, rounded up so as not to spin.
int Wait(int fd, epoll_event* events, double timeout_us) {
  if (timeout_us == 0) return epoll_wait(fd, events, kEvents, 0);
  // Infinity, and what does not fit the kernel's int of ms (24 days), is no limit at all.
  if (timeout_us < 0 || timeout_us >= 2e12) return epoll_wait(fd, events, kEvents, -1);
#ifdef SYS_epoll_pwait2
  if (!g_no_pwait2.load(std::memory_order_relaxed)) {
    const int64_t us = static_cast<int64_t>(std::ceil(timeout_us));
    struct {
      int64_t sec;
      int64_t nsec;
    } limit = {us / 1000000, us % 1000000 * 1000};
    const int n = static_cast<int>(syscall(SYS_epoll_pwait2, fd, events, kEvents, &limit, nullptr, 0));
    // EPERM: a container's system call filter that does not know it.
    if (n >= 0 || (errno != ENOSYS && errno != EPERM)) return n;
    g_no_pwait2.store(true, std::memory_order_relaxed);
  }
#endif
  return epoll_wait(fd, events, kEvents, static_cast<int>(std::ceil(timeout_us / 1000)));
}

}  // namespace

int32_t EpollInit(Thread& thread) {
  if (thread.epoll_fd >= 0) return thread.epoll_fd;
  const int fd = epoll_create1(EPOLL_CLOEXEC);
  if (fd < 0) return -errno;
  thread.epoll_fd = fd;
  return fd;
}

int32_t EpollWait(Thread& thread, double timeout_us) {
  if (thread.epoll_fd < 0) return -EBADF;
  epoll_event events[kEvents];
  if (timeout_us != 0) AtRest(thread.watched);
  const int n = Wait(thread.epoll_fd, events, std::isnan(timeout_us) ? 0 : timeout_us);
  const int error = errno;
  AtWork(thread.watched);
  if (n < 0) return error == EINTR ? 0 : -error;
  int32_t* out = thread.tables->epoll_out;
  for (int i = 0; i < n; i++) {
    *out++ = static_cast<int32_t>(static_cast<uint32_t>(events[i].data.u64));
    *out++ = static_cast<int32_t>(static_cast<uint32_t>(events[i].data.u64 >> 32));
    *out++ = static_cast<int32_t>(events[i].events);
  }
  return n;
}

int32_t Watch(Thread& thread, int32_t fd, int32_t events, int32_t key, int32_t generation) {
  return Control(thread, EPOLL_CTL_ADD, fd, events, key, generation);
}

int32_t Rewatch(Thread& thread, int32_t fd, int32_t events, int32_t key, int32_t generation) {
  return Control(thread, EPOLL_CTL_MOD, fd, events, key, generation);
}

int32_t Unwatch(Thread& thread, int32_t fd) { return Control(thread, EPOLL_CTL_DEL, fd, 0, 0, 0); }

}  // namespace tubetti
