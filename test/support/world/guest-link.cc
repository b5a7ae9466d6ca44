// What busybox cannot tell or change of the guest's network interfaces: ring sizes and offloads (ethtool's ioctls), frames
// that are longer than they should be; and floods of frames. Linked statically. It prints one RESULT line and exits with 0, or says
// what went wrong and exits with 1.
#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

[[noreturn]] void Fail(const char* what) {
  perror(what);
  exit(1);
}

// `request` begins with its command (linux/ethtool.h), and is answered in place.
void Ethtool(const char* interface, void* request, const char* what) {
  const int fd = socket(AF_INET, SOCK_DGRAM, 0);
  ifreq ifr{};
  strncpy(ifr.ifr_name, interface, IFNAMSIZ - 1);
  ifr.ifr_data = static_cast<char*>(request);
  if (fd < 0 || ioctl(fd, SIOCETHTOOL, &ifr) < 0) Fail(what);
  close(fd);
}

int Rings(const char* interface) {
  ethtool_ringparam rings{};
  rings.cmd = ETHTOOL_GRINGPARAM;
  Ethtool(interface, &rings, "ETHTOOL_GRINGPARAM");
  printf("RESULT rings rx=%u tx=%u\n", rings.rx_pending, rings.tx_pending);
  return 0;
}

// Checksums, segmentation and receive merging, all off: the interface carries what a wire would.
int Plain(const char* interface) {
  for (const __u32 command : {ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO, ETHTOOL_STXCSUM, ETHTOOL_SRXCSUM}) {
    ethtool_value value{command, 0};
    Ethtool(interface, &value, "ETHTOOL_S…");
  }
  for (const __u32 command : {ETHTOOL_GTSO, ETHTOOL_GGSO, ETHTOOL_GTXCSUM}) {
    ethtool_value value{command, 0};
    Ethtool(interface, &value, "ETHTOOL_G…");
    if (value.data == 0) continue;
    fprintf(stderr, "feature %#x of %s stays on\n", command, interface);
    return 1;
  }
  return 0;
}

// Runs a command, and counts frames of more than `limit` bytes, Ethernet header included, that the interface saw
// meanwhile in either direction. The filter runs in the kernel, so that no frame is missed for want of buffer.
int Oversize(const char* interface, unsigned limit, char** command) {
  const int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
  sockaddr_ll where{};
  where.sll_family = AF_PACKET;
  where.sll_protocol = htons(ETH_P_ALL);
  where.sll_ifindex = static_cast<int>(if_nametoindex(interface));
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
      BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, limit, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 64),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  const sock_fprog filter = {sizeof code / sizeof code[0], code};
  if (fd < 0 || where.sll_ifindex == 0) Fail(interface);
  if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) < 0) Fail("SO_ATTACH_FILTER");
  if (bind(fd, reinterpret_cast<sockaddr*>(&where), sizeof where) < 0) Fail("bind");
  const pid_t child = fork();
  if (child < 0) Fail("fork");
  if (child == 0) {
    execvp(command[0], command);
    Fail(command[0]);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) Fail("waitpid");
  // Of both what was queued and what did not fit (packet(7)).
  tpacket_stats seen{};
  socklen_t length = sizeof seen;
  if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &seen, &length) < 0) Fail("PACKET_STATISTICS");
  printf("RESULT oversize frames=%u\n", seen.tp_packets);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

// Frames of all kinds as fast as they go, for so many seconds: TCP connections and datagrams to a host from ever other ports,
// requests of ARP and neighbour discovery from ever other addresses, and bytes that are no protocol's.
int Flood(const char* interface, const char* target, int seconds) {
  const int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
  sockaddr_ll where{};
  where.sll_family = AF_PACKET;
  where.sll_ifindex = static_cast<int>(if_nametoindex(interface));
  in_addr address{};
  if (fd < 0 || where.sll_ifindex == 0) Fail(interface);
  if (inet_pton(AF_INET, target, &address) != 1) Fail(target);
  const time_t end = time(nullptr) + seconds;
  uint32_t random = 1;
  unsigned frames = 0;
  while (time(nullptr) < end) {
    for (int i = 0; i < 100; i++) {
      unsigned char frame[80] = {};
      for (unsigned char& each : frame) each = static_cast<unsigned char>((random = random * 1664525 + 1013904223) >> 24);
      memset(frame, 0xff, 6);
      frame[6] = 2;
      const unsigned kind = frames % 8;
      const uint16_t type = htons(kind == 0 ? ETH_P_ARP : kind == 1 ? ETH_P_IPV6 : kind < 7 ? ETH_P_IP : 0x1234);
      memcpy(frame + 12, &type, 2);
      unsigned char* at = frame + 14;
      if (kind == 0) {
        memcpy(at, "\x00\x01\x08\x00\x06\x04\x00\x01", 8);
        memcpy(at + 24, &address, 4);
      } else if (kind == 1) {
        // A neighbour solicitation, its checksum wrong three times of four.
        memcpy(at, "\x60\x00\x00\x00\x00\x1a\x3a\xff", 8);
        at[8] = 0xfe;
        at[9] = 0x80;
        at[40] = 135;
      } else if (kind < 7) {
        memcpy(at, "\x45\x00\x00\x42\x00\x00\x00\x00\x40", 9);
        at[9] = kind < 5 ? 6 : kind == 5 ? 17 : 1;
        memset(at + 10, 0, 2);
        memcpy(at + 16, &address, 4);
        unsigned sum = 0;
        for (int k = 0; k < 20; k += 2) sum += static_cast<unsigned>(at[k] << 8 | at[k + 1]);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = ~((sum & 0xffff) + (sum >> 16));
        at[10] = static_cast<unsigned char>(sum >> 8);
        at[11] = static_cast<unsigned char>(sum);
        // A TCP header alone, a SYN as a rule.
        if (kind < 4) memcpy(at + 32, "\x50\x02", 2);
      }
      if (sendto(fd, frame, sizeof frame, 0, reinterpret_cast<sockaddr*>(&where), sizeof where) > 0) frames++;
    }
  }
  printf("RESULT flood frames=%u\n", frames);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* verb = argc > 2 ? argv[1] : "";
  if (!strcmp(verb, "rings") && argc == 3) return Rings(argv[2]);
  if (!strcmp(verb, "plain") && argc == 3) return Plain(argv[2]);
  if (!strcmp(verb, "oversize") && argc > 4) return Oversize(argv[2], static_cast<unsigned>(atoi(argv[3])), argv + 4);
  if (!strcmp(verb, "flood") && argc == 5) return Flood(argv[2], argv[3], atoi(argv[4]));
  fprintf(stderr, "guest-link rings INTERFACE | plain INTERFACE | oversize INTERFACE LIMIT COMMAND… | flood INTERFACE HOST SECONDS\n");
  return 2;
}
