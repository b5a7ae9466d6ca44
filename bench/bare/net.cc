#include "net.h"

#include <arpa/inet.h>
#include <netinet/icmp6.h>
#include <netinet/if_ether.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <poll.h>
#include <time.h>

#include <algorithm>
#include <cstring>

#include "datagrams.h"
#include "tcp.h"

namespace bare {

namespace {

constexpr int64_t kMs = 1'000'000;
// Frames of a turn, as Linux' NAPI.
constexpr size_t kBudget = 64;
constexpr int64_t kTimerEvery = 10 * kMs;
constexpr size_t kEthernet = sizeof(ether_header);
constexpr uint16_t kFirstPort = 20'000;
constexpr uint16_t kLastPort = 60'000;
constexpr MacAddress kOwnMac = {0x52, 0x54, 0x00, 0x12, 0x34, 0x57};
constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr uint8_t kHopLimit = 64;
// RFC 4861 §7.1: other hop limits come from beyond the link.
constexpr uint8_t kLinkHopLimit = 255;

int At(int family) { return family == AF_INET ? 0 : 1; }

template <typename Header>
Header Read(const uint8_t* at) {
  Header header;
  memcpy(&header, at, sizeof header);
  return header;
}

// The sum of a range of a frame whose pieces may begin at odd places.
uint64_t SumOf(const Frame& frame, size_t from, size_t length) {
  uint64_t sum = 0;
  bool odd = false;
  frame.Walk(from, length, [&](const uint8_t* data, size_t bytes) {
    const uint32_t part = Fold(Sum(data, bytes));
    sum += odd ? Swapped(part) : part;
    odd ^= bytes % 2 != 0;
  });
  return sum;
}

}  // namespace

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

Address Address::Parse(const char* text) {
  Address address;
  if (inet_pton(AF_INET, text, address.bytes.data()) == 1) return address;
  address.family = AF_INET6;
  if (inet_pton(AF_INET6, text, address.bytes.data()) != 1) Fail("not an address: %s", text);
  return address;
}

Net::Net(const NetOptions& options)
    : options_(options), nic_(options.nic), by_port_(65536), datagrams_by_port_(65536) {
  now_ = NowNs();
  // A program that runs after another shall not meet its connections.
  next_port_ = static_cast<uint16_t>(kFirstPort + now_ / kMs % (kLastPort - kFirstPort));
}

// ---- The loop ------------------------------------------------------------------------------------------------------

bool Net::Work() {
  now_ = NowNs();
  bool worked = false;
  if (nic_.Reclaim()) {
    worked = true;
    blocked_ = false;
  }
  worked |= nic_.Receive(kBudget, *this) > 0;
  for (Connection* each : connections_) worked |= each->Output();
  if (now_ - timers_ >= kTimerEvery) {
    timers_ = now_;
    for (Connection* each : connections_) each->OnTimer(now_);
  }
  nic_.Publish();
  return worked;
}

void Net::Turn(int64_t deadline) {
  if (Work()) return;
  if (options_.poll) {
    nic_.receive().Disarm();
    nic_.transmit().Disarm();
    __builtin_ia32_pause();
    return;
  }
  Sleep(deadline, -1);
}

void Net::Sleep(int64_t deadline, int extra_fd) {
  Ring& receive = nic_.receive();
  Ring& transmit = nic_.transmit();
  bool more = receive.Arm();
  // As Linux does: when three quarters of what the device has will be back.
  if (blocked_) more |= transmit.Arm(static_cast<uint16_t>(std::max(1, transmit.outstanding() * 3 / 4)));
  if (!more) {
    const int64_t until = connections_.empty() ? deadline : std::min(deadline, now_ + kTimerEvery);
    const int64_t wait = std::max<int64_t>(0, until - NowNs());
    const timespec timeout = {wait / 1'000'000'000, wait % 1'000'000'000};
    pollfd waits[] = {{receive.call_fd(), POLLIN, 0},
                      {blocked_ ? transmit.call_fd() : -1, POLLIN, 0},
                      {nic_.front_end().fd(), POLLIN, 0},
                      {extra_fd, POLLIN, 0}};
    ppoll(waits, 4, &timeout, nullptr);
    if (waits[0].revents != 0) receive.DrainCall();
    if (waits[1].revents != 0) transmit.DrainCall();
    if (waits[2].revents != 0) Fail("the back-end closed the connection");
  }
  receive.Disarm();
  if (blocked_) transmit.Disarm();
}

void Net::Idle(int fd) {
  for (;;) {
    pollfd ready = {fd, POLLIN, 0};
    if (poll(&ready, 1, 0) != 0) return;
    if (!Work()) Sleep(NowNs() + 1000 * kMs, fd);
  }
}

uint16_t Net::NewPort() {
  do {
    if (++next_port_ >= kLastPort) next_port_ = kFirstPort;
  } while (by_port_[next_port_] != nullptr || datagrams_by_port_[next_port_] != nullptr);
  return next_port_;
}

void Net::Register(Connection* connection, uint16_t port) {
  by_port_[port] = connection;
  connections_.push_back(connection);
}

void Net::Register(Datagrams* datagrams, uint16_t port) { datagrams_by_port_[port] = datagrams; }

void Net::Forget(uint16_t port) {
  std::erase(connections_, by_port_[port]);
  by_port_[port] = nullptr;
  datagrams_by_port_[port] = nullptr;
}

void Net::Fault(const char* what) {
  if (options_.verify && fault_ == nullptr) fault_ = what;
}

// ---- Frames from the back-end --------------------------------------------------------------------------------------

void Net::OnFrame(const Frame& frame) {
  if (frame.length < kEthernet) return Fault("a frame without an Ethernet header");
  switch (ntohs(Read<ether_header>(frame.head).ether_type)) {
    case ETHERTYPE_ARP:
      return OnArp(frame);
    case ETHERTYPE_IP:
      return OnIp4(frame);
    case ETHERTYPE_IPV6:
      return OnIp6(frame);
    default:
      return;
  }
}

void Net::OnArp(const Frame& frame) {
  if (frame.length < kEthernet + sizeof(ether_arp)) return Fault("a short ARP packet");
  const auto arp = Read<ether_arp>(frame.head + kEthernet);
  const uint16_t operation = ntohs(arp.ea_hdr.ar_op);
  if (operation == ARPOP_REPLY && memcmp(arp.arp_spa, options_.gateway4.bytes.data(), 4) == 0) {
    memcpy(gateway_mac_[0].data(), arp.arp_sha, 6);
    resolved_[0] = true;
  }
  if (operation == ARPOP_REQUEST && memcmp(arp.arp_tpa, options_.own4.bytes.data(), 4) == 0) {
    SendArp(ARPOP_REPLY, arp.arp_sha, arp.arp_spa);
  }
}

void Net::OnIp4(const Frame& frame) {
  if (frame.length < kEthernet + sizeof(iphdr)) return Fault("a short IPv4 header");
  const auto ip = Read<iphdr>(frame.head + kEthernet);
  if (memcmp(&ip.daddr, options_.own4.bytes.data(), 4) != 0) return;
  const size_t header = static_cast<size_t>(ip.ihl) * 4;
  const size_t end = kEthernet + ntohs(ip.tot_len);
  if (ip.version != 4 || header < sizeof ip || end > frame.length || kEthernet + header > end) {
    return Fault("a damaged IPv4 header");
  }
  if ((ntohs(ip.frag_off) & 0x3fff) != 0) return Fault("a fragment: datagrams must fit into the MTU here");
  if (options_.verify && Fold(Sum(frame.head + kEthernet, header)) != 0xffff) return Fault("a wrong IPv4 checksum");
  OnTransport(frame, AF_INET, ip.protocol, kEthernet + header, end);
}

void Net::OnIp6(const Frame& frame) {
  if (frame.length < kEthernet + sizeof(ip6_hdr)) return Fault("a short IPv6 header");
  const auto ip = Read<ip6_hdr>(frame.head + kEthernet);
  const size_t at = kEthernet + sizeof ip;
  const size_t length = ntohs(ip.ip6_plen);
  if (at + length > frame.length) return Fault("a damaged IPv6 header");
  if (ip.ip6_nxt == IPPROTO_ICMPV6) {
    if (length < frame.kLook - at) OnNeighbour(frame.head + at, ip.ip6_src.s6_addr, length);
    return;
  }
  if (memcmp(&ip.ip6_dst, options_.own6.bytes.data(), 16) != 0) return;
  OnTransport(frame, AF_INET6, ip.ip6_nxt, at, at + length);
}

void Net::OnNeighbour(const uint8_t* icmp, const uint8_t* source, size_t length) {
  if (length < sizeof(nd_neighbor_solicit)) return;
  // A solicitation and an advertisement have their target at the same place, and options behind.
  const auto message = Read<nd_neighbor_solicit>(icmp);
  const uint8_t* option = icmp + sizeof message;
  const bool has_mac = length >= sizeof message + 8 && option[1] == 1;
  if (message.nd_ns_type == ND_NEIGHBOR_ADVERT && has_mac && option[0] == ND_OPT_TARGET_LINKADDR &&
      memcmp(&message.nd_ns_target, options_.gateway6.bytes.data(), 16) == 0) {
    memcpy(gateway_mac_[1].data(), option + 2, 6);
    resolved_[1] = true;
  }
  if (message.nd_ns_type == ND_NEIGHBOR_SOLICIT && has_mac && option[0] == ND_OPT_SOURCE_LINKADDR &&
      memcmp(&message.nd_ns_target, options_.own6.bytes.data(), 16) == 0) {
    SendNeighbour(ND_NEIGHBOR_ADVERT, option + 2, source, options_.own6.bytes.data());
  }
}

void Net::OnTransport(const Frame& frame, int family, uint8_t protocol, size_t at, size_t end) {
  const size_t least = protocol == IPPROTO_TCP ? 20 : 8;
  if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) return;
  if (at + least > end) return Fault("a short TCP or UDP header");
  const uint8_t* header = frame.head + at;
  const size_t length = protocol == IPPROTO_TCP ? static_cast<size_t>(header[12] >> 4) * 4 : least;
  if (length < least || at + length > std::min(end, Frame::kLook)) return Fault("a damaged TCP header");
  if (options_.verify) CheckFrame(frame, family, protocol, at, end);
  const Packet packet = {&frame, family, header, length, at + length, end - at - length};
  const auto port = static_cast<uint16_t>(header[2] << 8 | header[3]);
  // To ports that nobody has come the last segments of connections that were ended here.
  if (protocol == IPPROTO_TCP) {
    if (by_port_[port] != nullptr) by_port_[port]->OnSegment(packet);
  } else if (datagrams_by_port_[port] != nullptr) {
    datagrams_by_port_[port]->OnDatagram(packet);
  }
}

