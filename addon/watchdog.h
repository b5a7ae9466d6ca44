// What the data plane's loop and the glue need of the watchdog, on the path of every call. See watchdog.cc.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <ctime>

namespace tubetti {

// A data plane's thread as the watchdog sees it.
struct Watched {
  std::atomic<int32_t> id{0};  // 0: the slot is free
  // Odd: at work; even: asleep in its epoll set. Grows with each turn. Written by its thread only.
  std::atomic<uint32_t> turn{0};
  // Given up: another thread has its rings. It may still be in a system call, and must not run JavaScript after it.
  std::atomic<bool> condemned{false};
  pid_t tid = 0;
  clockid_t clock = 0;
  // The watchdog's own, under its lock.
  uint32_t seen = 0;
  int64_t cpu_us = 0;
  int64_t used_us = 0;     // processor time of this turn since it was first seen
  int64_t blocked_us = 0;  // time asleep in a system call of this turn
  int32_t reported = 0;  // what was said and not yet read
};

// The watchdog sleeps until somebody works.
extern std::atomic<bool> g_watchdog_parked;
void UnparkWatchdog();

inline void AtRest(Watched* watched) {
  if (watched == nullptr) return;
  watched->turn.store((watched->turn.load(std::memory_order_relaxed) | 1) + 1, std::memory_order_release);
}

// A turn begins. One system call if the watchdog slept, which is once a look at most.
inline void AtWork(Watched* watched) {
  if (watched == nullptr) return;
  watched->turn.store((watched->turn.load(std::memory_order_relaxed) + 1) | 1, std::memory_order_seq_cst);
  if (g_watchdog_parked.load(std::memory_order_seq_cst)) UnparkWatchdog();
}

// A step of a long turn is done, of which there are as many as there are flows: a guest's reboot closes all of them.
inline void Progress(Watched* watched) {
  if (watched == nullptr) return;
  watched->turn.store(watched->turn.load(std::memory_order_relaxed) + 2, std::memory_order_release);
}

// The thread ends: its slot is free again.
void LeaveWatchdog(Watched* watched);

}  // namespace tubetti
