// Calls on a front-end's descriptors that may block, made by a thread that may be lost. See closer.cc.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tubetti {

// Closes `fd` soon, on another thread. The number stays taken until then.
void CloseLater(int fd);

}  // namespace tubetti
