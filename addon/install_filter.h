// Installing a filter of system calls (seccomp(2)): the service, its launcher and its broker all do. Needs no_new_privs.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace tubetti {

// Without SPEC_ALLOW kernels before 5.16 slow every thread with a filter down, as if it ran somebody else's code. Older
// headers lack it.
constexpr unsigned long kSpecAllow = 1UL << 2;

// `flags`: SECCOMP_FILTER_FLAG_*. 0, -errno, or with TSYNC the thread that could not take part.
inline long InstallFilter(const sock_fprog& filter, unsigned long flags) {
  long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags | kSpecAllow, &filter);
  if (result == -1 && errno == EINVAL) {  // before 4.17 there is no such flag
    result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter);
  }
  return result == -1 ? -errno : result;
}

}  // namespace tubetti
