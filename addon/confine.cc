// Giving up rights on all threads. Capabilities and no_new_privs belong to a thread, and Node has several before the first
// line of ours runs. As glibc does for setuid(2), every thread is sent a signal whose handler changes that thread; and it
// is the same signal, because that is the one which no thread blocks: glibc leaves it out of every mask, while Node's
// inspector thread blocks all others. The kernel's action for it is put back afterwards.
#include <dirent.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "calls.h"

namespace tubetti {

namespace {

constexpr int kSetxidSignal = 33;  // glibc's SIGSETXID, musl's SIGCANCEL
constexpr int kMaxThreads = 1024;
constexpr int kLastCapability = 63;
constexpr int kWaitMs = 1000;
constexpr long kLookAgainNs = 1000000;

// Written by handlers: threads that are done, and how many of them are in the list.
std::atomic<int> done_count{0};
std::atomic<pid_t> done[kMaxThreads];
std::atomic<int> listed{0};
static_assert(sizeof(listed) == sizeof(uint32_t), "a futex");

// With this many in the list the thread that waits is woken, once.
std::atomic<int> wanted{INT_MAX};

// Written before any handler runs.
bool keep_low_ports = false;
int landlock_rules = -1;
std::atomic<bool> landlock_failed{false};

pid_t ThisThread() { return static_cast<pid_t>(syscall(SYS_gettid)); }

// Runs in a signal handler: system calls and atomics only.
void ConfineThisThread() {
  const int saved = errno;
  syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
#if defined(SYS_landlock_restrict_self)
  if (landlock_rules >= 0 && syscall(SYS_landlock_restrict_self, landlock_rules, 0) != 0) landlock_failed.store(true);
#endif
  syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  // Needs CAP_SETPCAP; without it no_new_privs has made the bounding set void already. The first number that no capability
  // has is the end.
  for (int c = 0; c <= kLastCapability && syscall(SYS_prctl, PR_CAPBSET_DROP, c, 0, 0, 0) == 0; c++) {
  }
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) == 0) {
    const unsigned kept = keep_low_ports ? data[0].permitted & (1U << CAP_NET_BIND_SERVICE) : 0;
    data[0] = {kept, kept, 0};
    data[1] = {0, 0, 0};
    syscall(SYS_capset, &header, data);
  }
  const int slot = done_count.fetch_add(1);
  if (slot < kMaxThreads) done[slot].store(ThisThread());
  if (listed.fetch_add(1) + 1 >= wanted.load()) syscall(SYS_futex, &listed, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  errno = saved;
}

void OnSignal(int) { ConfineThisThread(); }

bool IsDone(pid_t thread) {
  const int count = std::min(done_count.load(), kMaxThreads);
  for (int i = 0; i < count; i++) {
    if (done[i].load() == thread) return true;
  }
  return false;
}

// Calls `visit` for every thread of the process but this one.
template <typename Visit>
int32_t EachOtherThread(Visit visit) {
  DIR* directory = opendir("/proc/self/task");
  if (directory == nullptr) return -errno;
  const pid_t self = ThisThread();
  while (const dirent* entry = readdir(directory)) {
    const pid_t thread = static_cast<pid_t>(strtol(entry->d_name, nullptr, 10));
    if (thread > 0 && thread != self) visit(thread);
  }
  closedir(directory);
  return 0;
}

#if defined(__x86_64__) || defined(__aarch64__)

double NowMs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

// Waits until `count` threads are in the list, or about a millisecond: one of them may have ended instead.
void AwaitListed(int count) {
  wanted.store(count);
  const timespec pause = {0, kLookAgainNs};
  const int before = listed.load();
  if (before < count) syscall(SYS_futex, &listed, FUTEX_WAIT_PRIVATE, before, &pause, nullptr, 0);
  wanted.store(INT_MAX);
}

// struct sigaction as the kernel has it.
struct KernelAction {
  void* handler;
  unsigned long flags;
  void* restorer;
  unsigned long mask;
};

long SetAction(int signal, const KernelAction* to, KernelAction* from) {
  return syscall(SYS_rt_sigaction, signal, to, from, sizeof(KernelAction::mask));
}

// Our handler as the C library installs it, with its return path from signals: set for an ordinary signal and read back.
bool MakeAction(KernelAction& action) {
  struct sigaction ours = {};
  struct sigaction before = {};
  ours.sa_handler = OnSignal;
  ours.sa_flags = SA_RESTART;
  sigfillset(&ours.sa_mask);
  if (sigaction(SIGRTMAX, &ours, &before) != 0) return false;
  const bool read = SetAction(SIGRTMAX, nullptr, &action) == 0;
  sigaction(SIGRTMAX, &before, nullptr);
  return read;
}

int32_t ConfineOthers() {
  KernelAction action = {};
  KernelAction before = {};
  if (!MakeAction(action)) return -errno;
  if (SetAction(kSetxidSignal, &action, &before) != 0) return -errno;
  const pid_t process = getpid();
  std::vector<pid_t> sent;
  int32_t missing = 0;
  for (const double end = NowMs() + kWaitMs; NowMs() < end;) {
    missing = 0;
    // Threads made by one that was not done yet are found the next time. Each gets one signal: such signals queue, and one
    // that comes after the action was put back would end the process.
    const int32_t error = EachOtherThread([&](pid_t thread) {
      if (IsDone(thread)) return;
      missing++;
      if (std::find(sent.begin(), sent.end(), thread) != sent.end()) return;
      if (syscall(SYS_tgkill, process, thread, kSetxidSignal) == 0) sent.push_back(thread);
    });
    if (error < 0) return error;
    if (missing == 0) {
      SetAction(kSetxidSignal, &before, nullptr);
      return 0;
    }
    AwaitListed(1 + static_cast<int>(sent.size()));
  }
  // A signal is still on its way: our handler stays.
  return missing;
}

#else

int32_t ConfineOthers() {
  int32_t missing = 0;
  const int32_t error = EachOtherThread([&](pid_t) { missing++; });
  return error < 0 ? error : missing;
}

#endif

}  // namespace

int32_t SetDumpable(Thread&, int32_t on) { return prctl(PR_SET_DUMPABLE, on, 0, 0, 0) == 0 ? 0 : -errno; }

int32_t Confine(Thread&, int32_t keep_ports, int32_t landlock) {
  done_count.store(0);
  listed.store(0);
  keep_low_ports = keep_ports != 0;
  landlock_rules = landlock;
  landlock_failed.store(false);
  // First this one: threads that it makes from now on inherit it.
  ConfineThisThread();
  const int32_t left = ConfineOthers();
  return left == 0 && landlock_failed.load() ? -EPERM : left;
}

}  // namespace tubetti
