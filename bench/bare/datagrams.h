// A UDP socket: datagrams of the pattern's first bytes out, counts in.
#pragma once

#include <cstdint>

#include "net.h"

namespace bare {

class Datagrams {
 public:
  // What datagrams that come have to be, with --verify.
  enum class Expect { kPattern, kFill };

  Datagrams(Net& net, const Address& to, uint16_t port, Expect expect);
  ~Datagrams();
  Datagrams(const Datagrams&) = delete;
  Datagrams& operator=(const Datagrams&) = delete;

  // Into the ring. False: there is no place in it.
  bool Send(size_t bytes);
  void OnDatagram(const Packet& packet);

  uint64_t count() const { return count_; }
  // When the first and the last of them came.
  int64_t first() const { return first_; }
  int64_t last() const { return last_; }

 private:
  Net& net_;
  Address to_;
  uint16_t port_;
  uint16_t own_port_;
  Expect expect_;
  size_t sent_bytes_ = 0;
  uint64_t count_ = 0;
  int64_t first_ = 0;
  int64_t last_ = 0;
};

}  // namespace bare
