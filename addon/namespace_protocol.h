// What the service says to the process that stays inside the guest's namespaces (addon/launch/namespace.cc) over a socket
// that keeps messages apart. There is one message a request and one a reply; besides, that process says by itself when the
// command or the namespace has ended. src/pasta/holder.ts is the other end.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tubetti {

enum class HolderOp : int32_t {
  kEnter = 1,      // flags (below), a, b: uid and gid to become first (-1: stay), c: process to watch (0: none);
                   // text: user namespace, network namespace, host name, each ended by a zero
  kTap = 2,        // text: name of the interface; gives the tap; value: TUN_F_* that the kernel took, or -1: no vnet header
  kNetlink = 3,    // gives an rtnetlink socket, whose requests kSend sends
  kSend = 4,       // text: netlink messages: the kernel asks for the rights of who sends
  kSetting = 5,    // text: name below /proc/sys/net, and value, each ended by a zero
  kSocket = 6,     // a, b, c: as socket(2); gives it
  kStart = 7,      // a: where the command begins among the words of the command line; -1: a shell
  kSeal = 8,       // flags (below), a, b: uid and gid to become (-1: stay): no more rights; only kSocket, kListen, kStart, kInterrupt then
  kInterrupt = 9,  // a: a signal that the terminal sent: ends the command if it does nothing about it
  kProc = 10,      // a: which of /proc/net: tcp, tcp6, udp, udp6; gives it, open for reading
  kListen = 11,    // flags (below), a, b: family and type, c: port; gives a bound socket, which listens if it is one of TCP
  kPool = 12,      // gives the end of a socket over which the data plane asks for many sockets at a time (SocketsAsk)
  kEnded = 100,    // said by itself. value: the command's exit status, 128 + the signal if one killed it
  kGone = 101,     // said by itself: the namespace is gone
};

// Of kEnter.
constexpr int32_t kCreate = 1;         // new namespaces for a command; else those that are named
constexpr int32_t kNewUser = 2;        // a user namespace as well
constexpr int32_t kNewPid = 4;         // a PID namespace as well
constexpr int32_t kWatchNamespace = 8;  // kGone is to be said

// Of kSeal: a filter of system calls; one that only logs.
constexpr int32_t kFilter = 1;
constexpr int32_t kFilterLog = 2;
// Of kSeal: ports below 1024 can be bound from now on as well.
constexpr int32_t kKeepPorts = 4;

// Of kListen: on the loopback interface only, else on the loopback address only; a socket of IPv6 takes IPv4, too.
constexpr int32_t kOnLoopback = 1;
constexpr int32_t kDual = 2;

// A request for sockets, and in the same form the answer, with `count` descriptors or -errno in `count`.
struct SocketsAsk {
  int32_t family;
  int32_t type;
  int32_t count;
};
constexpr int32_t kMostSockets = 64;

struct HolderAsk {
  HolderOp op;
  int32_t flags;
  int32_t a;
  int32_t b;
  int32_t c;
  char text[16384];  // as much of it as was sent
};

struct HolderReply {
  HolderOp op;
  int32_t result;  // 0 or -errno
  int32_t value;
  char text[300];  // what the error is about; the interface's name
};

constexpr size_t kHolderHeader = offsetof(HolderAsk, text);

}  // namespace tubetti
