// Socket addresses in the slots of the address table (src/stack/ports.ts, ADDR_SLOT_SIZE).
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>

#include "thread.h"

namespace tubetti {

inline bool IsSlot(int32_t slot) { return slot >= 0 && slot < kAddrSlots; }

// Address family of a slot: AF_INET, AF_INET6, or -EINVAL / -EAFNOSUPPORT.
int32_t SlotFamily(const Thread& thread, int32_t slot);
// Fills `out` (a sockaddr_in or sockaddr_in6) and returns its length, or -errno.
int32_t LoadSlot(const Thread& thread, int32_t slot, sockaddr_in6& out);
// Writes a kernel address to a slot; v4-mapped ones become AF_INET. Other families give a slot of zeros.
void StoreSlot(Thread& thread, int32_t slot, const sockaddr* address, socklen_t length);
void StoreSlot4(Thread& thread, int32_t slot, const in_addr& address);
void StoreSlot6(Thread& thread, int32_t slot, const in6_addr& address, uint32_t scope);
// The bare address of a slot whose family is known.
in_addr SlotAddress4(const Thread& thread, int32_t slot);
in6_addr SlotAddress6(const Thread& thread, int32_t slot);
uint32_t SlotScope(const Thread& thread, int32_t slot);

}  // namespace tubetti
