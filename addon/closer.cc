// close(2) of what a front-end handed over can take as long as the front-end likes: a TCP socket lingers (SO_LINGER), a
// FUSE file is flushed by its server, and a unix socket takes with it whatever descriptors lie unread in its queue. The
// same holds for ringing an eventfd that its other holder fills. So these calls are made by a helper thread, in the
// order they were asked for, and nobody waits for it.
//
// A second thread, the watch, sees that a call of the helper takes longer than kStuck: it gives that helper up and starts
// another one, which goes on with the next job. A helper that was given up and comes back all the same ends, or becomes
// the helper again if there is none: there are kMaxLost lost ones at the most, and beyond that descriptors stay open
// (front-end/server.ts lets no front-end in then). Idle, both threads sleep without a timer.
#include "closer.h"

#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <mutex>

#include "calls.h"
#include "event_fd.h"
#include "memory.h"

namespace tubetti {

namespace {

using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC, as nowUs() is

constexpr auto kStuck = std::chrono::milliseconds(1000);
constexpr int32_t kMaxLost = 8;
constexpr size_t kMaxSignals = 256;  // rings of one bell are as good as one; descriptors bound the rest of the queue

struct Job {
  int fd;
  bool signal;
  double queued_us;
};

double NowInUs() {
  return static_cast<double>(
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch()).count());
}

void Run(const Job& job) {
  if (job.signal) {
    SignalMayBlock(job.fd);
    return;
  }
  // It is refused or done with: no reason to wait until its bytes have gone. Not a socket: an error, and no harm.
  const linger off = {0, 0};
  ::setsockopt(job.fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off));
  ::close(job.fd);
}

class Closer {
 public:
  void Add(int fd, bool signal) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (signal && signals_ >= kMaxSignals) return;
    if (signal) signals_++;
    queue_.push_back({fd, signal, NowInUs()});
    if (!watching_) watching_ = Start<&Closer::Watch>();
    if (!helping_ && lost_ < kMaxLost) helping_ = Start<&Closer::Help>();
    work_.notify_one();
  }

  int32_t Wait(std::chrono::milliseconds most) {
    std::unique_lock<std::mutex> guard(lock_);
    done_.wait_for(guard, most, [this] { return Pending() == 0; });
    return Pending();
  }

  int32_t Lost() {
    const std::lock_guard<std::mutex> guard(lock_);
    return lost_;
  }

  double LostAt() {
    const std::lock_guard<std::mutex> guard(lock_);
    return lost_at_;
  }

 private:
  // All under the lock.
  int32_t Pending() const { return static_cast<int32_t>(queue_.size()) + (busy_ ? 1 : 0); }

  template <void (Closer::*What)()>
  bool Start() {
    // Signals are for the threads of Node.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    sigdelset(&all, SIGSYS);  // a call that seccomp refuses: the process would be killed (seccomp.cc)
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, size_t{256} * 1024);
    pthread_t thread;
    const auto entry = [](void* self) -> void* {
      (static_cast<Closer*>(self)->*What)();
      return nullptr;
    };
    const int error = pthread_create(&thread, &attributes, entry, this);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return error == 0;  // if not: tried again with the next job
  }

  void Help() {
    std::unique_lock<std::mutex> guard(lock_);
    for (;;) {
      work_.wait(guard, [this] { return !queue_.empty() && !busy_; });
      const Job job = queue_.front();
      queue_.pop_front();
      if (job.signal) signals_--;
      busy_ = true;
      current_ = job;
      started_ = Clock::now();
      const uint64_t number = ++jobs_;
      if (idle_watch_) watch_.notify_one();
      guard.unlock();
      Run(job);
      guard.lock();
      if (given_up_ < number) {
        busy_ = false;
      } else {  // others have taken over
        lost_--;
        if (helping_) return;
        helping_ = true;
      }
      if (Pending() == 0) done_.notify_all();
    }
  }

  void Watch() {
    std::unique_lock<std::mutex> guard(lock_);
    for (;;) {
      idle_watch_ = true;
      watch_.wait(guard, [this] { return busy_; });
      idle_watch_ = false;
      const uint64_t number = jobs_;
      const Clock::time_point deadline = started_ + kStuck;
      guard.unlock();
      // Not woken by a job's end: one look a second while there is much to do, none when there is nothing.
      SleepUntil(deadline);
      guard.lock();
      if (!busy_ || jobs_ != number) continue;
      given_up_ = number;
      busy_ = false;
      lost_++;
      lost_at_ = current_.queued_us;
      TellFault();
      helping_ = lost_ < kMaxLost && Start<&Closer::Help>();
      if (Pending() == 0) done_.notify_all();
    }
  }

  static void SleepUntil(Clock::time_point when) {
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(when - Clock::now()).count();
    if (left <= 0) return;
    timespec time = {};
    time.tv_sec = static_cast<time_t>(left / 1'000'000'000);
    time.tv_nsec = static_cast<long>(left % 1'000'000'000);
    nanosleep(&time, nullptr);
  }

  std::mutex lock_;
  std::condition_variable work_;
  std::condition_variable watch_;
  std::condition_variable done_;
  std::deque<Job> queue_;
  size_t signals_ = 0;
  bool watching_ = false;
  bool idle_watch_ = false;
  bool helping_ = false;  // there is a helper that was not given up
  bool busy_ = false;     // it is at work on current_
  Job current_ = {-1, false, 0};
  Clock::time_point started_;
  uint64_t jobs_ = 0;
  uint64_t given_up_ = 0;  // number of the last job whose helper was given up; it runs in no other
  int32_t lost_ = 0;
  double lost_at_ = 0;
};

Closer& TheCloser() {
  // Never destroyed: its threads outlive static destructors at exit.
  static Closer* const closer = new Closer;
  return *closer;
}

}  // namespace

void CloseLater(int fd) { TheCloser().Add(fd, false); }

int32_t CloseLaterCall(Thread&, int32_t fd) {
  if (fd < 0) return -EBADF;
  CloseLater(fd);
  return 0;
}

int32_t SignalLater(Thread&, int32_t fd) {
  if (fd < 0) return -EBADF;
  TheCloser().Add(fd, true);
  return 0;
}

int32_t CloserWait(Thread&, int32_t most_ms) {
  return TheCloser().Wait(std::chrono::milliseconds(most_ms < 0 ? 0 : most_ms));
}

int32_t CloserLost(Thread&) { return TheCloser().Lost(); }

double CloserLostAt(Thread&) { return TheCloser().LostAt(); }

}  // namespace tubetti
