// Two processes, where the service may have to leave its caller: the one that was called waits until the service is ready
// and exits with 0, or with what the service ended with. The service is the first process of a PID namespace, if it can be.
// Where it turns out to stay in the foreground (passt's callers need -f for that, which the launcher may have overlooked)
// the waiting process stands for it: it hands signals on, and the status back.
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "launch.h"

namespace tubetti {

namespace {

// What the service says, a byte each (src/sandbox/launched.ts).
constexpr char kReady = 'R';
constexpr char kForeground = 'F';
// What the child says before there is a service: its /proc is that of its namespace; or there is none to be had.
constexpr char kProc = 'p';
constexpr char kNoProc = 'x';

constexpr int kForwarded[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
constexpr int kBySignal = 128;
constexpr int kFirstAfterStreams = 3;

pid_t service = -1;

void Forward(int signal) { kill(service, signal); }

// nohup(1) and shells without job control have a program ignore what the terminal says to it. Node would undo that.
bool IsIgnored(int signal) {
  struct sigaction action = {};
  return (signal == SIGHUP || signal == SIGINT) && sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

// fork(2), in a new PID namespace: this process stays in its own.
pid_t Fork(unsigned long flags) { return static_cast<pid_t>(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0)); }

template <typename T>
bool Get(int fd, T& value) {
  for (;;) {
    const ssize_t got = read(fd, &value, sizeof(value));
    if (got >= 0 || errno != EINTR) return got == static_cast<ssize_t>(sizeof(value));
  }
}

template <typename T>
bool Put(int fd, const T& value) {
  return send(fd, &value, sizeof(value), MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(value));
}

// In the child. Numbers of processes in /proc must be those of its namespace.
void MountProc(int ready) {
  const bool done = mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0;
  Put(ready, done ? kProc : kNoProc);
  if (!done) _exit(1);
}

// In the child: the one that is called waits for us until `number` is known.
Child BeService(int ready) {
  setsid();
  Child child;
  child.ready = ready;
  if (!Get(ready, child.pid)) _exit(1);
  return child;
}

int StatusOf(int status) { return WIFSIGNALED(status) ? kBySignal + WTERMSIG(status) : WEXITSTATUS(status); }

int WaitForService() {
  int status = 0;
  while (waitpid(service, &status, 0) < 0) {
    if (errno != EINTR) return 1;
  }
  return status;
}

// In the process that was called; never returns.
[[noreturn]] void Wait(const char* name, bool json, int ready) {
  // They are the service's: who reads the other end waits for its end, not for ours.
  CloseFrom(kFirstAfterStreams, ready);
  struct sigaction action = {};
  action.sa_handler = Forward;
  for (const int signal : kForwarded) {
    if (!IsIgnored(signal)) sigaction(signal, &action, nullptr);
  }
  Put(ready, static_cast<int>(service));
  char said = 0;
  if (Get(ready, said) && said == kReady) _exit(0);
  // The streams are the service's now: a reader of them sees their end when the service is gone.
  const int status = WaitForService();
  if (WIFSIGNALED(status)) {
    if (said == kForeground) {
      (void)signal(WTERMSIG(status), SIG_DFL);
      kill(getpid(), WTERMSIG(status));
    } else {
      char message[96];
      (void)snprintf(message, sizeof(message), "the service was killed by SIG%s before it was ready",
                     sigabbrev_np(WTERMSIG(status)));
      Complain(json, CalledAs(name), message);
      _exit(1);
    }
  }
  _exit(StatusOf(status));
}

bool HasProc(int ready) {
  char said = 0;
  return Get(ready, said) && said == kProc;
}

}  // namespace

Child ForkService(const char* name, bool json, Layers& layers) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return Child();
  if (layers.mount == 0) {
    service = Fork(CLONE_NEWPID);
    layers.pid = service < 0 ? errno : 0;
    if (service == 0) {
      close(ends[0]);
      MountProc(ends[1]);
      return BeService(ends[1]);
    }
    if (service > 0 && !HasProc(ends[0])) {
      WaitForService();
      layers.pid = EPERM;
      service = -1;
    }
  } else {
    layers.pid = layers.mount;
  }
  if (service < 0) {
    service = Fork(0);
    if (service < 0) return Child();
    if (service == 0) {
      close(ends[0]);
      return BeService(ends[1]);
    }
  }
  close(ends[1]);
  Wait(name, json, ends[0]);
}

}  // namespace tubetti
