// A thread that sees to it that neither plane hangs for ever.
//
// The data plane: every turn of its loop begins and ends in EpollWait, which writes down that the thread is at work or
// asleep: two stores, no system call. While somebody is at work the watchdog looks ten times a second. A turn in which
// the thread used kLoopUs of processor time, or slept kBlockedUs in a system call that is not its epoll_wait, hangs:
// the control plane hears of it through a descriptor and replaces the thread. When a look finds nobody at work the
// watchdog parks; the next turn wakes it. So a service that is idle stays without a single periodic wake-up.
//
// The control plane: libuv's epoll set is itself a descriptor that can be polled. Readable means that work waits. If it
// is and the loop does not come round for the limit given, the process ends at once, with a status that its supervisor
// sees. (A loop that nobody waits for is not noticed, and does no harm.) The end of the process has a deadline of its
// own, which a signal sets before any JavaScript runs.
//
// Time counts only as it was had: processor time used, or looks at which the thread was seen asleep in the kernel. A
// process that was stopped (SIGSTOP), a host that was suspended or a machine with no processor to spare is nobody's
// fault. A process under a debugger is left alone.
#include "watchdog.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <uv.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "calls.h"

namespace tubetti {

std::atomic<bool> g_watchdog_parked{false};

namespace {

constexpr int kSlots = 16;
constexpr int64_t kLookUs = 100000;
constexpr int64_t kSuspectLookUs = 50000;
// No turn of a data plane that works takes so much processor time without a descriptor that it closes: it handles 256
// frames, some tens of sockets and timers. Closing all of its flows takes longer.
constexpr int64_t kLoopUs = 600000;
// Asleep in a system call: the control plane looks whether it can help (a full eventfd), then gives up. Longer than a
// disk under load takes for a write of the capture.
constexpr int64_t kStalledUs = 200000;
constexpr int64_t kBlockedUs = 5000000;
constexpr int64_t kSecondSignalUs = 200000;
constexpr size_t kStack = size_t{128} * 1024;

enum Stage : int32_t { kFine = 0, kStalled = 1, kHung = 2 };

struct Sample {
  int64_t cpu_us = -1;  // -1: the thread is gone
  bool asleep = false;
};

std::mutex g_lock;  // slots: who has them, and what the watchdog knows of them
Watched g_slots[kSlots];
int g_wake = -1;
int g_verdict = -1;

struct MainLoop {
  std::atomic<bool> armed{false};
  std::atomic<uint32_t> rounds{0};
  int fd = -1;
  pid_t tid = 0;
  clockid_t clock = 0;
  int64_t limit_us = 0;
  int32_t status = 0;
  uv_prepare_t prepare;
  napi_async_cleanup_hook_handle hook = nullptr;
  // The watchdog's own.
  bool waits = false;
  uint32_t seen = 0;
  int64_t cpu_us = 0;
  int64_t used_us = 0;
  int64_t blocked_us = 0;
} g_main;

// Time left until the process ends, µs; 0: no end is near.
std::atomic<int64_t> g_end_us{0};
int64_t g_signal_us = 0;
std::atomic<int> g_signals{0};
constexpr int kSignals[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP};
struct sigaction g_chained[4];

int64_t MonotonicUs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000000 + now.tv_nsec / 1000;
}

int64_t CpuUs(clockid_t clock) {
  timespec used = {};
  if (clock_gettime(clock, &used) != 0) return -1;
  return int64_t{used.tv_sec} * 1000000 + used.tv_nsec / 1000;
}

// Reads up to `size` - 1 bytes of a small file of /proc and ends them with a 0.
bool ReadSmall(const char* path, char* buf, size_t size) {
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t n = ::read(fd, buf, size - 1);
  ::close(fd);
  if (n <= 0) return false;
  buf[n] = '\0';
  return true;
}

Sample Look(pid_t tid, clockid_t clock) {
  Sample sample;
  sample.cpu_us = CpuUs(clock);
  char path[64];
  char text[256];
  (void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat", static_cast<int>(tid));
  if (!ReadSmall(path, text, sizeof(text))) return sample;
  const char* state = strrchr(text, ')');  // the name may hold anything
  sample.asleep = state != nullptr && state[1] == ' ' && (state[2] == 'S' || state[2] == 'D');
  return sample;
}

bool Traced() {
  char text[4096];
  if (!ReadSmall("/proc/self/status", text, sizeof(text))) return false;
  const char* tracer = strstr(text, "TracerPid:");
  return tracer != nullptr && strtol(tracer + 10, nullptr, 10) != 0;
}

void Say(const char* line) {
  pollfd ready = {STDERR_FILENO, POLLOUT, 0};
  // Never waits: less than PIPE_BUF bytes, and only if there is room.
  if (::poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0) return;
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, line, strlen(line));
}

void Ring(int fd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(fd, &one, sizeof(one));
}

void Empty(int fd) {
  uint64_t value = 0;
  [[maybe_unused]] const ssize_t n = ::read(fd, &value, sizeof(value));
}

// Adds what a thread did since the last look. A look that came late says nothing of the time before it.
void Charge(const Sample& sample, int64_t elapsed_us, int64_t& cpu_us, int64_t& used_us, int64_t& blocked_us) {
  if (sample.cpu_us < 0) return;
  const int64_t used = sample.cpu_us - cpu_us;
  cpu_us = sample.cpu_us;
  used_us += used;
  const int64_t counted = elapsed_us < 2 * kLookUs ? elapsed_us : 2 * kLookUs;
  if (sample.asleep && used < counted / 10) blocked_us += counted;
}

// Returns when the next look is due, µs; 0: the thread is asleep or given up.
int64_t LookAt(Watched& slot, int64_t elapsed_us) {
  if (slot.id.load(std::memory_order_relaxed) == 0 || slot.condemned.load(std::memory_order_relaxed)) return 0;
  const uint32_t turn = slot.turn.load(std::memory_order_seq_cst);
  if ((turn & 1) == 0) return 0;
  if (turn != slot.seen) {
    slot.seen = turn;
    slot.cpu_us = CpuUs(slot.clock);
    slot.used_us = 0;
    slot.blocked_us = 0;
    return kLookUs;
  }
  const int64_t blocked_us = slot.blocked_us;
  Charge(Look(slot.tid, slot.clock), elapsed_us, slot.cpu_us, slot.used_us, slot.blocked_us);
  // It came round between the looks: nothing of this counts.
  if (slot.turn.load(std::memory_order_relaxed) != turn) return kLookUs;
  int32_t stage = kFine;
  if ((slot.used_us >= kLoopUs || slot.blocked_us >= kBlockedUs) && !Traced()) {
    stage = kHung;
  } else if (slot.blocked_us >= kStalledUs && slot.blocked_us > blocked_us) {
    stage = kStalled;  // said at every look: the front-end may fill what was emptied
  }
  if (stage > slot.reported) {
    slot.reported = stage;
    Ring(g_verdict);
  }
  return kSuspectLookUs;
}

int64_t LookAtThreads(int64_t elapsed_us) {
  const std::lock_guard<std::mutex> guard(g_lock);
  int64_t next = 0;
  for (Watched& slot : g_slots) {
    const int64_t due = LookAt(slot, elapsed_us);
    if (due > 0 && (next == 0 || due < next)) next = due;
  }
  return next;
}

int64_t LookAtMain(int64_t elapsed_us) {
  if (!g_main.waits) return 0;
  const uint32_t rounds = g_main.rounds.load(std::memory_order_relaxed);
  if (!g_main.armed.load(std::memory_order_acquire) || rounds != g_main.seen) {
    g_main.waits = false;
    return 0;
  }
  Charge(Look(g_main.tid, g_main.clock), elapsed_us, g_main.cpu_us, g_main.used_us, g_main.blocked_us);
  if (g_main.used_us + g_main.blocked_us >= g_main.limit_us && !Traced()) {
    if (g_main.rounds.load(std::memory_order_relaxed) == rounds) {
      Say("tubetti: the control plane hangs: ended by its watchdog\n");
      _exit(g_main.status);
    }
  }
  return kLookUs;
}

void MainHasWork() {
  g_main.waits = true;
  g_main.seen = g_main.rounds.load(std::memory_order_relaxed);
  g_main.cpu_us = CpuUs(g_main.clock);
  g_main.used_us = 0;
  g_main.blocked_us = 0;
}

int64_t LookAtEnd(int64_t elapsed_us) {
  const int64_t left = g_end_us.load(std::memory_order_relaxed);
  if (left == 0) return 0;
  const int64_t counted = elapsed_us < 2 * kLookUs ? elapsed_us : 2 * kLookUs;
  if (left <= counted) {
    Say("tubetti: the end took too long: ended by the watchdog\n");
    _exit(1);
  }
  g_end_us.fetch_sub(counted, std::memory_order_relaxed);
  return left - counted < kSuspectLookUs ? left - counted : kSuspectLookUs;
}

bool AnybodyWorks() {
  if (g_end_us.load(std::memory_order_seq_cst) != 0) return true;
  for (const Watched& slot : g_slots) {
    if (slot.id.load(std::memory_order_seq_cst) == 0 || slot.condemned.load(std::memory_order_relaxed)) continue;
    if ((slot.turn.load(std::memory_order_seq_cst) & 1) != 0) return true;
  }
  return false;
}

void* Run(void*) {
  pthread_setname_np(pthread_self(), "watchdog");
  int64_t last = MonotonicUs();
  for (;;) {
    const int64_t now = MonotonicUs();
    const int64_t elapsed = now - last;
    last = now;
    int64_t next = 0;
    for (const int64_t due : {LookAtThreads(elapsed), LookAtMain(elapsed), LookAtEnd(elapsed)}) {
      if (due > 0 && (next == 0 || due < next)) next = due;
    }
    if (next == 0) {
      g_watchdog_parked.store(true, std::memory_order_seq_cst);
      // Who began before it could see that wakes nobody.
      if (AnybodyWorks()) next = kLookUs;
    }
    const bool listens = g_main.armed.load(std::memory_order_acquire) && !g_main.waits;
    pollfd fds[2] = {{g_wake, POLLIN, 0}, {listens ? g_main.fd : -1, POLLIN, 0}};
    ::poll(fds, 2, next == 0 ? -1 : static_cast<int>((next + 999) / 1000));
    g_watchdog_parked.store(false, std::memory_order_seq_cst);
    if (fds[0].revents != 0) Empty(g_wake);
    if (fds[1].revents != 0) MainHasWork();
  }
}

void OnSignal(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  const int64_t limit = g_signals.fetch_add(1) == 0 ? g_signal_us : kSecondSignalUs;
  const int64_t left = g_end_us.load();
  if (left == 0 || left > limit) g_end_us.store(limit);
  Ring(g_wake);
  for (size_t i = 0; i < 4; i++) {
    if (kSignals[i] != signal) continue;
    const struct sigaction& next = g_chained[i];
    if ((next.sa_flags & SA_SIGINFO) != 0) {
      next.sa_sigaction(signal, info, context);
    } else if (next.sa_handler != SIG_DFL && next.sa_handler != SIG_IGN) {
      next.sa_handler(signal);
    }
  }
  errno = saved;
}

void OnPrepare(uv_prepare_t*) { g_main.rounds.fetch_add(1, std::memory_order_relaxed); }

void OnMainEnd(napi_async_cleanup_hook_handle, void*) {
  g_main.armed.store(false, std::memory_order_release);
  uv_close(reinterpret_cast<uv_handle_t*>(&g_main.prepare),
           [](uv_handle_t*) { napi_remove_async_cleanup_hook(g_main.hook); });
}

int32_t MakeThread() {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStack);
  // Signals are for threads that can be interrupted without harm.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  sigdelset(&all, SIGSYS);  // a call that seccomp refuses: the process would be killed (seccomp.cc)
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes, Run, nullptr);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return -error;
}

}  // namespace

