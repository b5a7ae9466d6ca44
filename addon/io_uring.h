// What is done through an io_uring no filter of system calls sees: files are opened and sockets made by the kernel's own
// threads. libuv gives each event loop one (from Node 22 on), without which it works as well. So the program that
// executes Node denies it first: an io_uring that libuv has cannot be taken away.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

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
  const sock_fprog filter = {sizeof(code) / sizeof(code[0]), code};
  constexpr unsigned long kSpecAllow = 1UL << 2;  // SECCOMP_FILTER_FLAG_SPEC_ALLOW, see seccomp.cc
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, kSpecAllow, &filter) == 0) return 0;
  if (errno != EINVAL || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0UL, &filter) != 0) return -errno;
  return 0;
}

}  // namespace tubetti
