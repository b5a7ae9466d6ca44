// Into the guest's namespaces: new ones for a command, or those of a process or a path.
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "namespace.h"

namespace tubetti {

namespace {

constexpr char kOwnNetwork[] = "/proc/self/ns/net";

bool WriteText(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t length = static_cast<ssize_t>(strlen(text));
  const bool done = write(fd, text, static_cast<size_t>(length)) == length;
  const int error = errno;
  close(fd);
  errno = error;
  return done;
}

// Root in there is the user that we are.
bool MapToRoot(const char* path, unsigned id) {
  char text[64];
  (void)snprintf(text, sizeof(text), "0 %u 1\n", id);
  return WriteText(path, text);
}

int32_t NewUserNamespace() {
  const unsigned uid = geteuid();
  const unsigned gid = getegid();
  if (unshare(CLONE_NEWUSER) != 0) return -errno;
  if (!MapToRoot("/proc/self/uid_map", uid)) return -errno;
  // Without it groups cannot be mapped; where even that fails the command has the overflow group, and works.
  (void)WriteText("/proc/self/setgroups", "deny");
  (void)MapToRoot("/proc/self/gid_map", gid);
  return 0;
}

int32_t Join(const char* path, int kind) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  const int32_t result = setns(fd, kind) == 0 ? 0 : -errno;
  close(fd);
  return result;
}

int32_t Create(const Entry& entry, Command& command, char** words, char* failed, size_t room) {
  int32_t result = Become(entry.uid, entry.gid);
  if (result == 0 && (entry.flags & kNewUser) != 0) {
    (void)snprintf(failed, room, "a user namespace");
    result = NewUserNamespace();
  } else if (result == 0 && entry.user[0] != '\0') {
    (void)snprintf(failed, room, "user namespace %s", entry.user);
    result = Join(entry.user, CLONE_NEWUSER);
  }
  if (result < 0) return result;
  (void)snprintf(failed, room, "a network namespace");
  const unsigned long pid = (entry.flags & kNewPid) != 0 ? CLONE_NEWPID : 0;
  if (!ForkCommand(command, CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | pid, entry.host, words)) return -errno;
  char path[64];
  (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", static_cast<int>(command.pid));
  return Join(path, CLONE_NEWNET);
}

}  // namespace

int32_t Become(int32_t uid, int32_t gid) {
  if (uid < 0) return 0;
  const auto user = static_cast<uid_t>(uid);
  const auto group = static_cast<gid_t>(gid);
  if (geteuid() == user && getegid() == group) return 0;
  if (setgroups(0, nullptr) != 0 || setgid(group) != 0 || setuid(user) != 0) return -errno;
  // Or our files below /proc, the maps of numbers among them, would be root's.
  prctl(PR_SET_DUMPABLE, 1);
  return 0;
}

int32_t Enter(const Entry& entry, Command& command, char** words, char* failed, size_t room) {
  if ((entry.flags & kCreate) != 0) return Create(entry, command, words, failed, room);
  // A path of the network namespace is looked up with the rights that the user namespace gives.
  if (entry.user[0] != '\0') {
    (void)snprintf(failed, room, "user namespace %s", entry.user);
    if (const int32_t result = Join(entry.user, CLONE_NEWUSER); result < 0) return result;
  }
  (void)snprintf(failed, room, "network namespace %s", entry.net);
  return Join(entry.net, CLONE_NEWNET);
}

int WatchDirectoryOf(const char* path) {
  const int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (fd < 0) return -1;
  char directory[PATH_MAX];
  (void)snprintf(directory, sizeof(directory), "%s", path);
  char* slash = strrchr(directory, '/');
  const char* name = slash == nullptr ? "." : slash == directory ? "/" : directory;
  if (slash != nullptr && slash != directory) *slash = '\0';
  if (inotify_add_watch(fd, name, IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF) >= 0) return fd;
  close(fd);
  return -1;
}

bool IsStillThere(const char* path) {
  struct stat named = {};
  struct stat own = {};
  if (stat(path, &named) != 0) return false;
  return stat(kOwnNetwork, &own) != 0 || (named.st_ino == own.st_ino && named.st_dev == own.st_dev);
}

}  // namespace tubetti
