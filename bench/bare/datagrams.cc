#include "datagrams.h"

#include <netinet/udp.h>

#include <algorithm>
#include <cstring>

namespace bare {

namespace {

// What bench-net fills its datagrams with.
constexpr uint8_t kFill = 'u';

}  // namespace

Datagrams::Datagrams(Net& net, const Address& to, uint16_t port, Expect expect)
    : net_(net), to_(to), port_(port), own_port_(net.NewPort()), expect_(expect) {
  net.Register(this, own_port_);
}

Datagrams::~Datagrams() { net_.Forget(own_port_); }

bool Datagrams::Send(size_t bytes) {
  Nic& nic = net_.nic();
  Nic::Slot slot{};
  if (!nic.Take(&slot)) {
    net_.Blocked();
    return false;
  }
  sent_bytes_ = bytes;
  const size_t length = sizeof(udphdr) + bytes;
  uint8_t* at = net_.WriteHeaders(slot, to_.family, to_, IPPROTO_UDP, length);
  udphdr udp{};
  udp.uh_sport = htons(own_port_);
  udp.uh_dport = htons(port_);
  udp.uh_ulen = htons(static_cast<uint16_t>(length));
  const size_t headers = static_cast<size_t>(at - slot.data) + sizeof udp;
  const size_t place = nic.PlaceOf(0, headers, net_.verify());
  const uint64_t pseudo = net_.PseudoSum(to_.family, to_, IPPROTO_UDP, length);
  if (nic.has(VIRTIO_NET_F_CSUM)) {
    udp.uh_sum = static_cast<uint16_t>(Fold(pseudo));
    slot.header->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    slot.header->csum_start = static_cast<uint16_t>(at - slot.data);
    slot.header->csum_offset = 6;
  } else {
    const uint64_t header = Sum(reinterpret_cast<const uint8_t*>(&udp), sizeof udp);
    const auto sum = static_cast<uint16_t>(~Fold(pseudo + header + nic.sums().Of(place, bytes)));
    udp.uh_sum = sum == 0 ? 0xffff : sum;
  }
  memcpy(at, &udp, sizeof udp);
  nic.Submit(slot, headers, place, bytes);
  return true;
}

void Datagrams::OnDatagram(const Packet& packet) {
  last_ = net_.now();
  if (count_++ == 0) first_ = last_;
  if (!net_.verify()) return;
  if (expect_ == Expect::kPattern && packet.length != sent_bytes_) net_.Fault("a datagram of another length came back");
  uint64_t position = 0;
  packet.frame->Walk(packet.at, packet.length, [&](const uint8_t* data, size_t bytes) {
    const bool right = expect_ == Expect::kPattern
                           ? IsPattern(net_.nic().pattern(), position, data, bytes)
                           : std::all_of(data, data + bytes, [](uint8_t byte) { return byte == kFill; });
    if (!right) net_.Fault("a datagram with bytes that are not those that were sent");
    position += bytes;
  });
}

}  // namespace bare
