/** Numbers of the vhost-user protocol and of virtio-net, as the front-end's side needs them. Spelled as in the specs. */

export const VHOST_USER_GET_FEATURES = 1;
export const VHOST_USER_SET_FEATURES = 2;
export const VHOST_USER_SET_OWNER = 3;
export const VHOST_USER_RESET_OWNER = 4;
export const VHOST_USER_SET_MEM_TABLE = 5;
export const VHOST_USER_SET_LOG_BASE = 6;
export const VHOST_USER_SET_LOG_FD = 7;
export const VHOST_USER_SET_VRING_NUM = 8;
export const VHOST_USER_SET_VRING_ADDR = 9;
export const VHOST_USER_SET_VRING_BASE = 10;
export const VHOST_USER_GET_VRING_BASE = 11;
export const VHOST_USER_SET_VRING_KICK = 12;
export const VHOST_USER_SET_VRING_CALL = 13;
export const VHOST_USER_SET_VRING_ERR = 14;
export const VHOST_USER_GET_PROTOCOL_FEATURES = 15;
export const VHOST_USER_SET_PROTOCOL_FEATURES = 16;
export const VHOST_USER_GET_QUEUE_NUM = 17;
export const VHOST_USER_SET_VRING_ENABLE = 18;
export const VHOST_USER_SEND_RARP = 19;
export const VHOST_USER_NET_SET_MTU = 20;
export const VHOST_USER_SET_BACKEND_REQ_FD = 21;
export const VHOST_USER_IOTLB_MSG = 22;
export const VHOST_USER_SET_VRING_ENDIAN = 23;
export const VHOST_USER_GET_CONFIG = 24;
export const VHOST_USER_SET_CONFIG = 25;
export const VHOST_USER_CREATE_CRYPTO_SESSION = 26;
export const VHOST_USER_CLOSE_CRYPTO_SESSION = 27;
export const VHOST_USER_POSTCOPY_ADVISE = 28;
export const VHOST_USER_POSTCOPY_LISTEN = 29;
export const VHOST_USER_POSTCOPY_END = 30;
export const VHOST_USER_GET_INFLIGHT_FD = 31;
export const VHOST_USER_SET_INFLIGHT_FD = 32;
export const VHOST_USER_GPU_SET_SOCKET = 33;
export const VHOST_USER_RESET_DEVICE = 34;
export const VHOST_USER_VRING_KICK = 35;
export const VHOST_USER_GET_MAX_MEM_SLOTS = 36;
export const VHOST_USER_ADD_MEM_REG = 37;
export const VHOST_USER_REM_MEM_REG = 38;
export const VHOST_USER_SET_STATUS = 39;
export const VHOST_USER_GET_STATUS = 40;
export const VHOST_USER_GET_SHARED_OBJECT = 41;
export const VHOST_USER_SET_DEVICE_STATE_FD = 42;
export const VHOST_USER_CHECK_DEVICE_STATE = 43;
export const VHOST_USER_GET_SHMEM_CONFIG = 44;

/** Header flags: version 1; reply; need_reply. */
export const VERSION = 0x1;
export const REPLY = 0x4;
export const NEED_REPLY = 0x8;
export const HEADER_SIZE = 12;

const bit = (n: number): bigint => 1n << BigInt(n);

export const VHOST_USER_PROTOCOL_F_MQ = bit(0);
export const VHOST_USER_PROTOCOL_F_LOG_SHMFD = bit(1);
export const VHOST_USER_PROTOCOL_F_RARP = bit(2);
export const VHOST_USER_PROTOCOL_F_REPLY_ACK = bit(3);
export const VHOST_USER_PROTOCOL_F_NET_MTU = bit(4);
export const VHOST_USER_PROTOCOL_F_BACKEND_REQ = bit(5);
export const VHOST_USER_PROTOCOL_F_CROSS_ENDIAN = bit(6);
export const VHOST_USER_PROTOCOL_F_CRYPTO_SESSION = bit(7);
export const VHOST_USER_PROTOCOL_F_PAGEFAULT = bit(8);
export const VHOST_USER_PROTOCOL_F_CONFIG = bit(9);
export const VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = bit(12);
export const VHOST_USER_PROTOCOL_F_RESET_DEVICE = bit(13);
export const VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS = bit(14);
export const VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = bit(15);
export const VHOST_USER_PROTOCOL_F_STATUS = bit(16);
export const VHOST_USER_PROTOCOL_F_SHARED_OBJECT = bit(18);
export const VHOST_USER_PROTOCOL_F_DEVICE_STATE = bit(19);
export const VHOST_USER_PROTOCOL_F_SHMEM = bit(22);

