// The driver's side of a split virtqueue (virtio 1.2 §2.7). The back-end's words are checked: what breaks the rules of
// the ring ends the program, because a measurement of it would mean nothing.
#pragma once

#include <sys/eventfd.h>

#include <atomic>
#include <bit>
#include <cstdint>

#include "ram.h"
#include "virtio.h"

static_assert(std::endian::native == std::endian::little, "rings are little-endian");

namespace bare {

class Ring {
 public:
  struct Used {
    uint16_t id;
    uint32_t length;
  };

  Ring(Ram& ram, uint16_t size, bool event_idx, const char* name)
      : size_(size), event_idx_(event_idx), name_(name), mask_(static_cast<uint16_t>(size - 1)) {
    desc_ = reinterpret_cast<virtq_desc*>(ram.Take(sizeof(virtq_desc) * size, 4096));
    avail_ = reinterpret_cast<uint16_t*>(ram.Take(2U * (3U + size)));
    used_ = reinterpret_cast<uint16_t*>(ram.Take(4U + sizeof(virtq_used_elem) * size + 2U));
    elements_ = reinterpret_cast<virtq_used_elem*>(used_ + 2);
    kick_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    call_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (kick_ < 0 || call_ < 0) FailErrno("eventfd");
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  void Describe(uint16_t at, uint64_t gpa, size_t length, uint16_t flags, uint16_t next = 0) {
    desc_[at] = {gpa, static_cast<uint32_t>(length), flags, next};
  }

  // The device sees it after Publish.
  void Offer(uint16_t head) { avail_[2 + (avail_index_++ & mask_)] = head; }

  // Kicks if the device wants that (§2.7.13).
  void Publish() {
    if (avail_index_ == published_) return;
    const uint16_t before = published_;
    published_ = avail_index_;
    Word(avail_[1]).store(published_, std::memory_order_release);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!IsKickWanted(before)) return;
    kicks_++;
    const uint64_t one = 1;
    if (write(kick_, &one, sizeof one) != sizeof one) FailErrno("kick");
  }

  uint16_t Pending() const {
    const auto pending = static_cast<uint16_t>(Word(used_[1]).load(std::memory_order_acquire) - taken_);
    if (pending > static_cast<uint16_t>(published_ - taken_)) {
      Fail("the %s ring: %u entries used, %u were available", name_, pending, published_ - taken_);
    }
    return pending;
  }

  // Only with one pending.
  Used Take() {
    const virtq_used_elem element = elements_[taken_++ & mask_];
    if (element.id >= size_) Fail("the %s ring: entry %u of %u used", name_, element.id, size_);
    return {static_cast<uint16_t>(element.id), element.len};
  }

  // Wants an interrupt when `more` entries will have been used. True if that has happened already (§2.7.7).
  bool Arm(uint16_t more = 1) {
    if (event_idx_) {
      Word(UsedEvent()).store(static_cast<uint16_t>(taken_ + more - 1), std::memory_order_relaxed);
    } else {
      Word(avail_[0]).store(0, std::memory_order_relaxed);
      more = 1;
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return Pending() >= more;
  }

  // Wants none. With EVENT_IDX that is an event which is as far away as can be.
  void Disarm() {
    if (event_idx_) {
      Word(UsedEvent()).store(static_cast<uint16_t>(taken_ - 1), std::memory_order_relaxed);
    } else {
      Word(avail_[0]).store(VIRTQ_AVAIL_F_NO_INTERRUPT, std::memory_order_relaxed);
    }
  }

  // After the descriptor became readable: how many interrupts had come.
  void DrainCall() {
    uint64_t count = 0;
    if (read(call_, &count, sizeof count) == sizeof count) interrupts_ += count;
  }

  uint16_t size() const { return size_; }
  // Entries that the device has.
  uint16_t outstanding() const { return static_cast<uint16_t>(avail_index_ - taken_); }
  const void* descriptors() const { return desc_; }
  const void* available() const { return avail_; }
  const void* used() const { return used_; }
  int kick_fd() const { return kick_; }
  int call_fd() const { return call_; }
  const char* name() const { return name_; }
  uint64_t kicks() const { return kicks_; }
  uint64_t interrupts() const { return interrupts_; }

 private:
  static std::atomic_ref<uint16_t> Word(uint16_t& word) { return std::atomic_ref<uint16_t>(word); }
  uint16_t& UsedEvent() { return avail_[2 + size_]; }

  bool IsKickWanted(uint16_t before) const {
    if (!event_idx_) return (Word(used_[0]).load(std::memory_order_relaxed) & VIRTQ_USED_F_NO_NOTIFY) == 0;
    const uint16_t event = Word(used_[2 + sizeof(virtq_used_elem) / 2 * size_]).load(std::memory_order_relaxed);
    return static_cast<uint16_t>(published_ - event - 1) < static_cast<uint16_t>(published_ - before);
  }

  uint16_t size_;
  bool event_idx_;
  const char* name_;
  uint16_t mask_;
  virtq_desc* desc_;
  // flags, idx, entries, used_event.
  uint16_t* avail_;
  // flags, idx, entries (`elements_`), avail_event.
  uint16_t* used_;
  virtq_used_elem* elements_;
  int kick_ = -1;
  int call_ = -1;
  uint16_t avail_index_ = 0;
  uint16_t published_ = 0;
  uint16_t taken_ = 0;
  uint64_t kicks_ = 0;
  uint64_t interrupts_ = 0;
};

}  // namespace bare
