// What FdKind answers: FD_* in src/native.ts.
#pragma once

#include <cstdint>

namespace tubetti {

enum FileKind : int32_t {
  kOther = 0,
  kEventFd = 1,
  kSocket = 2,  // AF_UNIX
  kPipe = 3,
  kMemory = 4,         // a file that may be mapped: of memory, or on a disk of this host
  kForeignSocket = 5,  // of another family
};

}  // namespace tubetti
