// The Internet checksum over rows (RFC 1071): for guests that left it to us and links that cannot.
//
// The sum does not depend on byte order (RFC 1071 §2 B), so words are added as the machine loads them and the result is
// swapped once. A row that begins at an odd offset of the whole has its bytes in the other halves of the words: its sum
// is swapped before it is added.
#include <cstring>

#include "calls.h"
#include "rows.h"

namespace tubetti {

namespace {

uint16_t Fold(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  uint32_t low = static_cast<uint32_t>(sum);
  low = (low & 0xffff) + (low >> 16);
  low = (low & 0xffff) + (low >> 16);
  return static_cast<uint16_t>(low);
}

uint16_t Swap(uint16_t value) { return static_cast<uint16_t>(value << 8 | value >> 8); }

// 32-bit words added into 64 bits: no carry to catch below 16 GiB, and the compiler makes vector code of it. Guest
// memory may change while it is read: then the sum is of some mixture, and that is the guest's affair.
uint64_t SumBytes(const uint8_t* data, size_t length) {
  uint64_t sums[4] = {};
  for (; length >= 32; data += 32, length -= 32) {
    uint64_t words[4];
    memcpy(words, data, sizeof(words));
    for (int i = 0; i < 4; i++) sums[i] += (words[i] & 0xffffffff) + (words[i] >> 32);
  }
  uint64_t sum = sums[0] + sums[1] + sums[2] + sums[3];
  for (; length >= 4; data += 4, length -= 4) {
    uint32_t word;
    memcpy(&word, data, sizeof(word));
    sum += word;
  }
  uint32_t last = 0;  // zero-padded, as the RFC has it
  memcpy(&last, data, length);
  return sum + last;
}

}  // namespace

int32_t Checksum(Thread& thread, int32_t row, int32_t row_count, double initial) {
  if (!(initial >= 0 && initial < 9007199254740992.0)) return -EINVAL;
  if (const int32_t error = Gather(thread, row, row_count, thread.iov); error < 0) return error;
  uint64_t sum = 0;
  bool odd = false;
  for (int32_t i = 0; i < row_count; i++) {
    const iovec& part = thread.iov[i];
    const uint16_t folded = Fold(SumBytes(static_cast<const uint8_t*>(part.iov_base), part.iov_len));
    sum += odd ? Swap(folded) : folded;
    odd ^= (part.iov_len & 1) != 0;
  }
  return Fold(static_cast<uint64_t>(Swap(Fold(sum))) + static_cast<uint64_t>(initial));
}

}  // namespace tubetti
