// What one thread (one Node-API environment) owns: its tables, its epoll set, its libuv polls, and the arrays the
// system calls are given, allocated once so that no call on the data path allocates.
#pragma once

#include <netinet/in.h>
#include <node_api.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <vector>

#include "tables.h"
#include "watchdog.h"

namespace tubetti {

class PollSet;
class Splicer;

struct Thread {
  // cppcheck-suppress uninitMemberVar ; the arrays are written before each call that reads them
  explicit Thread(napi_env e) : env(e) {}
  ~Thread();
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  napi_env env;
  Tables* tables = nullptr;
  napi_ref tables_held = nullptr;  // keeps the tables' ArrayBuffer, whatever becomes of the exports
  PollSet* polls = nullptr;  // owned by its cleanup hook: outlives this object while libuv closes handles
  int epoll_fd = -1;
  Splicer* splicer = nullptr;  // made with the first pair of sockets
  Watched* watched = nullptr;  // by the watchdog, once watchdogEnter was called
  int32_t scratch_region = -1;
  int32_t let_go = 0;  // regions that the thread has let go of since it collected its garbage (memory.cc)
  unsigned long aio = 0;  // context of asynchronous I/O, made when an eventfd is first rung; 0: none
  bool no_aio = false;    // the kernel gives none
  // Sockets that a data plane (a thread with an epoll set) opened and has not closed, by descriptor. If the thread dies
  // of an exception they are closed with it: the process lives on, and nobody else knows them.
  std::vector<bool> sockets;

  // `fd` was opened by this thread. Returns it.
  int32_t Keep(int32_t fd) {
    if (epoll_fd < 0 || fd < 0) return fd;
    if (sockets.size() <= static_cast<size_t>(fd)) sockets.resize(static_cast<size_t>(fd) + 1);
    sockets[static_cast<size_t>(fd)] = true;
    return fd;
  }
  void Forget(int32_t fd) {
    if (fd >= 0 && static_cast<size_t>(fd) < sockets.size()) sockets[static_cast<size_t>(fd)] = false;
  }

  iovec iov[kRows];
  mmsghdr messages[kMessages];
  sockaddr_in6 names[kMessages];
  alignas(cmsghdr) uint8_t control[kMessages][kControlSize];
};

}  // namespace tubetti
