// The addon of tests (tubetti-test.node, never shipped): what somebody would try who has taken over the thread that calls,
// and what tests read of descriptors. Each call returns what the kernel said, -errno, or a value >= 0 where it was done.
#include <fcntl.h>
#include <linux/bpf.h>
#include <node_api.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../../../addon/broker_protocol.h"
#include "inject.h"

namespace {

// Raw calls throughout: what the C library adds (SIGSETXID for all threads, handlers at fork) is not at issue.
template <typename... A>
long Call(long number, A... args) {
  const long result = syscall(number, args...);
  return result == -1 ? -errno : result;
}

long OpenAt(const char* path, int flags) { return Call(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600); }

long Execute() {
  const char* const argv[] = {"/bin/true", nullptr};
  return Call(SYS_execve, argv[0], argv, nullptr);
}

long Fork() {
  const long child = Call(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (child == 0) _exit(0);
  return child;
}

// Another one, which shares our memory until it ends.
long VirtualFork() {
  const long child = Call(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
  if (child == 0) _exit(0);
  return child;
}

long ReadFile(const char* path) {
  const long fd = OpenAt(path, O_RDONLY);
  if (fd < 0) return fd;
  char buf[16];
  return Call(SYS_read, fd, buf, sizeof(buf));
}

// `skip`: 0 for a path, 1 for an abstract name (unix(7)), which libuv has padded with zeros in some of its versions.
long ConnectTo(const char* name, size_t skip) {
  const long fd = Call(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0) return fd;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path + skip, name, sizeof(address.sun_path) - 2);
  const long result = Call(SYS_connect, fd, &address, sizeof(address));
  if (skip == 0 || result != -ECONNREFUSED) return result;
  return Call(SYS_connect, fd, &address, offsetof(sockaddr_un, sun_path) + skip + strlen(name));
}

// A request of the service's to its broker: "OP[,A]:TEXT". The result of the reply.
long AskBroker(const char* argument) {
  char* text = nullptr;
  tubetti::BrokerAsk ask = {};
  ask.seq = UINT32_MAX;
  ask.op = static_cast<tubetti::BrokerOp>(strtol(argument, &text, 10));
  if (*text == ',') ask.a = static_cast<uint32_t>(strtol(text + 1, &text, 10));
  while (*text == ':') text++;
  strncpy(ask.text, text, sizeof(ask.text) - 1);
  // The one socket that keeps messages apart.
  constexpr int kMost = 1024;
  for (int fd = 3; fd < kMost; fd++) {
    int type = 0;
    socklen_t size = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET) continue;
    const long sent = Call(SYS_sendto, fd, &ask, tubetti::kAskHeader + strlen(ask.text), MSG_NOSIGNAL, nullptr, 0);
    if (sent < 0) return sent;
    tubetti::BrokerReply reply = {};
    const long got = Call(SYS_recvfrom, fd, &reply, sizeof(reply), 0, nullptr, nullptr);
    return got < 0 ? got : reply.result;
  }
  return -ENOTCONN;
}

long OwnMemory() {
  const long fd = OpenAt("/proc/self/mem", O_RDWR);
  if (fd < 0) return fd;
  return reinterpret_cast<long>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, static_cast<int>(fd), 0));
}

long Pipe() {
  int ends[2];
  return Call(SYS_pipe2, ends, 0);
}