// The header of the virtio layer against what was negotiated and against the frame (virtio 1.2 §5.1.6.4).
void Net::CheckFrame(const Frame& frame, int family, uint8_t protocol, size_t at, size_t end) {
  const virtio_net_hdr& header = frame.header;
  const size_t address = family == AF_INET ? 4 : 16;
  const uint8_t* addresses = frame.head + kEthernet + (family == AF_INET ? 12 : 8);
  const uint64_t pseudo = Sum(addresses, 2 * address) + htons(protocol) + htons(static_cast<uint16_t>(end - at));
  const size_t field = protocol == IPPROTO_TCP ? 16 : 6;
  const bool may_skip = nic_.has(VIRTIO_NET_F_GUEST_CSUM);
  if ((header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0) {
    if (!may_skip) return Fault("NEEDS_CSUM without GUEST_CSUM");
    if (header.csum_start != at || header.csum_offset != field) return Fault("a wrong place of the checksum");
    if (Read<uint16_t>(frame.head + at + field) != Fold(pseudo)) return Fault("a wrong sum of the pseudo-header");
  } else if ((header.flags & VIRTIO_NET_HDR_F_DATA_VALID) != 0) {
    if (!may_skip) return Fault("DATA_VALID without GUEST_CSUM");
  } else if (Fold(pseudo + SumOf(frame, at, end - at)) != 0xffff) {
    return Fault("a wrong checksum");
  }
  if (header.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
    if (end - kEthernet > nic_.mtu()) Fault("a frame larger than the MTU");
    return;
  }
  const unsigned feature = family == AF_INET ? VIRTIO_NET_F_GUEST_TSO4 : VIRTIO_NET_F_GUEST_TSO6;
  const uint8_t type = family == AF_INET ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
  if (protocol != IPPROTO_TCP || header.gso_type != type || !nic_.has(feature)) {
    return Fault("a wrong type of segments");
  }
  const size_t headers = at + static_cast<size_t>(frame.head[at + 12] >> 4) * 4;
  if (header.gso_size == 0 || headers - kEthernet + header.gso_size > nic_.mtu()) Fault("a wrong size of segments");
  if ((header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) == 0) Fault("segments to be cut without NEEDS_CSUM");
}

// ---- Frames to the back-end ----------------------------------------------------------------------------------------

uint8_t* Net::WriteHeaders(Nic::Slot& slot, int family, const Address& to, uint8_t protocol, size_t ip_payload) {
  ether_header ethernet{};
  memcpy(ethernet.ether_dhost, gateway_mac_[At(family)].data(), 6);
  memcpy(ethernet.ether_shost, kOwnMac.data(), 6);
  ethernet.ether_type = htons(family == AF_INET ? ETHERTYPE_IP : ETHERTYPE_IPV6);
  memcpy(slot.data, &ethernet, sizeof ethernet);
  uint8_t* at = slot.data + sizeof ethernet;
  if (family == AF_INET) {
    iphdr ip{};
    ip.version = 4;
    ip.ihl = 5;
    ip.tot_len = htons(static_cast<uint16_t>(sizeof ip + ip_payload));
    ip.frag_off = htons(0x4000);
    ip.ttl = kHopLimit;
    ip.protocol = protocol;
    memcpy(&ip.saddr, options_.own4.bytes.data(), 4);
    memcpy(&ip.daddr, to.bytes.data(), 4);
    ip.check = static_cast<uint16_t>(~Fold(Sum(reinterpret_cast<uint8_t*>(&ip), sizeof ip)));
    memcpy(at, &ip, sizeof ip);
    return at + sizeof ip;
  }
  ip6_hdr ip{};
  ip.ip6_vfc = 0x60;
  ip.ip6_plen = htons(static_cast<uint16_t>(ip_payload));
  ip.ip6_nxt = protocol;
  ip.ip6_hlim = protocol == IPPROTO_ICMPV6 ? kLinkHopLimit : kHopLimit;
  memcpy(&ip.ip6_src, options_.own6.bytes.data(), 16);
  memcpy(&ip.ip6_dst, to.bytes.data(), 16);
  memcpy(at, &ip, sizeof ip);
  return at + sizeof ip;
}

uint64_t Net::PseudoSum(int family, const Address& to, uint8_t protocol, size_t length) const {
  const Address& own = family == AF_INET ? options_.own4 : options_.own6;
  return Sum(own.bytes.data(), own.length()) + Sum(to.bytes.data(), to.length()) + htons(protocol) +
         htons(static_cast<uint16_t>(length));
}

bool Net::SendArp(uint16_t operation, const uint8_t* to_mac, const uint8_t* to_address) {
  Nic::Slot slot{};
  if (!nic_.Take(&slot)) return false;
  ether_header ethernet{};
  memcpy(ethernet.ether_dhost, operation == ARPOP_REQUEST ? kBroadcast.data() : to_mac, 6);
  memcpy(ethernet.ether_shost, kOwnMac.data(), 6);
  ethernet.ether_type = htons(ETHERTYPE_ARP);
  ether_arp arp{};
  arp.ea_hdr = {htons(ARPHRD_ETHER), htons(ETHERTYPE_IP), 6, 4, htons(operation)};
  memcpy(arp.arp_sha, kOwnMac.data(), 6);
  memcpy(arp.arp_spa, options_.own4.bytes.data(), 4);
  if (operation == ARPOP_REPLY) memcpy(arp.arp_tha, to_mac, 6);
  memcpy(arp.arp_tpa, to_address, 4);
  memcpy(slot.data, &ethernet, sizeof ethernet);
  memcpy(slot.data + sizeof ethernet, &arp, sizeof arp);
  nic_.Submit(slot, sizeof ethernet + sizeof arp);
  return true;
}

bool Net::SendNeighbour(uint8_t type, const uint8_t* to_mac, const uint8_t* to_address, const uint8_t* target) {
  Nic::Slot slot{};
  if (!nic_.Take(&slot)) return false;
  Address to;
  to.family = AF_INET6;
  memcpy(to.bytes.data(), to_address, 16);
  uint8_t icmp[sizeof(nd_neighbor_solicit) + 8] = {type};
  const bool answers = type == ND_NEIGHBOR_ADVERT;
  if (answers) icmp[4] = 0x60;  // solicited, override
  memcpy(icmp + 8, target, 16);
  icmp[24] = answers ? ND_OPT_TARGET_LINKADDR : ND_OPT_SOURCE_LINKADDR;
  icmp[25] = 1;
  memcpy(icmp + 26, kOwnMac.data(), 6);
  const uint64_t pseudo = PseudoSum(AF_INET6, to, IPPROTO_ICMPV6, sizeof icmp);
  const auto check = static_cast<uint16_t>(~Fold(pseudo + Sum(icmp, sizeof icmp)));
  memcpy(icmp + 2, &check, sizeof check);
  uint8_t* at = WriteHeaders(slot, AF_INET6, to, IPPROTO_ICMPV6, sizeof icmp);
  memcpy(slot.data, to_mac, 6);
  memcpy(at, icmp, sizeof icmp);
  nic_.Submit(slot, static_cast<size_t>(at - slot.data) + sizeof icmp);
  return true;
}

bool Net::Ask(int family) {
  if (family == AF_INET) return SendArp(ARPOP_REQUEST, nullptr, options_.gateway4.bytes.data());
  // The solicited-node address (RFC 4291 §2.7.1) and its Ethernet address (RFC 2464 §7).
  const uint8_t* target = options_.gateway6.bytes.data();
  uint8_t group[16] = {0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
  memcpy(group + 13, target + 13, 3);
  const uint8_t mac[6] = {0x33, 0x33, 0xff, target[13], target[14], target[15]};
  return SendNeighbour(ND_NEIGHBOR_SOLICIT, mac, group, target);
}

bool Net::Resolve(int family) {
  constexpr int kTries = 25;
  for (int i = 0; i < kTries && !resolved_[At(family)]; i++) {
    Ask(family);
    Until([&] { return resolved_[At(family)]; }, 200 * kMs);
  }
  return resolved_[At(family)];
}

}  // namespace bare
