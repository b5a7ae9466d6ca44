// What a descriptor of a front-end is, found out without asking its file system, which may be the front-end's own (FUSE)
// and never answer: fstat(2), fstatfs(2), poll(2) and lseek(2) are requests to it, and a thread that waits for one cannot
// be killed. What is used here is answered by the kernel alone:
//
// - the link in /proc/self/fd: files without a path have names that no path can have, as those begin with "/";
// - F_GET_SEALS, which only files of tmpfs (memfd, /dev/shm) and hugetlbfs know;
// - the number of its mount in /proc/self/fdinfo, and that mount's type in /proc/self/mountinfo;
// - statx(2) with AT_STATX_DONT_SYNC: what is cached.
//
// Memory on a disk is taken if the disk is local (a page that is not there is a page fault, which waits for the file
// system as well). A mount that this process does not see, because the front-end has mounts of its own as libvirt's QEMU
// has, is known by the number of its block device.
#include "fd_kind.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "calls.h"

namespace tubetti {

namespace {

// Not fuse, nfs, 9p, virtiofs, cifs, ceph and all else whose files are somebody's answers.
constexpr std::string_view kLocal[] = {
    "tmpfs", "hugetlbfs", "ramfs",    "rootfs", "devtmpfs", "ext2", "ext3", "ext4",     "xfs",
    "btrfs", "f2fs",      "bcachefs", "jfs",    "nilfs2",   "zfs",  "aufs", "reiserfs", "overlay",
};

constexpr size_t kMostMounts = size_t{16} << 20;  // bytes of mountinfo that are read

bool IsLocal(std::string_view type) {
  for (const std::string_view local : kLocal) {
    if (type == local) return true;
  }
  return false;
}

// Says that this process or host is short of something, and nothing of the descriptor.
bool IsShortage(int error) { return error == ENOMEM || error == EMFILE || error == ENFILE; }

// What is answered where the kernel would not say: it is nothing that we know, or we could not find out.
int32_t Unknown(int error) { return IsShortage(error) ? -error : kOther; }

// Returns 0 or -errno.
int32_t ReadAll(const char* path, std::string& out) {
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  char buf[4096];
  ssize_t got = 0;
  while ((got = Retry([&] { return ::read(fd, buf, sizeof(buf)); })) > 0 && out.size() < kMostMounts) {
    out.append(buf, static_cast<size_t>(got));
  }
  ::close(fd);
  return got > 0 ? -EFBIG : static_cast<int32_t>(got);
}

// The number of the mount that the descriptor was opened on, or -errno.
long MountOf(int32_t fd) {
  char path[40];
  static_cast<void>(snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd));
  std::string text;
  if (const int32_t error = ReadAll(path, text); error < 0) return error;
  const size_t at = text.find("\nmnt_id:");
  return at == std::string::npos ? -ENOENT : strtol(text.c_str() + at + 8, nullptr, 10);
}

struct Mount {
  long id = -1;
  unsigned major = 0;
  unsigned minor = 0;
  std::string_view type;
};

// proc(5): "36 35 98:0 /root /point options optional… - type source options".
bool ParseMount(std::string_view line, Mount& mount) {
  const std::string start(line.substr(0, 64));
  char* end = nullptr;
  mount.id = strtol(start.c_str(), &end, 10);
  static_cast<void>(strtol(end, &end, 10));  // the parent's number
  mount.major = static_cast<unsigned>(strtoul(end, &end, 10));
  if (*end != ':') return false;
  mount.minor = static_cast<unsigned>(strtoul(end + 1, &end, 10));
  if (*end != ' ') return false;
  const size_t at = line.find(" - ");
  if (at == std::string_view::npos) return false;
  const std::string_view rest = line.substr(at + 3);
  mount.type = rest.substr(0, rest.find(' '));
  return true;
}

// Calls `found` for each mount until it returns true. False: it never did.
template <typename Found>
bool FindMount(const std::string& mounts, Found found) {
  for (size_t at = 0; at < mounts.size();) {
    size_t end = mounts.find('\n', at);
    if (end == std::string::npos) end = mounts.size();
    Mount mount;
    if (ParseMount(std::string_view(mounts).substr(at, end - at), mount) && found(mount)) return true;
    at = end + 1;
  }
  return false;
}

int32_t KindOfMode(uint32_t mode) {
  if (S_ISREG(mode)) return kMemory;
  return S_ISFIFO(mode) ? kPipe : kOther;
}

// A file with a path.
int32_t KindOfFile(int32_t fd) {
  if (fcntl(fd, F_GET_SEALS) >= 0) return kMemory;
  std::string mounts;
  const long id = MountOf(fd);
  if (id < 0) return Unknown(static_cast<int>(-id));
  if (const int32_t error = ReadAll("/proc/self/mountinfo", mounts); error < 0) return Unknown(-error);
  bool local = false;
  const bool seen = FindMount(mounts, [&](const Mount& mount) {
    local = IsLocal(mount.type);
    return mount.id == id;
  });
  if (seen && !local) return kOther;
  struct statx info;
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &info) != 0) return Unknown(errno);
  if (seen) return KindOfMode(info.stx_mode);
  // Major 0 is no device: any file system may have such a number.
  const bool on_disk = info.stx_dev_major != 0 && FindMount(mounts, [&](const Mount& mount) {
    return mount.major == info.stx_dev_major && mount.minor == info.stx_dev_minor && IsLocal(mount.type);
  });
  return on_disk ? KindOfMode(info.stx_mode) : kOther;
}

}  // namespace

int32_t FdKind(Thread&, int32_t fd) {
  if (fcntl(fd, F_GETFD) < 0) return -errno;
  char path[32];
  char target[32];
  static_cast<void>(snprintf(path, sizeof(path), "/proc/self/fd/%d", fd));
  const ssize_t length = readlink(path, target, sizeof(target));
  if (length <= 0) return length < 0 ? Unknown(errno) : kOther;
  const std::string_view name(target, static_cast<size_t>(length));
  if (name == "anon_inode:[eventfd]") return kEventFd;
  if (name.starts_with("pipe:[")) return kPipe;
  if (name.starts_with("socket:[")) {
    int family = 0;
    socklen_t size = sizeof(family);
    if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) != 0) return Unknown(errno);
    return family == AF_UNIX ? kSocket : kForeignSocket;
  }
  return name.starts_with("/") ? KindOfFile(fd) : kOther;
}

int32_t FileId(Thread&, int32_t fd, Ints out) {
  if (out.length < 4) return -EINVAL;
  struct statx info;
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &info) != 0) return -errno;
  out.data[0] = static_cast<int32_t>(info.stx_dev_major);
  out.data[1] = static_cast<int32_t>(info.stx_dev_minor);
  out.data[2] = static_cast<int32_t>(info.stx_ino >> 32);
  out.data[3] = static_cast<int32_t>(info.stx_ino & 0xffffffff);
  return 0;
}

}  // namespace tubetti