long Try(const std::string& what, const char* argument) {
  if (what == "read-file") return ReadFile(argument);
  if (what == "write-file") return OpenAt(argument, O_WRONLY | O_CREAT);
  if (what == "execve") return Execute();
  if (what == "fork") return Fork();
  if (what == "vfork") return VirtualFork();
  if (what == "clone3") return Call(SYS_clone3, nullptr, 0);
  if (what == "ptrace-parent") return Call(SYS_ptrace, PTRACE_ATTACH, getppid(), 0, 0);
  if (what == "raw-socket") return Call(SYS_socket, AF_INET, SOCK_RAW, 1);
  if (what == "packet-socket") return Call(SYS_socket, AF_PACKET, SOCK_RAW, 0x300);
  if (what == "setuid-0") return Call(SYS_setuid, 0);
  if (what == "user-namespace") return Call(SYS_unshare, CLONE_NEWUSER);
  if (what == "unix-socket") return ConnectTo(argument, 0);
  if (what == "abstract-socket") return ConnectTo(argument, 1);
  if (what == "own-memory") return OwnMemory();
  if (what == "broker") return AskBroker(argument);
  if (what == "kill-other") return Call(SYS_kill, atoi(argument), SIGCONT);
  if (what == "mount") return Call(SYS_mount, "none", "/", "tmpfs", 0, nullptr);
  if (what == "bpf") return Call(SYS_bpf, BPF_MAP_CREATE, nullptr, 0);
  if (what == "io-uring") return Call(SYS_io_uring_setup, 1, nullptr);
  if (what == "process-vm") return Call(SYS_process_vm_readv, getppid(), nullptr, 0, nullptr, 0, 0);
  if (what == "thread") return Call(SYS_clone, CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWUSER, 0, 0, 0, 0);
  if (what == "memfd") return Call(SYS_memfd_create, "probe", 0);
  if (what == "splice") return Call(SYS_splice, -1, nullptr, -1, nullptr, 1, 0);
  if (what == "pipe2") return Pipe();
  if (what == "newer") return Call(4000);
  return -ENOTSUP;
}

std::string TextOf(napi_env env, napi_value value) {
  char buf[512];
  size_t length = 0;
  napi_get_value_string_utf8(env, value, buf, sizeof(buf), &length);
  return std::string(buf, length);
}

napi_value Probe(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  size_t argc = 2;
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  const std::string argument = TextOf(env, argv[1]);
  napi_value result = nullptr;
  napi_create_int64(env, Try(TextOf(env, argv[0]), argument.c_str()), &result);
  return result;
}

// The numbers among the arguments of a call.
template <size_t Count>
struct Numbers {
  Numbers(napi_env env, napi_callback_info info) {
    napi_value argv[Count];
    size_t argc = Count;
    napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
    for (size_t i = 0; i < Count; i++) napi_get_value_int32(env, argv[i], &value[i]);
  }
  int32_t value[Count] = {};
};

napi_value Answer(napi_env env, int32_t value) {
  napi_value result = nullptr;
  napi_create_int32(env, value, &result);
  return result;
}

// getsockopt(fd, level, name): the option's value if >= 0. Some options return one byte only.
napi_value GetSockOpt(napi_env env, napi_callback_info info) {
  const Numbers<3> of(env, info);
  int value = 0;
  socklen_t length = sizeof(value);
  const int result = getsockopt(of.value[0], of.value[1], of.value[2], &value, &length);
  return Answer(env, result == 0 ? value : -errno);
}

// seals(fd): F_GET_SEALS.
napi_value Seals(napi_env env, napi_callback_info info) {
  const Numbers<1> of(env, info);
  const int seals = fcntl(of.value[0], F_GET_SEALS);
  return Answer(env, seals < 0 ? -errno : seals);
}

// callIn(pid, number, a, b, c)
napi_value CallInProcess(napi_env env, napi_callback_info info) {
  constexpr size_t kArguments = 5;
  napi_value argv[kArguments];
  size_t argc = kArguments;
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  int64_t numbers[kArguments] = {};
  for (size_t i = 0; i < kArguments; i++) napi_get_value_int64(env, argv[i], &numbers[i]);
  napi_value result = nullptr;
  napi_create_int64(env, CallIn(static_cast<pid_t>(numbers[0]), numbers[1], {numbers[2], numbers[3], numbers[4]}), &result);
  return result;
}

void Export(napi_env env, napi_value exports, const char* name, napi_callback call) {
  napi_value function = nullptr;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, call, nullptr, &function);
  napi_set_named_property(env, exports, name, function);
}

}  // namespace

NAPI_MODULE_INIT() {
  Export(env, exports, "probe", Probe);
  Export(env, exports, "getsockopt", GetSockOpt);
  Export(env, exports, "seals", Seals);
  Export(env, exports, "callIn", CallInProcess);
  return exports;
}
