// Instructions of a filter as src/sandbox/filter.ts has them: four numbers each, the fields of struct sock_filter.
#pragma once

#include <cstddef>
#include <cstdint>

#include "glue.h"
#include "install_filter.h"

namespace tubetti {

constexpr size_t kInstruction = 4;

// The caller has checked their number.
inline sock_filter InstructionAt(Ints program, size_t i) {
  const int32_t* const from = program.data + i * kInstruction;
  return {static_cast<uint16_t>(from[0]), static_cast<uint8_t>(from[1]), static_cast<uint8_t>(from[2]),
          static_cast<uint32_t>(from[3])};
}

}  // namespace tubetti
