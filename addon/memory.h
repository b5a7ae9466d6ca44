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
  kLive = 2,     // rows may name it
  kRetired = 3,  // zero pages lie over it; views may still read it
};

struct Region {
  // Read without a lock by the data path and by the SIGBUS handler. `state` is stored last (release) and loaded
  // first (acquire).
  std::atomic<uint32_t> state{kFree};
  std::atomic<uint32_t> faults{0};
  std::atomic<uint8_t*> data{nullptr};  // the first byte the region names (its offset may be unaligned)
  std::atomic<uint64_t> length{0};
  std::atomic<uintptr_t> map_start{0};
  std::atomic<uint64_t> map_length{0};
  std::atomic<uint64_t> page{0};  // granularity of faults: 4 KiB, or the huge page of a hugetlbfs file
  // Under the lock only. The V8 backing store, while live: retiring lets go of it, the last view frees the mapping.
  std::shared_ptr<void> store;
};

Region* Regions();

// The `length` bytes at `offset` of a live region, or nullptr. For rows: no lock.
inline uint8_t* Resolve(int32_t number, double offset, int32_t length) {
  if (static_cast<uint32_t>(number) >= static_cast<uint32_t>(kRegions) || length < 0) return nullptr;
  const Region& region = Regions()[number];
  if (region.state.load(std::memory_order_acquire) != kLive) return nullptr;
  const uint64_t size = region.length.load(std::memory_order_relaxed);
  // Negated so that NaN fails; below 2^53 the conversion is exact, so a fraction shows as a difference.
  if (!(offset >= 0 && offset <= static_cast<double>(size))) return nullptr;
  const uint64_t start = static_cast<uint64_t>(offset);
  if (static_cast<double>(start) != offset || static_cast<uint64_t>(length) > size - start) return nullptr;
  return region.data.load(std::memory_order_relaxed) + start;
}

int32_t AllocateRegion(double length);
int32_t RetireRegion(int32_t number);
// The region's backing store, or nullptr if it is not live.
std::shared_ptr<void> RegionStore(int32_t number);

// sigbus.cc: installs the handler that answers faults inside regions. Once a process.
int32_t InstallSigbusHandler();

}  // namespace tubetti
