// Numbers of system calls by name, as this architecture's headers have them: src/sandbox/syscalls.ts knows names alone.
#include <sys/syscall.h>

#include <string>
#include <string_view>

#include "calls.h"

namespace tubetti {

namespace {

// The text of a number, or anything else where the headers do not define it: -1.
constexpr int32_t Number(std::string_view text) {
  int32_t number = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return -1;
    number = number * 10 + (c - '0');
  }
  return number;
}

struct Name {
  std::string_view name;
  int32_t number;
};

#define TUBETTI_TEXT_OF(text) #text
#define TUBETTI_TEXT(macro) TUBETTI_TEXT_OF(macro)
#define TUBETTI_CALL(name) {#name, Number(TUBETTI_TEXT(__NR_##name))}

constexpr Name kNames[] = {
    // clang-format off
    TUBETTI_CALL(accept), TUBETTI_CALL(accept4), TUBETTI_CALL(access), TUBETTI_CALL(acct), TUBETTI_CALL(add_key),
    TUBETTI_CALL(adjtimex), TUBETTI_CALL(bind), TUBETTI_CALL(bpf), TUBETTI_CALL(brk), TUBETTI_CALL(capget),
    TUBETTI_CALL(capset), TUBETTI_CALL(chdir), TUBETTI_CALL(chroot), TUBETTI_CALL(clock_adjtime), TUBETTI_CALL(clock_getres),
    TUBETTI_CALL(clock_gettime), TUBETTI_CALL(clock_nanosleep), TUBETTI_CALL(clock_settime), TUBETTI_CALL(clone),
    TUBETTI_CALL(close), TUBETTI_CALL(connect), TUBETTI_CALL(creat), TUBETTI_CALL(delete_module), TUBETTI_CALL(dup),
    TUBETTI_CALL(dup2), TUBETTI_CALL(dup3), TUBETTI_CALL(epoll_create1), TUBETTI_CALL(epoll_ctl),
    TUBETTI_CALL(epoll_pwait), TUBETTI_CALL(epoll_wait), TUBETTI_CALL(eventfd2), TUBETTI_CALL(execve),
    TUBETTI_CALL(execveat), TUBETTI_CALL(exit), TUBETTI_CALL(exit_group), TUBETTI_CALL(faccessat),
    TUBETTI_CALL(fanotify_init), TUBETTI_CALL(fcntl), TUBETTI_CALL(finit_module), TUBETTI_CALL(fork),
    TUBETTI_CALL(fstat), TUBETTI_CALL(fstatfs), TUBETTI_CALL(ftruncate), TUBETTI_CALL(futex), TUBETTI_CALL(getcpu),
    TUBETTI_CALL(getcwd), TUBETTI_CALL(getdents64), TUBETTI_CALL(getegid), TUBETTI_CALL(geteuid),
    TUBETTI_CALL(getgid), TUBETTI_CALL(getpeername), TUBETTI_CALL(getpid), TUBETTI_CALL(getppid),
    TUBETTI_CALL(getrandom), TUBETTI_CALL(getrlimit), TUBETTI_CALL(getrusage), TUBETTI_CALL(getsockname),
    TUBETTI_CALL(getsockopt), TUBETTI_CALL(gettid), TUBETTI_CALL(gettimeofday), TUBETTI_CALL(getuid),
    TUBETTI_CALL(init_module), TUBETTI_CALL(inotify_add_watch), TUBETTI_CALL(inotify_init1),
    TUBETTI_CALL(inotify_rm_watch), TUBETTI_CALL(io_destroy), TUBETTI_CALL(io_setup), TUBETTI_CALL(io_submit),
    TUBETTI_CALL(ioctl), TUBETTI_CALL(ioperm), TUBETTI_CALL(iopl), TUBETTI_CALL(kcmp), TUBETTI_CALL(kexec_file_load),
    TUBETTI_CALL(kexec_load), TUBETTI_CALL(keyctl), TUBETTI_CALL(kill), TUBETTI_CALL(listen),
    TUBETTI_CALL(lookup_dcookie), TUBETTI_CALL(lseek), TUBETTI_CALL(lstat), TUBETTI_CALL(madvise),
    TUBETTI_CALL(membarrier), TUBETTI_CALL(migrate_pages), TUBETTI_CALL(mknod), TUBETTI_CALL(mknodat),
    TUBETTI_CALL(mmap), TUBETTI_CALL(modify_ldt), TUBETTI_CALL(mount), TUBETTI_CALL(move_pages),
    TUBETTI_CALL(mprotect), TUBETTI_CALL(mremap), TUBETTI_CALL(munmap), TUBETTI_CALL(name_to_handle_at),
    TUBETTI_CALL(nanosleep), TUBETTI_CALL(newfstatat), TUBETTI_CALL(nfsservctl), TUBETTI_CALL(open),
    TUBETTI_CALL(open_by_handle_at), TUBETTI_CALL(openat), TUBETTI_CALL(perf_event_open), TUBETTI_CALL(personality),
    TUBETTI_CALL(pipe2), TUBETTI_CALL(pivot_root), TUBETTI_CALL(pkey_alloc), TUBETTI_CALL(pkey_free),
    TUBETTI_CALL(pkey_mprotect), TUBETTI_CALL(poll), TUBETTI_CALL(ppoll), TUBETTI_CALL(prctl), TUBETTI_CALL(pread64),
    TUBETTI_CALL(preadv2), TUBETTI_CALL(prlimit64), TUBETTI_CALL(process_vm_readv), TUBETTI_CALL(process_vm_writev),
    TUBETTI_CALL(ptrace), TUBETTI_CALL(pwrite64), TUBETTI_CALL(pwritev2), TUBETTI_CALL(quotactl), TUBETTI_CALL(read),
    TUBETTI_CALL(readlink), TUBETTI_CALL(readlinkat), TUBETTI_CALL(readv), TUBETTI_CALL(reboot),
    TUBETTI_CALL(recvfrom), TUBETTI_CALL(recvmmsg), TUBETTI_CALL(recvmsg), TUBETTI_CALL(request_key),
    TUBETTI_CALL(restart_syscall), TUBETTI_CALL(rseq), TUBETTI_CALL(rt_sigaction), TUBETTI_CALL(rt_sigprocmask),
    TUBETTI_CALL(rt_sigqueueinfo), TUBETTI_CALL(rt_sigreturn), TUBETTI_CALL(rt_tgsigqueueinfo),
    TUBETTI_CALL(sched_get_priority_max), TUBETTI_CALL(sched_get_priority_min), TUBETTI_CALL(sched_getaffinity),
    TUBETTI_CALL(sched_getparam), TUBETTI_CALL(sched_getscheduler), TUBETTI_CALL(sched_yield), TUBETTI_CALL(seccomp),
    TUBETTI_CALL(sendmmsg), TUBETTI_CALL(sendmsg), TUBETTI_CALL(sendto), TUBETTI_CALL(set_robust_list),
    TUBETTI_CALL(set_tid_address), TUBETTI_CALL(setdomainname), TUBETTI_CALL(setfsgid), TUBETTI_CALL(setfsuid),
    TUBETTI_CALL(setgid), TUBETTI_CALL(setgroups), TUBETTI_CALL(sethostname), TUBETTI_CALL(setns),
    TUBETTI_CALL(setregid), TUBETTI_CALL(setresgid), TUBETTI_CALL(setresuid), TUBETTI_CALL(setreuid),
    TUBETTI_CALL(setsockopt), TUBETTI_CALL(settimeofday), TUBETTI_CALL(setuid), TUBETTI_CALL(shutdown),
    TUBETTI_CALL(sigaltstack), TUBETTI_CALL(socket), TUBETTI_CALL(socketpair), TUBETTI_CALL(stat),
    TUBETTI_CALL(statfs), TUBETTI_CALL(statx), TUBETTI_CALL(swapoff), TUBETTI_CALL(swapon), TUBETTI_CALL(sysinfo),
    TUBETTI_CALL(syslog), TUBETTI_CALL(tgkill), TUBETTI_CALL(time), TUBETTI_CALL(tkill), TUBETTI_CALL(umount2),
    TUBETTI_CALL(uname), TUBETTI_CALL(unlink), TUBETTI_CALL(unlinkat), TUBETTI_CALL(unshare), TUBETTI_CALL(uselib),
    TUBETTI_CALL(userfaultfd), TUBETTI_CALL(vfork), TUBETTI_CALL(vhangup), TUBETTI_CALL(vmsplice),
    TUBETTI_CALL(write), TUBETTI_CALL(writev),
    TUBETTI_CALL(rename), TUBETTI_CALL(renameat), TUBETTI_CALL(renameat2), TUBETTI_CALL(link), TUBETTI_CALL(linkat),
    TUBETTI_CALL(symlink), TUBETTI_CALL(symlinkat), TUBETTI_CALL(mkdir), TUBETTI_CALL(mkdirat), TUBETTI_CALL(rmdir),
    TUBETTI_CALL(chmod), TUBETTI_CALL(fchmod), TUBETTI_CALL(fchmodat), TUBETTI_CALL(chown), TUBETTI_CALL(fchown),
    TUBETTI_CALL(lchown), TUBETTI_CALL(fchownat), TUBETTI_CALL(truncate), TUBETTI_CALL(utimensat),
    TUBETTI_CALL(umask), TUBETTI_CALL(fsync), TUBETTI_CALL(fdatasync), TUBETTI_CALL(fallocate), TUBETTI_CALL(flock),
    TUBETTI_CALL(copy_file_range), TUBETTI_CALL(sendfile), TUBETTI_CALL(fchdir), TUBETTI_CALL(memfd_create),
    TUBETTI_CALL(shmget), TUBETTI_CALL(shmat), TUBETTI_CALL(semget), TUBETTI_CALL(msgget), TUBETTI_CALL(mlock),
    TUBETTI_CALL(mlock2), TUBETTI_CALL(mlockall), TUBETTI_CALL(mincore), TUBETTI_CALL(wait4), TUBETTI_CALL(waitid),
    TUBETTI_CALL(setsid), TUBETTI_CALL(setpgid), TUBETTI_CALL(getpriority), TUBETTI_CALL(setpriority),
    TUBETTI_CALL(sched_setaffinity), TUBETTI_CALL(sched_setscheduler), TUBETTI_CALL(sched_setparam),
    TUBETTI_CALL(sched_setattr), TUBETTI_CALL(setrlimit), TUBETTI_CALL(timer_create), TUBETTI_CALL(timerfd_create),
    TUBETTI_CALL(timerfd_settime), TUBETTI_CALL(setitimer), TUBETTI_CALL(alarm), TUBETTI_CALL(splice),
    TUBETTI_CALL(tee), TUBETTI_CALL(signalfd4),
    // Of one number on all architectures. The headers may be older than the kernel.
    {"pidfd_send_signal", 424}, {"io_uring_setup", 425}, {"io_uring_enter", 426}, {"io_uring_register", 427},
    {"open_tree", 428}, {"move_mount", 429}, {"fsopen", 430}, {"fsconfig", 431}, {"fsmount", 432}, {"fspick", 433},
    {"pidfd_open", 434}, {"clone3", 435}, {"close_range", 436}, {"openat2", 437}, {"pidfd_getfd", 438},
    {"faccessat2", 439}, {"process_madvise", 440},
    {"epoll_pwait2", 441}, {"mount_setattr", 442}, {"quotactl_fd", 443}, {"memfd_secret", 447}, {"process_mrelease", 448},
    {"futex_waitv", 449}, {"map_shadow_stack", 453}, {"futex_wake", 454}, {"futex_wait", 455},
    {"futex_requeue", 456}, {"lsm_set_self_attr", 460}, {"mseal", 462}, {"open_tree_attr", 467},
    // clang-format on
};

static_assert(Number(TUBETTI_TEXT(__NR_read)) >= 0 && Number(TUBETTI_TEXT(__NR_execve)) > 0 &&
              Number(TUBETTI_TEXT(__NR_no_such_call)) == -1);

constexpr int32_t kUnknown = -2;

int32_t NumberOf(std::string_view name) {
  for (const Name& known : kNames) {
    if (known.name == name) return known.number;
  }
  return kUnknown;
}

}  // namespace

int32_t SyscallNumbers(Thread&, std::string names, Ints out) {
  size_t at = 0;
  const std::string_view text(names);
  for (size_t start = 0; start < text.size();) {
    size_t end = text.find(' ', start);
    if (end == std::string_view::npos) end = text.size();
    const int32_t number = NumberOf(text.substr(start, end - start));
    if (number == kUnknown || at == out.length) return -EINVAL;
    out.data[at++] = number;
    start = end + 1;
  }
  return static_cast<int32_t>(at);
}

}  // namespace tubetti