void UnparkWatchdog() {
  if (g_watchdog_parked.exchange(false)) Ring(g_wake);
}

void LeaveWatchdog(Watched* watched) {
  if (watched == nullptr) return;
  const std::lock_guard<std::mutex> guard(g_lock);
  watched->condemned.store(false);
  watched->reported = kFine;
  watched->id.store(0);
}

int32_t WatchdogStart(Thread&) {
  const std::lock_guard<std::mutex> guard(g_lock);
  if (g_verdict >= 0) return g_verdict;
  const int wake = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  const int verdict = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake < 0 || verdict < 0) {
    const int error = errno;
    if (wake >= 0) ::close(wake);
    return -error;
  }
  g_wake = wake;
  if (const int32_t error = MakeThread(); error < 0) {
    ::close(wake);
    ::close(verdict);
    g_wake = -1;
    return error;
  }
  g_verdict = verdict;
  return verdict;
}

int32_t WatchdogRead(Thread&, Ints out) {
  const std::lock_guard<std::mutex> guard(g_lock);
  Empty(g_verdict);
  size_t at = 0;
  for (Watched& slot : g_slots) {
    if (slot.reported == kFine || at + 2 > out.length) continue;
    out.data[at] = slot.id.load();
    out.data[at + 1] = slot.reported;
    slot.reported = kFine;
    at += 2;
  }
  return static_cast<int32_t>(at / 2);
}

