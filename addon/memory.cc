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
// mapping. Only then may the slot be used again. Slots are taken in turn, and the number says how often, so that a stale
// number stays unknown for the next 65000 regions.
//
// V8 knows nothing of what such a buffer costs, and a thread without garbage never collects. So slots, mappings and
// addresses of retired regions are bounded here: each thread, when it has let go of a memory map, says so (Relieve), and
// collects at once if kRetiredRegions or kRetiredBytes wait for that. The table is large enough for the regions of one
// session (509 and a log), as many of the map that replaces them, and those that wait.
//
// Changes are made under one mutex. The data path and the SIGBUS handler read the table without it: `live` and `state`
// are the publication points. A thread that names a region by rows must hold a view of it (in practice: the ring's
// views), for then the address range stays reserved while its system call runs, whatever another thread retires.
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

// What may wait for a collection: a guest's life has a few changes of its memory, each of a few regions.
constexpr int32_t kRetiredRegions = 256;
constexpr uint64_t kRetiredBytes = uint64_t{1} << 36;
// Where a collection did not help, because another thread's views are left, it is not tried again before so many more.
constexpr int32_t kRetiredStep = 64;

// All of this under the lock.
std::mutex g_lock;
int32_t g_next = 1;            // 0 is never used: a row that nobody wrote names no region
int32_t g_retired = 0;         // regions retired and not freed
uint64_t g_retired_bytes = 0;  // and their addresses

// The slot of a region's number; nullptr: no number of a region.
Region* SlotOf(int32_t number) {
  return number > 0 && number < kRegionNumbers ? &Regions()[number % kRegions] : nullptr;
}

// Takes a free slot (state busy) or returns -ENFILE. Lock held. Returns the region's number.
int32_t TakeSlot() {
  for (int32_t tried = 1; tried < kRegions; tried++) {
    const int32_t slot = g_next;
    g_next = slot + 1 < kRegions ? slot + 1 : 1;
    Region& region = Regions()[slot];
    if (region.state.load(std::memory_order_relaxed) == kFree) {
      region.state.store(kBusy, std::memory_order_relaxed);
      region.taken = (region.taken + 1) % (kRegionNumbers / kRegions);
      return slot + region.taken * kRegions;
    }
  }
  return -ENFILE;
}

// V8 calls this when nothing refers to the memory any more, on any thread.
void Release(void*, size_t, void* hint) {
  Region& region = *static_cast<Region*>(hint);
  const std::lock_guard<std::mutex> guard(g_lock);
  region.state.store(kBusy, std::memory_order_release);
  const uint64_t length = region.map_length.load(std::memory_order_relaxed);
  g_retired--;
  g_retired_bytes -= length;
  munmap(reinterpret_cast<void*>(region.map_start.load(std::memory_order_relaxed)), length);
  region.state.store(kFree, std::memory_order_release);
}

// Publishes a fresh mapping: `skip` bytes into it the region begins. Returns the region's number or -errno (then the
// mapping is gone).
int32_t Publish(void* mapping, uint64_t map_length, uint64_t skip, uint64_t length, uint64_t page, bool file) {
  const std::lock_guard<std::mutex> guard(g_lock);
  const int32_t number = TakeSlot();
  if (number < 0) {
    munmap(mapping, map_length);
    return number;
  }
  Region& region = Regions()[number % kRegions];
  uint8_t* data = static_cast<uint8_t*>(mapping) + skip;
  region.data.store(data, std::memory_order_relaxed);
  region.length.store(length, std::memory_order_relaxed);
  region.map_start.store(reinterpret_cast<uintptr_t>(mapping), std::memory_order_relaxed);
  region.map_length.store(map_length, std::memory_order_relaxed);
  region.page.store(page, std::memory_order_relaxed);
  region.faults.store(0, std::memory_order_relaxed);
  region.pages.store(0, std::memory_order_relaxed);
  region.file.store(file, std::memory_order_relaxed);
  region.store = MakeBackingStore(data, length, Release, &region);
  region.state.store(kLive, std::memory_order_release);
  region.live.store(number, std::memory_order_release);
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
  return Publish(mapping, map_length, 0, length, page, false);
}

