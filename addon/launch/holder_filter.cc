// The system calls that are left to the process inside the namespaces (namespace.cc) once all is set up there: it waits,
// answers, makes and binds inet sockets, and sees to the command's end. By hand, as it is one thread of our own C++.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "../install_filter.h"
#include "namespace.h"

namespace tubetti {

namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
constexpr uint32_t kArchitecture = 0;
#endif

constexpr uint32_t kAllowed[] = {
    // Requests, answers, descriptors in them.
    SYS_recvfrom, SYS_sendmsg, SYS_sendto, SYS_read, SYS_write, SYS_close, SYS_socket, SYS_ppoll, SYS_restart_syscall,
    // Ports inside that lead to the host.
    SYS_bind, SYS_listen, SYS_setsockopt,
    // The command: its start, its end, its handlers of signals; the streams that are its alone.
    SYS_wait4, SYS_kill, SYS_openat, SYS_dup3, SYS_rt_sigprocmask, SYS_rt_sigreturn,
    // Whether the namespace's path is still there.
    SYS_newfstatat, SYS_statx,
    // glibc: memory for text; the end.
    SYS_brk, SYS_mmap, SYS_munmap, SYS_getrandom, SYS_futex, SYS_exit_group,
#if defined(__x86_64__)
    SYS_poll, SYS_open, SYS_dup2, SYS_stat,
#endif
};

constexpr size_t kCount = sizeof(kAllowed) / sizeof(kAllowed[0]);

}  // namespace

int32_t FilterHolder(bool only_log) {
  if (kArchitecture == 0) return -ENOSYS;
  const uint32_t refuse = only_log ? SECCOMP_RET_LOG : SECCOMP_RET_ERRNO | EPERM;
  sock_filter code[kCount + 6];
  size_t at = 0;
  code[at++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch));
  code[at++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0);
  code[at++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  code[at++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  for (size_t i = 0; i < kCount; i++) {
    // Over what is left of the list and the refusal behind it.
    code[at++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kAllowed[i], static_cast<uint8_t>(kCount - i), 0);
  }
  code[at++] = BPF_STMT(BPF_RET | BPF_K, refuse);
  code[at++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  return static_cast<int32_t>(InstallFilter({static_cast<uint16_t>(at), code}, 0));
}

}  // namespace tubetti
