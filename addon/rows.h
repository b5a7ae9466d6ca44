// Rows of the shared table to an iovec array, each checked against its region.
#pragma once

#include <cerrno>

#include "memory.h"
#include "thread.h"

namespace tubetti {

// 0, -EINVAL (not rows of the table, or more than one call takes) or -EFAULT (a row outside its region).
inline int32_t Gather(const Thread& thread, int32_t row, int32_t count, iovec* out) {
  if (row < 0 || count < 0 || count > kRowsPerCall || row > kRows - count) return -EINVAL;
  const Tables& tables = *thread.tables;
  for (int32_t i = 0; i < count; i++) {
    const int32_t length = tables.row_length[row + i];
    uint8_t* data = Resolve(tables.row_region[row + i], tables.row_offset[row + i], length);
    if (data == nullptr) return -EFAULT;
    out[i].iov_base = data;
    out[i].iov_len = static_cast<size_t>(length);
  }
  return 0;
}

// The result of a system call on rows that Gather took. They are inside live regions, so that EFAULT means that pages
// are not there any more: the kernel says so where a thread of ours would get SIGBUS.
inline int32_t Done(const Thread& thread, int32_t row, int32_t count, int32_t result) {
  if (result != -EFAULT) return result;
  for (int32_t i = 0; i < count; i++) NoteLost(thread.tables->row_region[row + i]);
  return result;
}

}  // namespace tubetti
