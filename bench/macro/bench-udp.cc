// Datagrams of bench-net. A TCP connection controls each exchange, so that counts arrive whatever becomes of datagrams:
//
//   'u'  request {bytes, rate, seconds}; the server answers with a port and counts what comes to it until the client
//        writes one more byte, and a while longer; then it answers with what it counted
//   'U'  the same request and answer; the first datagram from the client says where to send to, as fast as it goes or
//        `rate` a second; in the end the server answers with how many it sent
//   'r'  the same; the port echoes until the connection ends
//
// Numbers are in host order: both ends are one machine. "As fast as it goes" is more than any back-end takes, so that
// what arrives is what the way can carry, and the loss is that of an overload; a paced exchange should lose nothing.
#include <poll.h>

#include <cerrno>
#include <vector>

#include "bench-net.h"

namespace {

constexpr unsigned kBatch = 64;
constexpr size_t kMaxBytes = 65507;
// After the last datagram was sent, this long without another means that there are no more.
constexpr int kQuietMs = 200;
constexpr int kReceiveBuffer = 8 << 20;

struct Request {
  uint32_t bytes;
  uint32_t rate;
  double seconds;
};

struct Count {
  uint64_t datagrams = 0;
  int64_t first = 0;
  int64_t last = 0;
};

// Many datagrams in one system call, each way.
class Batch {
 public:
  explicit Batch(size_t bytes) : buffer_(bytes * kBatch, 'u'), messages_(kBatch), parts_(kBatch) {
    for (unsigned i = 0; i < kBatch; i++) {
      parts_[i] = {buffer_.data() + i * bytes, bytes};
      messages_[i].msg_hdr.msg_iov = &parts_[i];
      messages_[i].msg_hdr.msg_iovlen = 1;
    }
  }

  // Without waiting; adds to `count`.
  bool Receive(int fd, Count* count) {
    const int got = recvmmsg(fd, messages_.data(), kBatch, MSG_DONTWAIT, nullptr);
    if (got <= 0) return false;
    count->last = NowNs();
    if (count->datagrams == 0) count->first = count->last;
    count->datagrams += static_cast<uint64_t>(got);
    return true;
  }

  int Send(int fd, unsigned most) { return sendmmsg(fd, messages_.data(), std::min(most, kBatch), 0); }

 private:
  std::vector<char> buffer_;
  std::vector<mmsghdr> messages_;
  std::vector<iovec> parts_;
};

void GrowBuffers(int fd) {
  const int size = kReceiveBuffer;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
}

// Sends for so long on a connected socket. Returns how many the system took.
uint64_t Blast(int fd, const Request& request) {
  Batch batch(request.bytes);
  const int64_t started = NowNs();
  const int64_t end = started + static_cast<int64_t>(request.seconds * 1e9);
  uint64_t sent = 0;
  for (int64_t now = started; now < end; now = NowNs()) {
    unsigned due = kBatch;
    if (request.rate > 0) {
      const auto target = static_cast<uint64_t>(static_cast<double>(now - started) / 1e9 * request.rate);
      if (target <= sent) {
        const timespec nap = {0, 500'000};
        nanosleep(&nap, nullptr);
        continue;
      }
      due = static_cast<unsigned>(std::min<uint64_t>(target - sent, kBatch));
    }
    const int put = batch.Send(fd, due);
    // An ICMP error of a datagram before, or no room: neither ends the exchange.
    if (put > 0) sent += static_cast<uint64_t>(put);
  }
  return sent;
}

// Counts what arrives until `control` is readable and then no more comes.
Count Receive(int fd, int control, size_t bytes) {
  Batch batch(bytes);
  Count count;
  bool ending = false;
  for (;;) {
    pollfd waits[2] = {{fd, POLLIN, 0}, {ending ? -1 : control, POLLIN, 0}};
    const int ready = poll(waits, 2, ending ? kQuietMs : -1);
    if (ready == 0) return count;
    while (batch.Receive(fd, &count)) {
    }
    if (waits[1].revents != 0) ending = true;
  }
}

// A datagram socket at the address the control connection came to, and its port to the client.
int OpenServed(int control) {
  sockaddr_storage here{};
  socklen_t length = sizeof here;
  getsockname(control, reinterpret_cast<sockaddr*>(&here), &length);
  auto* address = reinterpret_cast<sockaddr_in6*>(&here);
  address->sin6_port = htons(datagram_port);
  const int fd = socket(AF_INET6, SOCK_DGRAM, 0);
  if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&here), length) < 0) return -1;
  GrowBuffers(fd);
  getsockname(fd, reinterpret_cast<sockaddr*>(&here), &length);
  if (!WriteAll(control, &address->sin6_port, sizeof address->sin6_port)) {
    close(fd);
    return -1;
  }
  return fd;
}

