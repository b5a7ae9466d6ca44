// What one thread (one Node-API environment) owns: its tables, its epoll set, its libuv polls, and the arrays the
// system calls are given, allocated once so that no call on the data path allocates.
#pragma once

#include <netinet/in.h>
#include <node_api.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "tables.h"

namespace tubetti {

class PollSet;

struct Thread {
  explicit Thread(napi_env e) : env(e) {}
  ~Thread();
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  napi_env env;
  Tables* tables = nullptr;
  PollSet* polls = nullptr;  // owned by its cleanup hook: outlives this object while libuv closes handles
  int epoll_fd = -1;
  int32_t scratch_region = -1;

  iovec iov[kRows];
  mmsghdr messages[kMessages];
  sockaddr_in6 names[kMessages];
  alignas(cmsghdr) uint8_t control[kMessages][kControlSize];
};

}  // namespace tubetti
