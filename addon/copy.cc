// Bytes from rows to rows: for the few datagrams that cannot be received or sent in place, and for what
// has to look at a frame as a whole and keep it (packet capture). Rows may overlap.
#include <cstring>

#include "calls.h"
#include "rows.h"

namespace tubetti {

int32_t CopyRows(Thread& thread, int32_t from, int32_t from_count, int32_t to, int32_t to_count) {
  iovec* const in = thread.iov;
  iovec* const out = thread.iov + kRowsPerCall;
  if (const int32_t error = Gather(thread, from, from_count, in); error < 0) return error;
  if (const int32_t error = Gather(thread, to, to_count, out); error < 0) return error;
  size_t copied = 0;
  size_t skip_in = 0;
  size_t skip_out = 0;
  for (int32_t i = 0, o = 0; i < from_count && o < to_count;) {
    const size_t have = in[i].iov_len - skip_in;
    const size_t room = out[o].iov_len - skip_out;
    const size_t n = have < room ? have : room;
    memmove(static_cast<uint8_t*>(out[o].iov_base) + skip_out, static_cast<const uint8_t*>(in[i].iov_base) + skip_in, n);
    copied += n;
    skip_in += n;
    skip_out += n;
    if (skip_in == in[i].iov_len) {
      i++;
      skip_in = 0;
    }
    if (skip_out == out[o].iov_len) {
      o++;
      skip_out = 0;
    }
  }
  return static_cast<int32_t>(copied);
}

}  // namespace tubetti
