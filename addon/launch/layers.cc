// Namespaces and capabilities, which a process can only be given while it has one thread.
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>

#include "launch.h"

namespace tubetti {

namespace {

constexpr int kLastCapability = 63;

// What the start needs: ports below 1024, an empty root directory (mount, pivot_root, chroot); as root also another user,
// files of others (log, process id, socket), more descriptors, interfaces to bind to, and large netlink buffers.
constexpr int kNeeded[] = {CAP_NET_BIND_SERVICE, CAP_SYS_ADMIN, CAP_SYS_CHROOT};
constexpr int kNeededAsRoot[] = {CAP_SETUID,       CAP_SETGID,       CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH,
                                 CAP_SYS_RESOURCE, CAP_NET_ADMIN,    CAP_NET_RAW};

uint64_t NeededMask(bool root) {
  uint64_t mask = 0;
  for (const int capability : kNeeded) mask |= 1ULL << capability;
  if (root) {
    for (const int capability : kNeededAsRoot) mask |= 1ULL << capability;
  }
  return mask;
}

bool GetCapabilities(__user_cap_data_struct (&data)[2]) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  return syscall(SYS_capget, &header, data) == 0;
}

bool WriteText(const char* path, const char* text, int length) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool done = write(fd, text, static_cast<size_t>(length)) == length;
  const int error = errno;
  close(fd);
  errno = error;
  return done;
}

// The user's own number in his own namespace: his files stay his, and nobody else's are.
bool MapId(const char* path, unsigned id) {
  char text[64];
  return WriteText(path, text, snprintf(text, sizeof(text), "%u %u 1\n", id, id));
}

int EnterUserNamespace() {
  const unsigned uid = geteuid();
  const unsigned gid = getegid();
  if (unshare(CLONE_NEWUSER) != 0) return errno;
  // Not there before Linux 3.19, and then not needed.
  if (!WriteText("/proc/self/setgroups", "deny", 4) && errno != ENOENT) return errno;
  return MapId("/proc/self/uid_map", uid) && MapId("/proc/self/gid_map", gid) ? 0 : errno;
}

// Inodes of the namespaces that every kernel begins with (include/uapi/linux/nsfs.h, PROC_IPC_INIT_INO …).
constexpr ino_t kFirstIpc = 0xEFFFFFFF;
constexpr ino_t kFirstUts = 0xEFFFFFFE;

// systemd's PrivateIPC= and ProtectHostname= make one for the service alone, and RestrictNamespaces= may forbid another.
int Unshare(int flag, const char* link, ino_t first) {
  if (unshare(flag) == 0) return 0;
  const int error = errno;
  struct stat now = {};
  return stat(link, &now) == 0 && now.st_ino != first ? kApart : error;
}

int EnterMountNamespace() {
  if (unshare(CLONE_NEWNS) != 0) return errno;
  // Nothing that is mounted here is seen outside, nor the other way round.
  return mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 ? 0 : errno;
}

}  // namespace

bool HasCapability(int capability) {
  __user_cap_data_struct data[2] = {};
  return GetCapabilities(data) && (data[capability / 32].effective & (1U << (capability % 32))) != 0;
}

void EnterNamespaces(Layers& layers) {
  // Root needs none, and would lose what makes him able to become nobody.
  if (!HasCapability(CAP_SYS_ADMIN)) layers.user = EnterUserNamespace();
  layers.mount = EnterMountNamespace();
  layers.ipc = Unshare(CLONE_NEWIPC, "/proc/self/ns/ipc", kFirstIpc);
  layers.uts = Unshare(CLONE_NEWUTS, "/proc/self/ns/uts", kFirstUts);
}

void KeepCapabilities() {
  const bool root = geteuid() == 0;
  const uint64_t needed = NeededMask(root);
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (!GetCapabilities(data)) return;
  for (int half = 0; half < 2; half++) {
    // Root's inheritable ones survive the exec; an ordinary user's if they are ambient ones besides.
    data[half].inheritable = data[half].permitted & static_cast<unsigned>(needed >> (32 * half));
  }
  if (syscall(SYS_capset, &header, data) != 0) return;
  // Now that what is needed comes from elsewhere, the bounding set can be empty from the start.
  for (int c = 0; c <= kLastCapability; c++) {
    prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
  }
  for (auto& half : data) half = {half.inheritable, half.inheritable, half.inheritable};
  if (syscall(SYS_capset, &header, data) != 0 || root) return;
  for (int c = 0; c <= kLastCapability; c++) {
    if ((data[c / 32].inheritable & (1U << (c % 32))) != 0) prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0);
  }
}

}  // namespace tubetti