int32_t RetireRegion(int32_t number) {
  Region* const region = SlotOf(number);
  if (region == nullptr) return -EINVAL;
  std::shared_ptr<void> store;  // dropped after the lock: the deleter takes it
  const std::lock_guard<std::mutex> guard(g_lock);
  if (region->live.load(std::memory_order_relaxed) != number) return -EINVAL;
  region->live.store(0, std::memory_order_relaxed);
  region->state.store(kRetired, std::memory_order_release);
  const uint64_t length = region->map_length.load(std::memory_order_relaxed);
  const bool zeroed = ZeroRange(region->map_start.load(std::memory_order_relaxed), length);
  const int error = errno;
  ForgetPages(*region);
  g_retired++;
  g_retired_bytes += length;
  store = std::move(region->store);
  return zeroed ? 0 : -error;
}

std::shared_ptr<void> RegionStore(int32_t number) {
  const Region* const region = SlotOf(number);
  if (region == nullptr) return nullptr;
  const std::lock_guard<std::mutex> guard(g_lock);
  return region->live.load(std::memory_order_relaxed) == number ? region->store : nullptr;
}

void NoteLost(int32_t number) {
  Region* const region = SlotOf(number);
  if (region == nullptr || region->live.load(std::memory_order_acquire) != number) return;
  if (!region->file.load(std::memory_order_relaxed)) return;
  region->faults.fetch_add(1, std::memory_order_relaxed);
  TellFault();
}

// ---- calls

int32_t MapRegion(Thread&, int32_t fd, double at, double wanted) {
  uint64_t offset = 0;
  uint64_t length = 0;
  if (!ToLength(at, offset) || !ToLength(wanted, length) || length == 0) return -EINVAL;
  // What is cached, as in FdKind: no file system is asked.
  struct statx info;
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_SIZE, &info) != 0) return -errno;
  if (!S_ISREG(info.stx_mode)) return -EINVAL;
  // Both are below 2^53: the sum cannot wrap.
  if (offset + length > info.stx_size) return -EINVAL;

  uint64_t page = PageSize();
  // Only files of tmpfs and hugetlbfs have seals, and both answer fstatfs(2) from memory.
  struct statfs fs;
  if (fcntl(fd, F_GET_SEALS) >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > 0) {
    page = static_cast<uint64_t>(fs.f_bsize);
  }

  if (const int32_t error = InstallSigbusHandler(); error < 0) return error;
  // mmap wants an aligned offset, and hugetlbfs an aligned length; the file may offer neither.
  const uint64_t first = offset / page * page;
  const uint64_t map_length = (offset - first + length + page - 1) / page * page;
  void* mapping =
      mmap(nullptr, map_length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(first));
  if (mapping == MAP_FAILED) return -errno;
  // The guest's memory has no place in a core dump of this process.
  madvise(mapping, map_length, MADV_DONTDUMP);
  return Publish(mapping, map_length, offset - first, length, page, true);
}

int32_t AllocRegion(Thread&, double length) { return AllocateRegion(length); }

int32_t RetireRegionCall(Thread&, int32_t region) { return RetireRegion(region); }

double RegionLength(Thread&, int32_t number) {
  const Region* const region = SlotOf(number);
  if (region == nullptr) return -EINVAL;
  const std::lock_guard<std::mutex> guard(g_lock);
  if (region->live.load(std::memory_order_relaxed) != number) return -EINVAL;
  return static_cast<double>(region->length.load(std::memory_order_relaxed));
}

double RegionFaults(Thread&, int32_t number) {
  const Region* const region = SlotOf(number);
  if (region == nullptr || region->live.load(std::memory_order_acquire) != number) return -EINVAL;
  return region->faults.load(std::memory_order_relaxed);
}

int32_t Relieve(Thread& thread, int32_t regions, double wanted) {
  uint64_t bytes = 0;
  if (regions < 0 || !ToLength(wanted, bytes)) return -EINVAL;
  thread.let_go += regions;
  {
    const std::lock_guard<std::mutex> guard(g_lock);
    const bool many = g_retired + regions >= kRetiredRegions && thread.let_go >= kRetiredStep;
    const bool large = g_retired_bytes + bytes >= kRetiredBytes && thread.let_go > 0;
    if (!many && !large) return 0;
  }
  thread.let_go = 0;
  CollectGarbage();  // without the lock, which the deleters take
  return 1;
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
