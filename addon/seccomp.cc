// Filters of system calls: installed as src/sandbox/filter.ts made them, and what happens to a call that they refuse. That
// one is not refused by the kernel itself (SECCOMP_RET_ERRNO) but by a handler of SIGSYS, so that the log can say which it
// was: the handler notes the number, rings an eventfd when it is a new one, and gives the call its error. So a caller that
// tries again and again costs no message. In mode `log` it makes the call itself, from the one instruction that the
// filter lets pass whatever it asks.
//
// The handler runs in any thread at any moment: system calls and atomics only. A thread that blocks SIGSYS would be
// killed by it; ours do not, and what glibc calls while it blocks all signals is allowed or answered by the kernel.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <mutex>
#include <vector>

#include "calls.h"
#include "instructions.h"

namespace tubetti {

namespace {

constexpr int kSeccompSignal = 1;  // SYS_SECCOMP, si_code
constexpr size_t kMaxInstructions = 4096;

// What the filter says by the low bits of SECCOMP_RET_TRAP.
constexpr int kError = 0xff;
constexpr int kDataPlane = 0x100;
constexpr int kPerform = 0x200;

constexpr size_t kNumbers = 512;  // the last one stands for all above
enum State : uint8_t { kNever = 0, kNew = 1, kTold = 2 };

std::mutex g_lock;
std::atomic<int> g_event{-1};
std::array<std::array<std::atomic<uint8_t>, kNumbers>, 2> g_refused{};

#if defined(__x86_64__)

constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;

asm(R"(
  .text
  .hidden tubetti_gate
  .hidden tubetti_gate_end
  .type tubetti_gate, @function
tubetti_gate:
  mov %rdi, %rax
  mov %rsi, %rdi
  mov %rdx, %rsi
  mov %rcx, %rdx
  mov %r8, %r10
  mov %r9, %r8
  mov 8(%rsp), %r9
  syscall
tubetti_gate_end:
  ret
  .size tubetti_gate, .-tubetti_gate
)");

#elif defined(__aarch64__)

constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;

asm(R"(
  .text
  .hidden tubetti_gate
  .hidden tubetti_gate_end
  .type tubetti_gate, %function
tubetti_gate:
  mov x8, x0
  mov x0, x1
  mov x1, x2
  mov x2, x3
  mov x3, x4
  mov x4, x5
  mov x5, x6
  svc #0
tubetti_gate_end:
  ret
  .size tubetti_gate, .-tubetti_gate
)");

#else

constexpr uint32_t kArchitecture = 0;

#endif

#if defined(__x86_64__) || defined(__aarch64__)

extern "C" long tubetti_gate(long number, long a, long b, long c, long d, long e, long f);
extern "C" const char tubetti_gate_end[];

double GateEnd() { return static_cast<double>(reinterpret_cast<uintptr_t>(tubetti_gate_end)); }

#else

double GateEnd() { return 0; }

#endif

void Note(int number, bool data_plane) {
  const size_t at = number >= 0 && static_cast<size_t>(number) < kNumbers ? static_cast<size_t>(number) : kNumbers - 1;
  uint8_t never = kNever;
  if (!g_refused[data_plane ? 1 : 0][at].compare_exchange_strong(never, kNew)) return;
  const uint64_t one = 1;
  syscall(SYS_write, g_event.load(std::memory_order_relaxed), &one, sizeof(one));
}

// Gives the interrupted call its result, -errno or what it returns when it is made after all.
void Answer(void* context, int what) {
#if defined(__x86_64__)
  greg_t* const regs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  regs[REG_RAX] = (what & kPerform) != 0 ? tubetti_gate(regs[REG_RAX], regs[REG_RDI], regs[REG_RSI], regs[REG_RDX],
                                                        regs[REG_R10], regs[REG_R8], regs[REG_R9])
                                         : -(what & kError);
#elif defined(__aarch64__)
  auto* const regs = static_cast<ucontext_t*>(context)->uc_mcontext.regs;
  const auto arg = [regs](size_t i) { return static_cast<long>(regs[i]); };
  const long result = (what & kPerform) != 0 ? tubetti_gate(arg(8), arg(0), arg(1), arg(2), arg(3), arg(4), arg(5))
                                             : -(what & kError);
  regs[0] = static_cast<unsigned long long>(result);
#else
  static_cast<void>(context);
  static_cast<void>(what);
#endif
}

void OnSigsys(int, siginfo_t* info, void* context) {
  const int saved = errno;
  if (info->si_code != kSeccompSignal) {  // somebody's kill(2): as it was without us
    (void)signal(SIGSYS, SIG_DFL);
    (void)raise(SIGSYS);
    return;
  }
  const int what = info->si_errno;
  Note(info->si_syscall, (what & kDataPlane) != 0);
  Answer(context, what);
  errno = saved;
}

}  // namespace

double SeccompArchitecture(Thread&) { return kArchitecture; }

double SeccompGate(Thread&) { return GateEnd(); }

int32_t SeccompTrap(Thread&) {
  const std::lock_guard<std::mutex> guard(g_lock);
  if (g_event.load() < 0) {
    const int made = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (made < 0) return -errno;
    g_event.store(made);
  }
  struct sigaction action = {};
  action.sa_sigaction = OnSigsys;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  if (sigaction(SIGSYS, &action, nullptr) != 0) return -errno;
  return g_event.load();
}

int32_t SeccompRefused(Thread&, Ints out) {
  uint64_t value = 0;
  [[maybe_unused]] const ssize_t n = ::read(g_event.load(), &value, sizeof(value));
  size_t at = 0;
  for (size_t plane = 0; plane < g_refused.size(); plane++) {
    for (size_t number = 0; number < kNumbers && at + 2 <= out.length; number++) {
      uint8_t fresh = kNew;
      if (!g_refused[plane][number].compare_exchange_strong(fresh, kTold)) continue;
      out.data[at] = static_cast<int32_t>(number);
      out.data[at + 1] = static_cast<int32_t>(plane);
      at += 2;
    }
  }
  return static_cast<int32_t>(at / 2);
}

int32_t SeccompInstall(Thread&, Ints program, int32_t all_threads) {
  const size_t count = program.length / kInstruction;
  if (count == 0 || count > kMaxInstructions || program.length % kInstruction != 0) return -EINVAL;
  std::vector<sock_filter> code(count);
  for (size_t i = 0; i < count; i++) code[i] = InstructionAt(program, i);
  // TSYNC hands this on to the other threads.
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -errno;
  const sock_fprog filter = {static_cast<uint16_t>(count), code.data()};
  return static_cast<int32_t>(InstallFilter(filter, all_threads != 0 ? SECCOMP_FILTER_FLAG_TSYNC : 0UL));
}

}  // namespace tubetti
