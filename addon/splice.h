// Pairs of connected TCP sockets whose bytes are passed on from one to the other (splice.cc). A thread has its own.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace tubetti {

struct Thread;

class Splicer {
 public:
  explicit Splicer(Thread& thread);
  ~Splicer();
  Splicer(const Splicer&) = delete;
  Splicer& operator=(const Splicer&) = delete;

  // See src/stack/splice/io.ts.
  int32_t Open(int32_t id, int32_t a, int32_t b);
  int32_t Move(int32_t id, int32_t of_a, int32_t of_b, int32_t budget);
  double Moved(int32_t id, int32_t side) const;
  int32_t Close(int32_t id, bool abort);

 private:
  struct Pipe {
    int32_t out = -1;  // the end to read from
    int32_t in = -1;
    bool Is() const { return out >= 0; }
  };

  // One of the two sockets, and what was taken from it and not given to the other.
  struct Side {
    int32_t fd = -1;
    bool readable = false;
    bool writable = false;
    bool hung_up = false;  // the end of its stream is in its queue, or an error: a short read proves nothing
    bool urgent = false;   // so is urgent data, which splice(2) stops at
    bool bulk = false;     // by splice; else by copies
    bool ended = false;    // its stream
    bool told = false;     // and the other socket was told
    bool rest_urgent = false;
    Pipe pipe;
    uint32_t piped = 0;
    bool much = false;      // what is in the pipe came by a large read
    bool withheld = false;  // the other socket may keep the end of what it was given until more comes
    std::unique_ptr<uint8_t[]> rest;
    uint32_t rest_at = 0;
    uint32_t rest_end = 0;
    double moved = 0;
  };

  struct Pair {
    Side side[2];
  };

  Pair* At(int32_t id) const;
  // 0: it waits for an event; 1: the budget is used up; or -errno, `failed` says of which side.
  int32_t Pump(Pair& pair, int from, int64_t& budget, int& failed);
  int32_t Give(Pair& pair, int from, int64_t& budget, int& failed);
  int32_t TakeByPipe(Side& source);
  int32_t TakeByCopy(Side& source, Side& target, bool& of_target);
  static void Push(Side& source, const Side& target);
  bool GetPipe(Side& side);
  void PutPipe(Side& side);
  void DropPipe(Pipe& pipe);

  Thread& thread_;
  std::vector<std::unique_ptr<Pair>> pairs_;
  std::vector<Pipe> idle_;
  int pipes_ = 0;
};

}  // namespace tubetti
