// Bytes from rows to one row: for what has to look at a frame as a whole and keep it (packet capture).
#include <cstring>

#include "calls.h"
#include "rows.h"

namespace tubetti {

int32_t CopyRows(Thread& thread, int32_t row, int32_t row_count, int32_t to) {
  iovec target;
  if (const int32_t error = Gather(thread, to, 1, &target); error < 0) return error;
  if (const int32_t error = Gather(thread, row, row_count, thread.iov); error < 0) return error;
  uint8_t* at = static_cast<uint8_t*>(target.iov_base);
  size_t room = target.iov_len;
  for (int32_t i = 0; i < row_count && room > 0; i++) {
    const iovec& part = thread.iov[i];
    const size_t length = part.iov_len < room ? part.iov_len : room;
    memmove(at, part.iov_base, length);  // a caller's rows may overlap: then it gets what it asked for, not a fault
    at += length;
    room -= length;
  }
  return static_cast<int32_t>(target.iov_len - room);
}

}  // namespace tubetti
