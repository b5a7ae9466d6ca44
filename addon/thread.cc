#include "thread.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "memory.h"
#include "splice.h"

namespace tubetti {

Thread::~Thread() {
  delete splicer;
  for (size_t fd = 0; fd < sockets.size(); fd++) {
    if (sockets[fd]) ::close(static_cast<int>(fd));
  }
  if (epoll_fd >= 0) ::close(epoll_fd);
  if (aio != 0) syscall(SYS_io_destroy, aio);
  if (scratch_region >= 0) RetireRegion(scratch_region);
  LeaveWatchdog(watched);
  // No JavaScript of this environment runs any more. Node frees no reference that is not given back.
  if (tables_held != nullptr) napi_delete_reference(env, tables_held);
}

}  // namespace tubetti
