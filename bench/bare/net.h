// Just enough of a network: ARP and neighbour discovery, the way of frames to connections and sockets, and the loop
// that sleeps until an interrupt or looks all the time.
#pragma once

#include <netinet/in.h>

#include <array>
#include <cstdint>
#include <vector>

#include "nic.h"

namespace bare {

class Connection;
class Datagrams;

int64_t NowNs();

// An address of either family. The words of an IPv4 address are its first four bytes.
struct Address {
  int family = AF_INET;
  std::array<uint8_t, 16> bytes{};

  size_t length() const { return family == AF_INET ? 4 : 16; }
  // Exits with a message when it is none.
  static Address Parse(const char* text);
};

using MacAddress = std::array<uint8_t, 6>;

struct NetOptions {
  NicOptions nic;
  // Ours and the gateway's, for each family.
  Address own4, gateway4, own6, gateway6;
  // Looks at the rings all the time while a command runs.
  bool poll = false;
  // Looks at every byte and every checksum.
  bool verify = false;
};

// What happened so far.
struct Counters {
  uint64_t retransmits = 0;
  // Segments that had come before.
  uint64_t duplicates = 0;
  // Segments behind a gap.
  uint64_t gaps = 0;
};

// Where a TCP segment or datagram is in a frame.
struct Packet {
  const Frame* frame;
  int family;
  // Of its header.
  const uint8_t* header;
  size_t header_length;
  // Of the payload in the frame, and its length.
  size_t at;
  size_t length;
};

class Net final : private FrameSink {
 public:
  explicit Net(const NetOptions& options);

  // One look at the rings and one turn of all connections; then, if there was nothing to do, a sleep until an interrupt
  // or `deadline`.
  void Turn(int64_t deadline);
  // Turns until `done()`. False: it did not come within `timeout_ns`.
  template <typename Done>
  bool Until(Done done, int64_t timeout_ns) {
    const int64_t deadline = NowNs() + timeout_ns;
    while (!done()) {
      if (NowNs() >= deadline) return false;
      Turn(deadline);
    }
    return true;
  }
  // Serves the link until `fd` is readable, with interrupts only.
  void Idle(int fd);
  // Finds the Ethernet address of a family's gateway. False: no answer.
  bool Resolve(int family);

  // Writes the Ethernet and IP headers, with room for `transport` bytes behind. Returns where that begins.
  uint8_t* WriteHeaders(Nic::Slot& slot, int family, const Address& to, uint8_t protocol, size_t ip_payload);
  // The sum of the pseudo-header.
  uint64_t PseudoSum(int family, const Address& to, uint8_t protocol, size_t length) const;

  uint16_t NewPort();
  void Register(Connection* connection, uint16_t port);
  void Register(Datagrams* datagrams, uint16_t port);
  void Forget(uint16_t port);

  Nic& nic() { return nic_; }
  Counters& counters() { return counters_; }
  bool verify() const { return options_.verify; }
  // Something had no place in the transmit ring.
  void Blocked() { blocked_ = true; }
  int64_t now() const { return now_; }
  // What a check found, for --verify; empty: nothing.
  void Fault(const char* what);
  const char* fault() const { return fault_; }
  void ForgetFault() { fault_ = nullptr; }

 private:
  void OnFrame(const Frame& frame) override;
  void OnArp(const Frame& frame);
  void OnIp4(const Frame& frame);
  void OnIp6(const Frame& frame);
  void OnNeighbour(const uint8_t* icmp, const uint8_t* source, size_t length);
  void OnTransport(const Frame& frame, int family, uint8_t protocol, size_t at, size_t end);
  void CheckFrame(const Frame& frame, int family, uint8_t protocol, size_t at, size_t end);
  bool Ask(int family);
  bool SendArp(uint16_t operation, const uint8_t* to_mac, const uint8_t* to_address);
  bool SendNeighbour(uint8_t type, const uint8_t* to_mac, const uint8_t* to_address, const uint8_t* target);
  bool Work();
  void Sleep(int64_t deadline, int extra_fd);

  NetOptions options_;
  Nic nic_;
  Counters counters_;
  std::array<MacAddress, 2> gateway_mac_{};
  std::array<bool, 2> resolved_{};
  std::vector<Connection*> by_port_;
  std::vector<Datagrams*> datagrams_by_port_;
  std::vector<Connection*> connections_;
  uint16_t next_port_;
  bool blocked_ = false;
  int64_t now_ = 0;
  int64_t timers_ = 0;
  const char* fault_ = nullptr;
};

}  // namespace bare
