// What somebody would do who has taken over another process: has it make a system call, by ptrace(2). For the broker, in
// which no code of a test can run. Needs the right to trace it, as root has.
#include "inject.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <cerrno>
#include <ctime>

#if defined(__x86_64__)

namespace {

constexpr int kInstruction = 2;  // bytes of `syscall`
constexpr long kRestart = -512;  // ERESTARTSYS: the call that the process waits in begins anew

// Waits for its next stop. False: it has ended, by `signal` or by itself (0).
bool Stops(pid_t pid, int& signal) {
  int status = 0;
  while (waitpid(pid, &status, __WALL) < 0) {
    if (errno != EINTR) return false;
  }
  signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return WIFSTOPPED(status);
}

long Request(pid_t pid, __ptrace_request what, void* data) { return ptrace(what, pid, nullptr, data); }

// Stops `pid`, which is traced, where it waits in a call: 0 with its registers, else a negative errno. EBUSY: it has been at
// work for five seconds.
long StopInCall(pid_t pid, user_regs_struct& regs) {
  constexpr int kTries = 5000;
  constexpr timespec kMoment = {0, 1000000};
  for (int i = 0; i < kTries; i++) {
    int signal = 0;
    if (Request(pid, PTRACE_INTERRUPT, nullptr) != 0 || !Stops(pid, signal)) return -ESRCH;
    if (Request(pid, PTRACE_GETREGS, &regs) != 0) return -errno;
    if (static_cast<long>(regs.rax) == kRestart) return 0;
    // It has just been woken, or works on what woke it.
    if (Request(pid, PTRACE_CONT, nullptr) != 0) return -errno;
    nanosleep(&kMoment, nullptr);
  }
  return -EBUSY;
}

}  // namespace

long CallIn(pid_t pid, long number, const long (&args)[3]) {
  if (ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) != 0) return -errno;
  user_regs_struct before = {};
  const long stopped = StopInCall(pid, before);
  if (stopped != 0) {
    ptrace(PTRACE_DETACH, pid, nullptr, nullptr);
    return stopped;
  }
  int signal = 0;
  user_regs_struct regs = before;
  regs.rip -= kInstruction;
  regs.orig_rax = -1ULL;     // which is not to begin anew now
  regs.rax = static_cast<unsigned long long>(number);
  regs.rdi = static_cast<unsigned long long>(args[0]);
  regs.rsi = static_cast<unsigned long long>(args[1]);
  regs.rdx = static_cast<unsigned long long>(args[2]);
  regs.r10 = 0x22;  // of mmap: MAP_PRIVATE | MAP_ANONYMOUS
  regs.r8 = -1ULL;
  regs.r9 = 0;
  if (Request(pid, PTRACE_SETREGS, &regs) != 0) return -errno;
  // To the call's entry, to its end, and on: into the call that was left, or to the end of a process that is killed for it.
  constexpr int kEnd = 1;
  constexpr int kStops = 3;
  for (int i = 0; i < kStops; i++) {
    if (Request(pid, PTRACE_SYSCALL, nullptr) != 0) return -errno;
    if (!Stops(pid, signal)) return kEndedBy - signal;
    if (i != kEnd) continue;
    if (Request(pid, PTRACE_GETREGS, &regs) != 0) return -errno;
    before.rip -= kInstruction;
    before.rax = before.orig_rax;
    if (Request(pid, PTRACE_SETREGS, &before) != 0) return -errno;
  }
  ptrace(PTRACE_DETACH, pid, nullptr, nullptr);
  return static_cast<long>(regs.rax);
}

#else

long CallIn(pid_t, long, const long (&)[3]) { return -ENOTSUP; }

#endif