int32_t WatchdogEnter(Thread& thread, int32_t id) {
  if (id <= 0 || thread.watched != nullptr) return -EINVAL;
  const std::lock_guard<std::mutex> guard(g_lock);
  for (Watched& slot : g_slots) {
    if (slot.id.load() != 0) continue;
    slot.tid = static_cast<pid_t>(syscall(SYS_gettid));
    if (pthread_getcpuclockid(pthread_self(), &slot.clock) != 0) return -ESRCH;
    slot.turn.store((slot.turn.load() + 1) & ~1U);
    slot.seen = slot.turn.load();
    slot.reported = kFine;
    slot.id.store(id);
    thread.watched = &slot;
    AtWork(&slot);
    return 0;
  }
  return -ENFILE;
}

int32_t Condemn(Thread&, int32_t id) {
  const std::lock_guard<std::mutex> guard(g_lock);
  for (Watched& slot : g_slots) {
    if (slot.id.load() != id || id <= 0) continue;
    slot.condemned.store(true);
    return 0;
  }
  return -ESRCH;
}

int32_t Strays(Thread&) {
  const std::lock_guard<std::mutex> guard(g_lock);
  int32_t count = 0;
  for (const Watched& slot : g_slots) count += slot.id.load() != 0 && slot.condemned.load() ? 1 : 0;
  return count;
}

