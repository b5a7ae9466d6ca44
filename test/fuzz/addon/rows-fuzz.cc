// Coverage-guided fuzzing (libFuzzer, ASan, UBSan) of what the addon does with rows: numbers that TypeScript took from a
// guest's descriptors, which must name bytes of a live region or be refused. `npm run fuzz:addon -- --seconds N`.
//
// Regions are mappings, whose last page ASan knows nothing of, so every address is compared with what the region's own
// numbers allow; checksums and copies are compared with the plain way of doing them.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "address.h"
#include "backing_store.h"
#include "calls.h"
#include "rows.h"

namespace tubetti {

Thread::~Thread() = default;

// No V8 here: the store is the mapping's owner and nothing else.
std::shared_ptr<void> MakeBackingStore(void* data, size_t length, void (*release)(void*, size_t, void*), void* hint) {
  return std::shared_ptr<void>(data, [=](void* where) { release(where, length, hint); });
}

}  // namespace tubetti

namespace {

using namespace tubetti;

constexpr int32_t kSizes[] = {1, 4095, 4096, 4097, 70000};
constexpr int32_t kMaxRows = 40;

struct Known {
  int32_t number;
  uint8_t* data;
  uint64_t length;
};

void Require(bool good) {
  if (!good) abort();
}

struct World {
  Tables tables = {};
  Thread thread{nullptr};
  std::vector<Known> regions;

  World() {
    thread.tables = &tables;
    for (const int32_t size : kSizes) {
      const int32_t number = AllocateRegion(size);
      Require(number > 0);
      regions.push_back({number, Resolve(number, 0, 0), static_cast<uint64_t>(size)});
    }
    // One that was taken back: its rows are refused for ever.
    const int32_t retired = AllocateRegion(4096);
    RetireRegion(retired);
    regions.push_back({retired, nullptr, 0});
  }
};

void FillRow(FuzzedDataProvider& input, World& world, int32_t row) {
  Tables& tables = world.tables;
  const Known& known = world.regions[input.ConsumeIntegralInRange<size_t>(0, world.regions.size() - 1)];
  const uint8_t how = input.ConsumeIntegral<uint8_t>();
  const bool near = (how & 1) != 0;
  tables.row_region[row] = (how & 2) != 0 ? input.ConsumeIntegral<int32_t>() : known.number;
  const int32_t before_end = input.ConsumeIntegralInRange<int32_t>(-8, 4100);
  tables.row_offset[row] =
      near ? static_cast<double>(known.length) - before_end : input.ConsumeFloatingPoint<double>();
  // Mostly up to the region's end, a few bytes less or more.
  const int32_t to_end = before_end + input.ConsumeIntegralInRange<int32_t>(-3, 3);
  tables.row_length[row] = (how & 4) != 0 ? input.ConsumeIntegral<int32_t>() : to_end;
}

// The bytes a row names if it is good, else false. Written the slow way, as an oracle.
bool Good(const World& world, int32_t row, uint8_t*& data) {
  const Tables& tables = world.tables;
  for (const Known& known : world.regions) {
    if (known.number != tables.row_region[row] || known.data == nullptr) continue;
    const double offset = tables.row_offset[row];
    const int32_t length = tables.row_length[row];
    if (length < 0 || !(offset >= 0) || offset > 1e15 || offset != static_cast<double>(static_cast<int64_t>(offset))) {
      return false;
    }
    if (static_cast<uint64_t>(offset) + static_cast<uint64_t>(length) > known.length) return false;
    data = known.data + static_cast<uint64_t>(offset);
    return true;
  }
  return false;
}

bool Bytes(const World& world, int32_t row, int32_t count, std::vector<uint8_t*>& out) {
  for (int32_t i = 0; i < count; i++) {
    uint8_t* data = nullptr;
    if (!Good(world, row + i, data)) return false;
    for (int32_t at = 0; at < world.tables.row_length[row + i]; at++) out.push_back(data + at);
  }
  return true;
}

void CheckChecksum(World& world, int32_t row, int32_t count) {
  std::vector<uint8_t*> bytes;
  const int32_t got = Checksum(world.thread, row, count, 0);
  if (!Bytes(world, row, count, bytes)) return Require(got == -EFAULT);
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size(); i++) sum += static_cast<uint64_t>(*bytes[i]) << ((i & 1) != 0 ? 0 : 8);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  Require(got == static_cast<int32_t>(sum));
}

void CheckCopy(World& world, int32_t from, int32_t from_count, int32_t to, int32_t to_count) {
  std::vector<uint8_t*> in;
  std::vector<uint8_t*> out;
  const bool good = Bytes(world, from, from_count, in) && Bytes(world, to, to_count, out);
  const int32_t got = CopyRows(world.thread, from, from_count, to, to_count);
  if (!good) return Require(got == -EFAULT);
  Require(got == static_cast<int32_t>(std::min(in.size(), out.size())));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World* const world = new World;
  FuzzedDataProvider input(data, size);
  for (const Known& known : world->regions) {
    if (known.data != nullptr) memset(known.data, input.ConsumeIntegral<uint8_t>(), known.length);
  }
  const int32_t first = input.ConsumeBool() ? 0 : kRows - kMaxRows;
  const int32_t rows = input.ConsumeIntegralInRange<int32_t>(0, kMaxRows);
  for (int32_t i = 0; i < rows; i++) FillRow(input, *world, first + i);
  // Rows beyond those written keep what an earlier input left there, as in the service.
  const int32_t half = rows / 2;
  CheckChecksum(*world, first, rows);
  CheckChecksum(*world, first + half, rows - half);
  CheckCopy(*world, first, half, first + half, rows - half);
  // Counts and places that are no rows.
  const int32_t row = input.ConsumeIntegral<int32_t>();
  const int32_t count = input.ConsumeIntegral<int32_t>();
  const int32_t result = Gather(world->thread, row, count, world->thread.iov);
  if (row < 0 || count < 0 || count > kRowsPerCall || int64_t{row} + count > kRows) Require(result == -EINVAL);
  SlotFamily(world->thread, input.ConsumeIntegral<int32_t>());
  sockaddr_in6 address;
  LoadSlot(world->thread, input.ConsumeIntegral<int32_t>(), address);
  return 0;
}
