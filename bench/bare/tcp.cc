#include "tcp.h"

#include <netinet/tcp.h>

#include <algorithm>
#include <cstring>

namespace bare {

namespace {

constexpr size_t kEthernet = 14;
constexpr size_t kTcp = 20;
// Scaled by 2^10: 64 MiB, more than any back-end has on its way.
constexpr uint8_t kWindowShift = 10;
// A total length of IPv4 has 16 bits; the same for IPv6, so that both send the same.
constexpr uint32_t kLargestSegment = 65'535 - 60;
constexpr size_t kSmallWrite = 1024;
constexpr int64_t kRetryAfter = 200'000'000;
constexpr int64_t kGiveUpAfter = 10'000'000'000;
// Not three (RFC 5681 §3.2): frames do not overtake each other in a ring.
constexpr unsigned kDuplicateAcks = 2;
constexpr uint8_t kMaxShift = 14;

}  // namespace

Connection::Connection(Net& net, const Address& to, uint16_t port)
    : net_(net), to_(to), port_(port), own_port_(net.NewPort()), progress_(NowNs()), retried_(progress_) {
  mss_ = net.nic().mtu() - (to.family == AF_INET ? 40U : 60U);
  largest_ = mss_;
  iss_ = static_cast<uint32_t>(progress_);
  net.Register(this, own_port_);
}

Connection::~Connection() { net_.Forget(own_port_); }

void Connection::Write(const void* data, size_t length) {
  outbox_.append(static_cast<const char*>(data), length);
  written_ += length;
}

void Connection::StartSource() {
  source_ = true;
  source_end_ = written_ + kUnlimited;
}

void Connection::StopSource() { source_end_ = std::max(written_, sent_); }

void Connection::Reset() {
  if (state_ != State::kFailed) Emit(TH_RST | TH_ACK, Seq(next_), next_, 0);
  FailWith("reset by us");
}

void Connection::FailWith(const char* error) {
  state_ = State::kFailed;
  if (error_ == nullptr) error_ = error;
}

// ---- Out -----------------------------------------------------------------------------------------------------------

bool Connection::Output() {
  if (state_ == State::kFailed) return false;
  if (state_ == State::kSynSent) {
    if (syn_out_) return false;
    syn_out_ = Emit(TH_SYN, iss_, 0, 0);
    return syn_out_;
  }
  bool sent = false;
  while (SendNext()) sent = true;
  if (ack_due_) sent |= Emit(TH_ACK, Seq(next_), next_, 0);
  return sent;
}

bool Connection::SendNext() {
  const uint64_t end = DataEnd();
  if (next_ >= end) {
    // The FIN has the place behind the last byte.
    if (!shutdown_ || next_ > end || !Emit(TH_FIN | TH_ACK, Seq(next_), next_, 0)) return false;
    next_++;
    sent_ = std::max(sent_, next_);
    return true;
  }
  const uint64_t limit = una_ + std::min(window_, congestion_);
  const uint64_t allowed = limit > next_ ? limit - next_ : 0;
  const bool small = next_ < written_;
  const uint64_t remaining =
      small ? std::min({written_ - next_, static_cast<uint64_t>(kSmallWrite), static_cast<uint64_t>(mss_)}) : end - next_;
  uint64_t length = std::min({remaining, allowed, static_cast<uint64_t>(largest_)});
  if (length == 0) return false;
  if (length < remaining && length > mss_) length -= length % mss_;
  // No silly windows (RFC 9293 §3.8.6.2.1): a part of what could be one frame only when nothing is on its way.
  const bool whole = length == remaining || length == largest_ || length >= largest_window_ / 2;
  if (!whole && next_ != una_) return false;
  if (next_ == una_ && una_ == sent_) progress_ = retried_ = net_.now();
  const uint8_t flags = small ? TH_ACK | TH_PUSH : TH_ACK;
  if (!Emit(flags, Seq(next_), next_, static_cast<size_t>(length))) return false;
  next_ += length;
  sent_ = std::max(sent_, next_);
  return true;
}

// A segment with `length` bytes of the stream from `from` on. False: there is no place in the ring.
bool Connection::Emit(uint8_t flags, uint32_t seq, uint64_t from, size_t length) {
  Nic& nic = net_.nic();
  Nic::Slot slot{};
  if (!nic.Take(&slot)) {
    net_.Blocked();
    return false;
  }
  const bool syn = (flags & TH_SYN) != 0;
  const size_t header = syn ? kTcp + 8 : kTcp;
  uint8_t* at = net_.WriteHeaders(slot, to_.family, to_, IPPROTO_TCP, header + length);
  tcphdr tcp{};
  tcp.th_sport = htons(own_port_);
  tcp.th_dport = htons(port_);
  tcp.th_seq = htonl(seq);
  tcp.th_ack = htonl(syn ? 0 : rcv_nxt_);
  tcp.th_off = static_cast<uint8_t>(header / 4) & 0xf;
  tcp.th_flags = flags;
  tcp.th_win = 0xffff;
  memcpy(at, &tcp, sizeof tcp);
  if (syn) {
    const uint8_t options[8] = {TCPOPT_MAXSEG, 4, static_cast<uint8_t>(mss_ >> 8), static_cast<uint8_t>(mss_),
                                TCPOPT_NOP, TCPOPT_WINDOW, 3, kWindowShift};
    memcpy(at + kTcp, options, sizeof options);
  }
  size_t written = static_cast<size_t>(at - slot.data) + header;
  size_t place = 0;
  size_t from_pattern = 0;
  uint64_t sum = 0;
  const bool partial = nic.has(VIRTIO_NET_F_CSUM);
  if (length > 0 && from < written_) {
    memcpy(slot.data + written, outbox_.data() + (outbox_.size() - (written_ - from)), length);
    if (!partial) sum = Sum(slot.data + written, length);
    written += length;
  } else if (length > 0) {
    place = nic.PlaceOf((from - written_) % kPatternPeriod, written, net_.verify());
    from_pattern = length;
    if (!partial) sum = nic.sums().Of(place, length);
  }
  const uint64_t pseudo = net_.PseudoSum(to_.family, to_, IPPROTO_TCP, header + length);
  uint16_t check;
  if (partial) {
    check = static_cast<uint16_t>(Fold(pseudo));
    slot.header->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    slot.header->csum_start = static_cast<uint16_t>(at - slot.data);
    slot.header->csum_offset = 16;
  } else {
    check = static_cast<uint16_t>(~Fold(pseudo + Sum(at, header) + Fold(sum)));
  }
  memcpy(at + 16, &check, sizeof check);
  if (length > mss_) {
    slot.header->gso_type = to_.family == AF_INET ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
    slot.header->gso_size = static_cast<uint16_t>(mss_);
    slot.header->hdr_len = static_cast<uint16_t>(static_cast<size_t>(at - slot.data) + header);
  }
  nic.Submit(slot, written, place, from_pattern);
  ack_due_ = false;
  return true;
}

void Connection::GoBack(uint64_t congestion_window) {
  net_.counters().retransmits++;
  threshold_ = std::max<uint64_t>((sent_ - una_) / 2, 2 * mss_);
  congestion_ = std::max<uint64_t>(congestion_window, mss_);
  recover_ = sent_;
  next_ = una_;
  duplicate_acks_ = 0;
}

void Connection::OnTimer(int64_t now) {
  if (state_ == State::kFailed) return;
  const bool on_its_way = state_ == State::kSynSent || una_ < sent_;
  if (!on_its_way && next_ >= DataEnd()) {
    progress_ = retried_ = now;
    return;
  }
  if (now - progress_ > kGiveUpAfter) return FailWith("no progress for 10 s");
  if (now - retried_ < kRetryAfter) return;
  retried_ = now;
  if (state_ == State::kSynSent) {
    net_.counters().retransmits++;
    syn_out_ = false;
  } else if (una_ < sent_) {
    GoBack(mss_);
  } else {
    // A closed window: a segment before it has to be answered (RFC 9293 §3.10.7.4), and the answer says the window.
    Emit(TH_ACK, Seq(una_) - 1, una_, 0);
  }
}

// ---- In ------------------------------------------------------------------------------------------------------------

void Connection::OnSegment(const Packet& packet) {
  tcphdr tcp;
  memcpy(&tcp, packet.header, sizeof tcp);
  const uint32_t seq = ntohl(tcp.th_seq);
  const uint32_t ack = ntohl(tcp.th_ack);
  if (ntohs(tcp.th_sport) != port_ || state_ == State::kFailed) return;
  if ((tcp.th_flags & TH_RST) != 0) {
    return FailWith(state_ == State::kSynSent ? "the connection was refused" : "the other end reset the connection");
  }
  if (state_ == State::kSynSent) {
    if ((tcp.th_flags & (TH_SYN | TH_ACK)) == (TH_SYN | TH_ACK)) OnSynAck(packet, seq, ack);
    return;
  }
  if ((tcp.th_flags & TH_SYN) != 0) {
    ack_due_ = true;
    return;
  }
  const bool fin = (tcp.th_flags & TH_FIN) != 0;
  OnAck(ack, static_cast<uint64_t>(ntohs(tcp.th_win)) << window_shift_, packet.length == 0 && !fin);
  if (packet.length > 0 || fin) OnData(packet, seq, fin);
}

void Connection::OnSynAck(const Packet& packet, uint32_t seq, uint32_t ack) {
  if (ack != iss_ + 1) return FailWith("a SYN was acknowledged that was not sent");
  uint32_t mss = to_.family == AF_INET ? 536 : 1220;
  bool scales = false;
  for (size_t at = kTcp; at < packet.header_length;) {
    const uint8_t kind = packet.header[at];
    if (kind == TCPOPT_EOL) break;
    if (kind == TCPOPT_NOP) {
      at++;
      continue;
    }
    const size_t left = packet.header_length - at;
    const size_t length = left < 2 ? 0 : packet.header[at + 1];
    if (length < 2 || length > left) return FailWith("damaged options of a SYN");
    const uint8_t* value = packet.header + at + 2;
    if (kind == TCPOPT_MAXSEG && length == 4) mss = static_cast<uint32_t>(value[0] << 8 | value[1]);
    if (kind == TCPOPT_WINDOW && length == 3) {
      scales = true;
      window_shift_ = std::min(value[0], kMaxShift);
    }
    at += length;
  }
  if (!scales) return FailWith("a SYN without a window scale: the window would be what is measured");
  if (mss == 0) return FailWith("a SYN with a segment size of 0");
  mss_ = std::min(mss_, mss);
  const bool cut = net_.nic().has(to_.family == AF_INET ? VIRTIO_NET_F_HOST_TSO4 : VIRTIO_NET_F_HOST_TSO6) &&
                   net_.nic().has(VIRTIO_NET_F_CSUM);
  largest_ = cut && mss_ < kLargestSegment ? kLargestSegment - kLargestSegment % mss_ : mss_;
  window_ = static_cast<uint64_t>(packet.header[14] << 8 | packet.header[15]);
  largest_window_ = window_;
  rcv_nxt_ = seq + 1;
  state_ = State::kOpen;
  // By itself and before any data, as a program's that writes when connect(2) has returned.
  ack_due_ = true;
  Emit(TH_ACK, Seq(0), 0, 0);
  progress_ = retried_ = net_.now();
}

void Connection::OnAck(uint32_t ack, uint64_t window, bool plain) {
  const auto ahead = static_cast<int32_t>(ack - Seq(una_));
  if (ahead < 0) return;
  const uint64_t offset = una_ + static_cast<uint64_t>(ahead);
  if (offset > sent_) return net_.Fault("an acknowledgement of what was not sent");
  if (ahead > 0) {
    una_ = offset;
    next_ = std::max(next_, una_);
    duplicate_acks_ = 0;
    progress_ = retried_ = net_.now();
    if (congestion_ < threshold_) {
      congestion_ += static_cast<uint64_t>(ahead);
    } else if (congestion_ != kUnlimited) {
      congestion_ += std::max<uint64_t>(1, static_cast<uint64_t>(ahead) * mss_ / congestion_);
    }
    if (una_ >= written_) outbox_.clear();
  } else if (plain && window == window_ && una_ < sent_ && una_ >= recover_) {
    if (++duplicate_acks_ >= kDuplicateAcks) GoBack((sent_ - una_) / 2);
  }
  window_ = window;
  largest_window_ = std::max(largest_window_, window);
}

void Connection::OnData(const Packet& packet, uint32_t seq, bool fin) {
  const auto ahead = static_cast<int32_t>(seq - rcv_nxt_);
  ack_due_ = true;
  if (ahead > 0) {
    // At once and for each, so that the other end knows of the gap (RFC 5681 §4.2).
    net_.counters().gaps++;
    Emit(TH_ACK, Seq(next_), next_, 0);
    return;
  }
  const auto known = static_cast<size_t>(-static_cast<int64_t>(ahead));
  if (known > packet.length || (known == packet.length && !fin)) {
    net_.counters().duplicates++;
    return;
  }
  if (known > 0) net_.counters().duplicates++;
  if (ended_) return;
  if (known < packet.length) Deliver(packet, known);
  rcv_nxt_ += static_cast<uint32_t>(packet.length - known);
  if (fin) {
    ended_ = true;
    rcv_nxt_++;
  }
}

void Connection::Deliver(const Packet& packet, size_t skip) {
  const size_t length = packet.length - skip;
  if (!sinks_) {
    packet.frame->Walk(packet.at + skip, length, [this](const uint8_t* data, size_t bytes) {
      inbox_.append(reinterpret_cast<const char*>(data), bytes);
    });
    return;
  }
  if (net_.verify()) {
    uint64_t position = sunk_;
    packet.frame->Walk(packet.at + skip, length, [&](const uint8_t* data, size_t bytes) {
      const bool right = IsPattern(net_.nic().pattern(), position, data, bytes);
      if (!right) net_.Fault("bytes that are not those that were sent");
      position += bytes;
    });
  }
  sunk_ += length;
}

}  // namespace bare
