// Slot layout: u16 family @0, u16 port @2, u32 scope @4 (host order); 16 address bytes @8 (network order, IPv4 as
// ::ffff:a.b.c.d); 8 zero bytes.
#include "address.h"

#include <cerrno>
#include <cstring>

namespace tubetti {

namespace {

constexpr uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

struct Slot {
  uint16_t family;
  uint16_t port;
  uint32_t scope;
  uint8_t address[16];
  uint8_t zero[8];
};
static_assert(sizeof(Slot) == kAddrSlotSize);
static_assert(offsetof(Slot, port) == 2 && offsetof(Slot, scope) == 4 && offsetof(Slot, address) == 8);
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the TypeScript side writes little-endian tables");

size_t Offset(int32_t slot) { return static_cast<size_t>(slot) * kAddrSlotSize; }

Slot Get(const Thread& thread, int32_t slot) {
  Slot result;
  memcpy(&result, thread.tables->addrs + Offset(slot), sizeof(result));
  return result;
}

void Put(Thread& thread, int32_t slot, const Slot& value) {
  memcpy(thread.tables->addrs + Offset(slot), &value, sizeof(value));
}

}  // namespace

int32_t SlotFamily(const Thread& thread, int32_t slot) {
  if (!IsSlot(slot)) return -EINVAL;
  const uint16_t family = Get(thread, slot).family;
  return family == AF_INET || family == AF_INET6 ? family : -EAFNOSUPPORT;
}

int32_t LoadSlot(const Thread& thread, int32_t slot, sockaddr_in6& out) {
  if (!IsSlot(slot)) return -EINVAL;
  const Slot from = Get(thread, slot);
  memset(&out, 0, sizeof(out));
  if (from.family == AF_INET6) {
    out.sin6_family = AF_INET6;
    out.sin6_port = htons(from.port);
    out.sin6_scope_id = from.scope;
    memcpy(&out.sin6_addr, from.address, 16);
    return sizeof(sockaddr_in6);
  }
  if (from.family != AF_INET) return -EAFNOSUPPORT;
  if (memcmp(from.address, kMapped, sizeof(kMapped)) != 0) return -EINVAL;
  sockaddr_in v4 = {};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(from.port);
  memcpy(&v4.sin_addr, from.address + 12, 4);
  memcpy(&out, &v4, sizeof(v4));
  return sizeof(sockaddr_in);
}

void StoreSlot(Thread& thread, int32_t slot, const sockaddr* address, socklen_t length) {
  Slot to = {};
  if (address->sa_family == AF_INET && length >= sizeof(sockaddr_in)) {
    sockaddr_in v4;
    memcpy(&v4, address, sizeof(v4));
    to.family = AF_INET;
    to.port = ntohs(v4.sin_port);
    memcpy(to.address, kMapped, sizeof(kMapped));
    memcpy(to.address + 12, &v4.sin_addr, 4);
  } else if (address->sa_family == AF_INET6 && length >= sizeof(sockaddr_in6)) {
    sockaddr_in6 v6;
    memcpy(&v6, address, sizeof(v6));
    to.family = IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) ? AF_INET : AF_INET6;
    to.port = ntohs(v6.sin6_port);
    to.scope = to.family == AF_INET ? 0 : v6.sin6_scope_id;
    memcpy(to.address, &v6.sin6_addr, 16);
  }
  Put(thread, slot, to);
}

void StoreSlot4(Thread& thread, int32_t slot, const in_addr& address) {
  sockaddr_in v4 = {};
  v4.sin_family = AF_INET;
  v4.sin_addr = address;
  StoreSlot(thread, slot, reinterpret_cast<const sockaddr*>(&v4), sizeof(v4));
}

void StoreSlot6(Thread& thread, int32_t slot, const in6_addr& address, uint32_t scope) {
  sockaddr_in6 v6 = {};
  v6.sin6_family = AF_INET6;
  v6.sin6_addr = address;
  v6.sin6_scope_id = scope;
  StoreSlot(thread, slot, reinterpret_cast<const sockaddr*>(&v6), sizeof(v6));
}

in_addr SlotAddress4(const Thread& thread, int32_t slot) {
  in_addr result;
  memcpy(&result, Get(thread, slot).address + 12, 4);
  return result;
}

in6_addr SlotAddress6(const Thread& thread, int32_t slot) {
  in6_addr result;
  memcpy(&result, Get(thread, slot).address, 16);
  return result;
}

uint32_t SlotScope(const Thread& thread, int32_t slot) { return Get(thread, slot).scope; }

}  // namespace tubetti
