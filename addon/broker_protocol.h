// What the service says to its broker (addon/launch/broker.cc) over a socket that keeps messages apart. There is one message
// a request and one a reply. No path comes behind kSeal: from then on the broker knows what it may touch; kBindPath names
// files of directories that it was told before. kFilter, once, is the last of the start.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tubetti {

enum class BrokerOp : int32_t {
  kBind = 1,       // binds the inet socket that comes along to the address in `text`, a port below 1024
  kSocket = 2,     // `text`: path of a socket that the service listens on, which is there; a: what for, up to kSocketFiles
  kConnectTo = 3,  // `text`: path of the front-end's socket
  kSeal = 4,       // a, b: uid and gid to become, if `text` is not empty; no more paths
  kConnect = 5,    // gives a socket that is connected to the front-end's
  kSyslog = 6,     // gives a datagram socket that is connected to /dev/log
  kResolvers = 7,  // gives /etc/resolv.conf, open for reading
  kWatch = 8,      // gives an inotify of it and of its directories; reply text: the name of the file that it links to
  kRemove = 9,     // a: which; removes the socket's file, if it is still that one
  kFilter = 10,    // `text`: struct sock_filter, one behind the other: from now on only the system calls that these let pass
  kPeer = 11,      // reply text: the uid of who is at the other end of the unix socket that comes along, decimal
  kBindPath = 12,  // gives a stream socket that is bound to path `text`, mode 0600; a: what for, from kFirstForward on
};

struct BrokerAsk {
  uint32_t seq;
  BrokerOp op;
  uint32_t a;
  uint32_t b;
  char text[4096];  // as much of it as was sent
};

struct BrokerReply {
  uint32_t seq;
  int32_t result;  // 0, or -errno; a descriptor comes along where one is given
  char text[256];
};

constexpr size_t kAskHeader = offsetof(BrokerAsk, text);
constexpr uint16_t kFirstOrdinaryPort = 1024;
// Sockets of the service that have a file: for front-ends, scrapers, control, pesto, slirp4netns's clients; then those that
// are forwarded into the guest.
constexpr uint32_t kForControl = 2;
constexpr uint32_t kFirstForward = 5;
constexpr uint32_t kSocketFiles = kFirstForward + 64;

}  // namespace tubetti
