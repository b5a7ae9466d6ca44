#include "nic.h"


#include <algorithm>
#include <cstring>

namespace bare {

namespace {

constexpr size_t kRamBytes = 256U << 20;
constexpr size_t kHeader = sizeof(virtio_net_hdr);
constexpr size_t kEthernet = 14;
// The longest frame of a segment to be cut: 65535 bytes of IP behind an Ethernet header, rounded up as Linux does.
constexpr size_t kLargest = 65'562;
// What Linux' driver posts when frames are large and when they are not (its EWMA of their lengths at both ends).
constexpr size_t kPage = 4096;
constexpr size_t kSmall = 1536;

bool TakesSegments(uint64_t features) {
  return (features & (Bit(VIRTIO_NET_F_GUEST_TSO4) | Bit(VIRTIO_NET_F_GUEST_TSO6))) != 0;
}

size_t BufferBytes(uint64_t features, uint16_t mtu) {
  const size_t frame = std::max<size_t>(kHeader + kEthernet + mtu, kSmall);
  if ((features & Bit(VIRTIO_NET_F_MRG_RXBUF)) != 0) return TakesSegments(features) ? kPage : std::min(frame, kPage);
  return TakesSegments(features) ? std::max(frame, kLargest) : frame;
}

uint8_t* PatternIn(Ram& ram) {
  uint8_t* table = ram.Take(kPatternTable, kPage);
  FillPattern(table);
  return table;
}

}  // namespace

Nic::Nic(const NicOptions& options)
    : front_end_(options.socket),
      features_(front_end_.Negotiate(options.features)),
      mtu_(options.mtu),
      ram_(kRamBytes),
      receive_(ram_, options.ring_size, has(VIRTIO_F_EVENT_IDX), "receive"),
      transmit_(ram_, options.ring_size, has(VIRTIO_F_EVENT_IDX), "transmit"),
      buffer_bytes_(BufferBytes(features_, mtu_)),
      scatters_(has(VIRTIO_NET_F_CSUM)),
      pattern_(PatternIn(ram_)),
      sums_(pattern_) {
  for (uint16_t i = 0; i < options.ring_size; i++) {
    buffers_.push_back(ram_.Take(buffer_bytes_));
    receive_.Describe(i, ram_.Gpa(buffers_.back()), buffer_bytes_, VIRTQ_DESC_F_WRITE);
    receive_.Offer(i);
  }
  // Two descriptors for a frame: what is written for it, and a part of the pattern.
  const size_t room = scatters_ ? kRoom : std::max<size_t>(kRoom, kEthernet + mtu_);
  for (uint16_t i = 0; i < options.ring_size / 2; i++) {
    slots_.push_back(ram_.Take(kHeader + room));
    if (!scatters_) memcpy(slots_.back() + kHeader, pattern_, room);
    written_.push_back(0);
    free_slots_.push_back(i);
  }
  transmit_.Disarm();
  front_end_.ShareMemory(ram_);
  front_end_.StartRing(0, ram_, receive_);
  front_end_.StartRing(1, ram_, transmit_);
  front_end_.Enable(2);
  receive_.Publish();
}

size_t Nic::Receive(size_t budget, FrameSink& sink) {
  size_t frames = 0;
  while (frames < budget && receive_.Pending() > 0) {
    const Frame frame = Collect(receive_.Take());
    sink.OnFrame(frame);
    for (size_t i = 0; i < frame.header.num_buffers; i++) receive_.Offer(part_ids_[i]);
    frames++;
  }
  frames_in_ += frames;
  return frames;
}

Frame Nic::Collect(const Ring::Used& first) {
  Frame frame{};
  const uint8_t* start = buffers_[first.id];
  if (first.length < kHeader || first.length > buffer_bytes_) {
    Fail("a frame's first buffer of %u bytes, with room for %zu", first.length, buffer_bytes_);
  }
  memcpy(&frame.header, start, kHeader);
  if (!has(VIRTIO_NET_F_MRG_RXBUF)) frame.header.num_buffers = 1;
  const size_t count = frame.header.num_buffers;
  if (count == 0 || count > kMaxParts || count - 1 > receive_.Pending()) {
    Fail("a frame of %zu buffers, %u of them used", count, receive_.Pending() + 1U);
  }
  part_ids_[0] = first.id;
  parts_[0] = {buffers_[first.id] + kHeader, first.length - kHeader};
  frame.length = parts_[0].iov_len;
  for (size_t i = 1; i < count; i++) {
    const Ring::Used more = receive_.Take();
    if (more.length == 0 || more.length > buffer_bytes_) Fail("a buffer of %u bytes in a frame", more.length);
    part_ids_[i] = more.id;
    parts_[i] = {buffers_[more.id], more.length};
    frame.length += more.length;
  }
  frame.parts = parts_.data();
  frame.count = count;
  if (parts_[0].iov_len >= std::min(frame.length, Frame::kLook)) {
    frame.head = static_cast<const uint8_t*>(parts_[0].iov_base);
    return frame;
  }
  uint8_t* to = head_.data();
  frame.Walk(0, std::min(frame.length, Frame::kLook), [&to](const uint8_t* data, size_t length) {
    memcpy(to, data, length);
    to += length;
  });
  frame.head = head_.data();
  return frame;
}

bool Nic::Take(Slot* slot) {
  if (free_slots_.empty() && !Reclaim()) return false;
  slot->index = free_slots_.back();
  slot->header = reinterpret_cast<virtio_net_hdr*>(slots_[slot->index]);
  slot->data = slots_[slot->index] + kHeader;
  free_slots_.pop_back();
  *slot->header = {};
  return true;
}

void Nic::Submit(const Slot& slot, size_t length, size_t place, size_t payload_length) {
  const auto head = static_cast<uint16_t>(2 * slot.index);
  const auto next = static_cast<uint16_t>(head + 1);
  const bool two = scatters_ && payload_length > 0;
  if (two) {
    transmit_.Describe(next, ram_.Gpa(pattern_ + place), payload_length, 0);
  } else if (!scatters_) {
    size_t& written = written_[slot.index];
    if (payload_length > 0 && place == length) {
      if (written > length) memcpy(slot.data + length, pattern_ + length, written - length);
      written = length;
    } else {
      memcpy(slot.data + length, pattern_ + place, payload_length);
      written = std::max(written, length + payload_length);
    }
    length += payload_length;
  }
  transmit_.Describe(head, ram_.Gpa(slots_[slot.index]), kHeader + length, two ? VIRTQ_DESC_F_NEXT : 0, next);
  transmit_.Offer(head);
  frames_out_++;
}

void Nic::Publish() {
  receive_.Publish();
  transmit_.Publish();
}

bool Nic::Reclaim() {
  const size_t before = free_slots_.size();
  while (transmit_.Pending() > 0) free_slots_.push_back(static_cast<uint16_t>(transmit_.Take().id / 2));
  if (free_slots_.size() > slots_.size()) Fail("the transmit ring: entries used twice");
  return free_slots_.size() > before;
}

}  // namespace bare
