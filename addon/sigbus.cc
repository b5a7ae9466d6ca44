// SIGBUS inside a region: the front-end truncated the file behind its memory. That must not kill the service: the page
// is replaced by a zero page, the fault counted and the control plane woken, which ends the session. SIGBUS anywhere
// else keeps its meaning.
//
// A page by itself splits its mapping, and a process may have so many (vm.max_map_count, 65530). Therefore only a few
// pages of a region, and of all regions together, are replaced by themselves; then the region is, as a whole. That needs
// no further mapping, but for the kernel's having joined it with a neighbour; and because others may have used all
// there are, a reserve of mappings is kept, which the handler gives up before it gives up itself.
//
// What answers a fault runs in a signal handler, in any thread and in several at once: no lock, no allocation, only
// system calls and atomics.
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "calls.h"
#include "memory.h"

namespace tubetti {

namespace {

// Pages replaced by themselves, in one region and in all that are live. Each takes two mappings.
constexpr uint32_t kPages = 32;
constexpr uint32_t kPagesInAll = 512;

// The reserve: so many mappings of two pages, of which every second page differs, so that the kernel joins none.
constexpr uintptr_t kReserve = 64;

enum ReserveState : uint32_t {
  kNone = 0,
  kKept = 1,
  kLeaving = 2,  // a thread unmaps it
};

struct sigaction g_previous;
std::atomic<uint32_t> g_pages{0};
std::atomic<uint32_t> g_reserve{kNone};
std::atomic<uintptr_t> g_reserve_at{0};
std::atomic<int> g_event{-1};

uintptr_t SystemPage() {
  static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return page;
}

bool ZeroPages(uintptr_t start, uint64_t length) {
  return mmap(reinterpret_cast<void*>(start), length, PROT_READ | PROT_WRITE,
              MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

// Under the lock of InstallSigbusHandler.
bool KeepReserve() {
  while (g_reserve.load(std::memory_order_acquire) == kLeaving) sched_yield();
  if (g_reserve.load(std::memory_order_acquire) == kKept) return true;
  const uintptr_t page = SystemPage();
  void* const block =
      mmap(nullptr, 2 * kReserve * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (block == MAP_FAILED) return false;
  const auto at = reinterpret_cast<uintptr_t>(block);
  for (uintptr_t i = 1; i < 2 * kReserve; i += 2) {
    if (mprotect(reinterpret_cast<void*>(at + i * page), page, PROT_READ) == 0) continue;
    const int error = errno;
    munmap(block, 2 * kReserve * page);
    errno = error;
    return false;
  }
  g_reserve_at.store(at, std::memory_order_relaxed);
  g_reserve.store(kKept, std::memory_order_release);
  return true;
}

// When it returns, the reserve has become mappings that may be made, if there was one.
void GiveUpReserve() {
  uint32_t kept = kKept;
  if (g_reserve.compare_exchange_strong(kept, kLeaving, std::memory_order_acq_rel)) {
    const uintptr_t at = g_reserve_at.load(std::memory_order_relaxed);
    const uintptr_t page = SystemPage();
    // First what begins and ends with a mapping for certain: splitting one that the kernel has joined with a neighbour
    // would itself need a mapping.
    munmap(reinterpret_cast<void*>(at + page), (2 * kReserve - 2) * page);
    munmap(reinterpret_cast<void*>(at), page);
    munmap(reinterpret_cast<void*>(at + (2 * kReserve - 1) * page), page);
    g_reserve.store(kNone, std::memory_order_release);
  }
  while (g_reserve.load(std::memory_order_acquire) == kLeaving) sched_yield();
}

// May one more page of the region be replaced by itself? If so, it is counted. Once the reserve was needed, none may.
bool TakePage(Region& region) {
  if (g_reserve.load(std::memory_order_relaxed) != kKept) return false;
  if (region.pages.load(std::memory_order_relaxed) >= kPages) return false;
  if (g_pages.fetch_add(1, std::memory_order_relaxed) >= kPagesInAll) {
    g_pages.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  region.pages.fetch_add(1, std::memory_order_relaxed);
  return true;
}

bool Answer(uintptr_t address) {
  Region* regions = Regions();
  for (int32_t number = 1; number < kRegions; number++) {
    Region& region = regions[number];
    if (region.state.load(std::memory_order_acquire) < kLive) continue;
    const uintptr_t start = region.map_start.load(std::memory_order_relaxed);
    const uint64_t length = region.map_length.load(std::memory_order_relaxed);
    if (address < start || address - start >= length) continue;
    region.faults.fetch_add(1, std::memory_order_relaxed);
    TellFault();
    const uint64_t page = region.page.load(std::memory_order_relaxed);
    const uintptr_t at = start + (address - start) / page * page;
    // Page by page at first: until the session ends, what the file still holds stays shared with the guest.
    if (TakePage(region) && ZeroPages(at, page)) return true;
    // The last resort is for a kernel that promises no more memory than it has (vm.overcommit_memory 2).
    return ZeroRange(start, length) || ZeroPages(at, page);
  }
  return false;
}

void Handle(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  // BUS_ADRERR: beyond the end of the file. Not hardware errors (BUS_MCEERR_*), not kill(2).
  if (info->si_code == BUS_ADRERR && Answer(reinterpret_cast<uintptr_t>(info->si_addr))) {
    errno = saved;
    return;
  }
  if ((g_previous.sa_flags & SA_SIGINFO) != 0) {
    g_previous.sa_sigaction(signal, info, context);
  } else if (g_previous.sa_handler != SIG_DFL && g_previous.sa_handler != SIG_IGN) {
    g_previous.sa_handler(signal);
  } else {
    // Blocked while we are here: the default action is taken on return.
    if (sigaction(signal, &g_previous, nullptr) != 0 || raise(signal) != 0) _exit(128 + signal);
  }
  errno = saved;
}

}  // namespace

bool ZeroRange(uintptr_t start, uint64_t length) {
  if (ZeroPages(start, length)) return true;
  GiveUpReserve();
  return ZeroPages(start, length);
}

void ForgetPages(Region& region) {
  g_pages.fetch_sub(region.pages.exchange(0, std::memory_order_relaxed), std::memory_order_relaxed);
}

void TellFault() {
  const int fd = g_event.load(std::memory_order_relaxed);
  const uint64_t one = 1;
  // Non-blocking, and ours alone: fails only when the counter says enough.
  if (fd >= 0 && ::write(fd, &one, sizeof(one)) < 0) return;
}

int32_t FaultEvent(Thread&) {
  static std::mutex lock;
  const std::lock_guard<std::mutex> guard(lock);
  if (g_event.load(std::memory_order_relaxed) < 0) {
    const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) return -errno;
    g_event.store(fd, std::memory_order_relaxed);
  }
  return g_event.load(std::memory_order_relaxed);
}

int32_t InstallSigbusHandler() {
  static std::mutex lock;
  static bool installed = false;
  const std::lock_guard<std::mutex> guard(lock);
  if (!KeepReserve()) return -errno;
  if (installed) return 0;
  Regions();  // made here, not in the handler
  struct sigaction action = {};
  action.sa_sigaction = Handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  // Asked first, so that the handler never runs without knowing what to chain to.
  if (sigaction(SIGBUS, nullptr, &g_previous) != 0 || sigaction(SIGBUS, &action, nullptr) != 0) return -errno;
  installed = true;
  return 0;
}

}  // namespace tubetti
