// What is done through an io_uring no filter of system calls sees: files are opened and sockets made by the kernel's own
// threads. libuv gives each event loop one (from Node 22 on), without which it works as well. So the program that
// executes Node denies it first: an io_uring that libuv has cannot be taken away.
#pragma once

#include <cstddef>
#include <cstdint>

#include "install_filter.h"

namespace tubetti {

// For this thread and all that it starts or executes. Needs no_new_privs. 0 or -errno.
inline int32_t DenyIoUring() {
  constexpr uint32_t kSetup = 425;  // on all architectures; the ABI's bit of x32 makes it another number, which x32 alone has
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kSetup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  return static_cast<int32_t>(InstallFilter({sizeof(code) / sizeof(code[0]), code}, 0));
}

}  // namespace tubetti
