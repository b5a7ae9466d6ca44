#include "thread.h"

#include <unistd.h>

#include "memory.h"

namespace tubetti {

Thread::~Thread() {
  if (epoll_fd >= 0) ::close(epoll_fd);
  if (scratch_region >= 0) RetireRegion(scratch_region);
}

}  // namespace tubetti
