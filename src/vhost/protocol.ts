/**
 * Constants of the vhost-user protocol, in the spelling of the specification (QEMU's docs/interop/vhost-user.rst) and
 * of <linux/vhost.h>, so that they can be searched for there. Header and payload are host-native; every host that
 * matters here is little-endian.
 */

/** Named constant for DataView calls: vhost-user numbers are little-endian on our hosts. */
export const LE = true;

// ---- header: u32 request @0, u32 flags @4, u32 size of the payload @8 -------------------------------------------
export const VHOST_USER_HDR_SIZE = 12;
export const VHOST_USER_VERSION = 0x1;
export const VHOST_USER_VERSION_MASK = 0x3;
export const VHOST_USER_REPLY_MASK = 0x4;
export const VHOST_USER_NEED_REPLY_MASK = 0x8;
/** Flags of every reply, exactly: front-ends refuse an echoed need_reply. */
export const VHOST_USER_REPLY_FLAGS = VHOST_USER_VERSION | VHOST_USER_REPLY_MASK;

/** Longest payload accepted, in bytes. The longest one of use here is a config space (12 + 256). */
export const MAX_PAYLOAD = 4096;
/** Descriptors one message may carry (VHOST_MEMORY_BASELINE_NREGIONS). */
export const MAX_FDS = 8;

// ---- requests of the front-end --------------------------------------------------------------------------------
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
export const VHOST_USER_POSTCOPY_ADVISE = 28;
export const VHOST_USER_GET_INFLIGHT_FD = 31;
export const VHOST_USER_SET_INFLIGHT_FD = 32;
export const VHOST_USER_RESET_DEVICE = 34;
export const VHOST_USER_GET_MAX_MEM_SLOTS = 36;
export const VHOST_USER_ADD_MEM_REG = 37;
export const VHOST_USER_REM_MEM_REG = 38;
export const VHOST_USER_SET_STATUS = 39;
export const VHOST_USER_GET_STATUS = 40;

// ---- feature bits at the virtio level that only the two ends of the socket see ----------------------------------
export const VHOST_F_LOG_ALL = 1n << 26n;
export const VHOST_USER_F_PROTOCOL_FEATURES = 1n << 30n;

/** The guest may read the link's MTU in the configuration space. */
export const VIRTIO_NET_F_MTU = 1n << 3n;

// ---- protocol feature bits (numbers of bits) ------------------------------------------------------------------
export const VHOST_USER_PROTOCOL_F_MQ = 0;
export const VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1;
export const VHOST_USER_PROTOCOL_F_RARP = 2;
export const VHOST_USER_PROTOCOL_F_REPLY_ACK = 3;
export const VHOST_USER_PROTOCOL_F_NET_MTU = 4;
export const VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5;
export const VHOST_USER_PROTOCOL_F_CONFIG = 9;
export const VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13;
export const VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15;

// ---- rings ----------------------------------------------------------------------------------------------------
/** SET_VRING_KICK/CALL/ERR: ring index in bits 0–7, bit 8: no descriptor comes with the message. */
export const VHOST_USER_VRING_IDX_MASK = 0xffn;
export const VHOST_USER_VRING_NOFD_MASK = 0x100n;
/** SET_VRING_ADDR flags: writes to the used ring are logged. */
export const VHOST_VRING_F_LOG = 0x1;
/** Split rings have 1 … 32768 descriptors (virtio 1.2 §2.7). */
export const VIRTQUEUE_MAX_SIZE = 32768;
/** SET_VRING_ADDR alignments (virtio 1.2 §2.7, table of parts). */
export const VRING_DESC_ALIGN_SIZE = 16;
export const VRING_AVAIL_ALIGN_SIZE = 2;
export const VRING_USED_ALIGN_SIZE = 4;

// ---- memory ---------------------------------------------------------------------------------------------------
/** Regions in one SET_MEM_TABLE (VHOST_MEMORY_BASELINE_NREGIONS). */
export const MEM_TABLE_REGIONS = 8;
/** GET_MAX_MEM_SLOTS: regions that may exist at a time. Must never shrink, or a guest could not be reconnected. */
export const MAX_MEM_SLOTS = 509;
/** Guest memory comes in whole pages. */
export const GUEST_PAGE_SIZE = 4096;
/**
 * Bytes of guest memory at a time: 32 TiB. While a memory table replaces another both are mapped, and a process has 128 TiB
 * of addresses (Linux on x86-64 without 5-level paging).
 */
export const MAX_GUEST_MEMORY = 2n ** 45n;
/**
 * Longest part of a dirty log that is mapped, in bytes: one bit for each page below 2^53, where guest-physical addresses
 * end here. How long a log must be is not to be said by the memory table: QEMU lets the log grow before the table.
 */
export const MAX_DIRTY_LOG = 2 ** 53 / GUEST_PAGE_SIZE / 8;

// ---- configuration space --------------------------------------------------------------------------------------
export const VHOST_USER_MAX_CONFIG_SIZE = 256;
/** VIRTIO_NET_F_MTU's lower limit (virtio 1.2 §5.1.4.1). */
export const MIN_MTU = 68;
export const MAX_MTU = 65535;