// Waits for the client's first datagram and connects to where it came from.
bool MeetClient(int fd, int control) {
  pollfd waits[2] = {{fd, POLLIN, 0}, {control, POLLIN, 0}};
  if (poll(waits, 2, 10'000) <= 0 || waits[0].revents == 0) return false;
  sockaddr_storage from{};
  socklen_t length = sizeof from;
  char byte;
  if (recvfrom(fd, &byte, 1, 0, reinterpret_cast<sockaddr*>(&from), &length) < 0) return false;
  return connect(fd, reinterpret_cast<sockaddr*>(&from), length) == 0;
}

void Echo(int fd, int control) {
  std::vector<char> bytes(kMaxBytes);
  for (;;) {
    pollfd waits[2] = {{fd, POLLIN, 0}, {control, POLLIN, 0}};
    poll(waits, 2, -1);
    if (waits[1].revents != 0) return;
    sockaddr_storage from{};
    socklen_t length = sizeof from;
    const ssize_t got = recvfrom(fd, bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
    if (got >= 0)
      sendto(fd, bytes.data(), static_cast<size_t>(got), 0, reinterpret_cast<sockaddr*>(&from), length);
  }
}

// ---- The clients ---------------------------------------------------------------------------------------------------

struct Client {
  int control;
  int fd;
};

Client Open(char verb, const Request& request) {
  if (request.bytes < 1 || request.bytes > kMaxBytes) {
    fprintf(stderr, "datagrams have 1 to %zu bytes\n", kMaxBytes);
    exit(1);
  }
  const int control = Connect(verb);
  in_port_t port = 0;
  if (!WriteAll(control, &request, sizeof request) || !ReadAll(control, &port, sizeof port)) Fail("the server's port");
  sockaddr_storage to = peer;
  // sin_port and sin6_port are at the same place.
  reinterpret_cast<sockaddr_in*>(&to)->sin_port = port;
  const int fd = socket(peer.ss_family, SOCK_DGRAM, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&to), peer_length) < 0) Fail("datagram socket");
  GrowBuffers(fd);
  return {control, fd};
}

int Print(uint64_t sent, const Count& count) {
  const double seconds = static_cast<double>(count.last - count.first) / 1e9;
  if (count.datagrams < 2 || seconds <= 0) {
    fprintf(stderr, "%llu datagrams sent, %llu arrived\n", static_cast<unsigned long long>(sent),
            static_cast<unsigned long long>(count.datagrams));
    return 1;
  }
  printf("RESULT datagrams sent=%llu received=%llu seconds=%.6f\n", static_cast<unsigned long long>(sent),
         static_cast<unsigned long long>(count.datagrams), seconds);
  return 0;
}

}  // namespace

void ServeDatagrams(int control, char verb) {
  Request request{};
  int fd = -1;
  if (ReadAll(control, &request, sizeof request) && request.bytes >= 1 && request.bytes <= kMaxBytes)
    fd = OpenServed(control);
  if (fd >= 0 && verb == 'u') {
    const Count count = Receive(fd, control, request.bytes);
    // Unread, it would make a reset of the end, which may come before the count is read.
    char end;
    ReadAll(control, &end, sizeof end);
    WriteAll(control, &count, sizeof count);
  } else if (fd >= 0 && verb == 'U' && MeetClient(fd, control)) {
    const uint64_t sent = Blast(fd, request);
    WriteAll(control, &sent, sizeof sent);
  } else if (fd >= 0 && verb == 'r') {
    Echo(fd, control);
  }
  if (fd >= 0) close(fd);
  close(control);
}

int DatagramsUp(double seconds, uint32_t bytes, uint32_t rate) {
  const Request request = {bytes, rate, seconds};
  const Client client = Open('u', request);
  const uint64_t sent = Blast(client.fd, request);
  Count count;
  if (!WriteAll(client.control, "e", 1) || !ReadAll(client.control, &count, sizeof count)) Fail("the server's count");
  return Print(sent, count);
}

int DatagramsDown(double seconds, uint32_t bytes, uint32_t rate) {
  const Client client = Open('U', {bytes, rate, seconds});
  if (send(client.fd, "d", 1, 0) < 0) Fail("send");
  const Count count = Receive(client.fd, client.control, bytes);
  uint64_t sent = 0;
  if (!ReadAll(client.control, &sent, sizeof sent)) Fail("the server's count");
  return Print(sent, count);
}

int DatagramRequestResponse(double seconds, uint32_t bytes) {
  const Client client = Open('r', {bytes, 0, seconds});
  std::vector<char> message(bytes, 'r');
  std::vector<int64_t> times;
  times.reserve(1 << 20);
  size_t lost = 0;
  const int64_t started = NowNs();
  const int64_t end = started + static_cast<int64_t>(seconds * 1e9);
  int64_t before = started;
  while (before < end) {
    if (send(client.fd, message.data(), bytes, 0) < 0) Fail("send");
    pollfd wait = {client.fd, POLLIN, 0};
    if (poll(&wait, 1, 1000) != 1) {
      lost++;
    } else if (recv(client.fd, message.data(), bytes, 0) < 0) {
      Fail("recv");
    } else {
      times.push_back(NowNs() - before);
    }
    before = NowNs();
  }
  if (times.empty()) {
    fprintf(stderr, "no datagram came back\n");
    return 1;
  }
  std::sort(times.begin(), times.end());
  printf("RESULT transactions count=%zu seconds=%.6f p50=%.1f p99=%.1f lost=%zu\n", times.size(),
         static_cast<double>(before - started) / 1e9, Percentile(times, 0.5), Percentile(times, 0.99), lost);
  return 0;
}
