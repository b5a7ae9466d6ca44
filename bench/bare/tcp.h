// One end of a TCP connection (RFC 9293) that opens it: a source and a sink that are never what is waited for. What the
// other end's window allows is sent. Only a back-end that drops what it has allowed meets a congestion window (RFC 5681);
// what is lost is sent again from the gap on.
#pragma once

#include <cstdint>
#include <string>

#include "net.h"

namespace bare {

class Connection {
 public:
  Connection(Net& net, const Address& to, uint16_t port);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void Write(const void* data, size_t length);
  // The pattern from its beginning, without an end until StopSource.
  void StartSource();
  void StopSource();
  // A FIN behind everything that was written.
  void Shutdown() { shutdown_ = true; }
  // A reset, for a connection whose data nobody wants any more.
  void Reset();
  // What comes from now on is counted and not kept; with --verify it has to be the pattern.
  void StartSink() { sinks_ = true; }

  bool open() const { return state_ == State::kOpen; }
  // Null while nothing is wrong.
  const char* error() const { return error_; }
  bool ended() const { return ended_; }
  std::string& inbox() { return inbox_; }
  uint64_t sunk() const { return sunk_; }
  // Bytes of the source that the other end acknowledged.
  uint64_t sent() const { return source_ && una_ > written_ ? una_ - written_ : 0; }
  uint64_t source_bytes() const { return source_end_ - written_; }

  // For the loop. True: something was sent.
  bool Output();
  void OnSegment(const Packet& packet);
  void OnTimer(int64_t now);

 private:
  static constexpr uint64_t kUnlimited = 1ULL << 62;
  enum class State { kSynSent, kOpen, kFailed };

  void OnSynAck(const Packet& packet, uint32_t seq, uint32_t ack);
  void OnAck(uint32_t ack, uint64_t window, bool plain);
  void OnData(const Packet& packet, uint32_t seq, bool fin);
  void Deliver(const Packet& packet, size_t skip);
  bool SendNext();
  bool Emit(uint8_t flags, uint32_t seq, uint64_t from, size_t length);
  void GoBack(uint64_t congestion_window);
  void FailWith(const char* error);
  uint32_t Seq(uint64_t offset) const { return iss_ + 1 + static_cast<uint32_t>(offset); }
  uint64_t DataEnd() const { return source_ ? source_end_ : written_; }

  Net& net_;
  Address to_;
  uint16_t port_;
  uint16_t own_port_;
  State state_ = State::kSynSent;
  const char* error_ = nullptr;
  bool syn_out_ = false;
  bool shutdown_ = false;
  bool ended_ = false;
  bool ack_due_ = false;
  bool source_ = false;
  bool sinks_ = false;
  uint32_t mss_;
  uint32_t largest_;
  uint32_t iss_;
  uint32_t rcv_nxt_ = 0;
  unsigned window_shift_ = 0;
  unsigned duplicate_acks_ = 0;
  uint64_t window_ = 0;
  uint64_t largest_window_ = 0;
  // Offsets in the stream we send: acknowledged, next to send, sent at most, and where a loss is made good.
  uint64_t una_ = 0;
  uint64_t next_ = 0;
  uint64_t sent_ = 0;
  uint64_t recover_ = 0;
  uint64_t congestion_ = kUnlimited;
  uint64_t threshold_ = kUnlimited;
  // Small writes: bytes up to `written_`, of which `outbox_` holds the last.
  std::string outbox_;
  uint64_t written_ = 0;
  uint64_t source_end_ = 0;
  std::string inbox_;
  uint64_t sunk_ = 0;
  // When something was acknowledged, and when something was sent again.
  int64_t progress_;
  int64_t retried_;
};

}  // namespace bare
