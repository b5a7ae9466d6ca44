// SIGBUS inside a region: the front-end truncated the file behind its memory. That must not kill the service: the page
// is replaced by a zero page and the fault counted, which the session sees. SIGBUS anywhere else keeps its meaning.
//
// Everything here runs in a signal handler: no lock, no allocation, only mmap and atomics.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "memory.h"

namespace tubetti {

namespace {

struct sigaction g_previous;

bool ZeroPages(uintptr_t start, uint64_t length) {
  return mmap(reinterpret_cast<void*>(start), length, PROT_READ | PROT_WRITE,
              MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED;
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
    const uint64_t page = region.page.load(std::memory_order_relaxed);
    // Page by page, so that what the file still holds stays shared with the guest. Each is a mapping of its own: where
    // the process may have no more of them, the whole region goes.
    return ZeroPages(start + (address - start) / page * page, page) || ZeroPages(start, length);
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

int32_t InstallSigbusHandler() {
  static std::mutex lock;
  static bool installed = false;
  const std::lock_guard<std::mutex> guard(lock);
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
