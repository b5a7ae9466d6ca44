// The empty root directory. `EnterRoom` makes a small tmpfs, binds into it what may be read again, read-only, and makes it
// the root directory of all threads, which share one (CLONE_FS); the old one goes. It needs CAP_SYS_ADMIN over the mount
// namespace, which the launcher has made for us alone.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "calls.h"

namespace tubetti {

namespace {

constexpr unsigned long kBare = MS_NOSUID | MS_NODEV | MS_NOEXEC;
// Somewhere to mount it, for a moment: nobody else sees it there.
constexpr const char* kPlaces[] = {"/tmp", "/run", "/var", "/mnt", "/dev", "/etc", "/"};

struct Bound {
  std::string path;  // where it is and will be, absolute
  int fd;
  bool directory;
};

// Opened first: the tmpfs may come to lie over them.
int32_t OpenAll(const std::string& paths, std::vector<Bound>& bound, std::string& failed) {
  size_t at = 0;
  while (at < paths.size()) {
    const size_t end = std::min(paths.find('\0', at), paths.size());
    failed = paths.substr(at, end - at);
    at = end + 1;
    if (failed.empty() || failed[0] != '/') return -EINVAL;
    const int fd = ::open(failed.c_str(), O_PATH | O_CLOEXEC);
    if (fd < 0) return -errno;
    struct stat info = {};
    const bool known = ::fstat(fd, &info) == 0;
    bound.push_back({failed, fd, known && S_ISDIR(info.st_mode)});
  }
  return 0;
}

// The directories above `path`, and it itself. It is relative to the tmpfs. What is there already may be in one that was
// bound before.
int32_t MakePlace(const std::string& path, bool directory) {
  for (size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    if (::mkdir(path.substr(0, slash).c_str(), 0755) != 0 && errno != EEXIST) return -errno;
  }
  if (directory) return ::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST ? 0 : -errno;
  const int fd = ::open(path.c_str(), O_CREAT | O_RDONLY | O_CLOEXEC, 0444);
  if (fd < 0) return -errno;
  ::close(fd);
  return 0;
}

int32_t BindReadOnly(const Bound& bound) {
  const std::string place = bound.path.substr(1);
  if (const int32_t error = MakePlace(place, bound.directory); error < 0) return error;
  char source[32];
  (void)snprintf(source, sizeof(source), "/proc/self/fd/%d", bound.fd);
  if (::mount(source, place.c_str(), nullptr, MS_BIND, nullptr) != 0) return -errno;
  struct statvfs info = {};
  if (::statvfs(place.c_str(), &info) != 0) return -errno;
  // What the mount has already may not be taken from it in a user namespace, and has the same bits.
  const unsigned long flags = info.f_flag & (kBare | MS_NOATIME | MS_NODIRATIME);
  const int done = ::mount(nullptr, place.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kBare | flags, nullptr);
  return done == 0 ? 0 : -errno;
}

const char* MountTmpfs(int32_t& error) {
  for (const char* place : kPlaces) {
    if (::mount("tubetti", place, "tmpfs", kBare, "mode=0755,size=64k,nr_inodes=512") == 0) return place;
    error = -errno;
    if (errno != ENOENT && errno != ENOTDIR) break;
  }
  return nullptr;
}

int32_t Fill(const std::vector<Bound>& all, std::string& failed) {
  for (const Bound& bound : all) {
    failed = bound.path;
    if (const int32_t error = BindReadOnly(bound); error < 0) return error;
  }
  failed = std::string("/proc/net");
  return ::symlink("self/net", "proc/net") == 0 || errno == EEXIST ? 0 : -errno;
}

// pivot_root(2), "pivot_root(".", ".")"; the root directory of an initramfs cannot be moved, and is mounted over.
int32_t Pivot() {
  if (syscall(SYS_pivot_root, ".", ".") == 0) return ::umount2(".", MNT_DETACH) == 0 ? 0 : -errno;
  if (errno != EINVAL) return -errno;
  return ::mount(".", "/", nullptr, MS_MOVE, nullptr) == 0 && ::chroot(".") == 0 ? 0 : -errno;
}

int32_t Enter(const std::vector<Bound>& all, std::string& failed) {
  failed = std::string("tmpfs");
  int32_t error = 0;
  const char* place = MountTmpfs(error);
  if (place == nullptr) return error;
  error = ::chdir(place) == 0 ? Fill(all, failed) : -errno;
  if (error == 0) {
    failed = std::string("pivot_root");
    error = Pivot();
  }
  if (error < 0) {
    ::umount2(place, MNT_DETACH);
    return error;
  }
  failed = std::string("/");
  if (::chdir("/") != 0) return -errno;
  if (::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kBare, nullptr) != 0) return -errno;
  return ::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY | kBare, nullptr) == 0 ? 0 : -errno;
}

}  // namespace

int32_t EnterRoom(Thread&, std::string paths, Bytes failed) {
  const int before = ::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  std::vector<Bound> all;
  std::string what;
  int32_t error = OpenAll(paths, all, what);
  if (error == 0) error = Enter(all, what);
  for (const Bound& bound : all) ::close(bound.fd);
  if (error < 0) {
    if (before >= 0 && ::fchdir(before) != 0) error = -errno;
    if (failed.length > 0) {
      const size_t length = std::min(what.size(), failed.length - 1);
      memcpy(failed.data, what.data(), length);
      failed.data[length] = 0;
    }
  }
  if (before >= 0) ::close(before);
  return error;
}

}  // namespace tubetti
