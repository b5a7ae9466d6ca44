// The guest's memory: one memfd, one region, never given back.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "fail.h"

namespace bare {

class Ram {
 public:
  // Not 0: an offset taken for an address shall be noticed.
  static constexpr uint64_t kGuestBase = 0x4000'0000;

  explicit Ram(size_t bytes) : bytes_(bytes), fd_(memfd_create("bench-bare", MFD_CLOEXEC)) {
    if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(bytes)) < 0) FailErrno("memory of the guest");
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (mapped == MAP_FAILED) FailErrno("memory of the guest");
    base_ = static_cast<uint8_t*>(mapped);
  }
  Ram(const Ram&) = delete;
  Ram& operator=(const Ram&) = delete;

  uint8_t* Take(size_t bytes, size_t align = 64) {
    next_ = (next_ + align - 1) / align * align;
    if (bytes > bytes_ - next_) Fail("%zu MiB of memory do not hold such rings and buffers", bytes_ >> 20);
    uint8_t* taken = base_ + next_;
    next_ += bytes;
    return taken;
  }

  uint64_t Gpa(const void* at) const {
    return kGuestBase + static_cast<uint64_t>(static_cast<const uint8_t*>(at) - base_);
  }
  uint64_t UserAddress(const void* at) const { return reinterpret_cast<uint64_t>(at); }
  uint8_t* base() const { return base_; }
  size_t bytes() const { return bytes_; }
  int fd() const { return fd_; }

 private:
  size_t bytes_;
  size_t next_ = 0;
  int fd_;
  uint8_t* base_ = nullptr;
};

}  // namespace bare
