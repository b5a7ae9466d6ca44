// Compiled for aarch64 by scripts/check-aarch64.mjs, never run: the numbers of system calls that the table of
// addon/syscall_numbers.cc has there, against those of the kernel's asm-generic/unistd.h as written down here by hand.
#include "../../addon/syscall_numbers.cc"

#include <linux/audit.h>

static_assert(AUDIT_ARCH_AARCH64 == 0xC00000B7);

namespace tubetti {
namespace {

constexpr int32_t Of(std::string_view name) {
  for (const Name& known : kNames) {
    if (known.name == name) return known.number;
  }
  return kUnknown;
}

struct Known {
  std::string_view name;
  int32_t number;
};

constexpr Known kExpected[] = {
    {"io_setup", 0},      {"epoll_pwait", 22}, {"fcntl", 25},      {"inotify_add_watch", 27}, {"ioctl", 29},
    {"unlinkat", 35},     {"umount2", 39},     {"mount", 40},      {"pivot_root", 41},        {"faccessat", 48},
    {"chroot", 51},       {"openat", 56},      {"close", 57},      {"getdents64", 61},        {"read", 63},
    {"write", 64},        {"readv", 65},       {"pread64", 67},    {"sendfile", 71},          {"ppoll", 73},
    {"readlinkat", 78},   {"newfstatat", 79},  {"fstat", 80},      {"capset", 91},            {"exit_group", 94},
    {"unshare", 97},      {"futex", 98},       {"ptrace", 117},    {"kill", 129},             {"tgkill", 131},
    {"rt_sigaction", 134}, {"rt_sigreturn", 139}, {"setuid", 146}, {"prctl", 167},            {"getpid", 172},
    {"socket", 198},      {"socketpair", 199}, {"bind", 200},      {"listen", 201},           {"connect", 203},
    {"sendto", 206},      {"recvfrom", 207},   {"setsockopt", 208}, {"sendmsg", 211},         {"recvmsg", 212},
    {"brk", 214},         {"munmap", 215},     {"clone", 220},     {"execve", 221},           {"mmap", 222},
    {"mprotect", 226},    {"madvise", 233},    {"perf_event_open", 241}, {"accept4", 242},    {"recvmmsg", 243},
    {"prlimit64", 261},   {"setns", 268},      {"sendmmsg", 269},  {"process_vm_readv", 270}, {"seccomp", 277},
    {"getrandom", 278},   {"memfd_create", 279}, {"bpf", 280},     {"execveat", 281},         {"userfaultfd", 282},
    {"membarrier", 283},  {"preadv2", 286},    {"pwritev2", 287},  {"statx", 291},            {"rseq", 293},
    {"io_uring_setup", 425}, {"clone3", 435},  {"close_range", 436}, {"openat2", 437},        {"epoll_pwait2", 441},
    // What the architecture has not.
    {"open", -1},         {"stat", -1},        {"fork", -1},       {"vfork", -1},             {"unlink", -1},
    {"readlink", -1},     {"access", -1},      {"dup2", -1},       {"epoll_wait", -1},        {"poll", -1},
    {"time", -1},         {"modify_ldt", -1},  {"iopl", -1},
};

constexpr bool AllAsExpected() {
  for (const Known& known : kExpected) {
    if (Of(known.name) != known.number) return false;
  }
  return true;
}

static_assert(AllAsExpected());

}  // namespace
}  // namespace tubetti
