// Sizes shared with the TypeScript side (src/stack/scratch.ts, src/stack/ports.ts, src/native.ts). loadNative()
// compares them with its own, so that an addon of another version is refused and not misread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tubetti {

inline constexpr int32_t kRows = 5408;         // ROWS_TOTAL
inline constexpr int32_t kRowsPerCall = 1024;  // IOV_MAX
inline constexpr int32_t kMessages = 256;      // MSGS_TOTAL
inline constexpr int32_t kAddrSlots = 256;     // ADDR_SLOTS
inline constexpr int32_t kAddrSlotSize = 32;
inline constexpr double kScratchSize = (1 << 21) + (1 << 20) + (1 << 17) + 64 * 66560;  // SCRATCH_SIZE
inline constexpr int32_t kEvents = 256;      // events an epollWait returns at the most
inline constexpr int32_t kRegions = 4096;    // slots of the region table
// Numbers of regions: the slot in the low 12 bits, above it how often the slot was taken (mod 16). GuestMemory takes
// numbers of 16 bits.
inline constexpr int32_t kRegionNumbers = 16 * kRegions;
inline constexpr size_t kControlSize = 256;  // control data of one message
inline constexpr int32_t kFdsPerMessage = 64;

}  // namespace tubetti
