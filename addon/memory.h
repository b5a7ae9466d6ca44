// The process-wide table of memory regions. See memory.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "limits.h"

namespace tubetti {

enum RegionState : uint32_t {
  kFree = 0,
  kBusy = 1,     // being set up or torn down: the address range belongs to nobody yet
  kLive = 2,     // rows may name it, by its number
  kRetired = 3,  // zero pages lie over it; views may still read it
};

struct Region {
  // Read without a lock: `state` by the SIGBUS handler, `live` by the data path. Each is stored last (release) and
  // loaded first (acquire).
  std::atomic<uint32_t> state{kFree};
  std::atomic<int32_t> live{0};  // the region's number while it is live, else 0
  std::atomic<uint32_t> faults{0};
  std::atomic<uint32_t> pages{0};  // pages that were replaced by themselves: each may be a mapping of its own
  std::atomic<bool> file{false};   // of a file, which others may cut short
  std::atomic<uint8_t*> data{nullptr};  // the first byte the region names (its offset may be unaligned)
  std::atomic<uint64_t> length{0};
  std::atomic<uintptr_t> map_start{0};
  std::atomic<uint64_t> map_length{0};
  std::atomic<uint64_t> page{0};  // granularity of faults: 4 KiB, or the huge page of a hugetlbfs file
  // Under the lock only. The V8 backing store, while live: retiring lets go of it, the last view frees the mapping.
  std::shared_ptr<void> store;
  int32_t taken = 0;  // how often the slot was taken
};

Region* Regions();

// The `length` bytes at `offset` of a live region, or nullptr. For rows: no lock.
inline uint8_t* Resolve(int32_t number, double offset, int32_t length) {
  if (number <= 0 || number >= kRegionNumbers || length < 0) return nullptr;
  const Region& region = Regions()[number % kRegions];
  if (region.live.load(std::memory_order_acquire) != number) return nullptr;
  const uint64_t size = region.length.load(std::memory_order_relaxed);
  uint8_t* const data = region.data.load(std::memory_order_relaxed);
  // Still the same region: what was read is of one.
  std::atomic_thread_fence(std::memory_order_acquire);
  if (region.live.load(std::memory_order_relaxed) != number) return nullptr;
  // Negated so that NaN fails; below 2^53 the conversion is exact, so a fraction shows as a difference.
  if (!(offset >= 0 && offset <= static_cast<double>(size))) return nullptr;
  const uint64_t start = static_cast<uint64_t>(offset);
  if (static_cast<double>(start) != offset || static_cast<uint64_t>(length) > size - start) return nullptr;
  return data + start;
}

int32_t AllocateRegion(double length);
int32_t RetireRegion(int32_t number);
// A system call on memory of the region failed with EFAULT: its file was cut short. Counted as a fault.
void NoteLost(int32_t number);
// The region's backing store, or nullptr if it is not live.
std::shared_ptr<void> RegionStore(int32_t number);

// sigbus.cc.

// Installs the handler that answers faults inside regions, once a process, and sees to its reserve of mappings.
// -ENOMEM: the process has no mappings left for that, so that it should take no more memory of others.
int32_t InstallSigbusHandler();
// Replaces whole mappings by private zero pages, with the help of the reserve if need be. False: errno says why.
bool ZeroRange(uintptr_t start, uint64_t length);
// The region is retired: pages replaced by themselves are one mapping again.
void ForgetPages(Region& region);
// Makes the descriptor readable that the control plane watches for faults. Safe in a signal handler.
void TellFault();

}  // namespace tubetti
