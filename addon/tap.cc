// Frames of a tap device, many a call: the kernel takes and gives one a system call, and none of that should cost a crossing
// from JavaScript as well.
#include <unistd.h>

#include "calls.h"
#include "memory.h"

namespace tubetti {

namespace {

// A frame begins where a cache line does.
constexpr uint64_t kLine = 64;

double NextLine(double offset) {
  return static_cast<double>((static_cast<uint64_t>(offset) + kLine - 1) & ~(kLine - 1));
}

}  // namespace

int32_t TapRead(Thread&, int32_t fd, int32_t region, double offset, double end, int32_t most, Ints lengths) {
  if (most <= 0) return -EINVAL;
  int32_t count = 0;
  double at = offset;
  while (static_cast<size_t>(count) < lengths.length && at + most <= end) {
    uint8_t* data = Resolve(region, at, most);
    if (data == nullptr) return -EFAULT;
    const auto got = Retry([&] { return ::read(fd, data, static_cast<size_t>(most)); });
    lengths.data[count] = static_cast<int32_t>(got);
    if (got < 0) return count > 0 ? count : static_cast<int32_t>(got);
    count++;
    at = NextLine(at + static_cast<double>(got));
  }
  if (static_cast<size_t>(count) < lengths.length) lengths.data[count] = 0;
  return count;
}

int32_t TapWrite(Thread&, int32_t fd, int32_t region, Ints offsets, Ints lengths, int32_t first, int32_t end) {
  if (first < 0 || end < first) return -EINVAL;
  if (static_cast<size_t>(end) > offsets.length || static_cast<size_t>(end) > lengths.length) return -EINVAL;
  for (int32_t i = first; i < end; i++) {
    const uint8_t* data = Resolve(region, offsets.data[i], lengths.data[i]);
    if (data == nullptr) return -EFAULT;
    const auto sent = Retry([&] { return ::write(fd, data, static_cast<size_t>(lengths.data[i])); });
    if (sent < 0) return i > first ? i - first : static_cast<int32_t>(sent);
  }
  return end - first;
}

}  // namespace tubetti
