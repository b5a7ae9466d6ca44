// The Internet checksum (RFC 1071), and sums of the pattern that cost nothing: a source that computed them byte by byte
// would measure itself where the back-end offers no CSUM.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../macro/pattern.h"

namespace bare {

inline uint32_t Fold(uint64_t sum) {
  while ((sum >> 16) != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint32_t>(sum);
}

// Of bytes that begin at an even place. Sums are of 16-bit words as they lie in memory, so they need no swapping.
inline uint64_t Sum(const uint8_t* data, size_t length) {
  uint64_t sum = 0;
  for (; length >= 4; data += 4, length -= 4) {
    uint32_t word;
    memcpy(&word, data, 4);
    sum += word;
  }
  if (length >= 2) {
    uint16_t word;
    memcpy(&word, data, 2);
    sum += word;
    data += 2;
    length -= 2;
  }
  return length > 0 ? sum + *data : sum;
}

inline uint32_t Swapped(uint32_t folded) { return ((folded << 8) | (folded >> 8)) & 0xffff; }

// For the bytes of a table made by FillPattern.
class PatternSums {
 public:
  explicit PatternSums(const uint8_t* table) : table_(table), sums_(kPatternTable / 2 + 1) {
    for (size_t i = 0; i + 1 < sums_.size(); i++) {
      uint16_t word;
      memcpy(&word, table + 2 * i, 2);
      sums_[i + 1] = sums_[i] + word;
    }
  }

  // As Sum(table + at, length).
  uint64_t Of(size_t at, size_t length) const {
    if (length == 0) return 0;
    if (at % 2 == 0) return Even(at, length);
    // All that follows the first byte lies at the other half of a word here than there.
    return table_[at] + Swapped(Fold(Even(at + 1, length - 1)));
  }

 private:
  uint64_t Even(size_t at, size_t length) const {
    const uint64_t words = sums_[(at + length) / 2] - sums_[at / 2];
    return length % 2 == 0 ? words : words + table_[at + length - 1];
  }

  const uint8_t* table_;
  std::vector<uint64_t> sums_;
};

}  // namespace bare
