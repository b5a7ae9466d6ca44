// Ringing from a thread that has no tables. See event_fd.cc.
#pragma once

#include <cstdint>

namespace tubetti {

// Writes 1 to an eventfd, pipe or socket. Waits if the other holder wants it to: only for threads that may be lost.
int32_t SignalMayBlock(int32_t fd);

}  // namespace tubetti
