// The command in its namespaces. It is forked when these are made, and waits until its network is there.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "namespace.h"

namespace tubetti {

namespace {

constexpr char kDefaultShell[] = "/bin/sh";
constexpr char kPingGroups[] = "/proc/sys/net/ipv4/ping_group_range";
constexpr int kFirstAfterStreams = 3;
constexpr int kSignals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGTSTP};
// Those that the caller ignores, as nohup(1) does; the command does too.
bool ignored[std::size(kSignals)];

void WriteSetting(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  (void)!write(fd, text, strlen(text));
  close(fd);
}

// A shell reads its profile if its name begins with a dash.
[[noreturn]] void BeShell(int report) {
  const char* shell = getenv("SHELL");
  if (shell == nullptr || shell[0] == '\0') shell = kDefaultShell;
  const char* slash = strrchr(shell, '/');
  char name[256];
  (void)snprintf(name, sizeof(name), "-%s", slash == nullptr ? shell : slash + 1);
  execlp(shell, name, static_cast<char*>(nullptr));
  const int error = errno;
  (void)!write(report, &error, sizeof(error));
  _exit(1);
}

[[noreturn]] void BeCommand(unsigned long namespaces, const char* host, int start, char** words) {
  // Numbers of processes must be those of its PID namespace; where it cannot be mounted the command has the old ones.
  if ((namespaces & CLONE_NEWPID) != 0) {
    (void)mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
  }
  WriteSetting(kPingGroups, "0 0");
  if (host[0] != '\0') (void)sethostname(host, strlen(host));
  int32_t first = 0;
  // Nothing comes if the one who would let us go is gone: then nothing is left of us.
  if (read(start, &first, sizeof(first)) != static_cast<ssize_t>(sizeof(first))) _exit(1);
  for (size_t i = 0; i < std::size(kSignals); i++) {
    if (!ignored[i]) (void)signal(kSignals[i], SIG_DFL);
  }
  if (first < 0) BeShell(start);
  execvp(words[first], words + first);
  const int error = errno;
  (void)!write(start, &error, sizeof(error));
  _exit(1);
}

// Whether the command catches or ignores the signal, of which the mask of `line` in its status tells.
bool HasSignal(const char* status, const char* line, int signal) {
  const char* at = strstr(status, line);
  if (at == nullptr) return false;
  const uint64_t mask = strtoull(at + strlen(line), nullptr, 16);
  return ((mask >> (signal - 1)) & 1) != 0;
}

}  // namespace

void IgnoreSignals() {
  for (size_t i = 0; i < std::size(kSignals); i++) ignored[i] = signal(kSignals[i], SIG_IGN) == SIG_IGN;
  (void)signal(SIGCHLD, SIG_DFL);
}

void LeaveStreams() {
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return;
  for (int fd = 0; fd < kFirstAfterStreams; fd++) dup2(null, fd);
  if (null >= kFirstAfterStreams) close(null);
}

bool ForkCommand(Command& command, unsigned long namespaces, const char* host, char** words) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return false;
  const long child = syscall(SYS_clone, namespaces | SIGCHLD, 0, 0, 0, 0);
  if (child == 0) {
    close(ends[0]);
    BeCommand(namespaces, host, ends[1], words);
  }
  const int error = errno;
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    errno = error;
    return false;
  }
  command.pid = static_cast<pid_t>(child);
  command.start = ends[0];
  return true;
}

int32_t StartCommand(Command& command, int32_t first, char** words, char* failed, size_t room) {
  if (command.start < 0) return -EINVAL;
  for (int32_t i = 0; i <= first; i++) {
    if (words[i] == nullptr) return -EINVAL;
  }
  const char* shell = getenv("SHELL");
  (void)snprintf(failed, room, "%s", first >= 0 ? words[first] : shell == nullptr ? kDefaultShell : shell);
  if (send(command.start, &first, sizeof(first), MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof(first))) return -EPIPE;
  // The end of the stream says that it was executed: its end of it was closed by that.
  int error = 0;
  const ssize_t got = read(command.start, &error, sizeof(error));
  close(command.start);
  command.start = -1;  // it starts once
  if (got == static_cast<ssize_t>(sizeof(error))) return -error;
  LeaveStreams();
  return 0;
}

void InterruptCommand(const Command& command, int signal) {
  if (command.pid <= 0) return;
  char path[64];
  (void)snprintf(path, sizeof(path), "/proc/%d/status", static_cast<int>(command.pid));
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  char status[4096];
  const ssize_t got = read(fd, status, sizeof(status) - 1);
  close(fd);
  if (got <= 0) return;
  status[got] = '\0';
  if (HasSignal(status, "SigCgt:", signal) || HasSignal(status, "SigIgn:", signal)) return;
  // The first process of a PID namespace gets no signal that it has no handler for, but this one.
  kill(command.pid, SIGKILL);
}

}  // namespace tubetti