export const VIRTIO_NET_F_CSUM = bit(0);
export const VIRTIO_NET_F_GUEST_CSUM = bit(1);
export const VIRTIO_NET_F_MTU = bit(3);
export const VIRTIO_NET_F_GUEST_TSO4 = bit(7);
export const VIRTIO_NET_F_GUEST_TSO6 = bit(8);
export const VIRTIO_NET_F_GUEST_ECN = bit(9);
export const VIRTIO_NET_F_HOST_TSO4 = bit(11);
export const VIRTIO_NET_F_HOST_TSO6 = bit(12);
export const VIRTIO_NET_F_HOST_ECN = bit(13);
export const VIRTIO_NET_F_MRG_RXBUF = bit(15);
export const VHOST_F_LOG_ALL = bit(26);
export const VIRTIO_F_ANY_LAYOUT = bit(27);
export const VIRTIO_RING_F_INDIRECT_DESC = bit(28);
export const VIRTIO_RING_F_EVENT_IDX = bit(29);
export const VHOST_USER_F_PROTOCOL_FEATURES = bit(30);
export const VIRTIO_F_VERSION_1 = bit(32);
export const VIRTIO_NET_F_GUEST_USO4 = bit(54);
export const VIRTIO_NET_F_GUEST_USO6 = bit(55);
export const VIRTIO_NET_F_HOST_USO = bit(56);

/** What this guest's driver can do; a test may leave bits out. */
export const DRIVER_FEATURES =
  VIRTIO_NET_F_CSUM |
  VIRTIO_NET_F_GUEST_CSUM |
  VIRTIO_NET_F_GUEST_TSO4 |
  VIRTIO_NET_F_GUEST_TSO6 |
  VIRTIO_NET_F_HOST_TSO4 |
  VIRTIO_NET_F_HOST_TSO6 |
  VIRTIO_NET_F_MRG_RXBUF |
  VIRTIO_F_ANY_LAYOUT |
  VIRTIO_RING_F_INDIRECT_DESC |
  VIRTIO_RING_F_EVENT_IDX |
  VIRTIO_F_VERSION_1;

/** What QEMU does not hand on: a test adds it. */
export const USO_FEATURES = VIRTIO_NET_F_HOST_USO | VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6;

/** As QEMU 10: every protocol feature it knows for network devices, of those this front-end has code for. */
export const QEMU_PROTOCOL_FEATURES =
  VHOST_USER_PROTOCOL_F_MQ |
  VHOST_USER_PROTOCOL_F_LOG_SHMFD |
  VHOST_USER_PROTOCOL_F_RARP |
  VHOST_USER_PROTOCOL_F_REPLY_ACK |
  VHOST_USER_PROTOCOL_F_NET_MTU |
  VHOST_USER_PROTOCOL_F_BACKEND_REQ |
  VHOST_USER_PROTOCOL_F_RESET_DEVICE |
  VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS |
  VHOST_USER_PROTOCOL_F_STATUS |
  VHOST_USER_PROTOCOL_F_DEVICE_STATE;

/** As user-mode Linux 6.1. */
export const UML_PROTOCOL_FEATURES =
  VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_BACKEND_REQ | VHOST_USER_PROTOCOL_F_CONFIG;

/** virtio_net_hdr (virtio 1.2 §5.1.6). */
export const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
export const VIRTIO_NET_HDR_F_DATA_VALID = 2;
export const VIRTIO_NET_HDR_GSO_NONE = 0;
export const VIRTIO_NET_HDR_GSO_TCPV4 = 1;
export const VIRTIO_NET_HDR_GSO_TCPV6 = 4;
export const VIRTIO_NET_HDR_GSO_UDP_L4 = 5;
export const VIRTIO_NET_HDR_GSO_ECN = 0x80;
