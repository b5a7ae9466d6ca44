// The bytes that verified transfers carry: noise with a period that no size of a segment, page or buffer divides, so
// that a block at a wrong place is as wrong as a changed one. Shared by bench-net and the bare front-end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

constexpr size_t kPatternPeriod = 1'048'573;
// Bytes behind the period that a table has too: from every place on, this many lie one after the other.
constexpr size_t kPatternSlack = 1 << 16;
constexpr size_t kPatternTable = kPatternPeriod + kPatternSlack;

// Fills a table of kPatternTable bytes.
inline void FillPattern(uint8_t* table) {
  uint64_t state = 0x9e3779b97f4a7c15;
  for (size_t i = 0; i < kPatternPeriod; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    table[i] = static_cast<uint8_t>(state >> 32);
  }
  memcpy(table + kPatternPeriod, table, kPatternSlack);
}

// Whether `data` is what stands at `position` of the endless pattern.
inline bool IsPattern(const uint8_t* table, uint64_t position, const uint8_t* data, size_t length) {
  while (length > 0) {
    const size_t part = length < kPatternSlack ? length : kPatternSlack;
    if (memcmp(table + position % kPatternPeriod, data, part) != 0) return false;
    position += part;
    data += part;
    length -= part;
  }
  return true;
}

inline std::vector<uint8_t> MakePattern() {
  std::vector<uint8_t> table(kPatternTable);
  FillPattern(table.data());
  return table;
}
