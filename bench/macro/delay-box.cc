// A long cable between two network namespaces, in user space: two tap devices, and for each way a bottleneck of so many
// bits a second with a queue before it, a delay behind it, and a loss of single frames by a seeded generator. For
// kernels without netem.
//
//   delay-box NAME FAR_NETNS_FD_PATH
//
// makes the tap NAME in the namespace it is started in and another NAME in that of the path (/proc/PID/ns/net), says
// READY, and then takes lines on its standard input:
//
//   set DELAY_US BITS_PER_SECOND LOSS SEED QUEUE_BYTES   from now on, each way; the generators begin anew; says SET
//   stats                                                says STATS with the counts since the last `set`
//
// It ends with its standard input. Frames pass whole and in order: the taps have no offloads, so the kernel has
// segmented and checksummed them, and a loss is that of one frame of the wire.
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

namespace {

constexpr size_t kMaxFrame = 65536;
// Frames taken from one side before the other has its turn.
constexpr int kBudget = 64;

[[noreturn]] void Fail(const char* what) {
  perror(what);
  exit(1);
}

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

int OpenTap(const char* name) {
  const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) Fail("/dev/net/tun");
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(fd, TUNSETIFF, &request) < 0) Fail("TUNSETIFF");
  return fd;
}

struct Settings {
  int64_t delay_ns = 0;
  double bits_per_second = 1e9;
  double loss = 0;
  uint64_t seed = 1;
  size_t queue_bytes = 1 << 20;
};

// xorshift64*: the same seed loses the same frames, counted from the first.
class Generator {
 public:
  explicit Generator(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ULL | 1) {}
  double Next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<double>((state_ * 0x2545f4914f6cdd1dULL) >> 11) / 9007199254740992.0;
  }

 private:
  uint64_t state_;
};

class Way {
 public:
  Way(int from, int to) : from_(from), to_(to) {}

  void Set(const Settings& settings, uint64_t seed) {
    settings_ = settings;
    random_ = Generator(seed);
    passed = lost = overflowed = refused = 0;
  }

  // Takes what has come. Returns false when there is no more for now.
  bool Take(int64_t now) {
    for (int i = 0; i < kBudget; i++) {
      const ssize_t got = read(from_, frame_, sizeof frame_);
      if (got <= 0) return false;
      const auto length = static_cast<size_t>(got);
      if (settings_.loss > 0 && random_.Next() < settings_.loss) {
        lost++;
        continue;
      }
      // What has not left the bottleneck yet stands in its queue.
      const auto waiting = static_cast<double>(std::max<int64_t>(0, free_at_ - now)) * settings_.bits_per_second / 8e9;
      if (waiting + static_cast<double>(length) > static_cast<double>(settings_.queue_bytes)) {
        overflowed++;
        continue;
      }
      const auto takes = static_cast<int64_t>(static_cast<double>(length) * 8e9 / settings_.bits_per_second);
      free_at_ = std::max(free_at_, now) + takes;
      queue_.push_back({free_at_ + settings_.delay_ns, std::string(frame_, length)});
    }
    return true;
  }

  // Hands on what is due. Returns when the next is due, or -1.
  int64_t Deliver(int64_t now) {
    while (!queue_.empty() && queue_.front().due <= now) {
      const std::string& bytes = queue_.front().bytes;
      if (write(to_, bytes.data(), bytes.size()) < 0) {
        refused++;
      } else {
        passed++;
      }
      queue_.pop_front();
    }
    return queue_.empty() ? -1 : queue_.front().due;
  }

  uint64_t passed = 0, lost = 0, overflowed = 0, refused = 0;

 private:
  struct Frame {
    int64_t due;
    std::string bytes;
  };
  int from_;
  int to_;
  Settings settings_;
  Generator random_{1};
  int64_t free_at_ = 0;
  std::deque<Frame> queue_;
  char frame_[kMaxFrame];
};

class Box {
 public:
  Box(int near, int far) : near_(near), far_(far), out_(near, far), back_(far, near) {}

  int Run() {
    const int epoll = epoll_create1(0);
    const int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    for (const int fd : {STDIN_FILENO, near_, far_, timer}) {
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.fd = fd;
      if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) Fail("epoll_ctl");
    }
    printf("READY\n");
    fflush(stdout);
    bool more = false;
    int64_t armed = -1;
    for (;;) {
      epoll_event ready[4];
      const int count = epoll_wait(epoll, ready, 4, more ? 0 : -1);
      for (int i = 0; i < count; i++) {
        if (ready[i].data.fd == timer) {
          uint64_t expired;
          if (read(timer, &expired, sizeof expired) > 0) armed = -1;
        }
        if (ready[i].data.fd == STDIN_FILENO && !Command()) return 0;
      }
      const int64_t now = NowNs();
      const bool more_out = out_.Take(now);
      const bool more_back = back_.Take(now);
      more = more_out || more_back;
      const int64_t a = out_.Deliver(NowNs()), b = back_.Deliver(NowNs());
      const int64_t next = a < 0 ? b : b < 0 ? a : std::min(a, b);
      if (next == armed || next < 0) continue;
      armed = next;
      itimerspec when{};
      when.it_value = {next / 1'000'000'000, next % 1'000'000'000};
      timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, nullptr);
    }
  }

 private:
  // False at the end of the input.
  bool Command() {
    char bytes[512];
    const ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
    if (got <= 0) return false;
    input_.append(bytes, static_cast<size_t>(got));
    for (size_t end; (end = input_.find('\n')) != std::string::npos; input_.erase(0, end + 1)) {
      Obey(input_.substr(0, end));
    }
    fflush(stdout);
    return true;
  }

  void Obey(const std::string& line) {
    long long delay_us = 0;
    unsigned long long seed = 0;
    Settings settings;
    if (sscanf(line.c_str(), "set %lld %lf %lf %llu %zu", &delay_us, &settings.bits_per_second, &settings.loss, &seed,
               &settings.queue_bytes) == 5 &&
        delay_us >= 0 && settings.bits_per_second > 0) {
      settings.delay_ns = delay_us * 1000;
      out_.Set(settings, seed);
      back_.Set(settings, seed + 1);
      printf("SET\n");
    } else if (line == "stats") {
      printf("STATS");
      for (const auto& [name, way] : {std::pair<const char*, const Way&>("out", out_), {"back", back_}}) {
        printf(" %s-passed=%llu %s-lost=%llu %s-overflowed=%llu %s-refused=%llu", name,
               static_cast<unsigned long long>(way.passed), name, static_cast<unsigned long long>(way.lost), name,
               static_cast<unsigned long long>(way.overflowed), name, static_cast<unsigned long long>(way.refused));
      }
      printf("\n");
    } else {
      printf("WHAT? %s\n", line.c_str());
    }
  }

  int near_;
  int far_;
  Way out_;
  Way back_;
  std::string input_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "delay-box NAME FAR_NETNS_PATH\n");
    return 2;
  }
  const int near = OpenTap(argv[1]);
  const int there = open(argv[2], O_RDONLY | O_CLOEXEC);
  if (there < 0 || setns(there, CLONE_NEWNET) < 0) Fail(argv[2]);
  const int far = OpenTap(argv[1]);
  // Too large for a stack.
  return (new Box(near, far))->Run();
}
