// What the service inherits: the standard streams, and what was named.
#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "launch.h"

namespace tubetti {

namespace {

constexpr int kFirstAfterStreams = 3;

bool CloseRange(unsigned first, unsigned last) {
#if defined(SYS_close_range)
  return first > last || syscall(SYS_close_range, first, last, 0U) == 0;
#else
  return first > last;
#endif
}

bool IsKept(const Words& words, int fd) {
  for (int i = 0; i < words.count; i++) {
    if (words.keep[i] == fd) return true;
  }
  return false;
}

// Before Linux 5.9.
void CloseOneByOne(const Words& words, int first) {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return;
  while (const dirent* entry = readdir(directory)) {
    const int fd = static_cast<int>(strtol(entry->d_name, nullptr, 10));
    if (fd >= first && fd != dirfd(directory) && !IsKept(words, fd)) close(fd);
  }
  closedir(directory);
}

void CloseBut(const Words& words, int first) {
  int from = first;
  for (;;) {
    int next = -1;
    for (int i = 0; i < words.count; i++) {
      if (words.keep[i] >= from && (next < 0 || words.keep[i] < next)) next = words.keep[i];
    }
    if (!CloseRange(static_cast<unsigned>(from), next < 0 ? ~0U : static_cast<unsigned>(next) - 1U)) {
      CloseOneByOne(words, from);
      return;
    }
    if (next < 0) return;
    from = next + 1;
  }
}

}  // namespace

void SendWith(int socket, const void* data, size_t length, int fd) {
  iovec iov = {const_cast<void*>(data), length};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  while (sendmsg(socket, &message, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

void OpenStandardStreams() {
  // Else the first files that are opened would be taken for them, and written to.
  for (int fd = 0; fd < kFirstAfterStreams; fd++) {
    if (fcntl(fd, F_GETFD) < 0) {
      const int opened = open("/dev/null", O_RDWR);
      if (opened >= 0 && opened != fd) {
        dup2(opened, fd);
        close(opened);
      }
    }
  }
}

void CloseOthers(const Words& words) {
  if (!words.all) CloseBut(words, kFirstAfterStreams);
}

void CloseFrom(int first, int but) {
  Words words;
  words.keep[words.count++] = but;
  CloseBut(words, first);
}

}  // namespace tubetti
