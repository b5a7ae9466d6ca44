// Memory regions: guest memory mapped from the front-end's descriptors, and private scratch.
//
// Theory of operation. A region is a mapping with a number. Its life:
//
//   free -> busy -> live -> retired -> busy -> free
//
// live: rows may name it. retired: private zero pages were mapped over it, so the front-end's memory is given back at
// once while JavaScript views of it stay valid and read zeros. The mapping itself goes when V8 frees the backing
// store, that is, when the last SharedArrayBuffer of any thread over it was collected: the deleter is the only munmap,
// because an unmapped page under a live view would be SIGSEGV, and worse, the address range could be taken by another
// mapping. Only then may the number be used again; numbers are handed out in turn so that a stale one stays unknown
// for long.
//
// Changes are made under one mutex. The data path and the SIGBUS handler read the table without it: `state` is the
// publication point. A thread that names a region by rows must hold a view of it (in practice: the ring's views), for
// then the address range stays reserved while its system call runs, whatever another thread retires meanwhile.
#include "memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <mutex>

#include "backing_store.h"
#include "calls.h"
#include "glue.h"

namespace tubetti {

namespace {

std::mutex g_lock;
int32_t g_next = 1;  // 0 is never used: a row that nobody wrote names no region

// Takes a free slot (state busy) or returns -ENFILE. Lock held.
int32_t TakeSlot() {
  for (int32_t tried = 1; tried < kRegions; tried++) {
    const int32_t number = g_next;
    g_next = number + 1 < kRegions ? number + 1 : 1;
    Region& region = Regions()[number];
    if (region.state.load(std::memory_order_relaxed) == kFree) {
      region.state.store(kBusy, std::memory_order_relaxed);
      return number;
    }
  }
  return -ENFILE;
}

// V8 calls this when nothing refers to the memory any more, on any thread.
void Release(void*, size_t, void* hint) {
  Region& region = *static_cast<Region*>(hint);
  const std::lock_guard<std::mutex> guard(g_lock);
  region.state.store(kBusy, std::memory_order_release);
  munmap(reinterpret_cast<void*>(region.map_start.load(std::memory_order_relaxed)),
         region.map_length.load(std::memory_order_relaxed));
  region.state.store(kFree, std::memory_order_release);
}

// Publishes a fresh mapping: `skip` bytes into it the region begins. Returns the region's number or -errno (then the
// mapping is gone).
int32_t Publish(void* mapping, uint64_t map_length, uint64_t skip, uint64_t length, uint64_t page) {
  const std::lock_guard<std::mutex> guard(g_lock);
  const int32_t number = TakeSlot();
  if (number < 0) {
    munmap(mapping, map_length);
    return number;
  }
  Region& region = Regions()[number];
  uint8_t* data = static_cast<uint8_t*>(mapping) + skip;
  region.data.store(data, std::memory_order_relaxed);
  region.length.store(length, std::memory_order_relaxed);
  region.map_start.store(reinterpret_cast<uintptr_t>(mapping), std::memory_order_relaxed);
  region.map_length.store(map_length, std::memory_order_relaxed);
  region.page.store(page, std::memory_order_relaxed);
  region.faults.store(0, std::memory_order_relaxed);
  region.store = MakeBackingStore(data, length, Release, &region);
  region.state.store(kLive, std::memory_order_release);
  return number;
}

bool ToLength(double value, uint64_t& out) {
  if (!(value >= 0 && value < 9007199254740992.0)) return false;
  out = static_cast<uint64_t>(value);
  return static_cast<double>(out) == value;
}

uint64_t PageSize() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

Region* Regions() {
  // Never destroyed: views and worker threads may outlive static destructors at exit.
  static Region* const table = new Region[kRegions];
  return table;
}

int32_t AllocateRegion(double wanted) {
  uint64_t length = 0;
  if (!ToLength(wanted, length) || length == 0) return -EINVAL;
  const uint64_t page = PageSize();
  const uint64_t map_length = (length + page - 1) / page * page;
  void* mapping = mmap(nullptr, map_length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return -errno;
  return Publish(mapping, map_length, 0, length, page);
}

int32_t RetireRegion(int32_t number) {
  if (number < 0 || number >= kRegions) return -EINVAL;
  Region& region = Regions()[number];
  std::shared_ptr<void> store;  // dropped after the lock: the deleter takes it
  const std::lock_guard<std::mutex> guard(g_lock);
  if (region.state.load(std::memory_order_relaxed) != kLive) return -EINVAL;
  region.state.store(kRetired, std::memory_order_release);
  void* start = reinterpret_cast<void*>(region.map_start.load(std::memory_order_relaxed));
  const uint64_t length = region.map_length.load(std::memory_order_relaxed);
  void* over =
      mmap(start, length, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  store = std::move(region.store);
  return over == MAP_FAILED ? -errno : 0;
}

std::shared_ptr<void> RegionStore(int32_t number) {
  if (number < 0 || number >= kRegions) return nullptr;
  const std::lock_guard<std::mutex> guard(g_lock);
  const Region& region = Regions()[number];
  return region.state.load(std::memory_order_relaxed) == kLive ? region.store : nullptr;
}

// ---- calls

int32_t MapRegion(Thread&, int32_t fd, double at, double wanted) {
  uint64_t offset = 0;
  uint64_t length = 0;
  if (!ToLength(at, offset) || !ToLength(wanted, length) || length == 0) return -EINVAL;
  struct stat info;
  if (fstat(fd, &info) != 0) return -errno;
  if (!S_ISREG(info.st_mode)) return -EINVAL;
  // Both are below 2^53: the sum cannot wrap.
  if (offset + length > static_cast<uint64_t>(info.st_size)) return -EINVAL;

  uint64_t page = PageSize();
  struct statfs fs;
  if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > 0) page = static_cast<uint64_t>(fs.f_bsize);

  if (const int32_t error = InstallSigbusHandler(); error < 0) return error;
  // mmap wants an aligned offset, and hugetlbfs an aligned length; the file may offer neither.
  const uint64_t first = offset / page * page;
  const uint64_t map_length = (offset - first + length + page - 1) / page * page;
  void* mapping =
      mmap(nullptr, map_length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(first));
  if (mapping == MAP_FAILED) return -errno;
  // The guest's memory has no place in a core dump of this process.
  madvise(mapping, map_length, MADV_DONTDUMP);
  return Publish(mapping, map_length, offset - first, length, page);
}

int32_t AllocRegion(Thread&, double length) { return AllocateRegion(length); }

int32_t RetireRegionCall(Thread&, int32_t region) { return RetireRegion(region); }

double RegionLength(Thread&, int32_t number) {
  if (number < 0 || number >= kRegions) return -EINVAL;
  const std::lock_guard<std::mutex> guard(g_lock);
  const Region& region = Regions()[number];
  if (region.state.load(std::memory_order_relaxed) < kLive) return -EINVAL;
  return static_cast<double>(region.length.load(std::memory_order_relaxed));
}

double RegionFaults(Thread&, int32_t number) {
  if (number < 0 || number >= kRegions) return -EINVAL;
  const Region& region = Regions()[number];
  if (region.state.load(std::memory_order_acquire) < kLive) return -EINVAL;
  return region.faults.load(std::memory_order_relaxed);
}

int32_t RegionCount(Thread&) {
  const std::lock_guard<std::mutex> guard(g_lock);
  int32_t count = 0;
  for (int32_t number = 0; number < kRegions; number++) {
    if (Regions()[number].state.load(std::memory_order_relaxed) != kFree) count++;
  }
  return count;
}

int32_t MemfdCreate(Thread&, std::string name, double wanted, int32_t seals) {
  uint64_t size = 0;
  if (!ToLength(wanted, size)) return -EINVAL;
  const int fd = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  if (::ftruncate(fd, static_cast<off_t>(size)) != 0 || (seals != 0 && fcntl(fd, F_ADD_SEALS, seals) != 0)) {
    const int error = errno;
    ::close(fd);
    return -error;
  }
  return fd;
}

int32_t GetSeals(Thread&, int32_t fd) {
  const int seals = fcntl(fd, F_GET_SEALS);
  return seals < 0 ? -errno : seals;
}

double FileSize(Thread&, int32_t fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return -errno;
  return static_cast<double>(info.st_size);
}

int32_t Ftruncate(Thread&, int32_t fd, double wanted) {
  uint64_t size = 0;
  if (!ToLength(wanted, size)) return -EINVAL;
  return Retry([&] { return ::ftruncate(fd, static_cast<off_t>(size)); });
}

}  // namespace tubetti
