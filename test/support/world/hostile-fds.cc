// A front-end whose descriptors block whoever touches them. It sends PREFIX and then MESSAGE (both hexadecimal) to SOCKET,
// the latter with the descriptors, says "sent", and stays.
//
//   hostile-fds tcp COUNT SOCKET PREFIX MESSAGE    TCP sockets with unsent bytes that linger for 30 s; no copy is left here
//   hostile-fds nested COUNT SOCKET PREFIX MESSAGE a unix socket, with such TCP sockets unread in its queue
//   hostile-fds fuse MOUNT SOCKET PREFIX MESSAGE   a file of a FUSE mount whose server answers until the file is open
//   hostile-fds fill FD…                           no front-end: keeps these eventfds full, and blocking
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <netinet/in.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

[[noreturn]] void Fail(const char* what) {
  perror(what);
  exit(1);
}

std::string FromHex(const char* text) {
  std::string out;
  for (; text[0] != '\0' && text[1] != '\0'; text += 2) {
    out.push_back(static_cast<char>(strtol(std::string(text, 2).c_str(), nullptr, 16)));
  }
  return out;
}

void SendWith(int fd, std::string message, const std::vector<int>& fds) {
  iovec iov = {message.data(), message.size()};
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr header = {};
  header.msg_iov = &iov;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* c = CMSG_FIRSTHDR(&header);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
  memcpy(CMSG_DATA(c), fds.data(), fds.size() * sizeof(int));
  if (sendmsg(fd, &header, MSG_NOSIGNAL) < 0) Fail("sendmsg");
}

// The receiver has the last copies of `fds` before it has the whole message, unless `keep`.
void Send(const char* path, const std::string& prefix, const std::string& message, const std::vector<int>& fds,
          bool keep) {
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) Fail("connect");
  if (!prefix.empty() && write(fd, prefix.data(), prefix.size()) < 0) Fail("write");
  SendWith(fd, message.substr(0, message.size() - 1), fds);
  if (!keep) {
    for (const int copy : fds) close(copy);
  }
  if (write(fd, &message.back(), 1) < 0) Fail("write");
}

int Lingering() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);  // stays open, and nothing is read from its connection
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(listener, 1) != 0) Fail("listen");
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), size) != 0) Fail("connect TCP");
  const linger long_time = {1, 30};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &long_time, sizeof(long_time));
  fcntl(fd, F_SETFL, O_NONBLOCK);
  static char bytes[1 << 16];
  while (write(fd, bytes, sizeof(bytes)) > 0) {
  }
  return fd;
}

void Answer(int fd, const fuse_in_header& to, const void* body, size_t size) {
  char out[4096];
  fuse_out_header header = {static_cast<uint32_t>(sizeof(header) + size), 0, to.unique};
  memcpy(out, &header, sizeof(header));
  memcpy(out + sizeof(header), body, size);
  if (write(fd, out, header.len) < 0) Fail("write to FUSE");
}

[[noreturn]] void ServeFuse(int fd) {
  static char in[1 << 20];
  for (;;) {
    if (read(fd, in, sizeof(in)) < 0) {
      if (errno == EINTR || errno == ENOENT || errno == EAGAIN) continue;
      exit(0);
    }
    fuse_in_header header;
    memcpy(&header, in, sizeof(header));
    fuse_attr attributes = {};
    attributes.ino = 2;
    attributes.mode = S_IFREG | 0666;
    attributes.size = 1 << 20;
    attributes.nlink = 1;
    if (header.opcode == FUSE_INIT) {
      fuse_init_out out = {};
      out.major = 7;
      out.minor = 31;
      out.max_write = 65536;
      Answer(fd, header, &out, sizeof(out));
    } else if (header.opcode == FUSE_LOOKUP) {
      fuse_entry_out out = {};  // attributes are valid for no time: each fstat asks
      out.nodeid = 2;
      out.entry_valid = 1000;
      out.attr = attributes;
      Answer(fd, header, &out, sizeof(out));
    } else if (header.opcode == FUSE_OPEN) {
      fuse_open_out out = {};
      Answer(fd, header, &out, sizeof(out));
    }  // and to nothing else
  }
}

int SilentFile(const char* mount_point) {
  const int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (device < 0) Fail("/dev/fuse");
  const std::string options = "fd=" + std::to_string(device) + ",rootmode=40000,user_id=0,group_id=0";
  if (mount("silent", mount_point, "fuse.silent", MS_NOSUID | MS_NODEV, options.c_str()) != 0) Fail("mount");
  // The server is the parent: a process with the file open does not end before its server does, whoever kills it.
  const pid_t parent = getpid();
  if (fork() != 0) ServeFuse(device);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) exit(0);
  close(device);
  const int file = open((std::string(mount_point) + "/file").c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) Fail("open");
  umount2(mount_point, MNT_DETACH);
  return file;
}

[[noreturn]] void Fill(int count, char** fds) {
  for (int i = 0; i < count; i++) {
    const int fd = atoi(fds[i]);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    uint64_t value = 0;
    if (read(fd, &value, sizeof(value)) < 0 && errno != EAGAIN) Fail("read of an eventfd");
    value = 0xfffffffffffffffe;
    if (write(fd, &value, sizeof(value)) < 0) Fail("write to an eventfd");
    fcntl(fd, F_SETFL, 0);
    // Whenever one was drained, somebody waits to fill it again.
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
      if (write(fd, &value, sizeof(value)) < 0) Fail("write to an eventfd");
    }
  }
  usleep(100 * 1000);
  puts("sent");
  fflush(stdout);
  for (;;) pause();
}

}  // namespace

int main(int argc, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc > 2 && strcmp(argv[1], "fill") == 0) Fill(argc - 2, argv + 2);
  if (argc != 6) return 2;
  std::vector<int> fds;
  const bool fuse = strcmp(argv[1], "fuse") == 0;
  if (fuse) {
    fds.push_back(SilentFile(argv[2]));
  } else {
    for (int i = 0; i < atoi(argv[2]); i++) fds.push_back(Lingering());
  }
  if (strcmp(argv[1], "nested") == 0) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) Fail("socketpair");
    SendWith(pair[1], "x", fds);
    for (const int copy : fds) close(copy);
    close(pair[1]);
    fds = {pair[0]};
  }
  Send(argv[3], FromHex(argv[4]), FromHex(argv[5]), fds, fuse);
  puts("sent");
  fflush(stdout);
  for (;;) pause();
}
