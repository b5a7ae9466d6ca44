// The memory behind the typed arrays a thread shares with its JavaScript: one ArrayBuffer laid out as this struct,
// every column a view of it. V8 never moves an ArrayBuffer's memory, so the pointer is kept for the thread's life.
#pragma once

#include "limits.h"

namespace tubetti {

inline constexpr int32_t kTcpInfoFields = 3;
inline constexpr int32_t kMemInfoFields = 4;
inline constexpr int32_t kSockErrFields = 6;
inline constexpr int32_t kSpliceFields = 3;

struct Tables {
  double row_offset[kRows];
  double tcp_info[kTcpInfoFields];
  double mem_info[kMemInfoFields];
  double splice_out[kSpliceFields];
  int32_t row_region[kRows];
  int32_t row_length[kRows];
  int32_t msg_row[kMessages];
  int32_t msg_rows[kMessages];
  int32_t msg_len[kMessages];
  int32_t msg_peer[kMessages];
  int32_t msg_local[kMessages];
  int32_t msg_ttl[kMessages];
  int32_t msg_tos[kMessages];
  int32_t msg_segment[kMessages];
  int32_t sock_err[kSockErrFields];
  int32_t epoll_out[3 * kEvents];
  uint8_t addrs[kAddrSlots * kAddrSlotSize];
};

}  // namespace tubetti
