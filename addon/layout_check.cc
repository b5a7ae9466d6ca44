// Every number the TypeScript side hard-codes about a structure of the kernel, the virtio specification or ourselves,
// checked against the headers by the compiler. No code.

// These headers are written for C: one has a function that is no C++, another a field called `class`.
#include <linux/types.h>
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#define class class_
#include <linux/virtio_net.h>
#undef class

#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <climits>
#include <cstddef>

#include "tables.h"

#define AT(type, field, offset, size) \
  static_assert(offsetof(type, field) == (offset) && sizeof(type::field) == (size), #type "." #field)

// virtio_net_hdr with num_buffers, virtio 1.2 §5.1.6 (src/dataplane/virtio/net-header.ts).
static_assert(sizeof(virtio_net_hdr_mrg_rxbuf) == 12);
AT(virtio_net_hdr, flags, 0, 1);
AT(virtio_net_hdr, gso_type, 1, 1);
AT(virtio_net_hdr, hdr_len, 2, 2);
AT(virtio_net_hdr, gso_size, 4, 2);
AT(virtio_net_hdr, csum_start, 6, 2);
AT(virtio_net_hdr, csum_offset, 8, 2);
AT(virtio_net_hdr_mrg_rxbuf, num_buffers, 10, 2);
static_assert(VIRTIO_NET_HDR_F_NEEDS_CSUM == 1 && VIRTIO_NET_HDR_F_DATA_VALID == 2);
static_assert(VIRTIO_NET_HDR_GSO_NONE == 0 && VIRTIO_NET_HDR_GSO_TCPV4 == 1 && VIRTIO_NET_HDR_GSO_UDP == 3);
static_assert(VIRTIO_NET_HDR_GSO_TCPV6 == 4 && VIRTIO_NET_HDR_GSO_ECN == 0x80);
#ifdef VIRTIO_NET_HDR_GSO_UDP_L4
static_assert(VIRTIO_NET_HDR_GSO_UDP_L4 == 5);
#endif

// Feature bits, virtio 1.2 §5.1.3 and §6.
static_assert(VIRTIO_NET_F_CSUM == 0 && VIRTIO_NET_F_GUEST_CSUM == 1 && VIRTIO_NET_F_MTU == 3 && VIRTIO_NET_F_MAC == 5);
static_assert(VIRTIO_NET_F_GUEST_TSO4 == 7 && VIRTIO_NET_F_GUEST_TSO6 == 8 && VIRTIO_NET_F_GUEST_ECN == 9);
static_assert(VIRTIO_NET_F_HOST_TSO4 == 11 && VIRTIO_NET_F_HOST_TSO6 == 12 && VIRTIO_NET_F_HOST_ECN == 13);
static_assert(VIRTIO_NET_F_MRG_RXBUF == 15 && VIRTIO_NET_F_STATUS == 16 && VIRTIO_NET_F_CTRL_VQ == 17);
static_assert(VIRTIO_NET_F_GUEST_ANNOUNCE == 21 && VIRTIO_NET_F_MQ == 22);
static_assert(VIRTIO_RING_F_INDIRECT_DESC == 28 && VIRTIO_RING_F_EVENT_IDX == 29);
static_assert(VIRTIO_F_VERSION_1 == 32 && VIRTIO_F_ACCESS_PLATFORM == 33 && VIRTIO_F_RING_PACKED == 34);
static_assert(VIRTIO_F_ANY_LAYOUT == 27 && VIRTIO_F_NOTIFY_ON_EMPTY == 24 && VIRTIO_F_IN_ORDER == 35);

// virtio_net_config, virtio 1.2 §5.1.4.
AT(virtio_net_config, mac, 0, 6);
AT(virtio_net_config, status, 6, 2);
AT(virtio_net_config, max_virtqueue_pairs, 8, 2);
AT(virtio_net_config, mtu, 10, 2);

// Split virtqueue, virtio 1.2 §2.7 (src/virtqueue/src/layout.ts).
static_assert(sizeof(vring_desc) == 16);
AT(vring_desc, addr, 0, 8);
AT(vring_desc, len, 8, 4);
AT(vring_desc, flags, 12, 2);
AT(vring_desc, next, 14, 2);
static_assert(VRING_DESC_F_NEXT == 1 && VRING_DESC_F_WRITE == 2 && VRING_DESC_F_INDIRECT == 4);
static_assert(VRING_AVAIL_F_NO_INTERRUPT == 1 && VRING_USED_F_NO_NOTIFY == 1);
static_assert(offsetof(vring_avail, flags) == 0 && offsetof(vring_avail, idx) == 2 && offsetof(vring_avail, ring) == 4);
static_assert(offsetof(vring_used, flags) == 0 && offsetof(vring_used, idx) == 2 && offsetof(vring_used, ring) == 4);
static_assert(sizeof(vring_used_elem) == 8);
AT(vring_used_elem, id, 0, 4);
AT(vring_used_elem, len, 4, 4);
static_assert(VRING_DESC_ALIGN_SIZE == 16 && VRING_AVAIL_ALIGN_SIZE == 2 && VRING_USED_ALIGN_SIZE == 4);

// vhost structures the vhost-user messages carry (src/vhost/messages.ts).
static_assert(sizeof(vhost_vring_state) == 8);
AT(vhost_vring_state, index, 0, 4);
AT(vhost_vring_state, num, 4, 4);
static_assert(sizeof(vhost_vring_addr) == 40);
AT(vhost_vring_addr, index, 0, 4);
AT(vhost_vring_addr, flags, 4, 4);
AT(vhost_vring_addr, desc_user_addr, 8, 8);
AT(vhost_vring_addr, used_user_addr, 16, 8);
AT(vhost_vring_addr, avail_user_addr, 24, 8);
AT(vhost_vring_addr, log_guest_addr, 32, 8);
static_assert(VHOST_VRING_F_LOG == 0);  // a bit number here, the mask 1 in TypeScript
AT(vhost_memory_region, guest_phys_addr, 0, 8);
AT(vhost_memory_region, memory_size, 8, 8);
AT(vhost_memory_region, userspace_addr, 16, 8);  // vhost-user has mmap_offset where this has flags
static_assert(sizeof(vhost_memory_region) == 32 && offsetof(vhost_memory_region, flags_padding) == 24);
static_assert(VHOST_F_LOG_ALL == 26);

// Constants of the system calls (src/stack/ports.ts, src/native.ts).
static_assert(AF_INET == 2 && AF_INET6 == 10);
static_assert(EPOLLIN == 0x1 && EPOLLOUT == 0x4 && EPOLLERR == 0x8 && EPOLLHUP == 0x10 && EPOLLRDHUP == 0x2000);
static_assert(EPOLLET == 1u << 31);
static_assert(MSG_PEEK == 0x2 && MSG_TRUNC == 0x20 && MSG_ERRQUEUE == 0x2000 && MSG_MORE == 0x8000);
static_assert(IP_MTU_DISCOVER == 10 && IP_RECVTTL == 12 && IP_RECVTOS == 13 && IP_MULTICAST_IF == 32);
static_assert(IPV6_MULTICAST_IF == 17 && IPV6_MTU_DISCOVER == 23 && IPV6_RECVHOPLIMIT == 51 && IPV6_RECVTCLASS == 66);
static_assert(IP_PMTUDISC_DONT == 0 && IP_PMTUDISC_PROBE == 3);
static_assert(IPV6_PMTUDISC_DONT == 0 && IPV6_PMTUDISC_PROBE == 3);
static_assert(SO_EE_ORIGIN_LOCAL == 1 && SO_EE_ORIGIN_ICMP == 2 && SO_EE_ORIGIN_ICMP6 == 3);
static_assert(F_SEAL_SEAL == 1 && F_SEAL_SHRINK == 2 && F_SEAL_GROW == 4);
static_assert(tubetti::kRowsPerCall == IOV_MAX);

// Our own tables: every column aligned for its typed array.
static_assert(sizeof(double) == 8 && alignof(tubetti::Tables) == 8);
static_assert(offsetof(tubetti::Tables, row_offset) % 8 == 0 && offsetof(tubetti::Tables, tcp_info) % 8 == 0 &&
              offsetof(tubetti::Tables, mem_info) % 8 == 0);
static_assert(offsetof(tubetti::Tables, row_region) % 4 == 0 && offsetof(tubetti::Tables, addrs) % 8 == 0);
static_assert(tubetti::kScratchSize == (1 << 21) + (1 << 20) + (1 << 17) + 64 * 66560);