int32_t WatchdogMain(Thread& thread, double limit_ms, int32_t status) {
  if (g_wake < 0 || g_main.hook != nullptr || !(limit_ms > 0 && limit_ms < 1e9)) return -EINVAL;
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(thread.env, &loop) != napi_ok) return -EINVAL;
  g_main.fd = uv_backend_fd(loop);
  g_main.tid = static_cast<pid_t>(syscall(SYS_gettid));
  if (g_main.fd < 0 || pthread_getcpuclockid(pthread_self(), &g_main.clock) != 0) return -ENOTSUP;
  if (napi_add_async_cleanup_hook(thread.env, OnMainEnd, nullptr, &g_main.hook) != napi_ok) return -EINVAL;
  g_main.limit_us = static_cast<int64_t>(limit_ms * 1000);
  g_main.status = status;
  uv_prepare_init(loop, &g_main.prepare);
  uv_prepare_start(&g_main.prepare, OnPrepare);
  uv_unref(reinterpret_cast<uv_handle_t*>(&g_main.prepare));
  g_main.armed.store(true, std::memory_order_release);
  Ring(g_wake);
  return 0;
}

int32_t EndOnSignals(Thread&, double limit_ms) {
  if (g_wake < 0 || g_signal_us != 0 || !(limit_ms > 0 && limit_ms < 1e9)) return -EINVAL;
  g_signal_us = static_cast<int64_t>(limit_ms * 1000);
  for (size_t i = 0; i < 4; i++) {
    if (sigaction(kSignals[i], nullptr, &g_chained[i]) != 0) return -errno;
    struct sigaction action = g_chained[i];
    action.sa_flags |= SA_SIGINFO;
    action.sa_sigaction = OnSignal;
    if (sigaction(kSignals[i], &action, nullptr) != 0) return -errno;
  }
  return 0;
}

int32_t EndWithin(Thread&, double limit_ms) {
  if (g_wake < 0 || !(limit_ms > 0 && limit_ms < 1e9)) return -EINVAL;
  const int64_t limit = static_cast<int64_t>(limit_ms * 1000);
  const int64_t left = g_end_us.load();
  if (left == 0 || left > limit) g_end_us.store(limit);
  Ring(g_wake);
  return 0;
}

int32_t ExitNow(Thread&, int32_t status) { _exit(status); }

}  // namespace tubetti
