// The network card as a driver sees it: two rings, frames with a virtio_net_hdr (virtio 1.2 §5.1.6), buffers that are
// offered again as soon as their frame was looked at.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "checksum.h"
#include "front-end.h"
#include "ram.h"
#include "ring.h"
#include "virtio.h"

namespace bare {

constexpr uint64_t Bit(unsigned feature) { return 1ULL << feature; }

struct NicOptions {
  const char* socket = nullptr;
  uint16_t ring_size = 256;
  uint16_t mtu = 65520;
  uint64_t features = 0;
};

// A frame that has come. Its bytes are in the buffers' order.
struct Frame {
  static constexpr size_t kLook = 192;

  virtio_net_hdr header;
  // At least the first kLook bytes, or all, in one piece.
  const uint8_t* head;
  size_t length;
  const iovec* parts;
  size_t count;

  // Calls `see(data, length)` for the pieces of a range within the frame.
  template <typename See>
  void Walk(size_t from, size_t bytes, See see) const {
    for (size_t i = 0; i < count && bytes > 0; i++) {
      if (from >= parts[i].iov_len) {
        from -= parts[i].iov_len;
        continue;
      }
      const size_t here = bytes < parts[i].iov_len - from ? bytes : parts[i].iov_len - from;
      see(static_cast<const uint8_t*>(parts[i].iov_base) + from, here);
      bytes -= here;
      from = 0;
    }
  }
};

// Takes frames.
class FrameSink {
 public:
  virtual void OnFrame(const Frame& frame) = 0;

 protected:
  ~FrameSink() = default;
};

class Nic {
 public:
  // Ethernet to the end of a small payload, behind the virtio header.
  static constexpr size_t kRoom = 2048;

  // A frame that is being written. Without one of these there is no place in the ring.
  struct Slot {
    uint16_t index;
    virtio_net_hdr* header;
    uint8_t* data;
  };

  explicit Nic(const NicOptions& options);

  bool has(unsigned feature) const { return (features_ & Bit(feature)) != 0; }
  uint64_t features() const { return features_; }
  uint16_t mtu() const { return mtu_; }

  // Hands over what has come, `budget` frames at most. Returns how many.
  size_t Receive(size_t budget, FrameSink& sink);

  // True: a slot, to be submitted at once.
  bool Take(Slot* slot);
  // Where in the pattern's table a payload behind `header` bytes begins. Not at `place`, unless it has to be exact,
  // where frames go in one descriptor: there the slots have the pattern in them already.
  size_t PlaceOf(size_t place, size_t header, bool exact) const { return scatters_ || exact ? place : header; }
  // `length` bytes of the slot, then `payload_length` of the pattern's from `place` on.
  void Submit(const Slot& slot, size_t length, size_t place = 0, size_t payload_length = 0);
  // The device sees what was submitted and offered.
  void Publish();
  // Takes back what was sent. False: nothing had been.
  bool Reclaim();

  Ring& receive() { return receive_; }
  Ring& transmit() { return transmit_; }
  FrontEnd& front_end() { return front_end_; }
  const uint8_t* pattern() const { return pattern_; }
  const PatternSums& sums() const { return sums_; }
  uint64_t frames_in() const { return frames_in_; }
  uint64_t frames_out() const { return frames_out_; }

 private:
  static constexpr size_t kMaxParts = 1024;

  void OfferBuffer(uint16_t index);
  Frame Collect(const Ring::Used& first);

  FrontEnd front_end_;
  uint64_t features_;
  uint16_t mtu_;
  Ram ram_;
  Ring receive_;
  Ring transmit_;
  size_t buffer_bytes_;
  std::vector<uint8_t*> buffers_;
  // Frames in more than one descriptor: Linux' driver has them only with CSUM (no NETIF_F_SG without checksum offload),
  // and there are back-ends that lose others.
  bool scatters_;
  std::vector<uint8_t*> slots_;
  // Of each slot, how many bytes from the beginning are not the pattern's.
  std::vector<size_t> written_;
  std::vector<uint16_t> free_slots_;
  uint8_t* pattern_;
  PatternSums sums_;
  // The frame that is looked at.
  std::array<iovec, kMaxParts> parts_{};
  std::array<uint16_t, kMaxParts> part_ids_{};
  std::array<uint8_t, Frame::kLook> head_{};
  uint64_t frames_in_ = 0;
  uint64_t frames_out_ = 0;
};

}  // namespace bare
