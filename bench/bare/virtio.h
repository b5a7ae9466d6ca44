// Structures and numbers of the virtio specification (1.2 §2.7, §5.1), in its spelling. Linux' own headers of them do
// not compile as C++.
#pragma once

#include <cstdint>

namespace bare {

// ---- Split rings ---------------------------------------------------------------------------------------------------

struct virtq_desc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};

struct virtq_used_elem {
  uint32_t id;
  uint32_t len;
};

constexpr uint16_t VIRTQ_DESC_F_NEXT = 1;
constexpr uint16_t VIRTQ_DESC_F_WRITE = 2;
constexpr uint16_t VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
constexpr uint16_t VIRTQ_USED_F_NO_NOTIFY = 1;

// ---- Feature bits --------------------------------------------------------------------------------------------------

constexpr unsigned VIRTIO_NET_F_CSUM = 0;
constexpr unsigned VIRTIO_NET_F_GUEST_CSUM = 1;
constexpr unsigned VIRTIO_NET_F_GUEST_TSO4 = 7;
constexpr unsigned VIRTIO_NET_F_GUEST_TSO6 = 8;
constexpr unsigned VIRTIO_NET_F_HOST_TSO4 = 11;
constexpr unsigned VIRTIO_NET_F_HOST_TSO6 = 12;
constexpr unsigned VIRTIO_NET_F_MRG_RXBUF = 15;
constexpr unsigned VIRTIO_F_EVENT_IDX = 29;
constexpr unsigned VIRTIO_F_VERSION_1 = 32;

// ---- Frames --------------------------------------------------------------------------------------------------------

struct virtio_net_hdr {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
  uint16_t num_buffers;
};

constexpr uint8_t VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
constexpr uint8_t VIRTIO_NET_HDR_F_DATA_VALID = 2;
constexpr uint8_t VIRTIO_NET_HDR_GSO_NONE = 0;
constexpr uint8_t VIRTIO_NET_HDR_GSO_TCPV4 = 1;
constexpr uint8_t VIRTIO_NET_HDR_GSO_TCPV6 = 4;

}  // namespace bare
